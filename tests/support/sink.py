"""A server that takes mail as fast as it comes, in a thread of its own, and counts it.

For tests with thousands of messages, in which the server must not be what takes the time. It knows
PIPELINING and no more than it needs. A message is told by its Subject.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import cast

import anyio
from anyio.from_thread import start_blocking_portal

HOST = "127.0.0.1"
_SUBJECT = re.compile(rb"^Subject: (.*)\r$", re.MULTILINE)
_REPLIES = {
    b"EHLO": b"250-sink.example.test\r\n250 PIPELINING\r\n",
    b"MAIL": b"250 Ok\r\n",
    b"RCPT": b"250 Ok\r\n",
    b"RSET": b"250 Ok\r\n",
    b"DATA": b"354 Go on\r\n",
    b"QUIT": b"221 Bye\r\n",
}


class Sink:
    """``with Sink() as sink``: listens on `port`."""

    def __init__(self, max_connections: int | None = None) -> None:
        self.max_connections = max_connections
        """How many it serves at once; others are greeted with 421."""
        self.port = 0
        self.stored: Counter[str] = Counter()
        """How often each message was stored."""
        self.opened = 0
        self.refused = 0
        self.on_item: Callable[[], None] = lambda: None
        """Called for each command and message, before it is answered."""
        self.open = 0
        self.most = 0
        """The most connections that it served at once."""
        self._exit = ExitStack()

    def __enter__(self) -> Sink:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            server = portal.call(self._listen)
            stack.callback(portal.call, self._close, server)
            self._exit = stack.pop_all()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit.__exit__(exc_type, exc, traceback)

    async def wait_quiet(self) -> None:
        """Wait until every client has gone."""
        with anyio.fail_after(10):
            while self.open:  # noqa: ASYNC110 - it is another thread that ends it
                await anyio.sleep(0.01)

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Session(self), HOST, 0, backlog=1000)

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        await server.wait_closed()


class _Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._input = b""
        self._is_in_message = False
        self._transport: asyncio.Transport
        self._is_served = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sink = self._sink
        sink.opened += 1
        if sink.max_connections is not None and sink.open >= sink.max_connections:
            self._is_served = False
            sink.refused += 1
            self._transport.write(b"421 Too many connections\r\n")
            self._transport.close()
            return
        sink.open += 1
        sink.most = max(sink.most, sink.open)
        self._transport.write(b"220 sink.example.test\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._sink.open -= self._is_served

    def data_received(self, data: bytes) -> None:
        self._input += data
        replies: list[bytes] = []
        while (reply := self._take()) is not None:
            replies.append(reply)
        if replies:
            self._transport.write(b"".join(replies))
            if replies[-1] == _REPLIES[b"QUIT"]:
                self._transport.close()

    def _take(self) -> bytes | None:
        """The reply to the next line or message, if all of it is there."""
        end = b"\r\n.\r\n" if self._is_in_message else b"\r\n"
        item, found, rest = self._input.partition(end)
        if not found:
            return None
        self._input = rest
        self._sink.on_item()
        if self._is_in_message:
            self._is_in_message = False
            return self._store(item)
        verb = item[:4].upper()
        self._is_in_message = verb == b"DATA"
        return _REPLIES[verb]

    def _store(self, message: bytes) -> bytes:
        found = _SUBJECT.search(message + b"\r\n")
        assert found is not None
        self._sink.stored[found[1].decode()] += 1
        return b"250 Ok\r\n"
