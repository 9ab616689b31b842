"""What the protocol and AnyIO allow: the same bytes, written by hand on one stream.

It knows beforehand what the server answers, and that it is a sink whose replies are lines. It has
no timeouts, no errors but a wrong reply, and a serialiser for the benchmark's own messages. What
a library takes longer than this is what the library costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message
from typing import Any, cast

from anyio.abc import ByteStream

CHUNK = 1 << 16
WINDOW = 16
"""Messages in flight at once, where they need not wait for each other."""


class Floor:
    """A client on a connected stream."""

    extensions = b""
    """The reply to EHLO."""

    def __init__(self, stream: ByteStream, sender: str, recipients: list[str]) -> None:
        self._stream = stream
        self._replies = b""
        self._count = 2 + len(recipients)
        rcpt = "".join(f"RCPT TO:<{recipient}>\r\n" for recipient in recipients)
        self._envelope = f"MAIL FROM:<{sender}>\r\n{rcpt}".encode()

    async def hello(self) -> None:
        await self._read(1)
        await self._stream.send(b"EHLO client.example.test\r\n")
        while b"250 " not in self._replies:
            self._replies += await self._stream.receive()
        self.extensions, self._replies = self._replies, b""

    async def lock_step(self, body: bytes) -> None:
        """One message, two round trips."""
        await self._stream.send(self._envelope + b"DATA\r\n")
        await self._read(self._count)
        await self._stream.send(_stuffed(body) + b".\r\n")
        await self._read(1)

    async def in_pieces(self, body: Iterable[bytes]) -> None:
        """The same of a large message, of which no more than a piece is in memory."""
        await self._stream.send(self._envelope + b"DATA\r\n")
        await self._read(self._count)
        piece = b""
        for chunk in body:
            piece += _stuffed(chunk)
            if len(piece) >= CHUNK:
                await self._stream.send(piece)
                piece = b""
        await self._stream.send(piece + b".\r\n")
        await self._read(1)

    async def back_to_back(self, messages: Iterable[bytes]) -> None:
        """The end of each body and the next envelope in one write: one round trip for each."""
        bodies = iter(messages)
        body = next(bodies, None)
        await self._stream.send(self._envelope + b"DATA\r\n")
        await self._read(self._count)
        while body is not None:
            behind = next(bodies, None)
            if behind is None:
                await self._stream.send(_stuffed(body) + b".\r\n")
                await self._read(1)
            else:
                await self._stream.send(
                    b"".join([_stuffed(body), b".\r\nRSET\r\n", self._envelope, b"DATA\r\n"])
                )
                await self._read(self._count + 2)
            body = behind

    async def eager(self, messages: Iterable[bytes]) -> None:
        """A window of messages in flight: envelope, BDAT and message in one write."""
        bodies = iter(messages)
        in_flight, unread = 0, 0
        while True:
            pieces: list[bytes] = []
            while in_flight < WINDOW and (body := next(bodies, None)) is not None:
                pieces += (self._envelope, b"BDAT %d LAST\r\n" % len(body), body)
                in_flight += 1
            if pieces:
                await self._stream.send(b"".join(pieces))
            if not in_flight:
                return
            unread += (await self._stream.receive()).count(b"\n")
            in_flight -= unread // self._count
            unread %= self._count

    async def _read(self, count: int) -> None:
        while self._replies.count(b"\n") < count:
            self._replies += await self._stream.receive()
        assert self._replies[:1] in (b"2", b"3"), self._replies
        self._replies = b""


def _stuffed(data: bytes) -> bytes:
    """Dots doubled; the chunk starts a line."""
    if b"." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    return b"." + data if data.startswith(b".") else data


def chunks(message: Message[Any, Any]) -> Iterator[bytes]:
    """The benchmark's own messages as the email package has them, in chunks of whole lines."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in message.raw_items())
    # get_payload() encodes all of it, to see whether it can be.
    payload: str | list[Message[Any, Any]] = cast("Any", message)._payload
    if isinstance(payload, str):
        yield f"{fields}\r\n".encode()
        yield from _lines(payload)
        return
    bounded = fields.replace("multipart/mixed", f'multipart/mixed; boundary="{_BOUNDARY}"')
    yield f"{bounded}\r\n".encode()
    for part in payload:
        yield f"--{_BOUNDARY}\r\n".encode()
        yield from chunks(part)
        yield b"\r\n"
    yield f"--{_BOUNDARY}--\r\n".encode()


_BOUNDARY = "===============0123456789=="


def _lines(text: str) -> Iterator[bytes]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + CHUNK) + 1 or len(text)
        yield text[start:end].encode().replace(b"\n", b"\r\n")
        start = end
