"""`Outbox.send_many`: one task sends what the source has, one message after the other.

Deliveries wait to be taken, as many as the caller lets it read ahead. What ends the stream, the
source's own exception or a failure to connect, leaves by the ``async for`` once the deliveries
before it were taken, as it does in a client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from typing import Any

from anyio.lowlevel import checkpoint

from .. import Delivery
from .._bell import Bell


class Stream(AsyncIterator[Delivery[Any]]):
    """What a `SendMany` pulls, takes and leaves; ``send`` raises what ends all of it."""

    def __init__(
        self,
        mails: Iterable[Any] | AsyncIterable[Any],
        send: Callable[[Any], Awaitable[Delivery[Any]]],
        read_ahead: int,
    ) -> None:
        self._mails = mails
        self._send = send
        self._read_ahead = read_ahead
        self._ended: deque[Delivery[Any]] = deque()
        self._error: Exception | None = None
        self._is_over = False
        self._is_left = False
        self._bell = Bell()

    def leave(self) -> None:
        """The caller has left."""
        self._is_left = self._is_over = True
        self._bell.ring()

    def abandon(self) -> None:
        """Nothing is left in line: one message is sent after the other."""

    async def __anext__(self) -> Delivery[Any]:
        await checkpoint()
        while not self._ended:
            if self._is_over:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            await self._bell.wait()
        self._bell.ring()
        return self._ended.popleft()

    async def pull(self) -> None:
        """Send all that the source has; what ends it is kept for the caller."""
        try:
            if isinstance(self._mails, AsyncIterable):
                await self._send_all(self._mails)
            else:
                for mail in self._mails:
                    await self._send_next(mail)
        except Exception as error:
            if self._is_left:
                raise
            self._error = error
        self._is_over = True
        self._bell.ring()

    async def _send_all(self, source: AsyncIterable[Any]) -> None:
        mails = source.__aiter__()
        try:
            async for mail in mails:
                await self._send_next(mail)
        finally:
            # Nobody else can end a generator that was made for this call.
            if isinstance(mails, AsyncGenerator):
                await mails.aclose()

    async def _send_next(self, mail: Any) -> None:
        self._ended.append(await self._send(mail))
        self._bell.ring()
        while len(self._ended) >= self._read_ahead:
            await self._bell.wait()
