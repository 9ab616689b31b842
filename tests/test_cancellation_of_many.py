"""`send_many` that is stopped at every moment that there is: its caller, its body, its source.

Its work is done by tasks of its own, so what is counted is not only the caller's awaits but the
turns of the event loop: on memory streams, where nobody waits for the world outside, that is every
await of everybody. Each time another task sends with the same client, and is not to feel it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, Delivery, Limits, Retry
from anysmtp.events import Event, MessageEvent
from anysmtp.testing import DEFAULT_KEYWORDS
from support.bench import Bench, subject_of
from support.cancel import Ended, How, cancel_at, cancel_in_turn
from support.fixtures import Tally
from support.leaks import no_leaks
from support.many import Source, mail
from support.quick import every
from support.stage import Stage
from support.stage import judge as judge_others
from support.tls import Certificates

pytestmark = pytest.mark.anyio

BOUND = 2000
MAILS = 4
# Every turn, or fewer.
EACH = every(11)
CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")

# Where the work is other tasks', how asyncio cancels its caller makes no more difference than this.
in_turn = pytest.mark.parametrize("cancel_how", ["scope", "task"])


@dataclass(frozen=True)
class Scenario:
    """A stream and the client that it is for."""

    connections: int = 1
    is_connected: bool = True
    stream: dict[str, Any] = field(default_factory=dict[str, Any])
    limits: dict[str, Any] = field(default_factory=dict[str, Any])
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    keywords: tuple[str, ...] = DEFAULT_KEYWORDS
    capacity: int = 65536
    """Of the memory streams: a write of more than that waits for the server to read.

    All replies to what an eager client writes at once must fit, as into a socket's buffers.
    """


EAGER: dict[str, Any] = {"keywords": CHUNKING, "options": {"pipelining": "eager"}}

SCENARIOS = {
    "fresh": Scenario(is_connected=False),
    "one connection": Scenario(),
    "ordered, three connections": Scenario(3, stream={"ordered": True}),
    "little read ahead": Scenario(stream={"read_ahead": 1}),
    "lock-step": Scenario(keywords=("SIZE",)),
    "retried": Scenario(
        answers={"RCPT TO:<{}-1@": "450 4.2.0 later"}, options={"retry": Retry(2, base=0.001)}
    ),
    "paced": Scenario(limits={"rate": (2, 0.001)}),
    "MAILMAX": Scenario(keywords=(*DEFAULT_KEYWORDS, "LIMITS MAILMAX=2")),
    "narrow": Scenario(capacity=100),
    "eager": Scenario(**EAGER),
    "eager, narrow": Scenario(capacity=800, **EAGER),
    "eager, three connections": Scenario(3, **EAGER),
}
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))


class Show:
    """One time that a stream is sent: its client, its mails, and what becomes of them."""

    def __init__(self, bench: Bench, scenario: Scenario, k: int) -> None:
        self.k = k
        self.taken: list[Delivery[Any]] = []
        self.ended: list[Delivery[Any]] = []
        """What has ended, whether or not it was taken, and other messages too."""
        self.source = Source(MAILS, lambda number: mail(f"{k}-{number}"))
        self.smtp = self._client(bench, scenario)
        self.stage = Stage(bench, self.smtp, k, "scope")
        self._bench = bench
        self._scenario = scenario

    def _client(self, bench: Bench, scenario: Scenario) -> SMTP:
        limits = Limits(max_connections=scenario.connections, **scenario.limits)
        return bench.client(
            connectable=bench.server.connectable,
            limits=limits,
            observer=self._observe,
            **scenario.options,
        )

    def _observe(self, event: Event) -> None:
        if isinstance(event, MessageEvent):
            self.ended.append(event.delivery)

    async def run(self, play: Callable[[Show], Coroutine[Any, Any, Any]]) -> None:
        """Play it beside another one's message; then all is in order, and the client works."""
        async with self.smtp:
            if self._scenario.is_connected:
                await self.smtp.connect()
            for point, answer in self._scenario.answers.items():
                self._bench.once[point.format(self.k)] = answer
            async with anyio.create_task_group() as group:
                group.start_soon(play, self)
                group.start_soon(self._send_beside)
            self._bench.once.clear()
            assert self.source.is_closed or not self.source.pulled
            await self.stage.check()

    async def _send_beside(self) -> None:
        # Not before the stream has begun.
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        await self.stage.other()()

    async def take_all(self) -> None:
        """The whole stream, from entering it to leaving it."""
        stream = self.smtp.send_many(self.source.items_async(), **self._scenario.stream)
        async with stream as deliveries:
            async for delivery in deliveries:
                self.taken.append(delivery)


def judge(bench: Bench, shows: list[Show]) -> None:
    """What is known to have ended is what the server saw, and nothing it saw is unknown."""
    judge_others(bench, [each for show in shows for each in show.stage.others])
    received = [subject_of(message) for message in bench.server.received]
    assert len(received) == len(set(received)), "sent twice"
    ended = {str(d.key): d for show in shows for d in show.ended if d.key is not None}
    for subject in set(received) - set(ended):
        assert subject.startswith("after-"), f"{subject} has no end, and the server has it"
    for subject, delivery in ended.items():
        if delivery.outcome == "accepted":
            assert subject in received
        else:
            assert delivery.outcome == "in_doubt" or subject not in received
    for show in shows:
        keys = [delivery.key for delivery in show.taken]
        assert len(keys) == len(set(keys)), "taken twice"


def is_complete(show: Show) -> bool:
    """Whether every mail was sent and taken."""
    keys = sorted(d.key for d in show.taken if d.outcome == "accepted")
    return keys == [f"{show.k}-{number}" for number in range(MAILS)]


async def play_until_its_end(
    scenario: Scenario,
    certificates: Certificates,
    stop: Callable[[Show], Awaitable[Ended[Any]]],
) -> list[Show]:
    """Stop it a little later each time, until it has ended before that."""
    shows: list[Show] = []
    keywords, capacity = scenario.keywords, scenario.capacity
    memory = Bench("plain", certificates, keywords=keywords, capacity=capacity)
    async with memory as bench, no_leaks():
        for k in range(1, BOUND, EACH):
            show = Show(bench, scenario, k)
            shows.append(show)
            ends: list[Ended[Any]] = []

            async def play(show: Show) -> None:
                ends.append(await stop(show))  # noqa: B023 - called at once
                ends[0].unwrap()  # noqa: B023

            # More than a jump of the clock.
            with anyio.fail_after(30):
                await show.run(play)
            if not ends[0].stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    judge(bench, shows)
    assert is_complete(shows[-1])
    return shows


@in_turn
@each_scenario
async def test_a_stream_is_stopped_in_any_turn(
    scenario: Scenario, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    async def stop(show: Show) -> Ended[Any]:
        return await cancel_in_turn(show.k, cancel_how, show.take_all)

    shows = await play_until_its_end(scenario, certificates, stop)
    tally("turns in which a stream of messages was stopped", len(shows))


@each_scenario
async def test_a_stream_is_stopped_at_any_await_of_its_caller(
    scenario: Scenario, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    async def stop(show: Show) -> Ended[Any]:
        return await cancel_at(show.k, cancel_how, show.take_all)

    shows = await play_until_its_end(scenario, certificates, stop)
    tally("awaits at which a stream of messages was stopped", len(shows))


@each_scenario
async def test_a_loop_that_is_stopped_in_the_body_loses_nothing(
    scenario: Scenario, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    async def stop(show: Show) -> Ended[Any]:
        async with show.smtp.send_many(show.source.items_async(), **scenario.stream) as deliveries:

            async def take() -> None:
                async for delivery in deliveries:
                    show.taken.append(delivery)

            ended = await cancel_at(show.k, cancel_how, take)
            await take()
        assert is_complete(show)
        return ended

    shows = await play_until_its_end(scenario, certificates, stop)
    tally("awaits at which a loop over deliveries was stopped", len(shows))


@each_scenario
async def test_a_stream_is_stopped_by_its_source_in_any_turn(
    scenario: Scenario, certificates: Certificates, tally: Tally
) -> None:
    """The source's task waits, while others work, and then cancels the stream that it is for."""

    async def stop(show: Show) -> Ended[Any]:
        stopped = False
        with anyio.CancelScope() as scope:

            async def items() -> AsyncGenerator[Any]:
                nonlocal stopped
                for item in show.source.items():
                    yield item
                for _ in range(show.k):
                    await anyio.lowlevel.checkpoint()
                stopped = True
                scope.cancel()
                await anyio.lowlevel.checkpoint()

            async with show.smtp.send_many(items(), **scenario.stream) as deliveries:
                async for delivery in deliveries:
                    show.taken.append(delivery)
        return Ended("cancelled", 0, stopped and not is_complete(show))

    shows = await play_until_its_end(scenario, certificates, stop)
    tally("turns in which a stream of messages was stopped by its source", len(shows))
