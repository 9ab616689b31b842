"""What a task waits for until another one has changed something, whatever that may be.

A bell says that it is worth looking again, not what has changed: whoever waits does so in a loop,
with the condition that he waits for. Nobody misses a ring, for there is no await between the look
and the wait; and to ring where nobody waits costs nothing.
"""

from __future__ import annotations

import anyio


class Bell:
    """Wakes all who wait."""

    __slots__ = ("_rung",)

    def __init__(self) -> None:
        self._rung: anyio.Event | None = None

    def ring(self) -> None:
        if self._rung is not None:
            self._rung.set()
            self._rung = None

    async def wait(self) -> None:
        """Wait for the next ring; several may wait for the same one."""
        if self._rung is None:
            self._rung = anyio.Event()
        await self._rung.wait()
