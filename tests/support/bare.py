"""A client that knows nothing of SMTP but where a reply ends: it writes bytes and reads replies."""

from __future__ import annotations

from anyio import aclose_forcefully
from anyio.abc import AsyncResource, ByteStream

from anysmtp.testing import ScriptedServer

HELLO = b"EHLO client.example.test\r\n"


class BareClient(AsyncResource):
    """Closes its stream when it is left."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._unread = b""

    @classmethod
    async def hello(cls, server: ScriptedServer) -> BareClient:
        """One that has connected in memory, and said EHLO."""
        client = cls(await server.connectable.connect())
        try:
            await client.ask()
            await client.ask(HELLO)
        except BaseException:
            await aclose_forcefully(client)
            raise
        return client

    async def ask(self, data: bytes = b"") -> bytes:
        """Send this in one call, and read one reply: its last line, without the line end."""
        if data:
            await self.stream.send(data)
        while (line := await self._line())[3:4] == b"-":
            pass
        return line

    async def ask_all(self, data: bytes, count: int) -> list[int]:
        """Send this in one call, and read so many replies: their codes."""
        first = await self.ask(data)
        return [int(line[:3]) for line in (first, *[await self.ask() for _ in range(count - 1)])]

    async def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            self._unread += await self.stream.receive()
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    async def aclose(self) -> None:
        await self.stream.aclose()
