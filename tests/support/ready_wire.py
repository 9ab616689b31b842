"""A server on no network, which says what was made ready for it."""

from __future__ import annotations

from abc import abstractmethod

import anyio
from anyio.abc import ByteStream


class ReadyWire(ByteStream):
    """A client's end of it: what is not ready when it is read is the end of the stream."""

    ready: list[bytes]
    is_gone: bool

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self._event()
        if not self.ready:
            self.is_gone = True
            raise anyio.EndOfStream
        return self.ready.pop(0)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.is_gone = True

    @abstractmethod
    async def _event(self) -> None:
        """What happens at an await of the wire."""
        ...
