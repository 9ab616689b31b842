"""Octets out of files and iterators, piece by piece.

An iterator is asked in the caller's own task. A file is read in a worker thread. One that can be
rewound answers soon, and its reader waits for it even if cancelled: nobody may move in a file that
a thread still reads. A pipe may say nothing for ever, so whoever is cancelled leaves the thread
behind, which ends when the pipe gives something or is closed.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from threading import Lock
from typing import Any, BinaryIO, Final, Protocol, TypeAlias, cast

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import checkpoint

Octets: TypeAlias = bytes | bytearray | memoryview

# Octets that are read at once.
PIECE = 256 * 1024
# Pieces after which others get to run, if taking them did not wait.
_TURN = 256

_END: Final = object()


class Pieces(Protocol):
    """A message on its way out of its source."""

    async def next(self) -> bytes:
        """The next octets; none at the end."""
        ...

    async def aclose(self) -> None: ...


class AsyncFile(Protocol):
    """A file that is read with ``await``."""

    async def read(self, size: int, /) -> bytes: ...


class FromFile:
    """A file that can be rewound."""

    __slots__ = ("_closes", "_file", "_open")

    def __init__(self, open_it: Callable[[], BinaryIO], *, closes: bool) -> None:
        self._open = open_it
        self._closes = closes
        self._file: BinaryIO | None = None

    async def next(self) -> bytes:
        return await to_thread.run_sync(self._read)

    async def aclose(self) -> None:
        if self._closes and self._file is not None:
            self._file.close()

    def _read(self) -> bytes:
        if self._file is None:
            self._file = self._open()
        return read_some(self._file)


class FromPipe(FromFile):
    """A file that can be read once, and may keep its reader waiting.

    A thread that was left behind holds one read, or the opening of a named pipe. It takes what that
    gives, which is lost, and closes the file if it is ours. On asyncio the program does not end
    before it.
    """

    __slots__ = ("_in_use", "_is_left", "_limiter")

    def __init__(self, open_it: Callable[[], BinaryIO], *, closes: bool) -> None:
        super().__init__(open_it, closes=closes)
        self._in_use = Lock()
        self._is_left = False
        # Threads that wait for ever must not be those that the whole program shares.
        self._limiter = CapacityLimiter(1)

    async def next(self) -> bytes:
        return await to_thread.run_sync(self._read, abandon_on_cancel=True, limiter=self._limiter)

    async def aclose(self) -> None:
        self._is_left = True
        self._close_if_free()

    def _read(self) -> bytes:
        try:
            with self._in_use:
                if self._file is None and not self._is_left:
                    self._file = self._open()
                return b"" if self._is_left or self._file is None else read_some(self._file)
        finally:
            if self._is_left:
                self._close_if_free()

    def _close_if_free(self) -> None:
        """Whoever ends last closes it: the thread that reads it, or the one who has left."""
        if self._in_use.acquire(blocking=False):
            try:
                if self._closes and self._file is not None:
                    self._file.close()
            finally:
                self._in_use.release()


class FromAsyncFile:
    """A file of the caller's that is read with ``await``. It is left open."""

    __slots__ = ("_file",)

    def __init__(self, file: AsyncFile) -> None:
        self._file = file

    async def next(self) -> bytes:
        return _read_octets(await self._file.read(PIECE))

    async def aclose(self) -> None:
        pass


class FromIterator:
    """An iterator, of which small pieces are put together."""

    __slots__ = ("_count", "_is_over", "_open", "_pieces")

    def __init__(self, open_it: Callable[[], Iterator[Octets]]) -> None:
        self._open = open_it
        self._pieces: Iterator[Octets] | None = None
        self._is_over = False
        self._count = 0

    async def next(self) -> bytes:
        if self._pieces is None:
            self._pieces = self._open()
        found: list[bytes] = []
        length = 0
        while length < PIECE and not self._is_over:
            piece = next(self._pieces, _END)
            if piece is _END:
                self._is_over = True
                break
            if octets := octets_in(piece):
                found.append(octets)
                length += len(octets)
            self._count += 1
            if self._count % _TURN == 0:
                await checkpoint()
        return b"".join(found)

    async def aclose(self) -> None:
        pieces: Any = self._pieces
        if isinstance(pieces, Generator):
            pieces.close()


class FromAsync:
    """An async iterator, piece by piece: the next one may take its time."""

    __slots__ = ("_count", "_open", "_pieces")

    def __init__(self, open_it: Callable[[], AsyncIterator[Octets]]) -> None:
        self._open = open_it
        self._pieces: AsyncIterator[Octets] | None = None
        self._count = 0

    async def next(self) -> bytes:
        if self._pieces is None:
            self._pieces = self._open()
        while True:
            try:
                piece = octets_in(await self._pieces.__anext__())
            except StopAsyncIteration:
                return b""
            self._count += 1
            if self._count % _TURN == 0:
                await checkpoint()
            if piece:
                return piece

    async def aclose(self) -> None:
        pieces: Any = self._pieces
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def read_some(file: BinaryIO) -> bytes:
    """The next octets of a file, none at its end: of a pipe, what there is.

    ValueError for a file that does not wait, and has nothing now: that is not its end.
    """
    read: Callable[[int], object] = getattr(file, "read1", file.read)
    found = _read_octets(read(PIECE))
    if not found and read != file.read and _may_not_wait(file):
        # A BufferedReader's read1() says both in the same way, its read() does not.
        return _read_octets(file.read(1))
    return found


def _may_not_wait(file: BinaryIO) -> bool:
    """Whether it may be in non-blocking mode. One that is not must not be read beyond its end: a
    terminal, or a named pipe, may have more than one.
    """
    try:
        return not os.get_blocking(file.fileno())
    except (AttributeError, OSError):
        return True


def _read_octets(found: object) -> bytes:
    if found is None:
        raise ValueError(
            "the file is in non-blocking mode and has nothing to be read yet, which is not its end"
        )
    if isinstance(found, str):
        raise TypeError("a file is opened in binary mode, as by open(path, 'rb')")
    return octets_in(found)


def octets_in(piece: object) -> bytes:
    """A piece of a message. TypeError for what is none."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, (bytearray, memoryview)):
        return bytes(cast("bytearray", piece))
    raise TypeError(f"a message is made of bytes, not of {type(piece).__name__}")
