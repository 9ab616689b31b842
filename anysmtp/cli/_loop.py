"""The event loop of a command, and Ctrl-C in it.

Ctrl-C cancels the work, which closes its connections at once, as every cancellation in this library
does. Then the command says its last words, which include what became of each message, and the
process ends there and then: not by way of the event loop's own end, nor of the interpreter's, for
both of them wait for threads, and the thread in which a name is looked up cannot be stopped.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from os import _exit as exit_at_once
from typing import NoReturn

import anyio
from anyio.abc import TaskStatus

from ._exit import Exit


def run(
    work: Callable[[], Awaitable[None]], *, backend: str, last_words: Callable[[], Exit]
) -> None:
    """Run the work to its end; or, if Ctrl-C comes first, say the last words and exit."""

    async def main() -> None:
        interrupted = anyio.Event()
        async with anyio.create_task_group() as group:

            async def watch(*, task_status: TaskStatus[None]) -> None:
                await _ctrl_c(task_status)
                interrupted.set()
                group.cancel_scope.cancel()

            await group.start(watch)
            await work()
            group.cancel_scope.cancel()
        if interrupted.is_set():
            _leave(last_words())

    try:
        anyio.run(main, backend=backend)
    except KeyboardInterrupt:
        # It came while the loop began or ended, or on a system where loops receive no signals.
        _leave(last_words())


async def _ctrl_c(task_status: TaskStatus[None]) -> None:
    """Return when Ctrl-C is pressed."""
    try:
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                return
    except NotImplementedError:  # pragma: no cover - Windows, where asyncio cancels the main task
        task_status.started()
        await anyio.sleep_forever()


def _leave(code: Exit) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    exit_at_once(code)
