"""Proxies in front of a scripted server: one that says what the test says, and one that works.

It answers each thing that the client sends with the next of its answers, and when there are none
left the client talks with the mail server. What the client said to it is in `heard`. The client
reaches it over a socket (`listen`), or in memory, where a test puts `connect_tcp` in the place of
anyio's.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    aclose_forcefully,
    create_task_group,
    create_tcp_listener,
    sleep_forever,
)
from anyio.abc import ByteStream, Listener, SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from anysmtp.testing import ScriptedServer
from anysmtp.testing._memory import MemoryByteStream, memory_pair

from .clients import Wrapped
from .threaded import ThreadedServer

_TURNS = 20
_GONE = (EndOfStream, BrokenResourceError, ClosedResourceError, ssl.SSLError)

SOCKS5_HELLO = b"\x05\x00"
SOCKS5_WANTS_LOGIN = b"\x05\x02"
SOCKS5_LOGGED_IN = b"\x01\x00"
SOCKS5_CONNECTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x19"
SOCKS5_REFUSED = b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"
SOCKS4_CONNECTED = b"\x00\x5a\x00\x00\x00\x00\x00\x00"
HTTP_CONNECTED = b"HTTP/1.0 200 Connection established\r\nProxy-agent: test\r\n\r\n"

# What a proxy says to a client without credentials, up to the mail server's greeting.
ANSWERS: dict[str, tuple[bytes, ...]] = {
    "socks5": (SOCKS5_HELLO, SOCKS5_CONNECTED),
    "socks5h": (SOCKS5_HELLO, SOCKS5_CONNECTED),
    "socks4a": (SOCKS4_CONNECTED,),
    "http": (HTTP_CONNECTED,),
    "https": (HTTP_CONNECTED,),
}


class ScriptedProxy:
    """``async with ScriptedProxy(server, answers) as proxy``; leaving it cuts everybody off."""

    def __init__(
        self,
        server: ScriptedServer | None,
        *answers: bytes,
        tls: ssl.SSLContext | None = None,
        bytewise: bool = False,
        then: Literal["close", "stall"] = "close",
    ) -> None:
        self.heard: list[bytes] = []
        """What the client said to the proxy."""
        self.asked: list[tuple[str, int]] = []
        """Where clients in memory connected to."""
        self._server = server
        self._answers = answers
        self._tls = tls
        self._bytewise = bytewise
        self._then = then

    async def __aenter__(self) -> ScriptedProxy:
        self._group = create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)

    async def listen(self) -> int:
        """Listen on a free TCP port, and return it."""
        listener = await create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self._group.start_soon(self._listen, listener)
        # Its tasks have begun then, and are not taken for something that a test leaves behind.
        for _ in range(_TURNS):
            await checkpoint()
        port: int = listener.extra(SocketAttribute.local_port)
        return port

    async def connect_tcp(self, host: str, port: int, **options: Any) -> MemoryByteStream:
        """As ``anyio.connect_tcp``, on a memory stream."""
        self.asked.append((host, port))
        client, own = memory_pair()
        self._group.start_soon(self._serve, own)
        return client

    async def _listen(self, listener: Listener[Any]) -> None:
        async with listener:
            await listener.serve(self._serve, self._group)

    async def _serve(self, stream: ByteStream) -> None:
        try:
            if self._tls is not None:
                stream = _Encrypted(
                    await TLSStream.wrap(
                        stream, server_side=True, ssl_context=self._tls, standard_compatible=False
                    )
                )
            await self._answer(stream)
            if self._server is not None:
                await self._server.serve(stream)
            elif self._then == "stall":
                await sleep_forever()
        except _GONE:
            pass  # The client's end of it is what the test looks at.
        finally:
            await aclose_forcefully(stream)

    async def _answer(self, stream: ByteStream) -> None:
        for answer in self._answers:
            self.heard.append(await stream.receive())
            step = 1 if self._bytewise else len(answer) or 1
            for start in range(0, len(answer), step):
                await stream.send(answer[start : start + step])


class _Encrypted(Wrapped):
    """A TLS stream that can send its end: that of the stream below."""

    async def send_eof(self) -> None:
        assert isinstance(self.inner, TLSStream)
        below = self.inner.transport_stream
        assert isinstance(below, ByteStream)
        await below.send_eof()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        inner: Any = self.inner
        attributes: Mapping[Any, Callable[[], Any]] = inner.extra_attributes
        return attributes


class ThreadedProxy(ThreadedServer):
    """A SOCKS 5 proxy in a thread, to a server of these options.

    It lets everybody in, and cannot connect to ``closed.``
    """

    def __enter__(self) -> ThreadedProxy:
        super().__enter__()
        listener = self.portal.call(partial(create_tcp_listener, local_host=self.host))
        self.port = listener.extra(SocketAttribute.local_port)
        self._stack.callback(self.portal.start_task_soon(self._listen, listener).cancel)
        return self

    async def _listen(self, listener: Listener[Any]) -> None:
        async with listener:
            await listener.serve(self._relay)

    async def _relay(self, stream: ByteStream) -> None:
        async with stream:
            methods = await stream.receive()
            if methods[-1:] == b"\2":
                await stream.send(SOCKS5_WANTS_LOGIN)
                await stream.receive()
                await stream.send(SOCKS5_LOGGED_IN)
            else:
                await stream.send(SOCKS5_HELLO)
            if b"closed." in await stream.receive():
                await stream.send(SOCKS5_REFUSED)
                return
            await stream.send(SOCKS5_CONNECTED)
            await self.server.serve(stream)
