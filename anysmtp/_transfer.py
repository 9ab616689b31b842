"""A message on its way through a channel, after the server's 354 or behind a BDAT.

A small one leaves in one write, together with its end and the first flights of those who are next.
A long one leaves piece by piece, in bounded memory, and what the server says meanwhile is listened
to: a server may refuse a message before it has all of it, and stop reading. What it says then is
the reason that the caller should see, not that the connection was lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ._channel import Channel
from ._clock import Clock
from ._protocol._body import END, DotStuffer, stuffed
from ._protocol._commands import RSET, Command, bdat
from ._protocol._session import Awaited
from ._reply import Reply
from ._sources import Pieces, SourceFailed
from ._tasks import UngroupedTasks
from ._turns import Turn
from ._writing import Written
from .errors import SMTPException

# A message up to this size leaves in one write, together with its end.
ONE_WRITE = 65536
# Octets of a chunk of a message whose size is not known.
_CHUNK = 512 * 1024
# Seconds to wait for what a server says when it cuts a message off.
_LAST_WORDS = 1.0


class Body:
    """A message on its way out, and whom to tell how it goes."""

    __slots__ = ("chunk", "chunks", "hand_over", "progress", "size", "take_final")

    def __init__(
        self,
        chunks: Iterable[bytes] | Pieces,
        size: int | None,
        *,
        take_final: Callable[[Reply], None],
        hand_over: Callable[[], None],
        progress: Callable[[int], None],
        chunk: Command | None = None,
    ) -> None:
        self.chunk = chunk
        """The BDAT that it follows as it is; None: dots are stuffed, and a lone one ends it."""
        self.chunks = chunks
        self.size = size
        self.take_final = take_final
        """Called with the final reply, or with a refusal that comes before the end is out."""
        self.hand_over = hand_over
        """Called before the write that contains the end of the message."""
        self.progress = progress
        """Called with the number of octets of each chunk that was written."""

    def in_one_write(self) -> bytes | None:
        """What is written, all of it, where it is small."""
        if self.size is None or self.size > ONE_WRITE:
            return None
        chunks = self.chunks
        if isinstance(chunks, tuple):
            # Of one piece it makes no copy.
            whole = b"".join(chunks)
        elif isinstance(chunks, Iterable):
            whole = b"".join(chunks)
        else:
            return None
        return stuffed(whole) + END if self.chunk is None else self.chunk.line + whole

    def form(self) -> tuple[bytes, Callable[[bytes], bytes], bytes]:
        """What goes in front of the message, what becomes of each piece, and what goes behind."""
        if self.chunk is None:
            return b"", DotStuffer().stuff, END
        return self.chunk.line, bytes, b""


async def send_body(
    channel: Channel, body: Body, clock: Clock, *, take_along: bool = False
) -> None:
    """Write a message, and read the reply to it, as the holder of the turn.

    ``take_along``: whoever is next may begin with its end. Returns when the final reply, or a
    refusal that came early, was taken; after the latter the channel is closed.
    """
    channel.check_open()
    await checkpoint_if_cancelled()
    turn = channel.speaker(clock)
    end = channel.begin_body(body.size, body.take_final, body.chunk)
    if (wire := body.in_one_write()) is None:
        await _InPieces(channel, body, end, turn, take_along=take_along).send()
        return
    flights = _flights_behind(channel, body, end, turn, take_along=take_along)
    if flights:
        is_behind = _is_anybody_aboard(channel, flights, turn)
        await channel.write(wire + flights, is_behind=is_behind)
    else:
        await channel.write(wire)
    body.progress(body.size or 0)
    await channel.wait(end, turn)


class _InPieces:
    """A long body, from its first octet to the reply."""

    __slots__ = ("_body", "_channel", "_end", "_take_along", "_turn", "_written")

    def __init__(
        self, channel: Channel, body: Body, end: Awaited, turn: Turn, *, take_along: bool
    ) -> None:
        self._channel = channel
        self._body = body
        self._end = end
        self._turn = turn
        self._take_along = take_along
        self._written = Written()

    async def send(self) -> None:
        """Write it piece by piece, and listen at the same time."""
        channel, end = self._channel, self._end
        failures: list[SMTPException] = []

        async def listen() -> None:
            try:
                await channel.wait(end, self._turn)
            except SMTPException as error:
                failures.append(error)
            if not (end.written and end.succeeded):
                # It may read no further, also where only the last piece is still on its way.
                group.cancel_scope.cancel()

        try:
            async with UngroupedTasks() as group:
                group.start_soon(listen)
                try:
                    await self._write_pieces()
                except SMTPException as error:
                    failures.append(error)
                    group.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS
        except BaseException:
            # Once it is out, its reply is like any other that is not waited for.
            if not self._written.is_done:
                await channel.break_off("the writing of a message was interrupted")
            raise
        if failures or not self._written.is_done:
            await channel.break_off("a message was not written to its end")
        if end.reply is None:
            if failures:
                raise failures[0]
            # The listener was cancelled, and so is this task, which has not come to feel it.
            await channel.wait(end, self._turn)

    async def _write_pieces(self) -> None:
        """Write a message; its last piece and its end leave together."""
        channel, body = self._channel, self._body
        writer, clock = channel.writer, self._turn.clock
        front, stuff, back = body.form()
        assert clock is not None
        pieces = _pieces_of(body)
        async with writer, _closing(pieces):
            behind = await _pull(pieces, clock)
            while piece := await _pull(pieces, clock):
                clock.start(channel.timeouts.data, "the message")
                await writer.send(front + stuff(behind))
                front = b""
                body.progress(len(behind))
                behind = piece
            await checkpoint_if_cancelled()
            last = front + stuff(behind) + back
            flights = _flights_behind(
                channel, body, self._end, self._turn, take_along=self._take_along
            )
            if _is_anybody_aboard(channel, flights, self._turn):
                await writer.send_shielded(last + flights, self._written)
            else:
                await writer.send(last + flights)
                self._written.is_done = True
            body.progress(len(behind))


async def send_in_chunks(channel: Channel, body: Body, clock: Clock) -> None:
    """Write a message of unknown size by several BDATs (RFC 3030 section 2), after its envelope.

    What a source has begun that fails then is undone by RSET, and the connection goes on.
    """
    pieces = _pieces_of(body)
    refused: list[Reply] = []

    def take(reply: Reply) -> None:
        if not reply.is_positive:
            refused.append(reply)

    try:
        async with _closing(pieces):
            ahead = await _collect(pieces, clock)
            while not refused:
                data, ahead = ahead, await _collect(pieces, clock)
                is_last = not ahead
                chunk = Body(
                    _slices(data),
                    len(data),
                    take_final=body.take_final if is_last else take,
                    hand_over=body.hand_over if is_last else _nothing,
                    progress=body.progress,
                    chunk=bdat(len(data), is_last=is_last),
                )
                await send_body(channel, chunk, clock, take_along=is_last)
                if is_last:
                    return
    except SourceFailed:
        # Whatever becomes of it, the source's own error is what the caller is told.
        with suppress(SMTPException):
            await channel.exchange([RSET], clock)
        raise
    body.take_final(refused[0])


@asynccontextmanager
async def _closing(pieces: Pieces) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await pieces.aclose()


def _nothing() -> None:
    """A chunk that is not the last one hands nothing over."""


def _pieces_of(body: Body) -> Pieces:
    return _Chunks(body.chunks) if isinstance(body.chunks, Iterable) else body.chunks


class _Chunks:
    """What is in memory, as `Pieces`."""

    __slots__ = ("_chunks",)

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    async def next(self) -> bytes:
        return next(self._chunks, b"")

    async def aclose(self) -> None:
        pass


async def _pull(pieces: Pieces, clock: Clock) -> bytes:
    """The caller's own code may take as long as it likes."""
    clock.stop()
    return await pieces.next()


async def _collect(pieces: Pieces, clock: Clock) -> bytes:
    """What makes a chunk; nothing at the end."""
    found: list[bytes] = []
    length = 0
    while length < _CHUNK and (piece := await _pull(pieces, clock)):
        found.append(piece)
        length += len(piece)
    return b"".join(found)


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + ONE_WRITE] for start in range(0, len(data), ONE_WRITE))


def _flights_behind(
    channel: Channel, body: Body, end: Awaited, turn: Turn, *, take_along: bool
) -> bytes:
    """The end of the message is about to leave; what may leave behind it."""
    channel.end_body(end, turn)
    body.hand_over()
    return channel.take_along() if take_along else b""


def _is_anybody_aboard(channel: Channel, flights: bytes, turn: Turn) -> bool:
    """Whether a write has the whole of somebody else's message in it."""
    is_any = bool(flights) and channel.session.unanswered > 0
    return is_any and channel.is_owed_to_others(turn)
