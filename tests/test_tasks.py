"""A task group of ours raises what happened in it, and no group."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from anysmtp._tasks import UngroupedTasks

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.anyio


class Error(Exception):
    pass


async def _fail() -> None:
    raise Error("of a task")


async def _run(
    *tasks: Callable[[], Coroutine[Any, Any, None]], body: BaseException | None = None
) -> None:
    async with UngroupedTasks() as group:
        for task in tasks:
            group.start_soon(task)
        if body is not None:
            raise body


async def test_an_error_of_a_task_leaves_by_itself() -> None:
    with pytest.raises(Error, match="of a task"):
        await _run(_fail)


async def test_an_error_of_the_body_leaves_by_itself() -> None:
    with pytest.raises(Error, match="of the body"):
        await _run(anyio.sleep_forever, body=Error("of the body"))


async def test_of_several_errors_one_leaves() -> None:
    with pytest.raises(Error):
        await _run(_fail, _fail)


async def test_what_interrupts_a_program_leaves_as_what_it_is() -> None:
    class Interrupt(BaseException):
        pass

    with pytest.raises(Interrupt):
        await _run(anyio.sleep_forever, body=Interrupt())


async def test_a_group_inside_is_somebody_elses() -> None:
    async def nested() -> None:
        async with anyio.create_task_group() as inner:
            inner.start_soon(_fail)

    with pytest.raises(ExceptionGroup) as caught:
        await _run(nested)
    assert isinstance(caught.value.exceptions[0], Error)


async def test_its_own_cancellation_ends_with_it() -> None:
    async with UngroupedTasks() as group:
        group.start_soon(anyio.sleep_forever)
        group.cancel_scope.cancel()
        await anyio.sleep_forever()
    assert group.cancel_scope.cancel_called


async def test_a_cancellation_from_outside_passes_through() -> None:
    with anyio.CancelScope() as scope:
        async with UngroupedTasks() as group:
            group.start_soon(anyio.sleep_forever)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
