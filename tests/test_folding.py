"""Messages that board folded come to the same as planned ones, whatever is answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from email.headerregistry import Address
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp import Envelope, Mail, Receipt, Reply, Timeouts
from anysmtp._channel import Channel
from anysmtp._connect import Link
from anysmtp._delivery import Ledger, ledger_of
from anysmtp._folding import Folding
from anysmtp._intake import Intake
from anysmtp._item import Item
from anysmtp._leases import Leases
from anysmtp._monitor import Monitor
from anysmtp._protocol import _commands
from anysmtp._protocol._transaction import Pipelining
from anysmtp.errors import SMTPException, SMTPProtocolError
from support.answers import CUTS, REPLIES, octets_of, pieces_of
from support.bench import message

KEYWORDS = ("PIPELINING", "CHUNKING", "SIZE 100000", "8BITMIME")
OUTCOMES = ("accepted", "refused", "not_sent", "in_doubt")


def settings_for(pipelining: Pipelining) -> SimpleNamespace:
    """What is asked of the connections of a client, which there are none of."""
    settings = SimpleNamespace(
        pipelining=pipelining,
        chunking="auto",
        signers=(),
        require_all=False,
        are_of_each=False,
        retry=None,
        add_missing_headers=True,
    )
    leases = SimpleNamespace(settings=settings, monitor=Monitor("x"), pace=None)
    leases.sending = partial(Leases.sending, cast("Any", leases))
    return leases


def intake_of(leases: SimpleNamespace) -> Intake:
    return Intake(cast("Any", leases), cast("Any", None))


class Side:
    """A channel, and messages that are in line for it; the first one is on its way."""

    def __init__(
        self,
        mails: Sequence[Mail[Any]],
        pipelining: Pipelining,
        keywords: Sequence[str],
    ) -> None:
        self.channel = Channel(Link(cast("Any", None), "x", "x"), Timeouts(), Monitor("x"))
        self.session = self.channel.session
        self.hear(b"220 hi\r\n")
        self.session.send(_commands.ehlo("me"))
        self.hear(
            "".join(f"250-{word}\r\n" for word in ("me", *keywords)).encode() + b"250 HELP\r\n"
        )
        self.leases = settings_for(pipelining)
        intake = intake_of(self.leases)
        found = [intake.at_once(number, mail) for number, mail in enumerate(mails)]
        self.line = deque(item for item in found if item is not None)
        assert len(self.line) == len(mails)
        self.aboard: list[Item] = []
        first = self.leave_line()
        first.equip(cast("Any", self.leases), cast("Any", None))
        self.octets = first.sending.board(self.channel, first.turn)
        self.aboard.append(first)

    def following(self) -> Item | None:
        return self.line[0] if self.line else None

    def leave_line(self) -> Item:
        return self.line.popleft()

    def hear(self, data: bytes) -> None:
        self.session.receive(data)
        while self.session.settle():
            if self.session.next_reply() is None:
                break

    def state(self) -> object:
        session = self.session
        return (
            (session.phase, session.awaits, session.unanswered, session.may_have_transaction),
            (session.is_quiet, session.can_be_followed, session.out_of_step, session.goodbye),
            (session.may_be_followed_now, [owner is not None for owner in session.owners]),
        )

    def facts(self) -> object:
        """What is known of each message, in the words of one that was planned."""
        return [self._of(item) for item in self.aboard]

    def _of(self, item: Item) -> object:
        if item.folded is not None:
            item.folded.unfold()
        ledger = item.book.ledger
        known = {each: ledger.replies(cast("Any", each)) for each in OUTCOMES}
        try:
            item.sending.conclude(self.channel, None)
        except SMTPException as error:
            return known, ledger.left_over, ledger.bytes_sent, repr(error)
        except IndexError:
            # Nothing has refused it, and nothing has taken it.
            return known, ledger.left_over, ledger.bytes_sent, ""
        return known, ledger.left_over, ledger.bytes_sent, [str(final) for final in ledger.finals]

    def board(self) -> None:
        """As many as may follow the first one at once."""
        while self.line and (octets := self.board_next()):
            self.octets += octets
            if self.session.last is not None and self.session.last.command is _commands.DATA:
                return

    def board_next(self) -> bytes:
        """One that is planned."""
        item = self.line[0]
        item.equip(cast("Any", self.leases), cast("Any", None))
        if octets := item.sending.board(self.channel, item.turn):
            self.aboard.append(self.leave_line())
        return octets


class FoldedSide(Side):
    """Whoever may, boards folded, several at once."""

    def board_next(self) -> bytes:
        folding = Folding(
            cast("Any", self),
            cast("Any", self.aboard),
            cast("Any", self.leases),
            cast("Any", None),
            self.channel,
        )
        if not folding.is_possible or (turn := folding.turn_for(self.line[0])) is None:
            return super().board_next()
        assert turn.passenger is folding
        return folding.board(self.channel, turn)


def mails_to(
    counts: Sequence[int], raw: bytes | None = None, sender: str = "a@x"
) -> list[Mail[Any]]:
    return [
        Mail(
            raw or message(str(number)),
            Envelope(sender=sender, recipients=[f"r{each}@x" for each in range(count)]),
        )
        for number, count in enumerate(counts)
    ]


def both(
    mails: list[Mail[Any]], pipelining: Pipelining, keywords: Sequence[str] = KEYWORDS
) -> tuple[Side, FoldedSide]:
    sides = Side(mails, pipelining, keywords), FoldedSide(mails, pipelining, keywords)
    for side in sides:
        if side.session.last is not None and side.session.last.command is _commands.DATA:
            # One boards behind the end of the message before it.
            side.hear(b"250 ok\r\n" * (side.session.awaits - 1) + b"354 go\r\n")
            side.session.begin_body(_ignore).written = True
        side.board()
    assert sides[0].octets == sides[1].octets
    assert len(sides[0].aboard) == len(sides[1].aboard)
    assert sides[0].state() == sides[1].state()
    return sides


def _ignore(reply: Reply) -> None:
    """The message before is none of this."""


def breach(side: Side, data: bytes) -> str:
    try:
        side.hear(data)
    except SMTPProtocolError as error:
        assert side.session.blamed is not None
        return f"{error} {side.session.blamed.next_command.shown}"
    return ""


def hear(sides: tuple[Side, Side], data: bytes, cuts: Sequence[int]) -> None:
    for piece in pieces_of(data, cuts):
        breaches = [breach(side, piece) for side in sides]
        assert breaches[0] == breaches[1]
        assert sides[0].state() == sides[1].state()
        if breaches[0]:
            break
    assert sides[0].facts() == sides[1].facts()


@given(REPLIES, CUTS, st.lists(st.integers(1, 3), min_size=2, max_size=6))
def test_a_window_comes_to_the_same(replies: list[str], cuts: list[int], counts: list[int]) -> None:
    sides = both(mails_to(counts), "eager")
    assert len(sides[0].aboard) == len(counts)
    owed = sides[0].session.awaits
    hear(sides, octets_of(replies[:owed]), cuts)


@given(REPLIES, CUTS, st.integers(1, 3), st.sampled_from(["354 go", "354 go", "250 ok", "554 no"]))
def test_an_envelope_behind_a_message_comes_to_the_same(
    replies: list[str], cuts: list[int], count: int, data: str
) -> None:
    sides = both(mails_to([1, count]), "auto")
    assert len(sides[1].aboard) == 2
    hear(sides, octets_of(["250 queued", *replies[: count + 2], data]), cuts)


@pytest.mark.parametrize("pipelining", ["eager", "auto", "off"])
@pytest.mark.parametrize(
    "keywords", [KEYWORDS, KEYWORDS[:3], KEYWORDS[:1], (*KEYWORDS, "SMTPUTF8")]
)
@pytest.mark.parametrize("sender", ["a@x", "", "a@b\xfccher.example"])
@pytest.mark.parametrize(
    "raw", [b"S: 1\r\n\r\nhi", b"S: 1\n\n\xfc\n", "S: \xfc\r\n\r\nhi\r\n".encode(), b"x" * 990]
)
def test_they_board_with_the_same_octets(
    pipelining: Pipelining, keywords: tuple[str, ...], sender: str, raw: bytes
) -> None:
    _, folded = both(mails_to([2, 3, 1], raw, sender), pipelining, keywords)
    if pipelining != "off" and sender == "a@x" and raw.isascii():
        assert all(item.folded is not None for item in folded.aboard[1:])
        is_eager = pipelining == "eager" and "CHUNKING" in keywords
        assert len(folded.aboard) == (3 if is_eager else 2)


def test_what_the_server_has_taken_is_in_a_delivery_as_after_any_other_send() -> None:
    raw = b"Message-ID: <1@x>\r\n\r\nhi\r\n"
    _, side = both(mails_to([1, 2], raw), "eager")
    side.hear(b"250 ok\r\n" * 3 + b"250 ok\r\n" * 4 + b"250 queued\r\n")
    first, item = side.aboard
    assert item.folded is not None
    assert item.folded.answer is not None
    item.take(item.folded.answer, "x")
    item.accept()
    first.sending.conclude(side.channel, None)
    planned, folded = first.book.close(first.attempts), item.delivery.result()
    assert isinstance(folded, Receipt)
    assert (folded.message_id, folded.server) == (planned.message_id, planned.server)
    assert folded.replies == (folded.reply,) == (Reply(250, "queued"),)
    assert list(folded.accepted) == ["r0@x", "r1@x"]
    assert item.delivery.result() is folded
    for name in Ledger.__slots__:
        if name not in ("_facts", "receipt", "finals"):
            both_books = ledger_of(item.delivery), ledger_of(first.delivery)
            assert getattr(both_books[0], name) == getattr(both_books[1], name), name


@pytest.mark.parametrize(
    "mail",
    [
        message("no mail"),
        Mail(message("no envelope")),
        Mail(bytearray(b"x"), Envelope(sender="a@x", recipients="b@x")),
        Mail(b"", Envelope(sender="a@x", recipients="b@x")),
        Mail(b"x" * 999, Envelope(sender="a@x", recipients="b@x")),
        Mail(b"x\r\n" * 30000, Envelope(sender="a@x", recipients="b@x")),
        Mail(b"x", Envelope(sender="a@x")),
        Mail(b"x", Envelope(sender="a@x", recipients=[])),
        Mail(b"x", Envelope(recipients="b@x")),
        Mail(b"x", Envelope(sender="a@x", recipients="b@x", priority=1)),
        Mail(b"x", Envelope(sender="a@x", recipients="not an address")),
        Mail(b"x", Envelope(sender="a@x", recipients=[Address(addr_spec="b@x"), "c@x"])),
        Mail(b"x", Envelope(sender=Address(addr_spec="a@x"), recipients="b@x")),
        Mail(b"x", Envelope(sender="\xfc@x", recipients="b@x")),
        Mail(b"x", Envelope(sender="a@x", recipients=("b@x", "\xfc@x"))),
    ],
)
def test_what_is_not_plain_is_no_item_at_once(mail: object) -> None:
    assert intake_of(settings_for("auto")).at_once(0, mail) is None


def test_an_envelope_is_looked_at_again_when_its_list_has_changed() -> None:
    intake, recipients = intake_of(settings_for("auto")), ["b@x"]
    mail = Mail(b"x", Envelope(sender="a@x", recipients=recipients))
    found: list[list[str]] = []
    for another in ("c@x", "d@x", "e@x"):
        item = intake.at_once(0, mail)
        assert item is not None
        found.append([recipient.given for recipient in item.job.recipients])
        recipients.append(another)
    assert found == [["b@x"], ["b@x", "c@x"], ["b@x", "c@x", "d@x"]]


def test_an_envelope_like_the_one_before_is_not_looked_at_again() -> None:
    intake = intake_of(settings_for("auto"))

    def cover(sender: str, to: str, **more: Any) -> object:
        item = intake.at_once(0, Mail(b"x", Envelope(sender=sender, recipients=[to], **more)))
        return item and item.letter and item.letter.cover

    first = cover("a@x", "b@x")
    assert first is not None
    assert cover("a@x", "b@x") is first
    assert cover("a@x", "b@x", priority=1) is None
    assert cover("a@x", "b@x") is first
    assert cover("c@x", "b@x") not in (None, first)


def test_a_yes_to_the_message_is_known_too_when_it_is_unfolded_only_then() -> None:
    _, side = both(mails_to([1, 2]), "auto")
    side.hear(b"250 queued\r\n" + b"250 ok\r\n" * 4 + b"354 go\r\n")
    item = side.aboard[1]
    assert item.folded is not None
    item.folded.take_final(Reply(250, "queued"))
    item.unfold()
    item.unfold()
    assert item.book.ledger.keys("accepted") == ("r0@x", "r1@x")
