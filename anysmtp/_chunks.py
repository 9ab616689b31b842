"""A message of unknown size by several BDATs (RFC 3030 section 2), after its envelope.

The caller's task reads the source; another one sends what is in the stock, chunk by chunk, each
with a reply of its own; a third one listens, since between two chunks the server may go away, and
the source may take its time. What a source has begun that fails then is undone by RSET, behind the
chunk that is on its way, and the connection goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from anyio.abc import TaskGroup

from ._channel import Channel
from ._clock import Clock
from ._protocol._commands import END_OF_DATA, RSET, bdat
from ._protocol._session import Awaited
from ._reply import Reply
from ._sources import SourceFailed
from ._stock import Stock
from ._tasks import UngroupedTasks
from ._transfer import ONE_WRITE, Body, pour, send_body
from .errors import SMTPException

# Octets of a chunk, if they come in time: each one costs a round trip.
_CHUNK = 512 * 1024


async def send_in_chunks(channel: Channel, body: Body, clock: Clock) -> None:
    """Write a message, and read its replies, as the holder of the turn; see `send_body`."""
    await _InChunks(channel, body, clock).send()


class _InChunks:
    """A message from its first chunk to the reply to its last, or to the refusal of one."""

    def __init__(self, channel: Channel, body: Body, clock: Clock) -> None:
        self._channel = channel
        self._body = body
        self._clock = clock
        self._turn = channel.speaker(clock)
        self._stock = Stock(_CHUNK)
        # What the listener waits for: no command, but the reply that ends the message.
        self._end = Awaited(END_OF_DATA, None, self._turn, 0)
        self._chunk: Body
        self._is_last_on_its_way = False
        self._failures: list[SMTPException] = []
        self._source_failed: SourceFailed | None = None

    async def send(self) -> None:
        self._clock.stop()
        try:
            async with UngroupedTasks() as group:
                group.start_soon(self._listen, group)
                group.start_soon(self._write, group)
                await self._pour()
        except BaseException:
            # What becomes of the last chunk is `send_body`'s.
            if not self._is_last_on_its_way:
                await self._channel.break_off("the writing of a message was interrupted")
            raise
        if self._source_failed is not None:
            # Whatever becomes of it, the source's own error is what the caller is told.
            with suppress(SMTPException):
                await self._channel.exchange([RSET], self._clock)
            raise self._source_failed
        if self._end.reply is None:
            await self._channel.break_off("a message was not written to its end")
            raise self._failures[0]

    async def _pour(self) -> None:
        pieces = self._body.chunks
        assert not isinstance(pieces, Iterable)
        try:
            await pour(self._channel, self._body, pieces, self._stock, self._is_cut_off)
        except SourceFailed as failed:
            if not isinstance(failed.error, Exception):
                # No cancellation is kept waiting for the replies to a chunk and to RSET.
                raise
            self._source_failed = failed
            self._stock.end()

    def _is_cut_off(self) -> bool:
        return bool(self._failures) or self._end.reply is not None

    async def _listen(self, group: TaskGroup) -> None:
        """Read for all, until a reply has ended the message, or the connection has ended."""
        try:
            await self._channel.wait(self._end, self._turn)
        except SMTPException as error:
            self._failures.append(error)
            group.cancel_scope.cancel()

    async def _write(self, group: TaskGroup) -> None:
        try:
            while not (self._is_last_on_its_way or self._is_cut_off()):
                self._clock.stop()
                data, is_last = await self._stock.take()
                if self._source_failed is not None:
                    break
                self._is_last_on_its_way = is_last
                self._chunk = self._chunk_of(data, is_last)
                await send_body(self._channel, self._chunk, self._clock, take_along=is_last)
        except SMTPException as error:
            self._failures.append(error)
        # The source, if it was cut off, and the listener, where nothing more will be said.
        group.cancel_scope.cancel()

    def _chunk_of(self, data: bytes, is_last: bool) -> Body:
        body = self._body
        return Body(
            _slices(data),
            len(data),
            take_final=self._take_final if is_last else self._take,
            hand_over=body.hand_over if is_last else _nothing,
            progress=body.progress,
            chunk=bdat(len(data), is_last=is_last),
        )

    def _take(self, reply: Reply) -> None:
        if not reply.is_positive:
            self._take_final(reply)

    def _take_final(self, reply: Reply) -> None:
        # LMTP answers for each recipient: only the last of these replies ends the message.
        self._end.reply = self._chunk.end.reply
        self._body.take_final(reply)


def _nothing() -> None:
    """A chunk that is not the last one hands nothing over."""


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + ONE_WRITE] for start in range(0, len(data), ONE_WRITE))
