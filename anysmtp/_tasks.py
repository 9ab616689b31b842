"""Which task this is, and a task group whose errors come out as what they are.

A task group of AnyIO raises an ExceptionGroup, even for one error. Ours are a detail of how
something is done, so none of theirs may be seen: what a task or the body raised, and be it
KeyboardInterrupt, leaves the block by itself.
"""

from __future__ import annotations

import sys
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class UngroupedTasks:
    """``async with UngroupedTasks() as group``: a task group that raises its first error."""

    __slots__ = ("_group",)

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> TaskGroup:
        return await self._group.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            return bool(await self._group.__aexit__(exc_type, exc, traceback))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group that is not a cancellation, which only accompanies it.

    What is itself a group is somebody else's, and is not opened.
    """
    cancelled = anyio.get_cancelled_exc_class()
    others = (error for error in errors.exceptions if not isinstance(error, cancelled))
    return next(others, errors.exceptions[0])


def task_id() -> int:
    """The task that calls this, by what tells it apart from all others."""
    return anyio.get_current_task().id
