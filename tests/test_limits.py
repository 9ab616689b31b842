"""How much of a server a client uses: what `Limits` says, and what the server itself says.

All of it happens in virtual time, on both backends: the clock jumps to whatever is waited for.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Limits,
    Mail,
    SMTPConnectError,
    SMTPException,
    SMTPSenderRefused,
    SMTPTimeoutError,
)
from anysmtp import Envelope as To
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, RESET, STALL, Act, Answer, ScriptedServer
from anysmtp.testing._script import Rule
from support.bench import message, subject_of
from support.clients import RAW, SENDER, deliver, email, on_memory
from support.leaks import no_leaks
from support.quick import sampled

pytestmark = pytest.mark.anyio

EAGER = (*DEFAULT_KEYWORDS, "CHUNKING")
TO = "b@x.test"
TOO_MANY = Act("421 4.7.0 Too many connections", then="close")


class _Jumping(selectors.DefaultSelector):
    """Does not wait until the next timer is due: it is then that time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None:
            self.now += max(timeout, 0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """What trio's MockClock is with an autojump threshold of 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def in_virtual_time(backend: object) -> tuple[object, dict[str, object]]:
    """The backend, as the fixture ``anyio_backend`` of a module has it."""
    if backend == "asyncio":
        return backend, {"loop_factory": VirtualLoop}
    clock = importlib.import_module("trio.testing").MockClock(autojump_threshold=0)
    return backend, {"clock": clock}


@pytest.fixture
def anyio_backend(anyio_backend: object) -> object:
    return in_virtual_time(anyio_backend)


class House:
    """A server that lets in so many connections at once, and turns away the others as told.

    It keeps count, and knows when each message has begun.
    """

    def __init__(
        self,
        room: int = 1000,
        *,
        turned_away: Act = TOO_MANY,
        answers: Rule = lambda line: None,
        **options: Any,
    ) -> None:
        self.server = ScriptedServer(script=self._answer, **options)
        self.room = room
        self.most = 0
        """How many connections it has served at once."""
        self.begun: list[tuple[float, str]] = []
        """When each MAIL came, and from whom."""
        self._turned_away = turned_away
        self._answers = answers

    @property
    def served(self) -> int:
        """How many connections it serves now."""
        records = self.server.connections
        return sum(r.end is None and r.replies[:1] == [_GREETING] for r in records)

    @property
    def attempts(self) -> int:
        return len(self.server.connections)

    @property
    def subjects(self) -> list[str]:
        """What was accepted."""
        return [subject_of(accepted) for accepted in self.server.messages]

    def _answer(self, line: str) -> Answer | None:
        if line == "GREETING":
            if self.served >= self.room:
                return self._turned_away
            self.most = max(self.most, self.served + 1)
        elif line.startswith("MAIL"):
            self.begun.append((anyio.current_time(), line.partition("<")[2].partition(">")[0]))
        return self._answers(line)

    async def __aenter__(self) -> House:
        await self.server.__aenter__()
        self._start = anyio.current_time()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.server.__aexit__(*exc_info)

    @property
    def seconds(self) -> float:
        """How long it has been open."""
        return anyio.current_time() - self._start

    @property
    def times(self) -> list[float]:
        """After how many seconds each message has begun."""
        return [time - self._start for time, _ in self.begun]

    @property
    def senders(self) -> list[str]:
        """From whom each message was, in the order of their beginning."""
        return [sender for _, sender in self.begun]


_GREETING = b"220 mail.example.test ESMTP\r\n"


def taking(seconds: float) -> Rule:
    """A server that takes so long for each message."""
    return lambda line: Act(late=seconds) if line == "." else None


def client(house: House, count: int = 1, **limits: Any) -> SMTP:
    return on_memory(house.server, limits=Limits(max_connections=count, **limits))


async def send(smtp: SMTP, number: int, **options: Any) -> None:
    await smtp.sendmail(f"{number}@x.test", TO, message(str(number)), **options)


async def send_all(smtp: SMTP, numbers: Sequence[int]) -> None:
    """Each in a task of its own, that begin in this order."""
    async with anyio.create_task_group() as group:
        for number in numbers:
            group.start_soon(send, smtp, number)
            await anyio.wait_all_tasks_blocked()


async def stream_all(smtp: SMTP, numbers: Sequence[int]) -> None:
    """All in one `send_many`."""
    async with smtp.send_many(mails(numbers)) as deliveries:
        async for delivery in deliveries:
            delivery.result()


def mails(numbers: Sequence[int]) -> list[Mail[int]]:
    return [
        Mail(message(str(number)), To(sender=f"{number}@x.test", recipients=TO), key=number)
        for number in numbers
    ]


def names(numbers: Sequence[int]) -> list[str]:
    return [f"{number}@x.test" for number in numbers]


# How many connections


SendAll: TypeAlias = "Callable[[SMTP, Sequence[int]], Coroutine[Any, Any, None]]"
both_ways = pytest.mark.parametrize("send_them", [send_all, stream_all])


@sampled(3)
@both_ways
@pytest.mark.parametrize("pipelining", ["auto", "off", "eager"])
@pytest.mark.parametrize("count", [1, 2, 7])
async def test_there_are_never_more_connections_than_the_limit(
    count: int, pipelining: str, send_them: SendAll
) -> None:
    house = House(answers=taking(1), keywords=EAGER)
    limits = Limits(max_connections=count)
    async with no_leaks(), house:
        async with on_memory(house.server, limits=limits, pipelining=pipelining) as smtp:
            await send_them(smtp, range(30))
        await house.server.wait_closed()
    assert house.most <= count
    assert house.attempts <= count
    assert sorted(house.subjects, key=int) == [str(number) for number in range(30)]


async def test_as_many_connections_are_used_as_there_may_be() -> None:
    async with House(answers=taking(1)) as house, client(house, 10) as smtp:
        await send_all(smtp, range(40))
        # Four rounds of a second each, and the moments in which the tasks begin.
        assert 4 <= house.seconds < 12


async def test_no_connection_is_opened_while_an_idle_one_will_do() -> None:
    async with House() as house, client(house, 5) as smtp:
        for number in range(5):
            await send(smtp, number)
        async with smtp.connection():
            await send(smtp, 5)
            await send(smtp, 6)
        await smtp.connect()
        assert repr(smtp) == "<SMTP mail.example.test:25 0/5 idle 2 waiting 0>"
    assert house.attempts == 2
    assert [record.end for record in house.server.connections] == ["quit", "quit"]


async def test_connections_are_for_one_client_and_not_for_all() -> None:
    async with (
        House() as house,
        client(house) as one,
        client(house) as another,
        one.connection(),
        another.connection(),
    ):
        assert house.served == 2


# Who is next


@pytest.mark.parametrize(
    ("count", "pipelining"), [(1, "auto"), (1, "off"), (1, "eager"), (3, "auto"), (3, "off")]
)
async def test_tasks_are_served_in_the_order_in_which_they_came(
    count: int, pipelining: str
) -> None:
    house = House(answers=taking(1), keywords=EAGER)
    limits = Limits(max_connections=count)
    async with house, on_memory(house.server, limits=limits, pipelining=pipelining) as smtp:
        await send_all(smtp, range(25))
    places = [house.senders.index(name) for name in names(range(25))]
    # Those that begin in one moment, on several connections, come as they come.
    assert all(abs(place - number) < count for number, place in enumerate(places))


async def test_borrowers_and_senders_wait_in_one_line_and_who_leaves_it_holds_up_nobody() -> None:
    async def borrow(number: int) -> None:
        async with smtp.connection() as conn:
            await conn.sendmail(f"{number}@x.test", TO, RAW)

    async with (
        House(answers=taking(1)) as house,
        client(house) as smtp,
        anyio.create_task_group() as group,
        anyio.create_task_group() as leaving,
        smtp.connection(),
    ):
        for number in range(15):
            which = leaving if number % 5 == 3 else group
            if number % 2:
                which.start_soon(borrow, number)
            else:
                which.start_soon(send, smtp, number)
            await anyio.wait_all_tasks_blocked()
        leaving.cancel_scope.cancel()
    assert house.senders == names([n for n in range(15) if n % 5 != 3])


async def test_a_stream_of_messages_does_not_keep_its_connection_from_those_who_wait() -> None:
    async with (
        House(answers=taking(1)) as house,
        client(house) as smtp,
        anyio.create_task_group() as group,
    ):
        group.start_soon(stream_all, smtp, range(50))
        await anyio.sleep(3.5)
        await send(smtp, 99)
        assert house.seconds < 8
    assert len(house.subjects) == 51


# When a connection is worn out


async def one_by_one(smtp: SMTP, numbers: Sequence[int]) -> None:
    for number in numbers:
        await send(smtp, number)


async def in_connections(smtp: SMTP, numbers: Sequence[int]) -> None:
    for number in numbers:
        async with smtp.connection() as conn:
            await conn.sendmail(f"{number}@x.test", TO, message(str(number)))


def never_more_than(house: House, count: int) -> None:
    """No connection has had more transactions, nor less if it is not the last."""
    counts = sorted(record.verbs.count("MAIL") for record in house.server.connections)
    assert counts[-1] == count
    assert sum(counts) == len(house.begun)


@sampled(5)
@pytest.mark.parametrize("send_them", [send_all, stream_all, one_by_one, in_connections])
@pytest.mark.parametrize("pipelining", ["auto", "off", "eager"])
@pytest.mark.parametrize(
    ("own", "declared"),
    [(2, None), (None, 2), (2, 5), (5, 2)],
    ids=["own", "MAILMAX", "2,5", "5,2"],
)
@pytest.mark.parametrize("count", [1, 3])
async def test_a_connection_is_renewed_after_so_many_messages(
    count: int, own: int | None, declared: int | None, pipelining: str, send_them: SendAll
) -> None:
    keywords = [*EAGER, *([f"LIMITS MAILMAX={declared}"] if declared else [])]
    house = House(keywords=keywords)
    limits = Limits(max_connections=count, max_messages_per_connection=own)
    async with no_leaks(), house:
        async with on_memory(house.server, limits=limits, pipelining=pipelining) as smtp:
            await send_them(smtp, range(11))
        await house.server.wait_closed()
    never_more_than(house, 2)
    assert house.most <= count
    assert sorted(house.subjects, key=int) == [str(number) for number in range(11)]
    assert len(house.server.received) == 11


async def test_a_refused_transaction_counts_for_the_server_s_limit_too() -> None:
    house = House(
        keywords=[*EAGER, "LIMITS MAILMAX=2"],
        answers=lambda line: "550 5.7.1 Not you" if "0@" in line else None,
    )
    async with house, client(house) as smtp:
        with pytest.raises(SMTPSenderRefused):
            await send(smtp, 0)
        await send(smtp, 1)
        await send(smtp, 2)
    assert [record.verbs.count("MAIL") for record in house.server.connections] == [2, 1]


# When it was idle for too long


async def connect(smtp: SMTP) -> None:
    await smtp.connect()


async def borrow(smtp: SMTP) -> None:
    async with smtp.connection() as conn:
        await conn.noop()


async def stream(smtp: SMTP) -> None:
    await stream_all(smtp, [1])


uses = pytest.mark.parametrize("use", [deliver, connect, borrow, stream])
Use: TypeAlias = "Callable[[SMTP], Coroutine[Any, Any, object]]"


@uses
async def test_a_connection_that_was_idle_for_too_long_is_closed_at_the_next_use(use: Use) -> None:
    async with no_leaks(), House() as house, client(house, keepalive_expiry=60) as smtp:
        await deliver(smtp)
        await anyio.sleep(60.5)
        # Nobody is there who could close it now.
        assert house.served == 1
        await use(smtp)
        await anyio.wait_all_tasks_blocked()
        assert house.served == 1
    assert [record.end for record in house.server.connections] == ["eof", "quit"]
    assert "NOOP" not in house.server.connections[0].verbs


@uses
async def test_a_connection_that_was_not_idle_for_so_long_is_used_again(use: Use) -> None:
    async with House() as house, client(house, keepalive_expiry=60) as smtp:
        for _ in range(3):
            await use(smtp)
            await anyio.sleep(59.5)
    assert house.attempts == 1


async def test_time_in_use_is_not_idle_time() -> None:
    async with House(answers=taking(100)) as house, client(house, keepalive_expiry=60) as smtp:
        await send_all(smtp, range(3))
        async with smtp.connection():
            await anyio.sleep(100)
        await send(smtp, 4)
    assert house.attempts == 1


async def test_connections_are_kept_for_ever_if_asked() -> None:
    async with House() as house, client(house, keepalive_expiry=None) as smtp:
        await deliver(smtp)
        await anyio.sleep(80_000)
        await deliver(smtp)
    assert house.attempts == 1


async def test_all_that_were_idle_for_too_long_are_closed_at_once() -> None:
    async with no_leaks(), House(answers=taking(1)) as house, client(house, 3) as smtp:
        await send_all(smtp, range(3))
        await anyio.sleep(30)
        await send(smtp, 3)
        await anyio.sleep(45)
        await send(smtp, 4)
        await anyio.wait_all_tasks_blocked()
        assert repr(smtp) == "<SMTP mail.example.test:25 0/3 idle 1 waiting 0>"
        assert house.served == 1
    assert house.attempts == 3


async def test_idle_for_too_long_or_not_all_are_closed_at_the_exit() -> None:
    async with no_leaks(), House(answers=taking(1)) as house:
        async with client(house, 3) as smtp:
            await send_all(smtp, range(3))
            await anyio.sleep(1000)
        await house.server.wait_closed()
        assert not house.served


# How many messages in how much time


def check_rate(times: Sequence[float], count: int, seconds: float) -> None:
    """In no window are there more."""
    assert times == sorted(times)
    for first, last in zip(times, times[count:], strict=False):
        assert last - first >= seconds - 1e-6, f"{count + 1} from {first} to {last}: {times}"


@both_ways
@pytest.mark.parametrize("connections", [1, 3])
async def test_messages_begin_at_the_rate_that_was_asked_for(
    connections: int, send_them: SendAll
) -> None:
    async with House() as house, client(house, connections, rate=(3, 10)) as smtp:
        await send_them(smtp, range(12))
        check_rate(house.times, 3, 10)
        # Not slower than that: the last three begin in the fourth window.
        assert 30 <= house.seconds < 31.5
    # Which of several connections is there first is nobody's choice.
    assert sorted(house.senders) == sorted(names(range(12)))
    assert connections > 1 or house.senders == names(range(12))


@pytest.mark.parametrize("seed", range(5))
async def test_the_rate_holds_in_any_window_whenever_messages_come(seed: int) -> None:
    chance = random.Random(seed)
    async with (
        House(
            answers=lambda line: Act(late=chance.uniform(0, 9)) if line == "." else None
        ) as house,
        client(house, 4, rate=(4, 10)) as smtp,
        anyio.create_task_group() as group,
    ):
        for number in range(40):
            group.start_soon(send, smtp, number)
            await anyio.sleep(chance.choice([0, 0, 0.5, 3, 12]))
    check_rate(house.times, 4, 10)
    assert len(house.subjects) == 40


@both_ways
async def test_who_waited_for_a_connection_does_not_exceed_the_rate_afterwards(
    send_them: SendAll,
) -> None:
    slow = iter([100.0])

    def answers(line: str) -> Answer | None:
        return Act(late=next(slow, 0)) if line == "." else None

    async with House(answers=answers) as house, client(house, rate=(1, 10)) as smtp:
        await send_them(smtp, range(6))
    check_rate(house.times, 1, 10)
    assert house.senders == names(range(6))


async def test_one_who_stops_waiting_uses_up_nothing() -> None:
    async with (
        House() as house,
        client(house, 3, rate=(1, 10)) as smtp,
        anyio.create_task_group() as group,
        anyio.create_task_group() as leaving,
    ):
        for number in range(7):
            which = leaving if number in (1, 2, 4) else group
            which.start_soon(send, smtp, number)
            await anyio.wait_all_tasks_blocked()
        await anyio.sleep(1)
        leaving.cancel_scope.cancel()
    assert sorted(house.senders) == names([0, 3, 5, 6])
    check_rate(house.times, 1, 10)
    assert house.times[-1] == pytest.approx(30, abs=1)


async def test_one_who_stops_waiting_for_a_connection_uses_up_nothing() -> None:
    async with (
        House() as house,
        client(house, rate=(1, 10)) as smtp,
        anyio.create_task_group() as group,
    ):
        async with anyio.create_task_group() as leaving, smtp.connection():
            leaving.start_soon(send, smtp, 0)
            await anyio.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        group.start_soon(send, smtp, 1)
    assert house.times[0] == pytest.approx(0, abs=1)


async def test_waiting_for_the_rate_is_not_timed_and_a_delivery_says_that_it_waits() -> None:
    limits = Limits(max_connections=1, rate=(1, 1000))
    delivery: Delivery[None] = Delivery()
    async with House() as house, on_memory(house.server, limits=limits, timeout=5) as smtp:
        await send(smtp, 0)
        with anyio.move_on_after(500):
            await send(smtp, 1, delivery=delivery)
        assert delivery.outcome == "not_sent"
        await send(smtp, 2)
        assert house.seconds == pytest.approx(1000, abs=1)


async def test_a_delivery_says_that_it_waits_for_the_rate_on_a_new_connection_too() -> None:
    delivery: Delivery[None] = Delivery()
    async with House() as house, client(house, 2, rate=(1, 1000)) as smtp:
        await send(smtp, 0)
        async with smtp.connection(), anyio.create_task_group() as group:

            async def wait() -> None:
                await send(smtp, 1, delivery=delivery)

            group.start_soon(wait)
            await anyio.sleep(1)
            assert house.served == 2
            assert delivery.phase == "waiting"
            group.cancel_scope.cancel()


# A server that lets in fewer


async def crowd(smtp: SMTP, tasks: int, each: int) -> None:
    """So many tasks, each of which sends so many messages one after another."""

    async def one(task: int) -> None:
        for number in range(each):
            await send(smtp, task * each + number)

    async with anyio.create_task_group() as group:
        for task in range(tasks):
            group.start_soon(one, task)


REFUSALS = {"421": TOO_MANY, "end of file": DROP, "reset": RESET, "silence": STALL}


async def check_that_it_gets_everything(house: House, *, first: bool, later: int = 0) -> None:
    async with no_leaks(), house:
        async with client(house, 20) as smtp:
            if first:
                await smtp.connect()
            await crowd(smtp, 100, 3)
            # Those that it serves; five, that were opened before it had refused one; and those
            # that were tried after the pauses.
            assert house.attempts <= 3 + 5 + later
        await house.server.wait_closed()
    assert house.most == 3
    assert sorted(house.subjects, key=int) == [str(number) for number in range(300)]
    assert len(house.server.received) == 300


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("reply", ["421 4.7.0 Too many connections", "450 4.3.2 Busy"])
async def test_a_server_that_lets_in_three_gets_everything_from_a_pool_of_twenty(
    reply: str, first: bool
) -> None:
    house = House(3, turned_away=Act(reply, then="close"), answers=taking(0.1))
    await check_that_it_gets_everything(house, first=first)


@pytest.mark.parametrize("refusal", [DROP, RESET, STALL], ids=["end", "reset", "silence"])
async def test_a_server_that_says_nothing_to_those_whom_it_does_not_let_in_gets_everything_too(
    refusal: Act,
) -> None:
    """Once it is known to work."""
    house = House(3, turned_away=refusal, answers=taking(0.5))
    await check_that_it_gets_everything(house, first=True, later=3)


async def test_it_gets_a_stream_of_messages_too() -> None:
    house = House(3, answers=taking(0.1))
    async with no_leaks(), house:
        async with client(house, 20) as smtp:
            await stream_all(smtp, range(300))
            assert house.attempts <= 8
        await house.server.wait_closed()
    assert sorted(house.subjects, key=int) == [str(number) for number in range(300)]


async def test_connections_that_are_refused_while_others_are_open_are_not_missed() -> None:
    attempts = 0

    def answers(line: str) -> Answer | None:
        nonlocal attempts
        if line != "CONNECT":
            return taking(1)(line)
        attempts += 1
        return RESET if house.served >= 2 else None

    house = House(answers=answers)
    async with no_leaks(), house:
        async with client(house, 9) as smtp:
            await smtp.connect()
            async with smtp.connection():
                await send_all(smtp, range(20))
            assert attempts <= 8
        await house.server.wait_closed()
    assert len(house.subjects) == 20


async def keep_busy(smtp: SMTP) -> None:
    """Until it is cancelled there is always somebody who waits for a connection."""

    async def one() -> None:
        while True:
            await deliver(smtp)

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(one)


async def test_a_server_that_lets_in_more_again_is_asked_for_more_after_a_pause() -> None:
    async with House(3, answers=taking(1)) as house, client(house, 20) as smtp:
        await crowd(smtp, 9, 1)
        house.room = 1000
        with anyio.move_on_after(5):
            await keep_busy(smtp)
        assert house.most == 3
        with anyio.move_on_after(250):
            await keep_busy(smtp)
        assert house.most == 20
        assert smtp.statistics().allowed_connections == 20


async def test_a_server_that_goes_on_refusing_is_asked_ever_more_seldom() -> None:
    async with House(3, answers=taking(3)) as house, client(house, 20) as smtp:
        with anyio.move_on_after(1800):
            await keep_busy(smtp)
        # Eight at first; then after pauses of 10, 20, 40 ... 640 seconds, one each.
        assert house.attempts <= 8 + 8
    assert house.most == 3


TOO_MANY_AT_MAIL: dict[str, Answer] = {
    "Exchange": "432 4.3.2 Concurrent connections limit exceeded",
    "Gmail": Act("421 4.7.0 Too many concurrent SMTP connections", then="close"),
    "Postfix": "450 4.7.1 Error: too many connections from 127.0.0.1",
}


@pytest.mark.parametrize("reply", TOO_MANY_AT_MAIL.values(), ids=TOO_MANY_AT_MAIL)
@both_ways
async def test_too_many_connections_in_reply_to_mail_costs_no_message(
    reply: Answer, send_them: SendAll
) -> None:
    active = refusals = 0

    def answers(line: str) -> Answer | None:
        nonlocal active, refusals
        if line.startswith("MAIL"):
            if active == 3:
                refusals += 1
                return reply
            active += 1
        elif line == ".":
            active -= 1
        return taking(1)(line)

    house = House(answers=answers)
    async with no_leaks(), house:
        async with client(house, 10) as smtp:
            await send_them(smtp, range(60))
        await house.server.wait_closed()
    assert sorted(house.subjects, key=int) == [str(number) for number in range(60)]
    assert len(house.server.received) == 60
    # Seven of the first ten; and one of those with which a fourth connection is tried later.
    assert refusals <= 8


async def test_too_many_connections_where_there_is_only_one_is_the_message_s_refusal() -> None:
    house = House(answers=lambda line: TOO_MANY_AT_MAIL["Exchange"] if "MAIL" in line else None)
    delivery: Delivery[None] = Delivery()
    async with house, client(house, 10) as smtp:
        with pytest.raises(SMTPSenderRefused, match=r"432 4\.3\.2"):
            await send(smtp, 0, delivery=delivery)
    assert delivery.may_retry
    assert len(house.begun) == 1


# A server that lets in nobody


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_the_first_connection_of_all_is_refused_to_its_caller(refusal: Act) -> None:
    delivery: Delivery[None] = Delivery()
    async with no_leaks(), House(0, turned_away=refusal) as house, client(house, 3) as smtp:
        with pytest.raises((SMTPConnectError, SMTPTimeoutError)) as caught:
            await send(smtp, 0, delivery=delivery)
        assert caught.value.delivery is delivery
        assert delivery.outcome == "not_sent"
        house.room = 3
        await send(smtp, 1)
    assert house.attempts == 2
    assert house.subjects == ["1"]


async def failures(smtp: SMTP, tasks: int) -> list[SMTPException]:
    """What becomes of so many sends at once, each with its own Delivery."""
    errors: list[SMTPException] = []

    async def one(number: int) -> None:
        delivery: Delivery[int] = Delivery(key=number)
        with pytest.raises(SMTPException) as caught:
            await send(smtp, number, delivery=delivery)
        assert caught.value.delivery is delivery
        assert delivery.exception() is caught.value
        assert delivery.outcome == "not_sent"
        assert delivery.may_retry
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        for number in range(tasks):
            group.start_soon(one, number)
    return errors


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_where_nobody_is_let_in_every_caller_is_told_and_nobody_hangs(refusal: Act) -> None:
    async with no_leaks(), House(0, turned_away=refusal) as house:
        async with client(house, 20) as smtp:
            with anyio.fail_after(3600):
                errors = await failures(smtp, 50)
            assert repr(smtp).endswith("idle 0 waiting 0>")
        await house.server.wait_closed()
    assert len(set(map(id, errors))) == 50
    # Each may ask once; and five are refused together once more before it is seen that nobody is
    # let in.
    assert house.attempts <= 50 + 5


async def test_where_nothing_listens_every_caller_gets_a_connect_error() -> None:
    server = ScriptedServer(script={"CONNECT": RESET})
    async with no_leaks(), server, on_memory(server, limits=Limits(max_connections=20)) as smtp:
        errors = await failures(smtp, 50)
        assert {type(error) for error in errors} == {SMTPConnectError}
        assert len(set(map(id, errors))) == 50
        assert repr(smtp) == "<SMTP mail.example.test:25 0/20 idle 0 waiting 0>"
        del server.script["CONNECT"]
        await send(smtp, 1)


async def test_a_server_that_comes_back_gets_mail_at_once() -> None:
    """Whoever asks next is not made to wait for what others were told."""
    async with no_leaks(), House(0, answers=taking(1)) as house, client(house, 20) as smtp:
        await failures(smtp, 50)
        house.room = 1000
        started = house.seconds
        await send_all(smtp, range(5))
        assert house.seconds - started < 10


# Leaving


@pytest.mark.parametrize("transport", ["plain", "tls"])
async def test_the_exit_takes_two_seconds_however_many_connections_are_stuck(
    transport: str, certificates: Any
) -> None:
    tls: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if transport == "tls":
        options["implicit_tls"] = certificates.server
        tls = {"tls": "implicit", "tls_context": certificates.client}

    def answers(line: str) -> Answer | None:
        return STALL if line == "QUIT" else taking(1)(line)

    house = House(answers=answers, **options)
    async with no_leaks(), house:
        async with on_memory(house.server, limits=Limits(max_connections=20), **tls) as smtp:
            await crowd(smtp, 100, 1)
            assert house.served == 20
            started = house.seconds
        assert house.seconds - started <= 2.01
        await house.server.wait_closed()
    assert len(house.subjects) == 100


async def test_the_exit_does_not_wait_where_it_need_not() -> None:
    stuck = iter([STALL, STALL])
    house = House(answers=lambda line: next(stuck, None) if line == "QUIT" else taking(1)(line))
    async with no_leaks(), house:
        async with client(house, 5) as smtp:
            await crowd(smtp, 10, 1)
        await house.server.wait_closed()
    assert sorted(str(r.end) for r in house.server.connections) == ["eof"] * 2 + ["quit"] * 3


async def test_message_objects_count_as_raw_ones_do() -> None:
    async with House() as house, client(house, 2, rate=(1, 10)) as smtp:
        for _ in range(3):
            await smtp.send_message(email())
    check_rate(house.times, 1, 10)
    assert house.senders == [SENDER] * 3
    assert all(later > earlier for earlier, later in pairwise(house.times))
