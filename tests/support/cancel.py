"""Stop a coroutine at its k-th await, on asyncio and trio, in every way in which callers do.

A coroutine is driven by hand: each time that it wants to wait it yields something to the event
loop, and the k-th of these moments is where it is stopped, while it waits. ::

    async def scenario() -> Receipt: ...

    for how in hows(anyio_backend_name):
        for k in range(1, await count_awaits(scenario) + 1):
            ended = await cancel_at(k, how, scenario)

Where other tasks do the work, of a coroutine's own or another one's, its awaits are few; then it
is stopped in the k-th turn of the event loop (`cancel_in_turn`), wherever everybody is.

How many awaits there are may differ from one run to the next where sockets or threads are in it:
`Ended.stopped` says whether the k-th was reached.

The ways:

- ``"scope"``: an anyio cancel scope around it is cancelled;
- ``"task"``: asyncio's `Task.cancel` on the task that it runs in;
- ``"task_late"``: the same, in the moment in which what it awaits has come and the task is not yet
  awake: asyncio then throws the result away;
- ``"timeout"``: an `asyncio.timeout` around it expires (Python 3.11);
- ``"wait_for"``: `asyncio.wait_for` around it expires.

`wait_for` keeps its timer to itself, so the loop's clock is made to jump over it (asyncio's own
loops only). Other timers due within those eleven seconds expire with it, which those of a client
with its usual timeouts do not. The clock never goes back: it stays ahead for the rest of the loop's
life. The cancellation that follows arrives some turns of the loop later. A coroutine that only
gives others a turn (a checkpoint) is held there until then; one that waits for something goes on
waiting, and if that comes within those turns it is stopped at its next await.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint

T = TypeVar("T")
How: TypeAlias = Literal["scope", "task", "task_late", "timeout", "wait_for"]

_SECONDS = 10
_TURNS = 100


@dataclass(frozen=True)
class Ended(Generic[T]):
    """What became of a coroutine.

    Cancelled is what it looks like from outside: the scope caught it, the task is cancelled, the
    timeout raised its TimeoutError. A coroutine that turns its cancellation into something else
    has raised, or finished.
    """

    how: Literal["finished", "raised", "cancelled"]
    awaits: int
    """How often it waited, until its end."""
    stopped: bool
    """Whether it came to the k-th await or turn, and was stopped there."""
    result: T | None = None
    error: BaseException | None = None
    """What it raised, if it did."""

    def unwrap(self) -> T | None:
        """The result, or None if it was cancelled; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.result


def hows(backend: str) -> tuple[How, ...]:
    """The ways that there are on a backend (its name), with this Python."""
    if backend != "asyncio":
        return ("scope",)
    if not hasattr(asyncio, "timeout"):
        return ("scope", "task", "task_late", "wait_for")
    return ("scope", "task", "task_late", "timeout", "wait_for")


async def count_awaits(afn: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """Run it, and say how often it waited."""
    steps = _Steps(afn())
    await steps
    return steps.count


async def cancel_at(k: int, how: How, afn: Callable[[], Coroutine[Any, Any, T]]) -> Ended[T]:
    """Run it, stop it in this way at its k-th await, and say what became of it."""
    return await _run(_Steps(afn(), k), how)


async def cancel_in_turn(k: int, how: How, afn: Callable[[], Coroutine[Any, Any, T]]) -> Ended[T]:
    """Run it, and stop it in this way in the k-th turn of the event loop from now.

    On memory streams, where nothing waits for the world outside, these are all the moments that
    there are, for it and for whoever runs beside it. What a timeout does comes some turns later.
    """
    steps = _Steps(afn())
    ends: list[Ended[T]] = []

    async def count_turns() -> None:
        for _ in range(k):
            await checkpoint()
        while steps.trigger is None:
            await checkpoint()
        if not steps.has_ended:
            steps.stopped = True
            steps.trigger(None)

    async with create_task_group() as group:
        group.start_soon(count_turns)
        ends.append(await _run(steps, how))
        group.cancel_scope.cancel()
    return ends[0]


async def _run(steps: _Steps[T], how: How) -> Ended[T]:
    end: Literal["finished", "raised", "cancelled"] = "finished"
    result: T | None = None
    error: BaseException | None = None
    try:
        result = await _WAYS[how](steps)
    except _Stopped:
        end = "cancelled"
    except Exception as exc:  # noqa: BLE001 - the answer has it, and the test looks there
        end, error = "raised", exc
    return Ended(end, steps.count, steps.stopped, result, error)


class _Stopped(Exception):
    """Seen from outside, the coroutine was cancelled."""


class _Steps(Generic[T]):
    """Awaits a coroutine step by step, counts, and pulls the trigger at the k-th step."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], k: int | None = None) -> None:
        self.count = 0
        self.stopped = False
        self.error: BaseException | None = None
        self.trigger: Callable[[Any], object] | None = None
        self.is_slow = False
        self.has_ended = False
        self._coroutine = coroutine
        self._k = k

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._coroutine.__await__()
        step: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration as done:
                self.has_ended = True
                result: T = done.value
                return result
            except BaseException as exc:
                self.error = exc
                self.has_ended = True
                raise
            self.count += 1
            try:
                sent = yield from self._wait(awaited)
            except BaseException as exc:  # noqa: BLE001 - it is for the coroutine
                step = partial(steps.throw, exc)
            else:
                step = partial(steps.send, sent)

    def _wait(self, awaited: Any) -> Generator[Any, Any, Any]:
        if self.count == self._k and self.trigger is not None:
            self.stopped = True
            self.trigger(awaited)
            if self.is_slow and awaited is None:
                for _ in range(_TURNS):
                    yield None
                raise AssertionError("the coroutine was to be stopped, and was not")
        return (yield awaited)


async def _scope(steps: _Steps[T]) -> T:
    with CancelScope() as scope:
        steps.trigger = lambda _: scope.cancel()
        return await steps
    raise _Stopped


async def _task(steps: _Steps[T]) -> T:
    task = asyncio.ensure_future(_await(steps))
    steps.trigger = lambda _: task.cancel()
    return await _join(task)


async def _task_late(steps: _Steps[T]) -> T:
    task = asyncio.ensure_future(_await(steps))

    def cancel(_: object = None) -> None:
        task.cancel()

    def trigger(awaited: Any) -> None:
        # The callbacks of a future are called in the order in which they were added, and the
        # task adds the one that wakes it after this. Where it only gives others a turn there is
        # no future, and early is late.
        if awaited is None:
            cancel()
        else:
            awaited.add_done_callback(cancel)

    steps.trigger = trigger
    return await _join(task)


async def _timeout(steps: _Steps[T]) -> T:
    # Through a name without a type: Python 3.10 has no asyncio.timeout.
    asyncio_timeout: Any = getattr(asyncio, "timeout")  # noqa: B009

    async def wait() -> T:
        async with asyncio_timeout(None) as timeout:
            loop = asyncio.get_running_loop()
            steps.trigger = lambda _: timeout.reschedule(loop.time())
            return await steps
        raise AssertionError("asyncio.timeout swallowed something")

    return await _expect_timeout(steps, wait())


async def _wait_for(steps: _Steps[T]) -> T:
    clock = _Clock.of(asyncio.get_running_loop())
    steps.trigger = lambda _: clock.jump(_SECONDS + 1)
    steps.is_slow = True
    return await _expect_timeout(steps, asyncio.wait_for(_await(steps), _SECONDS))


async def _expect_timeout(steps: _Steps[T], waiting: Coroutine[Any, Any, T]) -> T:
    try:
        # A task of its own, because its count of cancellations must not become the test's.
        return await _join(asyncio.ensure_future(waiting))
    except _Stopped:
        raise AssertionError("the timeout let the cancellation out that it had caused") from None
    except asyncio.TimeoutError as exc:
        if exc is steps.error:
            raise
        raise _Stopped from exc


async def _join(task: asyncio.Task[T]) -> T:
    try:
        await asyncio.wait([task])
    finally:
        # Nothing is left to do but where the test itself is cancelled.
        task.cancel()
        with CancelScope(shield=True):
            await asyncio.wait([task])
    if task.cancelled():
        raise _Stopped
    return task.result()


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


class _Clock:
    """The time of an event loop, that can be made to jump."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._ahead = 0.0

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Clock:
        if not isinstance(loop.time, cls):
            setattr(loop, "time", cls(loop.time))  # noqa: B010 - a method, says its type
        clock: Any = loop.time
        assert isinstance(clock, cls)
        return clock

    def jump(self, seconds: float) -> None:
        self._ahead += seconds

    def __call__(self) -> float:
        return self._time() + self._ahead


_WAYS: dict[How, Callable[[_Steps[Any]], Coroutine[Any, Any, Any]]] = {
    "scope": _scope,
    "task": _task,
    "task_late": _task_late,
    "timeout": _timeout,
    "wait_for": _wait_for,
}
