"""What is stopped at its k-th await, for every k, in every way in which callers do.

After each, the server's own log is the judge: what was called not_sent it never got, nothing it
got twice, other tasks' messages it got, and the next one gets its own replies. The pool is in
order, and nothing is left open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, Delivery, Limits, Retry, SMTPServerDisconnected
from anysmtp.testing import DEFAULT_KEYWORDS, DROP
from support.bench import LARGE, SMALL, TRANSPORTS, Bench, Seen, Transport, send
from support.cancel import How, cancel_at, hows
from support.fixtures import Tally
from support.leaks import no_leaks
from support.quick import every
from support.sends import Send
from support.stage import Stage, judge, start_in_order
from support.tls import Certificates

pytestmark = pytest.mark.anyio

# More than any scenario has.
BOUND = 500
# Every await, or fewer.
EACH = every(5)

CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")

# Each way in which asyncio cancels is tried under TLS with a message by itself.
with_and_without_tls = pytest.mark.parametrize(
    ("transport", "cancel_how"),
    [
        *(("plain", how) for how in hows("asyncio")),
        *(("starttls", how) for how in ("scope", "task")),
    ],
)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["fresh", "reused", "reused, without a Delivery"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_stopping_a_send_at_any_await_harms_nobody(
    transport: Transport,
    kind: str,
    size: int,
    cancel_how: How,
    certificates: Certificates,
    tally: Tally,
) -> None:
    deliveries: dict[str, Delivery[None]] = {}
    async with Bench(transport, certificates) as bench, no_leaks():
        for k in range(1, BOUND):
            subject = f"stopped at {k}"
            given = None if "without" in kind else Delivery()
            seen = Seen()
            async with bench.client(observer=seen) as smtp:
                if kind != "fresh":
                    await smtp.connect()

                async def stopped() -> None:
                    await send(smtp, subject, size, given)  # noqa: B023 - called at once

                ended = await cancel_at(k, cancel_how, stopped)
                ended.unwrap()
                (delivery,) = seen.deliveries
                assert given in (None, delivery)
                deliveries[subject] = delivery
                if ended.how == "finished":
                    assert delivery.outcome == "accepted"
                await send(smtp, f"after {k}")
            if not ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    outcomes = bench.judge_all(deliveries)
    tally("awaits at which a send was stopped", len(outcomes))
    # On 3.10 the first await is in a library that loses a cancellation which comes with its end.
    assert "not_sent" in outcomes
    assert outcomes[-1] == "accepted"
    assert "in_doubt" in outcomes


@dataclass(frozen=True)
class Scenario:
    """What happens between a client and a server, with something in it that is stopped."""

    play: Callable[[Stage], Awaitable[None]]
    connections: int = 1
    keywords: tuple[str, ...] = DEFAULT_KEYWORDS
    limits: dict[str, Any] = field(default_factory=dict[str, Any])
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    capacity: int = 100
    """Of the memory streams, where there are some: less than what is written at once.

    All replies to what an eager client writes at once must fit, as into a socket's buffers.
    """

    def client(self, bench: Bench, **options: Any) -> SMTP:
        limits = Limits(max_connections=self.connections, **self.limits)
        return bench.client(limits=limits, **self.options, **options)


# One connection


async def replaced_after_a_look(stage: Stage) -> None:
    await stage.smtp.connect()
    await stage.bench.server.hang_up()
    await stage.stop(stage.mine)


async def replaced_when_it_is_used(stage: Stage) -> None:
    await stage.smtp.connect()
    stage.bench.once["MAIL"] = DROP
    await stage.stop(stage.mine)
    stage.bench.once.clear()


async def in_line(stage: Stage, place: int) -> None:
    """Three have waited for the same connection, one of them is stopped."""
    async with anyio.create_task_group() as group, stage.smtp.connection():
        for number in range(3):
            if number == place:
                group.start_soon(stage.stop, stage.mine)
            else:
                group.start_soon(stage.other())
            await stage.until_waiting(number + 1)


async def borrowed(stage: Stage) -> None:
    """Somebody waits until it is given back."""

    async def use() -> None:
        async with stage.smtp.connection() as conn:
            assert (await conn.vrfy("b@x.test")).code == 252
            await stage.mine_on(conn)()

    await start_in_order(partial(stage.stop, use), stage.other())


async def on_one_connection(stage: Stage, place: int) -> None:
    """Three tasks share one that was borrowed."""
    stage.may_be_left_behind = True
    async with stage.smtp.connection() as conn:
        sends = [stage.other(conn), stage.other(conn)]
        stopped = partial(stage.stop, stage.mine_on(conn))
        await start_in_order(*sends[:place], stopped, *sends[place:])


async def connect(stage: Stage) -> None:
    await start_in_order(partial(stage.stop, stage.smtp.connect), stage.other())


async def paced(stage: Stage) -> None:
    await start_in_order(stage.other(), partial(stage.stop, stage.mine), stage.other())


async def retried(stage: Stage) -> None:
    await stage.smtp.connect()
    stage.bench.once["RCPT TO:<c@"] = "450 4.2.0 later"
    await stage.stop(stage.mine)
    stage.bench.once.clear()


async def too_many_recipients(stage: Stage) -> None:
    await stage.smtp.connect()
    stage.bench.once["RCPT TO:<c@"] = "452 4.5.3 too many recipients"
    await stage.stop(stage.mine)
    stage.bench.once.clear()


# Several connections


async def open_connections(stage: Stage, count: int) -> None:
    """So many are open and idle."""
    async with anyio.create_task_group() as group:
        all_have_one = anyio.Event()

        async def use() -> None:
            async with stage.smtp.connection():
                if stage.smtp.statistics().open_connections == count:
                    all_have_one.set()
                await all_have_one.wait()

        for _ in range(count):
            group.start_soon(use)


async def each_on_its_own(stage: Stage) -> None:
    await start_in_order(stage.other(), partial(stage.stop, stage.mine), stage.other())


async def idle_for_too_long(stage: Stage) -> None:
    await open_connections(stage, 3)
    # As long as the clock takes to move.
    await anyio.sleep(0.001)
    await stage.stop(stage.mine)


EAGER: dict[str, Any] = {"keywords": CHUNKING, "options": {"pipelining": "eager"}}
FIRST, MIDDLE, LAST = (partial(in_line, place=place) for place in range(3))
ON_ONE = [partial(on_one_connection, place=place) for place in range(3)]

SCENARIOS = {
    "connect": Scenario(connect),
    "replaced after a look": Scenario(replaced_after_a_look),
    "replaced when it is used": Scenario(replaced_when_it_is_used),
    "first of three": Scenario(FIRST),
    "second of three": Scenario(MIDDLE),
    "third of three": Scenario(LAST),
    "borrowed": Scenario(borrowed),
    "paced": Scenario(paced, limits={"rate": (1, 0.002)}),
    "retried": Scenario(retried, options={"retry": Retry(2, base=0.001)}),
    "452": Scenario(too_many_recipients),
    "RCPTMAX=1": Scenario(MIDDLE, keywords=(*DEFAULT_KEYWORDS, "LIMITS RCPTMAX=1")),
    "MAILMAX=1": Scenario(MIDDLE, keywords=(*DEFAULT_KEYWORDS, "LIMITS MAILMAX=1")),
    "lock-step": Scenario(MIDDLE, keywords=("SIZE",)),
    "three connections": Scenario(each_on_its_own, connections=3),
    "three idle for too long": Scenario(
        idle_for_too_long, connections=3, limits={"keepalive_expiry": 0.0001}
    ),
    "first on a borrowed one": Scenario(ON_ONE[0]),
    "second on a borrowed one": Scenario(ON_ONE[1]),
    "third on a borrowed one": Scenario(ON_ONE[2]),
    "eager, second on a borrowed one": Scenario(ON_ONE[1], **EAGER),
    "eager, third on a borrowed one": Scenario(ON_ONE[2], **EAGER),
    "eager, first of three": Scenario(FIRST, **EAGER),
    "eager, second of three": Scenario(MIDDLE, **EAGER),
    "eager, third of three": Scenario(LAST, **EAGER),
}


async def play(bench: Bench, scenario: Scenario, how: How, **options: Any) -> list[Stage]:
    """Stop it everywhere; what was on stage each time."""
    stages: list[Stage] = []
    for k in range(1, BOUND, EACH):
        async with scenario.client(bench, **options) as smtp:
            stage = Stage(bench, smtp, k, how)
            stages.append(stage)
            # More than a jump of the clock.
            with anyio.fail_after(30):
                await scenario.play(stage)
                await stage.check()
        assert stage.ended is not None
        if not stage.ended.stopped:
            return stages
    pytest.fail("the scenario has no end")


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
@with_and_without_tls
async def test_stopping_one_at_any_await_harms_no_other(
    scenario: Scenario,
    transport: Transport,
    cancel_how: How,
    certificates: Certificates,
    tally: Tally,
) -> None:
    async with Bench(transport, certificates, keywords=scenario.keywords) as bench, no_leaks():
        stages = await play(bench, scenario, cancel_how)
        await bench.server.wait_closed()
    judge(bench, [each for stage in stages for each in stage.sends])
    tally("awaits at which one of several was stopped", len(stages))


# In the middle of a write


async def slowly(stage: Stage, place: int) -> None:
    """Three send on one connection, and each write takes a while."""
    await stage.smtp.connect()
    sends = [stage.other(), stage.other()]
    stopped = partial(stage.stop_in_turn, stage.mine)
    await start_in_order(*sends[:place], stopped, *sends[place:])


async def slowly_in_front(stage: Stage, size: int) -> None:
    """Others ride along, all of their messages, with the end of one that is too large for that."""
    await stage.smtp.connect()
    stopped = partial(stage.stop_in_turn, stage.mine_on(stage.smtp, size))
    await start_in_order(stopped, stage.other(), stage.other())


KINDS: dict[str, dict[str, Any]] = {
    "auto": {},
    "lock-step": {"keywords": ("SIZE",)},
    "eager": {"capacity": 250, **EAGER},
}
NARROW = {
    f"{kind}, {name} of three": Scenario(partial(slowly, place=place), **options)
    for kind, options in KINDS.items()
    for place, name in enumerate(("first", "second", "third"))
} | {
    "eager, in front, in one write": Scenario(
        partial(slowly_in_front, size=35_000), capacity=3000, **EAGER
    ),
    "eager, in front, in pieces": Scenario(
        partial(slowly_in_front, size=150_000), capacity=9000, **EAGER
    ),
}


@pytest.mark.parametrize("scenario", NARROW.values(), ids=list(NARROW))
@pytest.mark.parametrize("cancel_how", ["scope", "task"])
async def test_stopping_one_in_the_middle_of_a_write_harms_no_other(
    scenario: Scenario, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    keywords, capacity = scenario.keywords, scenario.capacity
    narrow = Bench("plain", certificates, keywords=keywords, capacity=capacity)
    async with narrow as bench, no_leaks():
        stages = await play(bench, scenario, cancel_how, connectable=bench.server.connectable)
        await bench.server.wait_closed()
    judge(bench, [each for stage in stages for each in stage.sends])
    tally("turns in which one of several was stopped", len(stages))


# The client's end


async def with_three_idle(stage: Stage) -> None:
    await open_connections(stage, 3)
    await stage.stop(stage.smtp.aclose)


async def while_busy(stage: Stage, connections: int) -> None:
    """Four send, on three connections or one."""
    await open_connections(stage, connections)
    sends = [stage.other() for _ in range(4)]
    await start_in_order(*sends, partial(stage.stop, stage.smtp.aclose))


async def by_the_block(stage: Stage) -> None:
    """The client's block is left by the cancellation, with a message of its own under way."""

    async def block() -> None:
        async with AsyncExitStack() as stack:
            # To enter it is an await too, but if that is stopped nothing has begun.
            stack.push_async_exit(stage.smtp)
            await stage.mine()

    await stage.smtp.__aenter__()
    await start_in_order(stage.other(), stage.other(), partial(stage.stop, block))


ENDS = {
    "aclose, three idle": Scenario(with_three_idle, connections=3),
    "aclose, three busy": Scenario(partial(while_busy, connections=3), connections=3),
    "aclose, one busy": Scenario(partial(while_busy, connections=1)),
    "aclose, one busy, eager": Scenario(partial(while_busy, connections=1), **EAGER),
    "the block, three connections": Scenario(by_the_block, connections=3),
    "the block, one connection": Scenario(by_the_block),
    "the block, eager": Scenario(by_the_block, **EAGER),
}


@pytest.mark.parametrize("scenario", ENDS.values(), ids=list(ENDS))
@with_and_without_tls
async def test_a_client_whose_end_is_stopped_at_any_await_ends_all_the_same(
    scenario: Scenario,
    transport: Transport,
    cancel_how: How,
    certificates: Certificates,
    tally: Tally,
) -> None:
    sends: list[Send] = []
    async with Bench(transport, certificates, keywords=scenario.keywords) as bench, no_leaks():
        for k in range(1, BOUND, EACH):
            smtp = scenario.client(bench)
            stage = Stage(bench, smtp, k, cancel_how)
            await scenario.play(stage)
            sends += stage.sends
            check_closed(stage)
            assert stage.ended is not None
            if not stage.ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    judge(bench, sends)
    tally("awaits at which the end of a client was stopped", stage.k)


def check_closed(stage: Stage) -> None:
    """Nothing is open, and whoever was sending has his end."""
    stage.check_counts()
    assert stage.smtp.statistics().open_connections == 0
    assert repr(stage.smtp).endswith(" closed>")
    assert stage.mine.error is None
    for other in stage.others:
        assert other.has_its_reply or isinstance(other.error, SMTPServerDisconnected)
