"""See that a block of code leaves nothing behind: no task, no open file, no unclosed resource."""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Literal

from anyio import get_running_tasks, sleep
from anyio.lowlevel import checkpoint

_FILES = "/proc/self/fd"


class no_leaks:  # noqa: N801 - it reads as what it says, like contextlib.suppress
    """``async with no_leaks(): ...``: AssertionError if the block, ending well, left something.

    That is: tasks that were not there before it, file descriptors (sockets among them; where
    there is a /proc), and whatever says ResourceWarning when it is collected. Resources may need
    some turns of the event loop to go, or another thread's time: they are given `patience` seconds.
    Collecting garbage takes some milliseconds, so put it around the loop and not into it.
    """

    def __init__(self, patience: float = 2) -> None:
        self._patience = patience

    async def __aenter__(self) -> None:
        gc.collect()
        self._tasks = {task.id for task in get_running_tasks()}
        self._files = _open_files()
        self._stack = AsyncExitStack()
        self._warnings = self._stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always", ResourceWarning)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        async with self._stack:
            if exc is None:
                gc.collect()
                await self._wait()
                leaks = self._leaks()
                assert not leaks, "left behind: " + "; ".join(leaks)
        return False

    async def _wait(self) -> None:
        for _ in range(20):
            await checkpoint()
        for _ in range(round(self._patience * 100)):
            if not self._leaks():
                return
            await sleep(0.01)

    def _leaks(self) -> list[str]:
        tasks = [task.name for task in get_running_tasks() if task.id not in self._tasks]
        files = sorted(set(_open_files().items()) - set(self._files.items()))
        return [
            *(f"task {name}" for name in tasks),
            *(f"file {number} {target}" for number, target in files),
            *(str(warning.message) for warning in self._warnings),
        ]


def _open_files() -> dict[str, str]:
    """What each file descriptor of this process is open on."""
    numbers = os.listdir(_FILES) if os.path.isdir(_FILES) else []
    return {number: target for number in numbers if (target := _target(number))}


def _target(number: str) -> str | None:
    try:
        return os.readlink(f"{_FILES}/{number}")
    except FileNotFoundError:
        # The folder's own descriptor, that is closed by now, or one of another thread.
        return None
