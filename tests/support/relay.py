"""A long link: a relay that hands bytes on after a delay, in both directions, and adds no more.

Each piece is stamped when it is read and written when its time has come. Reading never waits for
writing, so any amount is under way at once: one question and its answer take two delays, and so do
a hundred questions that were sent together with all their answers. What is due at the same time
leaves in one write, so that bytes which came together go on together.

The connection itself is such a piece, and so are its ends: the server sees the connection after
one delay, and the end of a stream, or a reset, comes behind the bytes that were sent before it.
Only the TCP handshake costs nothing, for the client has it with the relay.

`DelayRelay` runs in the test's event loop, on sockets and on memory streams, and there also in
virtual time; `ThreadedRelay` has a thread of its own, for clients that block.
"""

from __future__ import annotations

import sys
from collections import deque
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, Literal, TypeAlias

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    ConnectionFailed,
    EndOfStream,
    Event,
    TCPConnectable,
    aclose_forcefully,
    create_task_group,
    create_tcp_listener,
    current_time,
    sleep_until,
)
from anyio.abc import ByteStream, ByteStreamConnectable, Listener, SocketAttribute
from anyio.from_thread import start_blocking_portal

from anysmtp.testing._memory import MemoryByteStream, memory_pair
from anysmtp.testing._wire import arm_reset

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

HOST = "127.0.0.1"
CAPACITY = 1 << 26
"""Bytes that may be under way in one direction; no test has as many."""

_End: TypeAlias = Literal["eof", "reset"]


class DelayRelay:
    """``async with DelayRelay(server.port, 0.025) as relay``: a link with 50 ms per round trip.

    `target` is a port on this machine, or what connects to the server. Connect to `connectable`,
    or to the port that `listen` returns. Leaving the block cuts what is still connected.
    """

    def __init__(
        self, target: int | ByteStreamConnectable, delay: float, *, capacity: int = CAPACITY
    ) -> None:
        self._target = TCPConnectable(HOST, target) if isinstance(target, int) else target
        self._delay = delay
        self._capacity = capacity
        self.connectable = MemoryLink(self)
        """Connects over the relay on memory streams."""

    async def __aenter__(self) -> DelayRelay:
        self._group = create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup:
            # The block's own exception is not wrapped; what the relay died of has cancelled it.
            if not isinstance(exc, Exception):
                raise
        return False

    async def listen(self) -> int:
        """Listen on a free TCP port, and return it."""
        listener = await create_tcp_listener(local_host=HOST, local_port=0)
        self._group.start_soon(self._listen, listener)
        port: int = listener.extra(SocketAttribute.local_port)
        return port

    async def _listen(self, listener: Listener[Any]) -> None:
        async with listener:
            await listener.serve(self.serve, self._group)

    def connect(self) -> MemoryByteStream:
        """What `connectable` does."""
        client, own = memory_pair()
        self._group.start_soon(self.serve, own)
        return client

    async def serve(self, client: ByteStream) -> None:
        """Relay one client."""
        await _Connection(client, self._delay, self._capacity).relay(self._target)


class MemoryLink(ByteStreamConnectable):
    """Connects over a `DelayRelay` on memory streams."""

    def __init__(self, relay: DelayRelay) -> None:
        self._relay = relay

    async def connect(self) -> MemoryByteStream:
        return self._relay.connect()


class ThreadedRelay:
    """``with ThreadedRelay(server_port, 0.025) as port``: a `DelayRelay` in a thread of its own."""

    def __init__(self, target: int, delay: float) -> None:
        self._relay = DelayRelay(target, delay)
        self._exit = ExitStack()

    def __enter__(self) -> int:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            running: AbstractContextManager[object] = portal.wrap_async_context_manager(self._relay)
            stack.enter_context(running)
            port = portal.call(self._relay.listen)
            self._exit = stack.pop_all()
        return port

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit.__exit__(exc_type, exc, traceback)


class _Line:
    """One direction of a connection: what is under way, each piece with the time when it is due."""

    def __init__(self, delay: float, capacity: int) -> None:
        self._delay = delay
        self._room = capacity
        self._under_way: deque[tuple[float, bytes | _End]] = deque()
        self._changed = Event()

    def put(self, piece: bytes | _End) -> None:
        self._room -= _size(piece)
        self._under_way.append((current_time() + self._delay, piece))
        self._notify()

    async def read(self, source: ByteStream) -> None:
        """Take in all that comes, to the end."""
        try:
            while True:
                while self._room <= 0:
                    await self._changed.wait()
                self.put(await source.receive())
        except EndOfStream:
            self.put("eof")
        except (BrokenResourceError, ClosedResourceError):
            self.put("reset")

    async def next_due(self) -> bytes | _End:
        """Wait for the first piece, and take with it all that is due by then."""
        while not self._under_way:
            await self._changed.wait()
        await sleep_until(self._under_way[0][0])
        first = self._take()
        if not isinstance(first, bytes):
            return first
        pieces = [first]
        while isinstance(piece := self._due_piece(), bytes):
            pieces.append(piece)
            self._take()
        return b"".join(pieces)

    def _due_piece(self) -> bytes | _End | None:
        if self._under_way and self._under_way[0][0] <= current_time():
            return self._under_way[0][1]
        return None

    def _take(self) -> bytes | _End:
        _, piece = self._under_way.popleft()
        self._room += _size(piece)
        self._notify()
        return piece

    def _notify(self) -> None:
        self._changed.set()
        self._changed = Event()


class _Connection:
    """The two lines between a client and the server, from the connection to its last end."""

    def __init__(self, client: ByteStream, delay: float, capacity: int) -> None:
        self._client = client
        self._delay = delay
        self._there = _Line(delay, capacity)
        self._back = _Line(delay, capacity)
        self._ends = 0
        self._group = create_task_group()

    async def relay(self, target: ByteStreamConnectable) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(aclose_forcefully, self._client)
            async with self._group as group:
                # What the client says before the server has seen it has its time all the same.
                group.start_soon(self._there.read, self._client)
                group.start_soon(self._write, self._back, self._client, self._there)
                await sleep_until(current_time() + self._delay)
                try:
                    server = await target.connect()
                except ConnectionFailed:
                    self._back.put("reset")
                else:
                    stack.push_async_callback(aclose_forcefully, server)
                    group.start_soon(self._back.read, server)
                    group.start_soon(self._write, self._there, server, self._back)

    async def _write(self, line: _Line, sink: ByteStream, opposite: _Line) -> None:
        """Hand on what arrives."""
        try:
            while True:
                piece = await line.next_due()
                if isinstance(piece, bytes):
                    await sink.send(piece)
                else:
                    await self._end(piece, sink)
        except (BrokenResourceError, ClosedResourceError, OSError):
            # Whoever was to get this is gone, which the other one learns a delay later.
            opposite.put("reset")

    async def _end(self, how: _End, sink: ByteStream) -> None:
        """Hand on an end. A reset, and the second end of a stream, leave nothing to relay."""
        if how == "reset":
            self._group.cancel_scope.cancel()
            arm_reset(sink)
            return
        await sink.send_eof()
        self._ends += 1
        if self._ends == 2:
            self._group.cancel_scope.cancel()


def _size(piece: bytes | _End) -> int:
    return len(piece) if isinstance(piece, bytes) else 0
