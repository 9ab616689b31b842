"""A message on the short way comes to the same as on the general one, whatever happens to it."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from importlib.util import find_spec
from typing import Any, NoReturn, cast

import anyio
import pytest
from anyio.abc import ByteStreamConnectable
from hypothesis import given, settings
from hypothesis import strategies as st

from anysmtp import SMTP, Delivery, Limits, SMTPException, _alone, _sending
from anysmtp._alone import may_go_alone, send_alone
from anysmtp._channel import Channel
from anysmtp._leases import Leases
from anysmtp._parcel import Parcel
from anysmtp._protocol._session import Session
from anysmtp._reply import Reply
from anysmtp.events import Event, MessageEvent
from anysmtp.testing import STALL, ScriptedServer
from support.bench import Seen
from support.clients import deliver, on_memory
from support.logs import looking_at_the_log
from support.ready_wire import ReadyWire

BACKENDS = ["asyncio", "trio"] if find_spec("trio") is not None else ["asyncio"]
SENDER = "a@x.test"
RAW = b"Subject: hi\r\n\r\n.hello\r\n"
OBJECT = message_from_bytes(b"From: a@x.test\r\nDate: x\r\nMessage-ID: <1@x.test>\r\n" + RAW)
HELLO = b"250-mail.x.test\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250 CHUNKING\r\n"


@dataclass(frozen=True)
class Plan:
    """What a server says to one message, and what else happens to it."""

    recipients: int = 2
    answer: bytes = b"250 a\r\n250 b\r\n250 c\r\n354 d\r\n"
    """What it says to the envelope, all of it at once or in pieces."""
    final: bytes = b"250 taken\r\n"
    cuts: tuple[int, ...] = ()
    """Where what it says is cut."""
    stop_at: int | None = None
    """The await of the wire at which the caller is cancelled; 0: before it is sent."""
    is_late: bool = False
    """Whether that await comes to its end all the same."""
    lost_at: int | None = None
    """The await of the wire at which the stream fails."""
    is_closed: bool = False
    """Whether that is by its end, and not by a reset."""
    is_known: bool = True
    """Whether the caller has a Delivery of it; else nothing need be written before the end."""
    is_observed: bool = True
    is_object: bool = False
    """Whether it is a message object, and not a raw message."""


@dataclass
class Wire(ReadyWire):
    """A server on no network, for which each await is an event."""

    plan: Plan
    scope: anyio.CancelScope
    delivery: Delivery[None]
    seen: list[object] = field(default_factory=list[object])
    """What is known of the message at each await."""
    written: list[bytes] = field(default_factory=list[bytes])
    ready: list[bytes] = field(default_factory=lambda: [b"220 hi\r\n"])
    is_tried: bool = False
    """Whether what happens happens now, and not in the message before."""
    awaits: int = 0
    is_gone: bool = False

    async def send(self, item: bytes) -> None:
        await self._event()
        self.written.append(item)
        answer, final = self._answers()
        if item.startswith((b"EHLO", b"QUIT")):
            self.ready.append(HELLO if item.startswith(b"EHLO") else b"221 bye\r\n")
        elif item.startswith((b"MAIL", b"RSET")):
            reset = b"250 reset\r\n" if item.startswith(b"RSET") else b""
            self._say(reset + answer)
        else:
            self._say(final)

    def _answers(self) -> tuple[bytes, bytes]:
        if self.is_tried:
            return self.plan.answer, self.plan.final
        return b"250 a\r\n" * (self.plan.recipients + 1) + b"354 d\r\n", b"250 taken\r\n"

    def _say(self, said: bytes) -> None:
        cuts = self.plan.cuts if self.is_tried else ()
        places = sorted({cut for cut in cuts if 0 < cut < len(said)})
        self.ready += [
            said[start:end]
            for start, end in zip([0, *places], [*places, len(said)], strict=True)
            if said
        ]

    async def _event(self) -> None:
        if self.is_gone:
            raise anyio.ClosedResourceError
        if not self.is_tried:
            return
        if self.plan.is_known:
            self.seen.append(known(self.delivery))
        self.awaits += 1
        if self.awaits == self.plan.lost_at:
            self.is_gone = True
            raise anyio.EndOfStream if self.plan.is_closed else anyio.BrokenResourceError
        if self.awaits == self.plan.stop_at:
            self.scope.cancel()
            if not self.plan.is_late:
                await anyio.lowlevel.checkpoint()


class House(ByteStreamConnectable):
    """Where the client connects to."""

    def __init__(self, *given: Any) -> None:
        self._given = given
        self.wires: list[Wire] = []

    async def connect(self) -> Wire:
        self.wires.append(Wire(*self._given))
        return self.wires[-1]


def told(error: BaseException) -> object:
    """What a caller can see of a failure."""
    details: dict[str, Any] = {}
    if not isinstance(error, Exception):
        # What a cancellation says differs from scope to scope.
        return type(error)
    if isinstance(error, SMTPException):
        names = ("outcome", "command", "reply", "server", "connection_closed", "recipients")
        details = {name: getattr(error, name, None) for name in names}
        details["delivery"] = error.delivery and known(error.delivery)
    return type(error), str(error), type(error.__cause__), details


def known(delivery: Delivery[Any]) -> object:
    """What a Delivery says now."""
    facts = (dict(delivery.accepted), dict(delivery.refused), delivery.in_doubt, delivery.not_sent)
    about = delivery.bytes_sent, delivery.bytes_total, delivery.message_id, delivery.outcome
    return facts, about, delivery.phase, delivery.retry_recipients, delivery.may_retry


async def run(plan: Plan, options: dict[str, Any]) -> object:
    """Send a message for nothing, the one that is meant, and one behind it; all that is seen."""
    scope = anyio.CancelScope()
    delivery: Delivery[None] = Delivery()
    house = House(plan, scope, delivery)
    recipients = [f"r{number}@x.test" for number in range(plan.recipients)]
    ends: list[object] = []

    def observe(event: Event) -> None:
        error = None if event.error is None else told(event.error)
        if isinstance(event, MessageEvent):
            about = event.outcome, event.octets, event.accepted, event.refused
            ends.append((about, error, known(event.delivery)))
        else:
            ends.append((type(event), error))

    if plan.is_observed:
        options["observer"] = observe
    smtp = SMTP("mail.x.test", tls="off", local_hostname="me", connectable=house, **options)

    async def send(**more: Any) -> object:
        try:
            if plan.is_object:
                return await smtp.send_message(OBJECT, recipients=recipients, **more)
            return await smtp.sendmail(SENDER, recipients, RAW, **more)
        except SMTPException as error:
            return told(error)

    async with smtp:
        ends.append(await send())
        house.wires[0].is_tried = True
        with scope:
            if plan.stop_at == 0:
                scope.cancel()
            ends.append(await (send(delivery=delivery) if plan.is_known else send()))
        for wire in house.wires:
            wire.is_tried = False
        ends.append(scope.cancelled_caught)
        ends.append((repr(smtp), smtp.statistics()))
        ends.append(await send())
    wires = [(b"".join(wire.written), wire.seen) for wire in house.wires]
    return ends, known(delivery), wires


class Ways:
    """Counts who goes the short way, which can be closed."""

    def __init__(self) -> None:
        self.is_open = True
        self.taken = self.ended = self.letters = 0

    def may_go(self, channel: Any) -> bool:
        return self.is_open and may_go_alone(channel)

    async def send(self, *arguments: Any) -> Any:
        self.taken += 1
        self.letters += isinstance(arguments[-1], Parcel)
        end = await cast("Any", send_alone)(*arguments)
        self.ended += isinstance(end, Reply)
        return end


@contextmanager
def watched() -> Generator[Ways]:
    ways = Ways()
    with pytest.MonkeyPatch.context() as patch:
        for module in (_alone, _sending):
            patch.setattr(module, "may_go_alone", ways.may_go)
            patch.setattr(module, "send_alone", ways.send)
        yield ways


def check(plan: Plan, backend: str = "asyncio", **options: Any) -> Ways:
    """Both ways come to the same."""
    with watched() as ways:
        short = anyio.run(run, plan, {**options}, backend=backend)
        ways.is_open = False
        assert anyio.run(run, plan, {**options}, backend=backend) == short
    return ways


def lines(*choices: str) -> st.SearchStrategy[str]:
    return st.sampled_from([choices[0]] * 6 + list(choices))


YES = lines(
    "250 yes", "251 elsewhere", "250-two\r\n250 lines", "550 no", "452 4.5.3 many", "421 bye"
)
GO = lines("354 go", "354-two\r\n354 lines", "554 no", "451 later", "250 what?", "nonsense", "")
LAST = lines(
    "250 taken", "250-two\r\n250 lines", "552 no", "451 later", "421 bye", "354 ?", "", "x"
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 3))
    said = [draw(YES) for _ in range(count + 1)] + [draw(GO)]
    behind = draw(st.sampled_from(["", "", "", "", "421 bye\r\n", "250 too many\r\n"]))
    places = st.integers(1, 4) if draw(st.booleans()) else st.none()
    is_stopped = draw(st.booleans())
    place = draw(places)
    return Plan(
        recipients=count,
        answer="".join(f"{line}\r\n" for line in said if line).encode()
        + (behind.encode() if draw(st.booleans()) else b""),
        final=f"{draw(LAST)}\r\n".lstrip("\r\n").encode() + behind.encode(),
        cuts=tuple(draw(st.lists(st.integers(1, 40), max_size=2))),
        stop_at=place if is_stopped else None,
        is_late=draw(st.booleans()),
        lost_at=None if is_stopped else place,
        is_closed=draw(st.booleans()),
        is_known=draw(st.booleans()),
        is_observed=draw(st.booleans()),
        is_object=draw(st.booleans()),
    )


@settings(max_examples=300)
@given(plan=plans(), backend=st.sampled_from(BACKENDS))
def test_both_ways_come_to_the_same(plan: Plan, backend: str) -> None:
    check(plan, backend)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_message_to_which_the_server_says_yes_goes_the_short_way(is_known: bool) -> None:
    ways = check(Plan(is_known=is_known))
    assert (ways.taken, ways.ended, ways.letters) == (3, 3, 1 if is_known else 2)


@pytest.mark.parametrize("stop_at", range(5))
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("is_known", [False, True])
def test_one_that_is_stopped_at_any_await_is_known_as_well(
    stop_at: int, is_late: bool, is_known: bool
) -> None:
    check(Plan(stop_at=stop_at, is_late=is_late, is_known=is_known))


OTHERS: dict[str, dict[str, Any]] = {
    "require_all": {"require_all": True},
    "eager": {"pipelining": "eager"},
    "one by one": {"pipelining": "off"},
    "chunks": {"chunking": "always"},
}


@pytest.mark.anyio
@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
async def test_what_is_asked_for_otherwise_does_not_go_it(options: dict[str, Any]) -> None:
    with watched() as ways:
        async with ScriptedServer() as server, on_memory(server, **options) as smtp:
            await deliver(smtp)
    assert ways.taken == 0


@pytest.mark.anyio
async def test_one_that_is_cancelled_before_it_begins_is_told_of() -> None:
    seen = Seen()
    async with ScriptedServer() as server, on_memory(server, observer=seen) as smtp:
        await smtp.connect()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await deliver(smtp)
        assert [each.outcome for each in seen.deliveries] == ["not_sent"]
        assert smtp.statistics().messages_not_sent == 1


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"require_all": False}], ids=["a letter", "more"])
async def test_what_a_log_raises_is_the_callers(options: dict[str, Any]) -> None:
    """The server has the message, and nobody is told anything else."""

    def fail(line: str) -> None:
        if " accepted " in line:
            raise ZeroDivisionError

    seen = Seen()
    async with ScriptedServer() as server, on_memory(server, observer=seen) as smtp:
        await smtp.connect()
        with watched() as ways, looking_at_the_log(fail), pytest.raises(ZeroDivisionError):
            await deliver(smtp, **options)
        assert ways.ended == 1
        assert seen.deliveries == []
        await deliver(smtp)
    assert [each.outcome for each in seen.deliveries] == ["accepted"]
    assert len(server.messages) == 2


class Struck(BaseException):
    """What the handler of a signal raises, wherever the program is."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("place", "outcome"), [("only_yes", "in_doubt"), ("leave", "accepted"), ("end", "accepted")]
)
def test_a_signal_behind_the_message_does_not_make_it_one_that_was_not_sent(
    backend: str, place: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()

    def strike(*_: object) -> NoReturn:
        raise Struck

    async def scenario() -> None:
        async with ScriptedServer() as server:
            smtp = on_memory(server, observer=seen)
            await smtp.connect()
            if place == "only_yes":
                taken = Session.only_yes

                def of_an_envelope(session: Session, *of: Any) -> object:
                    return taken(session, *of) if of[1] > 1 else strike()

                monkeypatch.setattr(Session, "only_yes", of_an_envelope)
            else:
                where, what = (Channel, "leave") if place == "leave" else (Leases, "took_message")
                monkeypatch.setattr(where, what, strike)
            with pytest.raises(Struck):
                await deliver(smtp)
            monkeypatch.undo()
            await smtp.aclose()

    anyio.run(scenario, backend=backend)
    assert [each.outcome for each in seen.deliveries] == [outcome]
    assert seen.deliveries[0].not_sent == seen.deliveries[0].retry_recipients == ()


@pytest.mark.anyio
async def test_a_message_is_told_of_when_its_connection_was_given_back() -> None:
    told: list[tuple[str, int]] = []

    def look(event: Event) -> None:
        told.append((type(event).__name__, smtp.statistics().sending))

    limits = Limits(max_connections=1, max_messages_per_connection=2)
    async with (
        ScriptedServer() as server,
        on_memory(server, observer=look, limits=limits) as smtp,
    ):
        for _ in range(3):
            await deliver(smtp)
    one = [("ConnectEvent", 1), ("MessageEvent", 0)]
    assert told == [*one, ("CloseEvent", 0), ("MessageEvent", 0), *one, ("CloseEvent", 0)]


@pytest.mark.anyio
async def test_how_long_a_letter_took_that_has_failed() -> None:
    events: list[Event] = []
    async with (
        ScriptedServer(script={"MAIL": STALL}) as server,
        on_memory(server, observer=events.append) as smtp,
    ):
        await smtp.connect()
        with anyio.move_on_after(0.05):
            await deliver(smtp)
    (event,) = (event for event in events if isinstance(event, MessageEvent))
    assert event.seconds >= 0.04


@pytest.mark.anyio
async def test_a_borrowed_connection_goes_it_too() -> None:
    with watched() as ways:
        async with ScriptedServer() as server, on_memory(server) as smtp, smtp.connection() as conn:
            await deliver(conn)
    assert ways.ended == 1


def test_what_is_looked_on_does_not_go_it(caplog: pytest.LogCaptureFixture) -> None:
    """The log of the wire shows each line when it is sent and when it is read."""
    with caplog.at_level(logging.DEBUG, "anysmtp.wire"):
        assert check(Plan()).taken == 0
