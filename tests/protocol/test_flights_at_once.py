"""Flights that are settled in one step come to the same as flights that are taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._delivery import Ledger
from anysmtp._protocol import _commands
from anysmtp._protocol._session import Awaited, Session
from anysmtp._protocol._transaction import Pipelining, Transaction
from anysmtp.errors import SMTPException, SMTPProtocolError
from support.answers import CUTS, REPLIES, octets_of, pieces_of
from support.jobs import job

PIPELINING = "PIPELINING\r\n250 CHUNKING"


class Side:
    """One client, which either settles flights where it can, or never does."""

    def __init__(self, *, settles: bool) -> None:
        self.session = Session()
        self._settles = settles
        self.ledgers: list[Ledger] = []
        self.transactions: list[Transaction] = []
        self.last: Awaited | None = None
        self.settled = 0
        self.hear(b"220 hi\r\n")
        self.session.send(_commands.ehlo("me"))
        self.hear(f"250-hi\r\n250-{PIPELINING}\r\n".encode())

    def begin(self, pipelining: Pipelining, count: int, *, require_all: bool) -> None:
        """Post the first flight of a message."""
        recipients = [f"r{number}@x" for number in range(count)]
        message = job(*recipients, require_all=require_all)
        ledger = Ledger()
        ledger.start(recipients)
        transaction = Transaction(
            message,
            message.content,
            self.session.extensions,
            ledger,
            reset_first=self.session.may_have_transaction,
            pipelining=pipelining,
            chunking="off" if pipelining == "auto" else "auto",
        )
        flight = transaction.flight()
        self.last = self.session.send_flight(flight, None, 7, transaction.take_yes)
        if transaction.is_eager:
            transaction.hand_over()
        self.ledgers.append(ledger)
        self.transactions.append(transaction)

    def end(self) -> None:
        """Post the end of the last message."""
        transaction = self.transactions[-1]
        self.session.begin_body(transaction.take_final).written = True
        transaction.hand_over()

    def hear(self, data: bytes) -> None:
        self.session.receive(data)
        if self._settles:
            before = self.session.awaits
            self.session.settle()
            self.settled += before - self.session.awaits
        while self.session.next_reply() is not None:
            pass

    def facts(self) -> object:
        session = self.session
        return (
            (session.phase, session.awaits, session.unanswered, session.may_have_transaction),
            (session.is_quiet, session.can_be_followed, session.out_of_step, session.goodbye),
            [self._of(*both) for both in zip(self.transactions, self.ledgers, strict=True)],
        )

    def _of(self, transaction: Transaction, ledger: Ledger) -> object:
        try:
            result = str(transaction.result()) if ledger.finals else ""
        except SMTPException as error:
            result = repr(error)
        known = [(o, ledger.replies(o)) for o in ("accepted", "refused", "not_sent", "in_doubt")]
        return known, ledger.left_over, transaction.end, transaction.is_stale, result


def both() -> tuple[Side, Side]:
    return Side(settles=True), Side(settles=False)


def breach(side: Side, data: bytes) -> str:
    try:
        side.hear(data)
    except SMTPProtocolError as error:
        return str(error)
    return ""


def hear(sides: Sequence[Side], data: bytes, cuts: Sequence[int] = ()) -> None:
    """The same octets for both, in the same pieces; a breach is one for both."""
    for piece in pieces_of(data, cuts):
        breaches = [breach(side, piece) for side in sides]
        assert breaches[0] == breaches[1]
        assert sides[0].facts() == sides[1].facts()
        if breaches[0]:
            return


@given(
    REPLIES, CUTS, st.integers(1, 4), st.booleans(), st.sampled_from(["354 go", "250 ok", "554 no"])
)
def test_an_envelope_comes_to_the_same(
    replies: list[str], cuts: list[int], count: int, require_all: bool, data: str
) -> None:
    sides = both()
    for side in sides:
        side.begin("auto", count, require_all=require_all)
    hear(sides, octets_of([*replies[: count + 1], *([] if require_all else [data])]), cuts)


@given(REPLIES, CUTS, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_a_window_of_messages_comes_to_the_same(
    replies: list[str], cuts: list[int], counts: list[int]
) -> None:
    sides = both()
    for side in sides:
        for count in counts:
            side.begin("eager", count, require_all=False)
    owed = sides[0].session.awaits
    hear(sides, octets_of(replies[:owed]), cuts)


@pytest.mark.parametrize("final", ["250 2.0.0 queued", "250-two\r\n250 lines", "451 4.3.0 later"])
def test_the_end_of_a_message_comes_to_the_same(final: str) -> None:
    sides = both()
    for side in sides:
        side.begin("auto", 2, require_all=False)
    hear(sides, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    for side in sides:
        side.end()
    hear(sides, f"{final}\r\n".encode())


def test_what_is_a_yes_throughout_is_settled_at_once() -> None:
    side = Side(settles=True)
    side.begin("auto", 50, require_all=False)
    side.hear(b"250 2.1.0 Ok\r\n" + b"250 2.1.5 Ok\r\n" * 50 + b"354 go\r\n")
    side.end()
    side.hear(b"250 2.0.0 Ok: queued as 4F\r\n")
    assert side.settled == 53
    assert len(side.ledgers[0].keys("accepted")) == 50


def test_replies_that_differ_each_time_are_settled_too_however_many_there_are() -> None:
    side = Side(settles=True)
    for number in range(30):
        side.begin("eager", 3, require_all=False)
        side.hear("".join(f"250 {number} {line}\r\n" for line in range(5)).encode())
    assert side.settled == 30 * 5
    assert all(len(ledger.keys("accepted")) == 3 for ledger in side.ledgers)
