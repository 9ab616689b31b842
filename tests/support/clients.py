"""Clients of a scripted server, by the road that they take to it, and what they send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from email.message import EmailMessage
from typing import Any, TypeAlias

from anyio.abc import ByteStream, ByteStreamConnectable

from anysmtp import SMTP, Limits, RawMessage, Receipt, SMTPConnection
from anysmtp.testing import Answer, ScriptedServer

from .bench import RECIPIENTS

Script: TypeAlias = "dict[str, Answer | Sequence[Answer]]"

SENDER = "a@x.test"
RAW = b"Subject: hello\r\n\r\nhello\r\n"
ONE = Limits(max_connections=1)
_PLAIN = {"tls": "off", "limits": ONE}


def on_memory(server: ScriptedServer, **options: Any) -> SMTP:
    """A client on memory streams, which count as a network; with one connection, unless asked."""
    settings: dict[str, Any] = {"connectable": server.connectable, **_PLAIN, **options}
    return SMTP("mail.example.test", **settings)


async def on_tcp(server: ScriptedServer, **options: Any) -> SMTP:
    """A client on a loopback socket; with one connection, unless asked."""
    settings: dict[str, Any] = {**_PLAIN, **options}
    return SMTP("127.0.0.1", server.port or await server.listen(), **settings)


async def connection_to(server: ScriptedServer, **options: Any) -> SMTPConnection:
    """The command layer on a memory stream; nothing has been said on it."""
    return SMTPConnection(await server.connectable.connect(), "mail.example.test", **options)


async def deliver(smtp: SMTP | SMTPConnection, raw: RawMessage = RAW, **options: Any) -> Receipt:
    """Send a raw message to the two of `RECIPIENTS`."""
    return await smtp.sendmail(SENDER, RECIPIENTS, raw, **options)


def email(**fields: str) -> EmailMessage:
    """A message object; underscores in the fields' names stand for hyphens."""
    message = EmailMessage()
    for name, value in {"From": SENDER, "To": RECIPIENTS[0], "Subject": "hello", **fields}.items():
        message[name.replace("_", "-")] = value
    message.set_content("hello\n")
    return message


class Wrapped(ByteStream):
    """A stream around a stream, for tests that change what one of its methods does."""

    def __init__(self, stream: ByteStream) -> None:
        self.inner = stream

    async def send(self, item: bytes) -> None:
        await self.inner.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.inner.receive(max_bytes)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


class Through(ByteStreamConnectable):
    """Connects to a scripted server through streams of the test's own: all `streams`."""

    def __init__(self, server: ScriptedServer, wrap: Callable[[ByteStream], Wrapped]) -> None:
        self._server = server
        self._wrap = wrap
        self.streams: list[Wrapped] = []

    async def connect(self) -> ByteStream:
        self.streams.append(self._wrap(await self._server.connect()))
        return self.streams[-1]
