"""Leaving a stream of messages early, in every way: nothing goes on, and nothing is lost unseen."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, Delivery, Limits, Mail
from anysmtp.testing import DEFAULT_KEYWORDS, Act, ScriptedServer
from support.cancel import How, cancel_at, count_awaits
from support.clients import deliver, on_memory
from support.fixtures import Tally
from support.leaks import no_leaks
from support.many import Source, keys, mail, send_all, subjects

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.anyio


class Interrupt(BaseException):
    """As KeyboardInterrupt is, but for nobody else."""


ERRORS: dict[str, BaseException] = {
    "an error": ZeroDivisionError("mine"),
    "a group": ExceptionGroup("mine", [ZeroDivisionError("inner")]),
    "a group in a group": ExceptionGroup("mine", [ExceptionGroup("inner", [ValueError()])]),
    "a group of the worst": BaseExceptionGroup("mine", [Interrupt()]),
    "a timeout": TimeoutError("mine"),
    "the end of an iteration": StopAsyncIteration("mine"),
    "an interrupt": Interrupt("mine"),
}


def call(work: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """Do this, and wait for what comes of it."""

    async def leave() -> None:
        work()

    return leave


class Busy:
    """A client in the middle of an endless stream: two were sent, the third is not answered."""

    def __init__(self, connections: int = 1) -> None:
        self.answer = anyio.Event()
        self.source = Source()
        self.server = ScriptedServer(script=self._act)
        self.smtp = on_memory(self.server, limits=Limits(max_connections=connections))
        self.taken: list[Delivery[Any]] = []

    def _act(self, line: str) -> Act | None:
        is_late = line == "." and len(self.server.received) > 2
        return Act(late=self.answer) if is_late else None

    async def __aenter__(self) -> Busy:
        await self.server.__aenter__()
        await self.smtp.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        self.answer.set()
        await self.smtp.__aexit__(*exc_info)
        await self.server.__aexit__(*exc_info)

    async def run(self, leave: Callable[[], Awaitable[object]]) -> None:
        """Take the first two deliveries, and leave by `leave` while the third waits."""
        async with self.smtp.send_many(self.source.items_async(), read_ahead=10) as deliveries:
            async for delivery in deliveries:
                self.taken.append(delivery)
                if len(self.taken) == 2:
                    await anyio.wait_all_tasks_blocked()
                    await leave()

    async def check(self) -> None:
        """Nothing goes on, and the client works."""
        # With several connections any two of the first three may end first.
        assert len(set(keys(self.taken))) == 2
        assert max(keys(self.taken)) <= 2
        assert [d.outcome for d in self.taken] == ["accepted", "accepted"]
        assert self.source.is_closed
        assert len(self.source.tasks) == 1
        pulled, received = self.source.pulled, len(self.server.received)
        assert pulled == 12
        self.answer.set()
        await anyio.wait_all_tasks_blocked()
        assert (self.source.pulled, len(self.server.received)) == (pulled, received)
        assert " 0/" in repr(self.smtp) or " idle 1 " in repr(self.smtp)
        await deliver(self.smtp)
        assert len(self.server.received) == received + 1


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("error", ERRORS.values(), ids=list(ERRORS))
async def test_an_exception_of_the_body_leaves_as_it_is(
    error: BaseException, connections: int
) -> None:
    async def leave() -> None:
        raise error

    async with no_leaks(), Busy(connections) as busy:
        with pytest.raises(type(error)) as caught:
            await busy.run(leave)
        assert caught.value is error
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        await busy.check()


@pytest.mark.parametrize("connections", [1, 3])
async def test_break(connections: int) -> None:
    async with no_leaks(), Busy(connections) as busy:
        items = busy.source.items_async()
        async with busy.smtp.send_many(items, read_ahead=10) as deliveries:
            async for delivery in deliveries:
                busy.taken.append(delivery)
                if len(busy.taken) == 2:
                    await anyio.wait_all_tasks_blocked()
                    break
        await busy.check()


async def test_return() -> None:
    async def first_two(busy: Busy) -> list[Delivery[Any]]:
        found: list[Delivery[Any]] = []
        items = busy.source.items_async()
        async with busy.smtp.send_many(items, read_ahead=10) as deliveries:
            async for delivery in deliveries:
                found.append(delivery)
                if len(found) == 2:
                    await anyio.wait_all_tasks_blocked()
                    return found
        raise AssertionError("it ended")

    async with no_leaks(), Busy() as busy:
        busy.taken = await first_two(busy)
        await busy.check()


async def test_a_cancel_scope_around_it() -> None:
    async with no_leaks(), Busy() as busy:
        with anyio.CancelScope() as scope:
            await busy.run(call(scope.cancel))
            raise AssertionError("it went on")
        assert scope.cancelled_caught
        await busy.check()


async def test_a_cancel_scope_inside_it_ends_the_loop_and_not_the_block() -> None:
    async with no_leaks(), Busy() as busy:
        items = busy.source.items_async()
        async with busy.smtp.send_many(items, read_ahead=10) as deliveries:
            with anyio.CancelScope() as scope:
                async for delivery in deliveries:
                    busy.taken.append(delivery)
                    if len(busy.taken) == 2:
                        await anyio.wait_all_tasks_blocked()
                        scope.cancel()
            assert scope.cancelled_caught
            busy.answer.set()
            assert (await deliveries.__anext__()).key == 2
            assert (await deliveries.__anext__()).outcome == "accepted"


async def test_fail_after_around_it() -> None:
    async with no_leaks(), Busy() as busy:

        async def in_time() -> None:
            with anyio.fail_after(60) as scope:

                async def leave() -> None:
                    scope.deadline = anyio.current_time()

                await busy.run(leave)

        with pytest.raises(TimeoutError) as caught:
            await in_time()
        assert type(caught.value) is TimeoutError
        await busy.check()


async def test_a_task_group_around_it_that_is_cancelled() -> None:
    async with no_leaks(), Busy() as busy:
        async with anyio.create_task_group() as group:
            group.start_soon(busy.run, call(group.cancel_scope.cancel))
        await busy.check()


async def test_a_sibling_that_fails() -> None:
    async with no_leaks(), Busy() as busy:
        failing = anyio.Event()

        async def fail() -> None:
            await failing.wait()
            raise ZeroDivisionError

        async def both() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(fail)
                group.start_soon(busy.run, call(failing.set))

        with pytest.raises(ExceptionGroup) as caught:
            await both()
        [error] = caught.value.exceptions
        assert isinstance(error, ZeroDivisionError)
        await busy.check()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_task_cancel(anyio_backend: str) -> None:
    async with no_leaks(), Busy() as busy:
        task = asyncio.ensure_future(busy.run(call(lambda: task.cancel())))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await busy.check()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is of Python 3.11")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_timeout(anyio_backend: str) -> None:
    # Through a name without a type: Python 3.10 has no asyncio.timeout.
    asyncio_timeout: Any = getattr(asyncio, "timeout")  # noqa: B009
    async with no_leaks(), Busy() as busy:

        async def in_time() -> None:
            async with asyncio_timeout(None) as timeout:
                now = asyncio.get_running_loop().time()
                await busy.run(call(lambda: timeout.reschedule(now)))

        with pytest.raises(TimeoutError):
            await in_time()
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        await busy.check()


async def test_a_scope_that_is_cancelled_already() -> None:
    async with no_leaks(), Busy() as busy:
        source = Source()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await send_all(busy.smtp, source.items_async())
        assert scope.cancelled_caught
        assert not busy.server.connections
        await deliver(busy.smtp)


async def test_an_exception_of_the_body_beside_one_of_the_source() -> None:
    """Both at once: the body's is the one that leaves."""
    error = ZeroDivisionError("mine")

    async def items() -> AsyncGenerator[Mail[int]]:
        yield mail(0)
        raise ValueError("the source's")

    async def body(smtp: SMTP) -> None:
        async with smtp.send_many(items()) as deliveries:
            await deliveries.__anext__()
            await anyio.wait_all_tasks_blocked()
            raise error

    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ZeroDivisionError) as caught:
            await body(smtp)
        assert caught.value is error


async def test_an_interrupt_in_the_source_leaves_as_it_is() -> None:
    error = Interrupt("the source's")

    async def items() -> AsyncGenerator[Mail[int]]:
        yield mail(0)
        raise error

    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(Interrupt) as caught:
            await send_all(smtp, items())
        assert caught.value is error
        await deliver(smtp)


async def test_what_a_generator_does_when_it_is_closed_is_done_by_the_task_that_pulls() -> None:
    tasks: list[int] = []

    async def items() -> AsyncGenerator[Mail[int]]:
        try:
            while True:
                tasks.append(anyio.get_current_task().id)
                yield mail(len(tasks))
        finally:
            tasks.append(anyio.get_current_task().id)
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            tasks.append(anyio.get_current_task().id)

    async with (
        no_leaks(),
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many(items(), read_ahead=3) as deliveries,
    ):
        async for _ in deliveries:
            await anyio.wait_all_tasks_blocked()
            break
    assert len(set(tasks)) == 1
    assert len(tasks) == 4 + 2


async def test_a_source_that_waits_is_cancelled_and_closed() -> None:
    states: list[str] = []

    async def items() -> AsyncGenerator[Mail[int]]:
        yield mail(0)
        try:
            await anyio.sleep_forever()
        finally:
            states.append("closed")

    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        async with smtp.send_many(items()) as deliveries:
            async for _ in deliveries:
                await anyio.wait_all_tasks_blocked()
                break
        assert states == ["closed"]


async def test_an_error_of_the_source_when_it_is_closed_is_not_lost() -> None:
    async def items() -> AsyncGenerator[Mail[int]]:
        try:
            while True:
                yield mail(0)
        finally:
            raise ZeroDivisionError("while closing")

    async def body(smtp: SMTP) -> None:
        async with smtp.send_many(items(), read_ahead=2) as deliveries:
            await deliveries.__anext__()
            await anyio.wait_all_tasks_blocked()

    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ZeroDivisionError):
            await body(smtp)


async def test_the_iterator_has_ended_once_the_block_is_left() -> None:
    async with no_leaks(), Busy() as busy:
        items = busy.source.items_async()
        async with busy.smtp.send_many(items, read_ahead=10) as deliveries:
            await deliveries.__anext__()
        with anyio.fail_after(5):
            left = [d.key async for d in deliveries]
        assert 2 not in left


# What is under way when the block is left


async def test_what_had_ended_keeps_its_connection() -> None:
    """Left when nothing is under way, the connection is used again, and says QUIT."""
    async with ScriptedServer() as server, on_memory(server) as smtp:
        async with smtp.send_many(Source().items(), read_ahead=4) as deliveries:
            async for _ in deliveries:
                await anyio.wait_all_tasks_blocked()
                break
        await deliver(smtp)
    assert subjects(server.messages)[:5] == ["0", "1", "2", "3", "4"]
    assert server.connection.end == "quit"


async def test_what_is_cut_off_is_not_finished_behind_the_callers_back() -> None:
    async with Busy() as busy:
        items = busy.source.items_async()
        async with busy.smtp.send_many(items, read_ahead=10) as deliveries:
            await deliveries.__anext__()
            await anyio.wait_all_tasks_blocked()
        busy.answer.set()
        await anyio.wait_all_tasks_blocked()
        # The third had left when the block did, and its reply had not come; others never begin.
        assert subjects(busy.server.received) == ["0", "1", "2"]


async def test_another_tasks_message_is_unharmed() -> None:
    """It waits for the connection that the stream has, and gets another one."""
    async with no_leaks(), Busy() as busy:
        async with anyio.create_task_group() as group:

            async def leave() -> None:
                group.start_soon(deliver, busy.smtp)
                await anyio.wait_all_tasks_blocked()
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await busy.run(leave)
            busy.answer.set()
        assert subjects(busy.server.messages).count("hello") == 1


async def test_leaving_the_client_by_an_exception_ends_the_stream_of_another_task() -> None:
    """Everything is aborted; the stream raises, and its messages are not sent behind its back."""
    answer, ended = anyio.Event(), anyio.Event()
    errors: list[BaseException] = []
    found: list[Delivery[Any]] = []

    async def stream(smtp: SMTP) -> None:
        try:
            await send_all(smtp, Source().items(), found, read_ahead=5)
        except Exception as error:  # noqa: BLE001 - what it is, is looked at below
            errors.append(error)
        ended.set()

    async with no_leaks(), ScriptedServer(script={".": Act(late=answer)}) as server:
        async with anyio.create_task_group() as group:

            async def leave() -> None:
                async with on_memory(server) as smtp:
                    group.start_soon(stream, smtp)
                    await anyio.wait_all_tasks_blocked()
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await leave()
            with anyio.fail_after(5):
                await ended.wait()
            answer.set()
        assert [d.key for d in found if d.outcome == "in_doubt"] == [0]
        assert subjects(server.received) == ["0"]
        assert len(errors) == 1


# Stopped at each await


async def scenario(server: ScriptedServer, found: list[Delivery[Any]], source: Source) -> None:
    async with on_memory(server, limits=Limits(max_connections=2)) as smtp:
        await send_all(smtp, source.items_async(), found, read_ahead=2)


async def test_it_can_be_stopped_at_every_await_of_the_caller(
    cancel_how: How, tally: Tally
) -> None:
    async with ScriptedServer() as server:
        count = await count_awaits(lambda: scenario(server, [], Source(6)))
    assert count > 5
    tally("streams stopped at an await", count)
    async with no_leaks():
        for k in range(1, count + 1):
            await stopped(k, cancel_how)


async def stopped(k: int, how: How) -> None:
    found: list[Delivery[Any]] = []
    source = Source(6)
    async with ScriptedServer() as server:
        ended = await cancel_at(k, how, lambda: scenario(server, found, source))
        assert ended.error is None
        await server.wait_closed()
    judge(server, found)
    # One that was never started has no end.
    assert source.is_closed or not source.pulled


@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize("pipelining", ["auto", "eager", "off"])
async def test_it_can_be_stopped_at_every_line_that_the_server_sees(
    pipelining: str, connections: int, tally: Tally
) -> None:
    options = {"pipelining": pipelining, "limits": Limits(max_connections=connections)}
    count = await stopped_at_line(None, options)
    tally("streams stopped at a line of the server's", count)
    async with no_leaks():
        for line in range(count):
            await stopped_at_line(line, options)


async def stopped_at_line(number: int | None, options: dict[str, Any]) -> int:
    """Cancel when the server has seen so many lines; how many it saw."""
    found: list[Delivery[Any]] = []
    seen = 0

    def rule(line: str) -> None:
        nonlocal seen
        if seen == number:
            scope.cancel()
        seen += 1

    keywords = [*DEFAULT_KEYWORDS, "CHUNKING"]
    async with ScriptedServer(script=rule, keywords=keywords) as server:
        with anyio.CancelScope() as scope:
            async with on_memory(server, **options) as smtp:
                await send_all(smtp, Source(4).items(), found, read_ahead=2)
        await server.wait_closed()
    judge(server, found)
    return seen


def judge(server: ScriptedServer, found: list[Delivery[Any]]) -> None:
    """Nothing was sent twice, and what is called accepted is there."""
    received = subjects(server.received)
    assert len(received) == len(set(received))
    for delivery in found:
        assert delivery.outcome == "accepted"
        assert str(delivery.key) in subjects(server.messages)
