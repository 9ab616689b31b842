"""The planner: what leaves in which flight, and that the ledger tells the truth at every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._delivery import Ledger, Outcome
from anysmtp._envelope import Job, Mailbox, Receipt
from anysmtp._protocol import _commands
from anysmtp._protocol._session import Session
from anysmtp._protocol._transaction import (
    EAGER_SIZE,
    MAX_FLIGHT,
    PATIENCE,
    Transaction,
)
from anysmtp._reply import Reply
from anysmtp.errors import (
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPProtocolError,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from support.jobs import Octets, job, mailbox


class Lost(Exception):
    """The connection is gone."""


class Conversation:
    """A transaction that is run through a session, as a channel runs it.

    ``offers`` are the server's EHLO lines. ``answer`` says what it answers to a command; it may
    raise Lost. With ``early`` the reply to the message comes while that is still going out. With
    ``gives_up`` the send ends before the first flight is answered.
    """

    def __init__(
        self,
        job: Job,
        answer: Callable[[str], str],
        *,
        offers: str | Sequence[str] = "PIPELINING",
        early: bool = False,
        gives_up: bool = False,
        reset_first: bool = False,
        **options: Any,
    ) -> None:
        self.session = Session()
        self._answer = server({}, [offers] if isinstance(offers, str) else offers)
        self._said: set[Reply] = set()
        self._early = early
        self._gives_up = gives_up
        self._keys = {path: r.given for r in job.recipients for path in (r.utf8, r.ascii)}
        self._taken: list[str] = []
        self._handed_over: tuple[str, ...] = ()
        self._final: Reply | None = None
        self.flights: list[list[str]] = []
        self.ledger = Ledger()
        self._pair("greeting")
        self.session.send(_commands.ehlo("me"))
        self._pair("EHLO")
        self._answer = answer
        self.ledger.start(recipient.given for recipient in job.recipients)
        self.ledger.server, self.ledger.message_id = "h:25", job.message_id
        self.transaction = Transaction(
            job,
            job.content,
            self.session.extensions,
            self.ledger,
            reset_first=reset_first,
            **options,
        )

    def run(self) -> None:
        transaction = self.transaction
        while flight := transaction.flight():
            self.flights.append([command.shown for command, _ in flight])
            for command, sink in flight:
                self.session.send(command, sink)
            if transaction.is_eager:
                self._hand_over()
            if self._gives_up:
                self.ledger.finish(SMTPException("given up"))
            for command, _ in flight:
                self._hear(command.shown)
            if self._gives_up:
                return
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

    @property
    def left_over(self) -> tuple[str, ...]:
        """Those for whom another transaction is needed, where the next one looks for them."""
        return self.ledger.left_over

    def result(self) -> Receipt | SMTPException:
        try:
            self.transaction.result()
        except SMTPException as error:
            return error
        return self.ledger.receipt_now()

    def _finish(self) -> None:
        if self.transaction.end == "message":
            chunk = self.transaction.chunk
            end = self.session.begin_body(self._take_final, chunk=chunk)
            if chunk is not None:
                self.flights.append([chunk.shown])
            if not self._early:
                end.written = True
                self._hand_over()
            self._check()
            self._hear("." if chunk is None else chunk.shown)
        elif self.transaction.end == "lone dot":
            self._taken.clear()
            self.session.begin_body(lambda reply: None).written = True
            self._hear(".")

    def _hand_over(self) -> None:
        self.transaction.hand_over()
        self._handed_over = self.ledger.keys("in_doubt")
        assert self._handed_over

    def _take_final(self, reply: Reply) -> None:
        self._final = reply
        self.transaction.take_final(reply)

    def _hear(self, command: str) -> None:
        reply = self._pair(command)
        self._said.add(reply)
        if command.startswith("RCPT"):
            self._taken += [self._keys[_path(command)]] if reply.is_positive else []
        elif command.startswith("BDAT"):
            self._final = reply
        self._check()

    def _pair(self, command: str) -> Reply:
        self.session.receive(f"{self._answer(command)}\r\n".encode())
        awaited = self.session.next_reply()
        assert awaited is not None
        assert awaited.reply is not None
        return awaited.reply

    def _check(self) -> None:
        """The ledger says nothing that the server has not said, and whoever has it is in it."""
        accepted, refused = self.ledger.replies("accepted"), self.ledger.replies("refused")
        in_doubt = self.ledger.keys("in_doubt")
        assert all(reply.code >= 400 and reply in self._said for reply in refused.values())
        assert all(reply is self._final for reply in accepted.values())
        assert set(accepted) <= set(self._taken)
        if self._final is None:
            assert accepted == {}
            assert set(in_doubt) <= set(self._handed_over)
            assert self.transaction.is_eager or in_doubt == self._handed_over
            return
        assert in_doubt == ()
        if self._final.is_positive:
            assert set(accepted) == set(self._taken)
        elif not self.transaction.is_eager:
            assert all(refused[key] is self._final for key in self._handed_over)


def _path(command: str) -> str:
    """What a command has between its angle brackets."""
    return command.partition("<")[2].partition(">")[0]


def server(codes: Mapping[str, int | str], offers: Sequence[str] = ()) -> Callable[[str], str]:
    """A server that answers to the commands that start so with these codes, else with yes."""

    def answer(command: str) -> str:
        if command == "EHLO":
            return "\r\n250-".join(["250-x", *offers]) + "\r\n250 X"
        found = [code for start, code in codes.items() if command.startswith(start)]
        default = 354 if command == "DATA" else 250
        reply = found[0] if found else default
        return reply if isinstance(reply, str) else f"{reply} to {command}"

    return answer


def talk(job: Job, codes: Mapping[str, int | str] | None = None, **options: Any) -> Conversation:
    conversation = Conversation(job, server(codes or {}), **options)
    conversation.run()
    return conversation


MAIL, B, C = "MAIL FROM:<a@x>", "RCPT TO:<b@x>", "RCPT TO:<c@x>"
BDAT = "BDAT 100 LAST"
EAGER: dict[str, Any] = {"pipelining": "eager", "offers": ["PIPELINING", "CHUNKING"]}


@pytest.mark.parametrize(
    ("options", "flights"),
    [
        ({"offers": "X"}, [[MAIL], [B], [C], ["DATA"]]),
        ({"pipelining": "off"}, [[MAIL], [B], [C], ["DATA"]]),
        ({}, [[MAIL, B, C, "DATA"]]),
        ({"pipelining": "eager"}, [[MAIL, B, C, "DATA"]]),
        ({"pipelining": "eager", "offers": "CHUNKING"}, [[MAIL], [B], [C], ["DATA"]]),
        ({**EAGER, "pipelining": "auto"}, [[MAIL, B, C, "DATA"]]),
        (EAGER, [[MAIL, B, C, BDAT]]),
        ({**EAGER, "reset_first": True}, [["RSET", MAIL, B, C, BDAT]]),
        ({**EAGER, "refused_in_a_row": PATIENCE}, [[MAIL, B, C], ["DATA"]]),
        ({"refused_in_a_row": PATIENCE - 1}, [[MAIL, B, C, "DATA"]]),
        ({"refused_in_a_row": PATIENCE}, [[MAIL, B, C], ["DATA"]]),
        ({"reset_first": True}, [["RSET", MAIL, B, C, "DATA"]]),
        ({"reset_first": True, "offers": "X"}, [["RSET"], [MAIL], [B], [C], ["DATA"]]),
        ({"chunking": "always"}, [[MAIL, B, C, "DATA"]]),
        ({"chunking": "always", "offers": "CHUNKING"}, [[MAIL], [B], [C], [BDAT]]),
        ({**EAGER, "chunking": "off"}, [[MAIL, B, C, "DATA"]]),
        ({**EAGER, "chunking": "always"}, [[MAIL, B, C, BDAT]]),
        ({**EAGER, "chunking": "always", "pipelining": "auto"}, [[MAIL, B, C], [BDAT]]),
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
@pytest.mark.parametrize(
    "options",
    [{}, {**EAGER, "chunking": "off"}, EAGER, {**EAGER, "pipelining": "auto"}],
    ids=["nothing", "off", "eager", "auto"],
)
def test_all_or_nobody_waits_for_the_envelope(
    codes: dict[str, int], flights: list[list[str]], options: dict[str, Any]
) -> None:
    """Then BDAT saves the wait for 354."""
    uses_chunk = bool(options) and "chunking" not in options
    told = [[BDAT] if flight == ["DATA"] and uses_chunk else flight for flight in flights]
    assert talk(job(require_all=True), codes, **options).flights == told


@pytest.mark.parametrize(
    ("codes", "facts", "wears_out"),
    [
        ({C: 550}, {"b@x": ("accepted", 250), "c@x": ("refused", 550)}, False),
        ({BDAT: 550}, {"b@x": ("refused", 550), "c@x": ("refused", 550)}, True),
        ({B: 550, C: 550}, {"b@x": ("refused", 550), "c@x": ("refused", 550)}, False),
    ],
)
def test_a_chunk_goes_to_those_whom_the_server_took(
    codes: dict[str, int], facts: dict[str, tuple[str, int]], wears_out: bool
) -> None:
    conversation = talk(job(), codes, chunking="always", offers=["PIPELINING", "CHUNKING"])
    assert conversation.facts() == facts
    assert conversation.transaction.wears_out is wears_out


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


@pytest.mark.parametrize(
    ("offers", "is_stale", "facts"),
    [("PIPELINING", False, ("accepted", 250)), ("X", True, ("not_sent", None))],
)
def test_after_a_reset_that_is_refused_what_is_on_its_way_counts_and_nothing_is_begun(
    offers: str, is_stale: bool, facts: tuple[Outcome, int | None]
) -> None:
    conversation = talk(job(), {"RSET": 502}, reset_first=True, offers=offers)
    assert conversation.transaction.is_stale is is_stale
    assert set(conversation.facts().values()) == {facts}


def test_a_refused_recipient_of_a_message_that_is_taken_behind_a_good_bye_is_refused() -> None:
    conversation = talk(job(), {"RSET": 554, C: 450}, **{**EAGER, "reset_first": True})
    assert conversation.facts() == {"b@x": ("accepted", 250), "c@x": ("refused", 450)}


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


# Eager: the message is in the flight of its envelope


@pytest.mark.parametrize(
    ("size", "recipients", "is_eager"),
    [
        (EAGER_SIZE, 1, True),
        (EAGER_SIZE + 1, 1, False),
        (100, MAX_FLIGHT - 3, True),
        (100, MAX_FLIGHT - 2, False),
    ],
)
def test_a_message_leaves_with_its_envelope_if_both_are_small(
    size: int, recipients: int, is_eager: bool
) -> None:
    message = job(*(f"{number}@x" for number in range(recipients)), content=Octets(size))
    conversation = talk(message, reset_first=True, **EAGER)
    assert conversation.transaction.is_eager is is_eager
    assert conversation.flights[-1][-1] == (f"BDAT {size} LAST" if is_eager else "DATA")
    assert len(conversation.flights[0]) <= MAX_FLIGHT
    assert len(conversation.ledger.replies("accepted")) == recipients


def as_servers_do(mail: int, rcpt: tuple[int, int], final: int) -> dict[str, int]:
    """These codes, but 503 to what makes no sense behind a refusal, and nothing new behind 421."""
    codes = [mail, *rcpt, final]
    if mail != 250:
        codes[1:] = [503] * 3
    elif 250 not in rcpt:
        codes[-1] = 503
    if 421 in codes:
        last = codes.index(421)
        codes[last:] = [421] * len(codes[last:])
    return dict(zip(("MAIL", B, C, "BDAT"), codes, strict=True))


@pytest.mark.parametrize("mail", MAIL_CODES)
def test_every_combination_of_refusals_of_an_eager_message(mail: int) -> None:
    for b, c, final in itertools.product(RCPT_CODES, RCPT_CODES, FINAL_CODES):
        codes = as_servers_do(mail, (b, c), final)
        facts, kind = expected(mail, (b, c), 354, final, require_all=False)
        conversation = talk(job(), codes, **EAGER)
        assert conversation.facts() == facts, codes
        assert type(conversation.result()) is kind, codes
        assert conversation.transaction.end == "nothing"


@pytest.mark.parametrize(
    ("replies", "in_doubt", "refused"),
    [
        ([], ["b@x", "c@x"], []),
        (["250"], ["b@x", "c@x"], []),
        (["250", "250"], ["b@x", "c@x"], []),
        (["250", "550"], ["c@x"], ["b@x"]),
        (["250", "250", "450"], ["b@x"], ["c@x"]),
        (["250", "550", "550"], [], ["b@x", "c@x"]),
        (["550"], [], ["b@x", "c@x"]),
    ],
)
def test_an_eager_message_is_in_doubt_until_a_reply_makes_it_better(
    replies: list[str], in_doubt: list[str], refused: list[str]
) -> None:
    coming = iter(replies)

    def answer(command: str) -> str:
        for reply in coming:
            return reply
        raise Lost

    conversation = Conversation(job(), answer, **EAGER)
    with pytest.raises(Lost):
        conversation.run()
    assert [*conversation.ledger.keys("in_doubt")] == in_doubt
    assert [*conversation.ledger.replies("refused")] == refused


@pytest.mark.parametrize("where", ["RSET", "MAIL", B, C])
def test_a_server_that_ends_the_session_before_an_eager_message_has_not_taken_it(
    where: str,
) -> None:
    told = False

    def answer(command: str) -> str:
        nonlocal told
        if told:
            raise Lost
        told = command.startswith(where)
        return "421 good-bye" if told else "250 ok"

    conversation = Conversation(job(), answer, reset_first=True, **EAGER)
    with pytest.raises(Lost):
        conversation.run()
    assert conversation.ledger.keys("in_doubt") == ()
    refused = {B: ["b@x"], C: ["c@x"]}.get(where, [])
    assert [*conversation.ledger.replies("refused")] == refused
    transaction = conversation.transaction
    assert transaction.goodbye is not None
    assert transaction.is_stale


@pytest.mark.parametrize(
    "codes",
    [
        {"RSET": 554},
        {"RSET": 421},
        {"RSET": 500, "MAIL": 503},
        {"MAIL": 421},
        {"MAIL": 550},
        {C: 421},
    ],
    ids=str,
)
def test_whoever_says_yes_to_an_eager_message_has_it(codes: dict[str, int]) -> None:
    """Whatever it refused in front of that: to send again would be to send twice."""
    conversation = talk(job(), codes, reset_first=True, **EAGER)
    assert conversation.facts()["b@x"] == ("accepted", 250)
    receipt = conversation.result()
    assert isinstance(receipt, Receipt)
    assert receipt.reply.text == f"to {BDAT}"


@pytest.mark.parametrize(
    ("codes", "wears_out"),
    [
        ({}, False),
        ({B: 550}, False),
        ({"BDAT": 451}, True),
        ({"BDAT": 552}, True),
        ({"BDAT": 421}, True),
        # Nobody was to have it: the refusal of the chunk is about that.
        ({"RCPT": 550, "BDAT": 503}, False),
        ({"MAIL": 550, "RCPT": 503, "BDAT": 503}, False),
    ],
)
def test_a_connection_is_of_no_further_use_after_a_refused_chunk(
    codes: dict[str, int], wears_out: bool
) -> None:
    transaction = talk(job(), codes, **EAGER).transaction
    assert transaction.wears_out is wears_out
    assert not transaction.is_stale


def test_an_eager_message_for_nobody_is_refused_by_the_envelope() -> None:
    conversation = talk(job(), {"RCPT": 550, "BDAT": 250}, **EAGER)
    assert set(conversation.facts().values()) == {("refused", 550)}
    assert isinstance(conversation.result(), SMTPRecipientsRefused)
    assert conversation.transaction.took_nobody


# A login that is missing


@pytest.mark.parametrize(
    ("offers", "code", "kind"),
    [
        (["PIPELINING"], 530, SMTPAuthenticationError),
        (["PIPELINING"], 535, SMTPAuthenticationError),
        # RFC 3207 section 4: there it says "Must issue a STARTTLS command first".
        (["PIPELINING", "STARTTLS"], 530, SMTPSenderRefused),
        (["PIPELINING", "STARTTLS"], 535, SMTPAuthenticationError),
    ],
)
def test_a_server_may_want_a_login_before_mail(offers: list[str], code: int, kind: type) -> None:
    conversation = talk(job(), {"MAIL": code, "RCPT": 503, "DATA": 503}, offers=offers)
    assert type(conversation.result()) is kind
    assert set(conversation.facts().values()) == {("refused", code)}
    assert conversation.transaction.is_stale is (kind is SMTPAuthenticationError)


# More recipients than one transaction takes


@pytest.mark.parametrize(
    ("limits", "recipients", "asked", "rest"),
    [
        ("RCPTMAX=2", ["1@x", "2@x", "3@x", "4@x"], ["1@x", "2@x"], ["3@x", "4@x"]),
        ("RCPTMAX=2", ["1@x", "2@x"], ["1@x", "2@x"], []),
        ("RCPTMAX=1", ["1@x", "2@x"], ["1@x"], ["2@x"]),
        ("MAILMAX=1", ["1@x", "2@y"], ["1@x", "2@y"], []),
        ("RCPTDOMAINMAX=1", ["1@x", "2@y", "3@X"], ["1@x", "3@X"], ["2@y"]),
        (
            "RCPTDOMAINMAX=2",
            ["1@x", "2@y", "3@z", "4@y", "5@w", "6@x"],
            ["1@x", "2@y", "4@y", "6@x"],
            ["3@z", "5@w"],
        ),
        ("RCPTDOMAINMAX=1", ["postmaster", "1@x"], ["postmaster"], ["1@x"]),
        (
            "RCPTMAX=2 RCPTDOMAINMAX=1",
            ["1@x", "2@y", "3@x", "4@x"],
            ["1@x", "3@x"],
            ["2@y", "4@x"],
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"pipelining": "eager"}], ids=["auto", "eager"])
def test_a_transaction_has_as_many_recipients_as_the_server_says(
    limits: str, recipients: list[str], asked: list[str], rest: list[str], options: dict[str, Any]
) -> None:
    offers = ["PIPELINING", "CHUNKING", f"LIMITS {limits}"]
    seen: set[str] = set()
    conversation = talk(job(*recipients), offers=offers, domains=seen, **options)
    assert conversation.flights[0][1:-1] == [f"RCPT TO:<{key}>" for key in asked]
    assert [*conversation.ledger.replies("accepted")] == asked
    assert [*conversation.ledger.keys("not_sent")] == rest
    assert [*conversation.left_over] == rest


def test_all_or_nobody_needs_one_transaction() -> None:
    offers = "LIMITS RCPTMAX=2"
    assert isinstance(talk(job(require_all=True), offers=offers).result(), Receipt)
    with pytest.raises(SMTPNotSupported, match="takes 2 of the 3 recipients in one transaction"):
        talk(job("1@x", "2@x", "3@x", require_all=True), offers=offers)


@pytest.mark.parametrize(
    ("reply", "is_too_many"),
    [
        (452, True),
        ("452 4.5.3 too many", True),
        ("452 4.2.2 over quota", False),
        (552, True),
        ("552 5.5.3 too many", True),
        ("552 5.2.2 over quota", False),
        (450, False),
        (451, False),
        (550, False),
    ],
)
@pytest.mark.parametrize("options", [{}, {"offers": "X"}, EAGER], ids=["auto", "off", "eager"])
def test_whom_the_server_has_no_room_for_is_left_over(
    reply: int | str, is_too_many: bool, options: dict[str, Any]
) -> None:
    conversation = talk(job("b@x", "c@x", "d@x"), {C: reply}, **options)
    assert conversation.left_over == (("c@x",) if is_too_many else ())
    # Until another transaction has come to something better, it is refused.
    code = int(str(reply)[:3])
    assert conversation.facts()["c@x"] == ("refused", code)
    assert conversation.facts()["d@x"] == ("accepted", 250)


def test_those_without_room_come_before_those_who_were_not_asked_for() -> None:
    offers = ["PIPELINING", "LIMITS RCPTMAX=3"]
    to = job("b@x", "c@x", "d@x", "e@x")
    conversation = talk(to, {C: 452}, offers=offers)
    assert conversation.left_over == ("c@x", "e@x")


def test_in_front_of_those_who_were_taken_452_is_a_refusal() -> None:
    """It was not because of those before it, for there are none."""
    conversation = talk(job(), {B: 452})
    assert conversation.left_over == ()
    assert conversation.facts() == {"b@x": ("refused", 452), "c@x": ("accepted", 250)}


@pytest.mark.parametrize("codes", [{".": 554}, {".": 452}, {"DATA": 554}, {"DATA": 421}], ids=str)
def test_if_the_message_was_not_taken_nobody_is_left_over(codes: dict[str, int]) -> None:
    conversation = talk(job(), {C: 452, **codes})
    assert conversation.left_over == ()
    assert conversation.facts()["c@x"] == ("refused", 452)


LIMITED: dict[str, Any] = {"offers": ["PIPELINING", "CHUNKING", "LIMITS RCPTMAX=1"]}


@pytest.mark.parametrize(
    ("codes", "options", "kind"),
    [
        ({"MAIL": 550, "RCPT": 503, "DATA": 503}, {}, SMTPSenderRefused),
        ({"DATA": 550}, {}, SMTPDataError),
        ({".": 550}, {}, SMTPDataError),
        ({"BDAT": 550}, {"pipelining": "eager"}, SMTPDataError),
    ],
)
def test_a_refusal_of_the_message_holds_for_the_rest(
    codes: dict[str, int], options: dict[str, Any], kind: type
) -> None:
    conversation = talk(job(), codes, **LIMITED, **options)
    assert conversation.facts() == {"b@x": ("refused", 550), "c@x": ("refused", 550)}
    assert conversation.left_over == ()
    assert type(conversation.result()) is kind


@pytest.mark.parametrize("pipelining", ["auto", "eager"])
def test_a_refusal_of_recipients_does_not_hold_for_the_rest(pipelining: str) -> None:
    codes = {"RCPT": 550, "DATA": 554, "BDAT": 554}
    conversation = talk(job(), codes, pipelining=pipelining, **LIMITED)
    assert isinstance(conversation.result(), SMTPRecipientsRefused)
    assert conversation.facts() == {"b@x": ("refused", 550), "c@x": ("not_sent", None)}
    assert conversation.left_over == ("c@x",)


def test_a_good_bye_leaves_the_rest_unsent_and_not_left_over() -> None:
    conversation = talk(job(), {"RCPT": 421}, **LIMITED)
    assert isinstance(conversation.result(), SMTPServerDisconnected)
    assert conversation.facts() == {"b@x": ("refused", 421), "c@x": ("not_sent", None)}
    assert conversation.left_over == ()


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
    conversation = talk(plain, offers=["PIPELINING", "SMTPUTF8"])
    assert conversation.flights[0][1:-1] == lines
    assert conversation.facts() == {IDN.given: ("accepted", 250)}


@pytest.mark.parametrize(
    ("codes", "b", "c"),
    [
        ({}, ("accepted", 250), ("accepted", 250)),
        ({B: 550}, ("refused", 550), ("accepted", 250)),
        ({BDAT: 451}, ("refused", 451), ("refused", 451)),
        ({"MAIL": 550, "RCPT": 503, BDAT: 503}, ("refused", 550), ("refused", 550)),
        ({"MAIL": 421, "RCPT": 421, BDAT: 421}, ("not_sent", None), ("not_sent", None)),
    ],
)
def test_what_is_answered_after_the_end_of_an_eager_send_ends_its_doubt(
    codes: dict[str, int], b: object, c: object
) -> None:
    conversation = talk(job(), codes, gives_up=True, **EAGER)
    assert conversation.facts() == {"b@x": b, "c@x": c}
    assert conversation.ledger.phase == "done"


@pytest.mark.parametrize("codes", [{}, {"MAIL": 550}, {B: 550}, {"MAIL": 421}, {"DATA": 451}])
def test_an_envelope_that_is_answered_after_the_end_of_its_send_changes_nothing(
    codes: dict[str, int],
) -> None:
    conversation = talk(job(), codes, gives_up=True)
    assert conversation.facts() == {"b@x": ("not_sent", None), "c@x": ("not_sent", None)}
    assert conversation.left_over == ()


CODES = st.sampled_from([200, 250, 251, 334, 354, 421, 450, 452, 500, 503, 550, 554])


@given(
    codes=st.lists(CODES, max_size=14),
    recipients=st.integers(1, 5) | st.just(MAX_FLIGHT),
    offers=st.lists(st.sampled_from(["PIPELINING", "CHUNKING", "LIMITS RCPTMAX=2"]), unique=True),
    pipelining=st.sampled_from(["auto", "eager", "off"]),
    chunking=st.sampled_from(["auto", "always", "off"]),
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
    try:
        conversation = Conversation(envelope, answer, **options)
        conversation.run()
    except (Lost, SMTPProtocolError, SMTPNotSupported):
        return
    if conversation.session.out_of_step:
        return
    result = conversation.result()
    assert isinstance(result, Receipt) is bool(conversation.ledger.replies("accepted"))
    assert conversation.ledger.outcome != "in_doubt"


def test_the_domains_of_a_session_are_counted_over_its_transactions() -> None:
    seen: set[str] = set()
    offers = "LIMITS RCPTDOMAINMAX=2"
    assert talk(job("1@x"), offers=offers, domains=seen).left_over == ()
    assert [*talk(job("2@y", "3@z"), offers=offers, domains=seen).left_over] == ["3@z"]
    assert talk(job("4@X", "5@Y"), offers=offers, domains=seen).left_over == ()
    with pytest.raises(SMTPServerDisconnected, match="no other domain"):
        talk(job("6@z"), offers=offers, domains=seen)
    assert seen == {"x", "y"}


def test_where_no_other_connection_can_be_had_the_server_judges_the_domains() -> None:
    offers = "LIMITS RCPTDOMAINMAX=1"
    assert talk(job("1@x", "2@y"), offers=offers).left_over == ()
