"""A task group whose errors come out as what they are.

A task group of AnyIO raises an ExceptionGroup, even for one error. Ours are a detail of how
something is done, so none of theirs may be seen: what a task or the body raised, and be it
KeyboardInterrupt, leaves the block by itself.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import cast

import anyio
from anyio.abc import TaskGroup

if sys.version_info < (3, 11):  # pragma: no cover - coverage is measured on a newer Python
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


def first_error(error: BaseException) -> BaseException:
    """The first error in a group that is not a cancellation, which only accompanies it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    leaves = [first_error(inner) for inner in group.exceptions]
    cancelled = anyio.get_cancelled_exc_class()
    return next((leaf for leaf in leaves if not isinstance(leaf, cancelled)), leaves[0])
