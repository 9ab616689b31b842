"""A pair of byte streams in memory that behave as two ends of a socket do.

What one end sends in one call arrives as one chunk, so the other end can count the calls: a chunk
is cut only where the reader's `max_bytes` or the pipe's capacity cuts it, and then `continues`
says that it goes on. As on a socket, a send blocks while the pipe is full and, if cancelled then,
leaves a part behind; closing lets the other end read what is on its way; a reset fails it
afterwards; two tasks that send at once are an error; and a stream that nobody closed is a
ResourceWarning.
"""

from __future__ import annotations

import warnings
from collections import deque

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    Event,
    ResourceGuard,
)
from anyio.abc import ByteStream
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled


class _Pipe:
    """One direction: what was written and not yet read, and who has gone."""

    def __init__(self, capacity: int) -> None:
        self.room = capacity
        self.chunks: deque[tuple[bytes, bool]] = deque()
        self.ended = False
        self.reset = False
        self.unread = False
        self._changed = Event()

    def put(self, chunk: bytes, continues: bool) -> None:
        self.room -= len(chunk)
        self.chunks.append((chunk, continues))
        self.notify()

    def take(self, max_bytes: int) -> tuple[bytes, bool]:
        chunk, continues = self.chunks.popleft()
        if len(chunk) > max_bytes:
            self.chunks.appendleft((chunk[max_bytes:], True))
            chunk = chunk[:max_bytes]
        self.room += len(chunk)
        self.notify()
        return chunk, continues

    def notify(self) -> None:
        self._changed.set()
        self._changed = Event()

    async def wait(self) -> None:
        await self._changed.wait()


class MemoryByteStream(ByteStream):
    """One end of a `memory_pair`."""

    continues: bool = False
    """Whether the last received chunk belongs to the same `send` as the one before it."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self._closed = False
        self._sending = ResourceGuard("writing to")
        self._receiving = ResourceGuard("reading from")

    async def send(self, item: bytes) -> None:
        with self._sending:
            await checkpoint_if_cancelled()
            continues = False
            while item:
                self._check_writable()
                if self._out.room:
                    # Slicing past the end takes what there is.
                    room = self._out.room
                    self._out.put(bytes(item[:room]), continues)
                    item, continues = item[room:], True
                else:
                    await self._out.wait()
            await cancel_shielded_checkpoint()

    def _check_writable(self) -> None:
        if self._closed:
            raise ClosedResourceError
        if self._out.unread or self._out.reset:
            raise BrokenResourceError
        if self._out.ended:
            raise ClosedResourceError("this end has sent its end of file")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with self._receiving:
            await checkpoint()
            while True:
                if self._closed:
                    raise ClosedResourceError
                if self._in.chunks:
                    chunk, self.continues = self._in.take(max_bytes)
                    return chunk
                if self._in.reset:
                    raise BrokenResourceError
                if self._in.ended:
                    raise EndOfStream
                await self._in.wait()

    async def send_eof(self) -> None:
        self._out.ended = True
        self._out.notify()

    async def aclose(self) -> None:
        self.close()
        await checkpoint()

    def close(self) -> None:
        """What `aclose` does before its checkpoint."""
        self._closed = self._out.ended = self._in.unread = True
        self._out.notify()
        self._in.notify()

    def reset(self) -> None:
        """Close as a socket does that lingers for zero seconds (RST): the peer's calls fail."""
        self._out.reset = self._in.reset = True
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)


def memory_pair(capacity: int = 65536) -> tuple[MemoryByteStream, MemoryByteStream]:
    """Two connected streams; `capacity` is how many unread bytes fit into each direction."""
    there, back = _Pipe(capacity), _Pipe(capacity)
    return MemoryByteStream(there, back), MemoryByteStream(back, there)
