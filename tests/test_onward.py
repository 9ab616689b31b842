"""A stream on the short way comes to the same as on the general one, whatever happens to it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStreamConnectable
from hypothesis import given, settings
from hypothesis import strategies as st

from anysmtp import SMTP, Envelope, Limits, Mail, SMTPException
from anysmtp._folding import Folding
from anysmtp.events import CloseEvent, Event, MessageEvent
from support.logs import looking_at_the_log
from support.ready_wire import ReadyWire

BACKENDS = ["asyncio", "trio"] if find_spec("trio") is not None else ["asyncio"]
COUNT = 5
HELLO = b"250-mail.x.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
YES = "250 ok"
# Awaits of the wire that a stream takes before its first message may go on alone.
BEFORE = 4
AWAITS = 2 * COUNT


@dataclass(frozen=True)
class Plan:
    """What a server says to a stream, and what else happens to it."""

    said: tuple[tuple[int, str], ...] = ()
    """Which replies to the envelopes and messages are none of the usual, and what they are."""
    cuts: tuple[int, ...] = ()
    """Where what it says to one write is cut."""
    stop_at: int | None = None
    """The await of the wire at which the caller is cancelled."""
    is_late: bool = False
    """Whether that await comes to its end all the same."""
    lost_at: int | None = None
    """The await of the wire at which the stream fails."""
    is_closed: bool = False
    """Whether that is by its end, and not by a reset."""
    another_at: int | None = None
    """The await of the wire at which somebody else asks for the connection."""


@dataclass
class Wire(ReadyWire):
    """A server on no network, for which each await is an event."""

    plan: Plan
    scope: anyio.CancelScope
    another: anyio.Event
    written: list[bytes] = field(default_factory=list[bytes])
    ready: list[bytes] = field(default_factory=lambda: [b"220 hi\r\n"])
    awaits: int = 0
    replies: int = 0
    is_body: bool = False
    is_gone: bool = False

    async def send(self, item: bytes) -> None:
        await self._event()
        self.written.append(item)
        if item.startswith((b"EHLO", b"QUIT")):
            self.ready.append(HELLO if item.startswith(b"EHLO") else b"221 bye\r\n")
            return
        said = "".join(f"{line}\r\n" for line in self._answers(item.decode())).encode()
        places = sorted({cut for cut in self.plan.cuts if 0 < cut < len(said)})
        for start, end in zip([0, *places], [*places, len(said)], strict=True):
            if said:
                self.ready.append(said[start:end])

    def _answers(self, octets: str) -> Generator[str]:
        for line in octets.split("\r\n")[:-1]:
            if self.is_body and line != ".":
                continue
            usual = "354 go" if line == "DATA" else YES
            reply = dict(self.plan.said).get(self.replies, usual)
            self.replies += 1
            self.is_body = line == "DATA" and reply.startswith("354")
            if reply:
                yield reply

    async def _event(self) -> None:
        if self.is_gone:
            raise anyio.ClosedResourceError
        self.awaits += 1
        if self.awaits == self.plan.another_at:
            self.another.set()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
        if self.awaits == self.plan.lost_at:
            self.is_gone = True
            raise anyio.EndOfStream if self.plan.is_closed else anyio.BrokenResourceError
        if self.awaits == self.plan.stop_at:
            self.scope.cancel()
            if not self.plan.is_late:
                await anyio.lowlevel.checkpoint()


class House(ByteStreamConnectable):
    """Where the client connects to; what happens does so on the first connection."""

    def __init__(self, *given: Any) -> None:
        self._given = given
        self.wires: list[Wire] = []

    async def connect(self) -> Wire:
        plan, *more = self._given
        self.wires.append(Wire(Plan() if self.wires else plan, *more))
        return self.wires[-1]


def told(error: BaseException | None) -> object:
    """What a caller can see of a failure."""
    if not isinstance(error, SMTPException):
        return repr(error)
    names = ("outcome", "command", "reply", "server", "connection_closed", "recipients")
    return str(error), type(error.__cause__), [getattr(error, name, None) for name in names]


async def run(plan: Plan) -> object:
    """Send a stream, and another message beside it or behind it; all that is seen of it."""
    scope, another = anyio.CancelScope(), anyio.Event()
    house = House(plan, scope, another)
    events: list[Event] = []
    ends: list[object] = []
    envelopes = [
        Envelope(sender="a@x.test", recipients=[f"{number}@x.test", f"{number}b@x.test"])
        for number in range(COUNT)
    ]
    smtp = SMTP(
        "mail.x.test",
        tls="off",
        local_hostname="me",
        connectable=house,
        limits=Limits(max_connections=1),
        observer=events.append,
    )

    async def send_another() -> None:
        await another.wait()
        try:
            receipt = await smtp.sendmail("b@x.test", ["c@x.test"], b"S: another\r\n\r\n.\r\n")
        except SMTPException as error:
            ends.append(told(error))
        else:
            ends.append(receipt.reply)

    async def send_all() -> None:
        mails = [
            Mail(f"S: {number}\r\n\r\n.hello\r\n".encode(), envelope, key=number)
            for number, envelope in enumerate(envelopes)
        ]
        with scope:
            try:
                async with smtp.send_many(mails) as deliveries:
                    async for each in deliveries:
                        facts = (each.accepted, each.refused, each.not_sent, each.in_doubt)
                        ends.append((each.key, *facts, each.bytes_sent, told(each.exception())))
            except (SMTPException, ZeroDivisionError) as error:
                ends.append(told(error))
        another.set()

    async with smtp, anyio.create_task_group() as group:
        group.start_soon(send_another)
        await send_all()
    told_of: list[object] = [
        (event.delivery.key, event.outcome, event.octets, event.accepted, event.refused)
        for event in events
        if isinstance(event, MessageEvent)
    ]
    told_of += [(event.reason, event.messages) for event in events if isinstance(event, CloseEvent)]
    wires = [(wire.written, wire.awaits) for wire in house.wires]
    return ends, scope.cancelled_caught, told_of, wires, smtp.statistics()


class Way:
    """Counts who goes the short way, which can be closed."""

    def __init__(self) -> None:
        self.is_open = True
        self.taken = 0

    def next_alone(self, folding: Folding) -> Any:
        found = self.next(folding) if self.is_open else None
        self.taken += found is not None
        return found

    next = staticmethod(Folding.next_alone)


@contextmanager
def watched() -> Generator[Way]:
    way = Way()
    with pytest.MonkeyPatch.context() as patch:

        def next_alone(folding: Folding) -> Any:
            return way.next_alone(folding)

        patch.setattr(Folding, "next_alone", next_alone)
        yield way


def check(plan: Plan, backend: str = "asyncio") -> Way:
    """Both ways come to the same."""
    with watched() as way:
        short = anyio.run(run, plan, backend=backend)
        way.is_open = False
        assert anyio.run(run, plan, backend=backend) == short
    return way


@pytest.mark.parametrize("backend", BACKENDS)
def test_those_to_whom_the_server_says_yes_take_it(backend: str) -> None:
    # The first one boards nobody, the second one is folded, and nobody follows the last one.
    assert check(Plan(), backend).taken == COUNT - 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at", range(BEFORE, BEFORE + AWAITS + 2))
def test_cancelled_at_an_await(at: int, backend: str) -> None:
    check(Plan(stop_at=at), backend)


# Trio runs tasks that are ready in any order: where two are, what comes of it may differ.
@pytest.mark.parametrize("at", range(BEFORE, BEFORE + AWAITS + 2))
def test_cancelled_at_an_await_that_comes_to_its_end_all_the_same(at: int) -> None:
    check(Plan(stop_at=at, is_late=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("at", range(BEFORE, BEFORE + AWAITS + 2))
def test_lost_at_an_await(at: int, is_closed: bool, backend: str) -> None:
    check(Plan(lost_at=at, is_closed=is_closed), backend)


@pytest.mark.parametrize("at", range(BEFORE, BEFORE + AWAITS + 2))
def test_somebody_else_asks_for_the_connection(at: int) -> None:
    check(Plan(another_at=at))


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 16, 24, 39, 40])
def test_what_comes_in_pieces(cut: int) -> None:
    check(Plan(cuts=(cut,)))


def test_what_a_log_raises_is_of_the_message_that_it_is_about() -> None:
    told: list[str] = []

    def fail(line: str) -> None:
        told.append(line)
        # The third message of each of two streams, behind which there is another message.
        count = sum(" accepted " in each for each in told)
        if " accepted " in line and count in (3, 7):
            raise ZeroDivisionError

    with looking_at_the_log(fail):
        check(Plan())


SAID = st.sampled_from(
    [
        *("450 later", "550 no", "452 many", "421 bye", "250-two\r\n250 lines", "250 other"),
        *("354 go", "354-two\r\n354 lines", "451 later", "nonsense", "", "250 ok\r\n250 more"),
    ]
)
AT = st.none() | st.integers(BEFORE, BEFORE + AWAITS)


PLANS = st.builds(
    Plan,
    said=st.dictionaries(st.integers(5, 6 * COUNT), SAID, max_size=3).map(
        lambda said: tuple(sorted(said.items()))
    ),
    cuts=st.lists(st.integers(0, 60), max_size=3).map(tuple),
    stop_at=AT,
    is_late=st.booleans(),
    lost_at=AT,
    is_closed=st.booleans(),
    another_at=AT,
)


@settings(max_examples=200)
@given(PLANS)
def test_anything(plan: Plan) -> None:
    check(plan)
