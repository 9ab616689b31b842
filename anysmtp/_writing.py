"""The octets that leave on a link: one write at a time.

A write is whole when it has returned. One that did not return is torn, for nobody knows how much of
it left: whoever began it closes the stream. A shielded write goes on though its task is cancelled,
for as long as the socket's buffers take it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import anyio

from ._connect import STREAM_ERRORS, Link
from ._tasks import UngroupedTasks
from .errors import SMTPException

if TYPE_CHECKING:
    from typing_extensions import Self

# Seconds for a write that the socket's buffers have room for, and that may not be cancelled.
_SHIELDED_WRITE = 2.0


class Written:
    """Whether a write has left as a whole, which its end alone does not say."""

    __slots__ = ("is_done",)

    def __init__(self) -> None:
        self.is_done = False


class Writer:
    """``async with writer``: nobody else writes meanwhile.

    That is not the right to speak (`_turns`): a passenger may have his replies before the write
    that took him along has returned.
    """

    __slots__ = ("_freed", "_is_taken", "_link", "_lost")

    def __init__(self, link: Link, lost: Callable[[Exception], SMTPException]) -> None:
        self._link = link
        self._lost = lost
        self._is_taken = False
        self._freed: anyio.Event | None = None

    @property
    def is_free(self) -> bool:
        return not self._is_taken

    async def write(self, data: bytes, shielded: Written | None = None) -> None:
        """Write, once nobody else does; ``shielded`` from cancellation, if that is given."""
        if self._is_taken:
            await self._wait()
        self._is_taken = True
        try:
            if shielded is None:
                await self._link.stream.send(data)
            else:
                await self.send_shielded(data, shielded)
        except STREAM_ERRORS as error:
            raise self._lost(error) from error
        finally:
            self._is_taken = False
            if self._freed is not None:
                self._release()

    async def send(self, data: bytes) -> None:
        """Write; the stream's errors are raised as ours."""
        try:
            await self._link.stream.send(data)
        except STREAM_ERRORS as error:
            raise self._lost(error) from error

    async def send_shielded(self, data: bytes, written: Written) -> None:
        """Write to the end though the caller is cancelled, unless that takes too long then."""
        shield, done = anyio.CancelScope(shield=True), anyio.Event()
        failures: list[SMTPException] = []

        async def send() -> None:
            with shield:
                try:
                    await self.send(data)
                    written.is_done = True
                except SMTPException as error:
                    failures.append(error)
            done.set()

        async with UngroupedTasks() as group:
            group.start_soon(send)
            try:
                await done.wait()
            except BaseException:
                shield.deadline = anyio.current_time() + _SHIELDED_WRITE
                raise
        if failures:
            raise failures[0]

    async def __aenter__(self) -> Self:
        await self._wait()
        self._is_taken = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    async def _wait(self) -> None:
        while self._is_taken:
            self._freed = self._freed or anyio.Event()
            await self._freed.wait()

    def _release(self) -> None:
        self._is_taken = False
        if self._freed is not None:
            self._freed.set()
        self._freed = None
