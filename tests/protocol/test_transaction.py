"""The planner: what leaves in which flight, and that the ledger tells the truth at every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._delivery import Ledger, Outcome
from anysmtp._envelope import Content, Job, Mailbox, Receipt
from anysmtp._protocol import _commands
from anysmtp._protocol._extensions import Extensions
from anysmtp._protocol._session import Session
from anysmtp._protocol._transaction import MAX_FLIGHT, PATIENCE, Transaction, needs_downgrade
from anysmtp._reply import Reply
from anysmtp.errors import (
    SMTPDataError,
    SMTPException,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPProtocolError,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)


@dataclass(frozen=True)
class Octets:
    """A message of which only the measures count."""

    size: int = 100
    is_8bit: bool = False
    is_utf8: bool = False

    def chunks(self) -> Iterator[bytes]:
        raise AssertionError("the planner does not read the message")


def mailbox(address: str) -> Mailbox:
    return Mailbox(address, address, address if address.isascii() else None)


def job(*recipients: str, **more: Any) -> Job:
    to = tuple(map(mailbox, recipients or ("b@x", "c@x")))
    return replace(Job(mailbox("a@x"), to, Octets()), **more)


class Lost(Exception):
    """The connection is gone."""


class Conversation:
    """A transaction that is run through a session, as a channel runs it.

    ``offers`` are the server's EHLO keywords. ``answer`` says what it answers to a command; it may
    raise Lost. With ``early`` the reply to the message comes while that is still going out.
    """

    def __init__(
        self,
        job: Job,
        answer: Callable[[str], str],
        *,
        offers: str = "PIPELINING",
        early: bool = False,
        reset_first: bool = False,
        **options: Any,
    ) -> None:
        self.session = Session()
        self._answer = server({}, offers)
        self._said: set[Reply] = set()
        self._early = early
        self._handed_over: tuple[str, ...] = ()
        self._final: Reply | None = None
        self.flights: list[list[str]] = []
        self.ledger = Ledger()
        self._hear("greeting")
        self.session.send(_commands.ehlo("me"))
        self._hear("EHLO")
        self._answer = answer
        self.ledger.start(recipient.given for recipient in job.recipients)
        self.transaction = Transaction(
            job,
            job.content,
            self.session.extensions,
            self.ledger,
            reset_first=reset_first,
            **options,
        )

    def run(self) -> None:
        while flight := self.transaction.flight():
            self.flights.append([command.shown for command in flight])
            for command in flight:
                self.session.send(command, self.transaction.take)
            for command in flight:
                self._hear(command.shown)
        if self.session.goodbye is None:
            self._finish()

    def facts(self) -> dict[str, tuple[Outcome, int | None]]:
        """What is known of each recipient, and the code of the reply that says so."""
        sure: tuple[Outcome, ...] = ("accepted", "refused")
        unsure: tuple[Outcome, ...] = ("not_sent", "in_doubt")
        return {
            **{key: (o, reply.code) for o in sure for key, reply in self.ledger.replies(o).items()},
            **{key: (o, None) for o in unsure for key in self.ledger.keys(o)},
        }

    def result(self) -> Receipt | SMTPException:
        try:
            return self.transaction.result("h:25")
        except SMTPException as error:
            return error

    def _finish(self) -> None:
        if self.transaction.end == "message":
            end = self.session.begin_body(self._take_final)
            if not self._early:
                end.written = True
                self.transaction.hand_over()
                self._handed_over = self.ledger.keys("in_doubt")
                assert self._handed_over
            self._check()
            self._hear(".")
        elif self.transaction.end == "lone dot":
            self.session.begin_body(lambda reply: None).written = True
            self._hear(".")

    def _take_final(self, reply: Reply) -> None:
        self._final = reply
        self.transaction.take_final(reply)

    def _hear(self, command: str) -> None:
        self.session.receive(f"{self._answer(command)}\r\n".encode())
        awaited = self.session.next_reply()
        assert awaited is not None
        assert awaited.reply is not None
        self._said.add(awaited.reply)
        self._check()

    def _check(self) -> None:
        """The ledger says nothing that the server has not said."""
        accepted, refused = self.ledger.replies("accepted"), self.ledger.replies("refused")
        assert all(reply.code >= 400 and reply in self._said for reply in refused.values())
        assert all(reply is self._final for reply in accepted.values())
        if self._final is None:
            assert self.ledger.keys("in_doubt") == self._handed_over
            assert accepted == {}
        else:
            said = accepted if self._final.is_positive else refused
            assert all(said[key] is self._final for key in self._handed_over)
            assert self.ledger.keys("in_doubt") == ()


def server(codes: Mapping[str, int], offers: str = "") -> Callable[[str], str]:
    """A server that answers to the commands that start so with these codes, else with yes."""

    def answer(command: str) -> str:
        if command == "EHLO":
            return "\r\n250-".join(["250-x", *offers.split()]) + "\r\n250 X"
        found = [code for start, code in codes.items() if command.startswith(start)]
        default = 354 if command == "DATA" else 250
        return f"{found[0] if found else default} to {command}"

    return answer


def talk(job: Job, codes: Mapping[str, int] | None = None, **options: Any) -> Conversation:
    conversation = Conversation(job, server(codes or {}), **options)
    conversation.run()
    return conversation


MAIL, B, C = "MAIL FROM:<a@x>", "RCPT TO:<b@x>", "RCPT TO:<c@x>"


@pytest.mark.parametrize(
    ("options", "flights"),
    [
        ({"offers": "X"}, [[MAIL], [B], [C], ["DATA"]]),
        ({"pipelining": False}, [[MAIL], [B], [C], ["DATA"]]),
        ({}, [[MAIL, B, C, "DATA"]]),
        ({"refused_in_a_row": PATIENCE - 1}, [[MAIL, B, C, "DATA"]]),
        ({"refused_in_a_row": PATIENCE}, [[MAIL, B, C], ["DATA"]]),
        ({"reset_first": True}, [["RSET", MAIL, B, C, "DATA"]]),
        ({"reset_first": True, "offers": "X"}, [["RSET"], [MAIL], [B], [C], ["DATA"]]),
    ],
)
def test_flights_are_as_long_as_they_may_be(
    options: dict[str, Any], flights: list[list[str]]
) -> None:
    conversation = talk(job(), **options)
    assert conversation.flights == flights
    assert conversation.facts() == {"b@x": ("accepted", 250), "c@x": ("accepted", 250)}


@pytest.mark.parametrize(
    ("codes", "flights"),
    [
        ({}, [[MAIL, B, C], ["DATA"]]),
        ({B: 550}, [[MAIL, B, C]]),
        ({C: 450}, [[MAIL, B, C]]),
        ({B: 550, C: 550}, [[MAIL, B, C]]),
        ({"MAIL": 550}, [[MAIL, B, C]]),
    ],
)
def test_all_or_nobody_waits_for_the_envelope(
    codes: dict[str, int], flights: list[list[str]]
) -> None:
    assert talk(job(require_all=True), codes).flights == flights


@pytest.mark.parametrize(
    ("codes", "flights"),
    [
        ({"MAIL": 550}, [[MAIL]]),
        ({B: 550}, [[MAIL], [B], [C], ["DATA"]]),
        ({B: 550, C: 550}, [[MAIL], [B], [C]]),
        ({B: 421}, [[MAIL], [B]]),
    ],
)
def test_one_at_a_time_nothing_is_asked_in_vain(
    codes: dict[str, int], flights: list[list[str]]
) -> None:
    assert talk(job(), codes, offers="X").flights == flights


@pytest.mark.parametrize(
    ("recipients", "lengths"),
    [
        (MAX_FLIGHT - 2, [MAX_FLIGHT]),
        (MAX_FLIGHT - 1, [MAX_FLIGHT, 1]),
        (MAX_FLIGHT, [MAX_FLIGHT, 2]),
        (300, [MAX_FLIGHT, MAX_FLIGHT, 46]),
    ],
)
def test_a_flight_has_no_more_replies_than_a_socket_takes(
    recipients: int, lengths: list[int]
) -> None:
    conversation = talk(job(*(f"{number}@x" for number in range(recipients))))
    assert [len(flight) for flight in conversation.flights] == lengths
    assert conversation.flights[-1][-1] == "DATA"
    assert len(conversation.ledger.replies("accepted")) == recipients


def test_data_does_not_open_a_flight_when_nobody_was_taken() -> None:
    many = job(*(f"{number}@x" for number in range(MAX_FLIGHT - 1)))
    assert [len(flight) for flight in talk(many, {"RCPT": 550}).flights] == [MAX_FLIGHT]


# What the server may say at each step, of each kind of yes, no and good-bye.
MAIL_CODES = (250, 450, 550, 554, 421)
RCPT_CODES = (250, 450, 550, 421)
DATA_CODES = (354, 451, 554, 421)
FINAL_CODES = (250, 452, 554, 421)

Facts = dict[str, tuple[Outcome, int | None]]


def expected(
    mail: int, rcpt: tuple[int, ...], data: int, final: int, *, require_all: bool
) -> tuple[Facts, type]:
    """What becomes of the recipients b, c, ..., and what the send ends with."""
    keys = [f"{letter}@x" for letter, _ in zip("bc", rcpt, strict=True)]
    facts: Facts = dict.fromkeys(keys, ("not_sent", None))
    if mail == 421:
        return facts, SMTPServerDisconnected
    if mail != 250:
        return dict.fromkeys(keys, ("refused", mail)), SMTPSenderRefused
    taken: list[str] = []
    for key, code in zip(keys, rcpt, strict=True):
        if code == 250:
            taken.append(key)
        else:
            facts[key] = ("refused", code)
        if code == 421:
            return facts, SMTPServerDisconnected
    if not taken or (require_all and len(taken) < len(keys)):
        return facts, SMTPRecipientsRefused
    if data == 421:
        return facts, SMTPServerDisconnected
    if data != 354:
        return facts | dict.fromkeys(taken, ("refused", data)), SMTPDataError
    if final != 250:
        return facts | dict.fromkeys(taken, ("refused", final)), SMTPDataError
    return facts | dict.fromkeys(taken, ("accepted", 250)), Receipt


@pytest.mark.parametrize("require_all", [False, True])
@pytest.mark.parametrize("options", [{}, {"offers": "X"}, {"refused_in_a_row": PATIENCE}], ids=str)
@pytest.mark.parametrize("mail", MAIL_CODES)
def test_every_combination_of_refusals(
    mail: int, options: dict[str, Any], require_all: bool
) -> None:
    for b, c, data, final in itertools.product(RCPT_CODES, RCPT_CODES, DATA_CODES, FINAL_CODES):
        codes = {"MAIL": mail, B: b, C: c, "DATA": data, ".": final}
        conversation = talk(job(require_all=require_all), codes, **options)
        facts, kind = expected(mail, (b, c), data, final, require_all=require_all)
        assert conversation.facts() == facts, codes
        assert type(conversation.result()) is kind, codes


@pytest.mark.parametrize(
    ("codes", "kind", "outcome"),
    [
        ({"MAIL": 550, "RCPT": 503}, SMTPSenderRefused, "refused"),
        ({"RCPT": 550}, SMTPRecipientsRefused, "refused"),
    ],
)
def test_354_without_recipients_is_answered_by_a_lone_dot(
    codes: dict[str, int], kind: type, outcome: Outcome
) -> None:
    for final in (250, 554):
        conversation = talk(job(), {**codes, ".": final})
        assert conversation.transaction.end == "lone dot"
        assert type(conversation.result()) is kind
        assert conversation.ledger.outcome == outcome
        assert conversation.session.phase == "ready"
        assert conversation.session.may_have_transaction is (final == 554)


@pytest.mark.parametrize("codes", [{"MAIL": 550}, {"RSET": 554}, {C: 421}])
def test_354_with_recipients_that_get_no_message_is_answered_by_hanging_up(
    codes: dict[str, int],
) -> None:
    conversation = talk(job(), codes, reset_first="RSET" in codes)
    assert conversation.transaction.end == "hang up"


def test_a_server_that_says_good_bye_gets_no_message_though_it_asks_for_one() -> None:
    conversation = talk(job(), {C: 421})
    assert conversation.transaction.end == "hang up"
    assert conversation.facts() == {"b@x": ("not_sent", None), "c@x": ("refused", 421)}


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        ({"MAIL": 550}, f"{MAIL}: 550 to {MAIL}"),
        ({"RCPT": 550}, f"{B}: 2 recipients refused, first (550 to {B})"),
        ({"DATA": 554}, "DATA: 554 to DATA"),
        ({".": 554}, "end of data: 554 to ."),
        ({C: 421}, f"{C}: the server closes the connection (421 to {C})"),
        ({"MAIL": 421}, f"{MAIL}: the server closes the connection (421 to {MAIL})"),
        ({"RSET": 421}, "RSET: the server closes the connection (421 to RSET)"),
        ({"DATA": 421}, "DATA: the server closes the connection (421 to DATA)"),
    ],
)
def test_the_error_names_the_command_that_was_refused(codes: dict[str, int], text: str) -> None:
    assert str(talk(job(), codes, reset_first=True).result()) == text


@pytest.mark.parametrize(
    ("codes", "took_nobody"),
    [({}, False), ({B: 550}, False), ({"RCPT": 550}, True), ({"MAIL": 550}, True)],
)
def test_a_transaction_that_nobody_was_taken_for_says_so(
    codes: dict[str, int], took_nobody: bool
) -> None:
    assert talk(job(), codes).transaction.took_nobody is took_nobody


@pytest.mark.parametrize(
    ("codes", "is_stale", "facts"),
    [
        ({"RSET": 250}, False, ("accepted", 250)),
        ({"RSET": 500}, False, ("accepted", 250)),
        ({"RSET": 421}, True, ("not_sent", None)),
        ({"RSET": 554}, True, ("not_sent", None)),
        ({"RSET": 554, "MAIL": 554}, True, ("not_sent", None)),
        ({"MAIL": 421}, True, ("not_sent", None)),
        ({"MAIL": 554}, True, ("refused", 554)),
        ({"MAIL": 550}, False, ("refused", 550)),
        ({"RCPT": 421}, True, None),
        ({"RCPT": 554}, False, ("refused", 554)),
        ({"DATA": 421}, True, ("not_sent", None)),
        ({"DATA": 554}, False, ("refused", 554)),
        ({".": 421}, False, ("refused", 421)),
        ({".": 554}, False, ("refused", 554)),
    ],
)
@pytest.mark.parametrize("offers", ["PIPELINING", "X"])
def test_a_refusal_of_the_connection_is_not_one_of_the_message(
    codes: dict[str, int], is_stale: bool, facts: tuple[Outcome, int | None] | None, offers: str
) -> None:
    conversation = talk(job(), codes, reset_first=True, offers=offers)
    assert conversation.transaction.is_stale is is_stale
    if facts is None:
        assert conversation.facts() == {"b@x": ("refused", 421), "c@x": ("not_sent", None)}
    else:
        assert set(conversation.facts().values()) == {facts}


def test_the_receipt_says_what_the_ledger_knows() -> None:
    receipt = talk(job(message_id="<1@x>"), {C: 450}).result()
    final = Reply(250, "to .")
    assert receipt == Receipt(
        reply=final,
        replies=(final,),
        accepted={"b@x": final},
        refused={"c@x": Reply(450, f"to {C}")},
        message_id="<1@x>",
        server="h:25",
    )


@pytest.mark.parametrize("final", [552, 421])
def test_a_refusal_may_come_before_the_message_is_out(final: int) -> None:
    conversation = talk(job("b@x"), {".": final}, early=True)
    assert conversation.facts() == {"b@x": ("refused", final)}
    assert isinstance(conversation.result(), SMTPDataError)


# The parameters of MAIL


def mail_line(job: Job, *offers: str) -> str:
    extensions = Extensions(Reply(250, ["x", *offers]))
    transaction = Transaction(job, job.content, extensions, Ledger(), reset_first=False)
    [command] = transaction.flight()
    return command.shown.removeprefix("MAIL FROM:")


EIGHT = Octets(is_8bit=True)
UTF8 = Octets(is_8bit=True, is_utf8=True)


@pytest.mark.parametrize(
    ("more", "offers", "line"),
    [
        ({"sender": None}, [], "<>"),
        ({}, [], "<a@x>"),
        ({}, ["SIZE"], "<a@x> SIZE=100"),
        ({}, ["SIZE 100"], "<a@x> SIZE=100"),
        ({"mail_options": ("size=7",)}, ["SIZE 100"], "<a@x> size=7"),
        ({"mail_options": ("RET=HDRS",)}, ["SIZE"], "<a@x> SIZE=100 RET=HDRS"),
        ({}, ["8BITMIME", "SMTPUTF8"], "<a@x>"),
        ({"content": EIGHT}, ["8BITMIME"], "<a@x> BODY=8BITMIME"),
        ({"content": EIGHT, "mail_options": ("BODY=X",)}, ["8BITMIME"], "<a@x> BODY=X"),
        ({"content": UTF8}, ["8BITMIME", "SMTPUTF8"], "<a@x> BODY=8BITMIME SMTPUTF8"),
        ({"sender": mailbox("ä@x")}, ["SMTPUTF8"], "<ä@x> SMTPUTF8"),
        (
            {"sender": mailbox("ä@x"), "mail_options": ("smtputf8",)},
            ["SMTPUTF8"],
            "<ä@x> smtputf8",
        ),
        ({"recipients": (mailbox("ä@x"),)}, ["SMTPUTF8"], "<a@x> SMTPUTF8"),
    ],
)
def test_mail_says_what_the_message_needs(
    more: dict[str, Any], offers: list[str], line: str
) -> None:
    assert mail_line(job(**more), *offers) == line


@pytest.mark.parametrize(
    ("more", "offers", "error", "text"),
    [
        ({}, ["SIZE 99"], SMTPMessageTooLarge, "has 100 octets, the server takes 99"),
        ({"mail_options": ("SIZE=1",)}, ["SIZE 99"], SMTPMessageTooLarge, "100 octets"),
        ({"content": EIGHT}, [], SMTPNotSupported, "does not offer 8BITMIME"),
        ({"content": UTF8}, ["8BITMIME"], SMTPNotSupported, "header section is not ASCII"),
        ({"sender": mailbox("ä@x")}, [], SMTPNotSupported, "local part of ä@x is not ASCII"),
        ({"recipients": (mailbox("ö@x"),)}, [], SMTPNotSupported, "local part of ö@x"),
    ],
)
def test_what_the_server_cannot_take_is_not_begun(
    more: dict[str, Any], offers: list[str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        mail_line(job(**more), *offers)


IDN = Mailbox("Bob <b@bücher.example>", "b@bücher.example", "b@xn--bcher-kva.example")


@pytest.mark.parametrize(
    ("sender", "lines"),
    [
        ("a@x", ["RCPT TO:<b@xn--bcher-kva.example> NOTIFY=NEVER"]),
        ("ä@x", ["RCPT TO:<b@bücher.example> NOTIFY=NEVER"]),
    ],
)
def test_domains_are_written_as_the_transaction_allows(sender: str, lines: list[str]) -> None:
    plain = job(sender=mailbox(sender), recipients=(IDN,), rcpt_options=("NOTIFY=NEVER",))
    conversation = talk(plain, offers="PIPELINING SMTPUTF8")
    assert conversation.flights[0][1:-1] == lines
    assert conversation.facts() == {IDN.given: ("accepted", 250)}


@pytest.mark.parametrize(
    ("content", "offers", "needed"),
    [(EIGHT, [], True), (EIGHT, ["8BITMIME"], False), (Octets(), [], False)],
)
def test_only_octets_above_127_need_a_downgrade(
    content: Content, offers: list[str], needed: bool
) -> None:
    assert needs_downgrade(content, Extensions(Reply(250, ["x", *offers]))) is needed


CODES = st.sampled_from([200, 250, 251, 334, 354, 421, 450, 452, 500, 503, 550, 554])


@given(
    codes=st.lists(CODES, max_size=14),
    recipients=st.integers(1, 5) | st.just(MAX_FLIGHT),
    offers=st.sampled_from(["PIPELINING", "X"]),
    require_all=st.booleans(),
    early=st.booleans(),
    reset_first=st.booleans(),
    refused_in_a_row=st.integers(PATIENCE - 1, PATIENCE),
)
def test_whatever_is_answered_the_ledger_tells_the_truth(
    codes: list[int], recipients: int, require_all: bool, **options: Any
) -> None:
    """`Conversation` checks it after every reply; here the connection is lost in the end."""
    replies = iter([f"{code} number {number}" for number, code in enumerate(codes)])

    def answer(command: str) -> str:
        for reply in replies:
            return reply
        raise Lost

    to = [f"{number}@x" for number in range(recipients)]
    envelope = job(*to, require_all=require_all)
    conversation = Conversation(envelope, answer, **options)
    try:
        conversation.run()
    except (Lost, SMTPProtocolError):
        return
    result = conversation.result()
    assert isinstance(result, Receipt) is bool(conversation.ledger.replies("accepted"))
    assert conversation.ledger.outcome != "in_doubt"
