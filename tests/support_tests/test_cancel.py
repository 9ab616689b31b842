from __future__ import annotations

import asyncio
import sys

import anyio
import pytest
from anyio.lowlevel import checkpoint

from support.cancel import How, cancel_at, cancel_in_turn, count_awaits, hows

pytestmark = pytest.mark.anyio


class Steps:
    """Takes a step, waits, takes the next; says how far it came."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.cleaned_up = False

    async def run(self) -> str:
        try:
            for step in range(1, 5):
                self.taken.append(step)
                await checkpoint()
        finally:
            self.cleaned_up = True
        return "done"


async def set_soon(event: anyio.Event) -> None:
    await checkpoint()
    event.set()


async def test_every_await_is_counted() -> None:
    steps = Steps()
    assert await count_awaits(steps.run) == 4
    assert steps.taken == [1, 2, 3, 4]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
async def test_it_stops_at_the_kth_await(cancel_how: How, k: int) -> None:
    steps = Steps()
    ended = await cancel_at(k, cancel_how, steps.run)
    assert (ended.how, ended.stopped) == ("cancelled", True)
    assert steps.taken == list(range(1, k + 1))
    assert steps.cleaned_up


async def test_beyond_the_last_await_it_finishes(cancel_how: How) -> None:
    ended = await cancel_at(5, cancel_how, Steps().run)
    assert (ended.how, ended.awaits, ended.stopped) == ("finished", 4, False)
    assert ended.unwrap() == "done"


@pytest.mark.parametrize("cancel_how", [how for how in hows("asyncio") if how != "task_late"])
async def test_it_stops_while_it_waits_for_what_never_comes(cancel_how: How) -> None:
    ended = await cancel_at(1, cancel_how, anyio.Event().wait)
    assert (ended.how, ended.awaits) == ("cancelled", 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_too_late_is_when_what_it_waits_for_has_come() -> None:
    event = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(set_soon, event)
        ended = await cancel_at(1, "task_late", event.wait)
        assert (ended.how, ended.awaits) == ("cancelled", 1)
        assert event.is_set()


async def test_what_it_raises_is_told(cancel_how: How) -> None:
    async def fail() -> None:
        await checkpoint()
        raise TimeoutError("its own")

    ended = await cancel_at(2, cancel_how, fail)
    assert (ended.how, ended.stopped, str(ended.error)) == ("raised", False, "its own")
    with pytest.raises(TimeoutError, match="its own"):
        ended.unwrap()


async def test_a_cancellation_turned_into_an_error_is_raised(cancel_how: How) -> None:
    async def convert() -> None:
        try:
            await checkpoint()
        except anyio.get_cancelled_exc_class():
            raise OSError("converted") from None

    ended = await cancel_at(1, cancel_how, convert)
    assert (ended.how, ended.stopped, str(ended.error)) == ("raised", True, "converted")


async def test_a_swallowed_cancellation_has_finished(cancel_how: How) -> None:
    async def swallow() -> str:
        try:
            await checkpoint()
        except anyio.get_cancelled_exc_class():
            return "swallowed"
        return "never stopped"

    ended = await cancel_at(1, cancel_how, swallow)
    assert (ended.how, ended.result) == ("finished", "swallowed")


async def test_what_a_shield_protects_from_a_scope_goes_on() -> None:
    done: list[str] = []

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await checkpoint()
            done.append("shielded")
        await checkpoint()
        done.append("not shielded")

    ended = await cancel_at(1, "scope", shielded)
    assert (ended.how, done) == ("cancelled", ["shielded"])


@pytest.mark.parametrize("cancel_how", ["scope", "task"])
async def test_in_a_turn_it_stops_also_where_others_work_for_it(cancel_how: How) -> None:
    workers = [Steps(), Steps()]

    async def boss() -> None:
        async with anyio.create_task_group() as group:
            for worker in workers:
                group.start_soon(worker.run)

    ended = await cancel_in_turn(3, cancel_how, boss)
    assert (ended.how, ended.stopped) == ("cancelled", True)
    # How far each came is for the backend to choose.
    assert all(worker.cleaned_up for worker in workers if worker.taken)
    beyond = await cancel_in_turn(200, cancel_how, Steps().run)
    assert (beyond.how, beyond.stopped, beyond.unwrap()) == ("finished", False, "done")


async def test_the_test_itself_is_not_marked_by_it(anyio_backend_name: str) -> None:
    for how in hows(anyio_backend_name):
        await cancel_at(2, how, Steps().run)
    with anyio.fail_after(60):
        await anyio.sleep(0.001)
    if anyio_backend_name == "asyncio" and sys.version_info >= (3, 11):
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_a_harness_that_is_cancelled_leaves_no_task(cancel_how: How) -> None:
    before = len(anyio.get_running_tasks())
    with anyio.move_on_after(0.01) as scope:
        await cancel_at(2, cancel_how, anyio.Event().wait)
    assert scope.cancelled_caught
    assert len(anyio.get_running_tasks()) == before
