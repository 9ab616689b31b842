"""From a client's arguments to a byte stream, on which an `anysmtp.SMTPConnection` can stand.

A stream counts as local, so that a login may cross it in clear unasked, if it is a unix socket or a
TCP connection that was opened here to a loopback address: anysmtp's rule for its own.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, cast

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from ..._protocol._parser import ReplyParser
from ._config import Configured
from ._translate import response_of
from .response import SMTPResponse

# No greeting that anysmtp reads is longer.
_MAX_GREETING = 65536

_INFO = {
    "peername": SocketAttribute.remote_address,
    "sockname": SocketAttribute.local_address,
    "socket": SocketAttribute.raw_socket,
    "ssl_object": TLSAttribute.ssl_object,
    # As aiosmtplib documents it, though asyncio does not.
    "sslobject": TLSAttribute.ssl_object,
    "cipher": TLSAttribute.cipher,
    "peercert": TLSAttribute.peer_certificate,
}


class ClientStream(ByteStream):
    """A stream that remembers how the server greeted, which a connection does not tell."""

    def __init__(self, stream: ByteStream, *, is_local: bool) -> None:
        self._stream = stream
        self._heard: bytearray | None = bytearray()
        self.is_local = is_local

    def take_greeting(self) -> SMTPResponse:
        """The first reply that came, once somebody has read it and found it in order."""
        parser = ReplyParser()
        parser.feed(bytes(self._heard or b""))
        self._heard = None
        greeting = parser.next_reply()
        assert greeting is not None
        return response_of(greeting)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive(max_bytes)
        if self._heard is not None and len(self._heard) < _MAX_GREETING:
            self._heard += data
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: Mapping[Any, Callable[[], Any]] = cast("Any", self._stream).extra_attributes
        return attributes


def info_of(stream: ByteStream, key: str) -> Any:
    """What an asyncio transport would say under this key; None if it is not known."""
    if key == "compression":
        tls = stream.extra(TLSAttribute.ssl_object, None)
        return None if tls is None else tls.compression()
    try:
        return None if key not in _INFO else stream.extra(_INFO[key], None)
    except OSError:
        return None  # The other end has just hung up.


def place_of(client: Configured) -> str:
    """Where a client connects to, in an error message."""
    if client.sock is not None:
        return "the socket"
    if client.socket_path is not None:
        return os.fsdecode(client.socket_path)
    return f"{client.hostname or 'localhost'} on port {client.server_port}"


async def open_stream(client: Configured, context: ssl.SSLContext | None) -> ClientStream:
    """Connect, and put TLS on it if there is a context."""
    stream = await _connect(client)
    is_local = client.sock is None and _is_local(client, stream)
    try:
        if context is not None:
            stream = await TLSStream.wrap(
                stream,
                server_side=False,
                hostname=client.hostname or "localhost",
                ssl_context=context,
                standard_compatible=False,
            )
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise
    return ClientStream(stream, is_local=is_local)


async def _connect(client: Configured) -> ByteStream:
    if client.sock is not None:
        return await SocketStream.from_socket(client.sock)
    if client.socket_path is not None:
        return await anyio.connect_unix(os.fsdecode(client.socket_path))
    host, port = client.source_address or ("", 0)
    return await anyio.connect_tcp(
        client.hostname or "localhost",
        client.server_port,
        local_host=host or None,
        local_port=port or None,
    )


def _is_local(client: Configured, stream: ByteStream) -> bool:
    if client.socket_path is not None:
        return True
    remote = stream.extra(SocketAttribute.remote_address, None)
    if remote is None:
        return False  # The server has reset the connection already.
    address = ip_address(str(remote[0]).partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
