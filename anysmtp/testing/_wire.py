"""The server's end of a connection, with the ways in which a connection can end.

A `Wire` is the raw stream under a server, a socket or memory, and below TLS if there is any. It
can be told to give out after so many bytes, and it closes as told:

- ``"close"``: under TLS a close_notify, then the end of file;
- ``"truncate"``: the end of file without a close_notify (the same as close without TLS);
- ``"reset"``: a TCP reset.

An end of file is a half close: the wire goes on reading, and ignoring, until the client closes
too. A server that closes altogether resets the connection if the client's bytes are still on
their way, and then it is chance what the client gets to read.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Literal, TypeAlias

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from ._memory import MemoryByteStream

Close: TypeAlias = Literal["close", "truncate", "reset"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class WireCutError(Exception):
    """The wire gave out, as `Wire.limit` told it to."""


class Wire(ByteStream):
    """The raw byte stream under a server's connection."""

    def __init__(self, raw: ByteStream, limit: int | None = None) -> None:
        self._raw = raw
        self._limit = limit
        self._deaf = False
        self.sent = 0

    async def send(self, item: bytes) -> None:
        part = item if self._limit is None else item[: self._limit - self.sent]
        self.sent += len(part)
        await self._raw.send(part)
        if self.sent == self._limit:
            raise WireCutError

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._deaf:
            raise EndOfStream
        return await self._raw.receive(max_bytes)

    @property
    def continues(self) -> bool:
        """Whether the last chunk belongs to the same `send` as the one before: memory only."""
        return isinstance(self._raw, MemoryByteStream) and self._raw.continues

    async def send_eof(self) -> None:
        await self._raw.send_eof()

    async def aclose(self) -> None:
        await self._raw.aclose()

    async def end(self, how: Close, tls: TLSStream | None) -> None:
        """End the server's side in this way."""
        if how == "reset":
            arm_reset(self._raw)
            await self._raw.aclose()
            return
        if how == "close" and tls is not None:
            await self._close_notify(tls)
        try:
            await self._raw.send_eof()
        except OSError:
            # The client is gone: that is what shutdown(2) says then.
            return

    async def linger(self) -> None:
        """Wait for the client to end its side."""
        try:
            while True:
                await self._raw.receive()
        except (EndOfStream, BrokenResourceError, ClosedResourceError):
            return

    async def _close_notify(self, tls: TLSStream) -> None:
        # TLSStream.unwrap() waits for the client's close_notify when its own is out. The client
        # may be waiting for the end of file first, so it is told that there is nothing to wait
        # for.
        self._deaf = True
        try:
            await tls.unwrap()
        except (EndOfStream, BrokenResourceError, ssl.SSLError, WireCutError):
            return


def arm_reset(raw: ByteStream) -> None:
    """Have the stream's closing be a reset."""
    if isinstance(raw, MemoryByteStream):
        raw.reset()
    else:
        raw_socket = raw.extra(SocketAttribute.raw_socket)
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
