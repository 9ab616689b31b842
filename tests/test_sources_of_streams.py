"""The two ends of a stream of messages: a source that ends strangely, and a taker who is quick."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anysmtp import SMTP, Delivery, Mail
from anysmtp.testing import ScriptedServer
from support.clients import deliver, on_memory
from support.leaks import no_leaks
from support.many import keys, mail, take

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_cancellation_of_a_task_that_the_source_awaits_is_the_source_s_exception() -> (
    None
):
    """Nobody has cancelled the one who takes from it; as it would be in a loop over the source."""

    async def source() -> AsyncGenerator[Mail[int]]:
        yield mail(0)
        yield mail(1)
        helper = asyncio.ensure_future(asyncio.sleep(10))
        helper.cancel()
        await helper

    found: list[Delivery[Any]] = []
    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(asyncio.CancelledError):
            async with smtp.send_many(source()) as deliveries:
                await take(deliveries, found)
        assert keys(found) == [0, 1]
        assert all(delivery.outcome == "accepted" for delivery in found)
        await deliver(smtp)


async def test_a_scope_around_the_stream_is_no_exception_of_the_source() -> None:
    async def source() -> AsyncGenerator[Mail[int]]:
        yield mail(0)
        await anyio.sleep_forever()

    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        with anyio.CancelScope() as scope:
            async with smtp.send_many(source()) as deliveries:
                async for _ in deliveries:
                    scope.cancel()
        assert scope.cancelled_caught
        await deliver(smtp)


class Strange:
    """An iterable that ends as only an async one may."""

    def __init__(self) -> None:
        self._left = [mail(1), mail(0)]

    def __iter__(self) -> Iterator[Mail[int]]:
        return self

    def __next__(self) -> Mail[int]:
        if not self._left:
            raise StopAsyncIteration("not here")
        return self._left.pop()


async def test_an_iterable_that_raises_stop_async_iteration_does_not_end_without_a_word() -> None:
    found: list[Delivery[Any]] = []
    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(RuntimeError, match="raised StopAsyncIteration") as caught:
            async with smtp.send_many(Strange()) as deliveries:
                await take(deliveries, found)
    assert isinstance(caught.value.__cause__, StopAsyncIteration)
    assert keys(found) == [0, 1]


async def test_whoever_takes_what_is_ready_lets_others_run() -> None:
    turns = before = 0
    no_mails: list[Any] = [object()] * 1000

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        # What is no mail ends at once.
        smtp.send_many(no_mails, read_ahead=1000) as deliveries,
    ):
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await checkpoint()
            before = turns
            assert len([delivery async for delivery in deliveries]) == 1000
            group.cancel_scope.cancel()
    assert turns - before >= 1000 / 20


def test_a_stream_can_be_made_outside_of_an_event_loop() -> None:
    smtp = SMTP("smtp.example.com")
    assert smtp.send_many([]) is not None


@pytest.mark.parametrize("wrong", ["yes", None, 1])
def test_ordered_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(TypeError, match="ordered is a bool"):
        SMTP("smtp.example.com").send_many([], ordered=wrong)
