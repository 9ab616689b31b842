"""A message on its way through a channel, after the server's 354 or behind a BDAT.

A small one leaves in one write, together with its end and the first flights of those who are next.
A long one leaves piece by piece, in bounded memory, and what the server says meanwhile is listened
to: a server may refuse a message before it has all of it, and stop reading. What it says then is
the reason that the caller should see, not that the connection was lost.

A source is read by the caller's own task, while others write what it has given and listen: however
long it takes, what it gave is on its way (see `_stock`), and the server is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ._channel import Channel
from ._clock import Clock
from ._protocol._body import END, DotStuffer, stuffed
from ._protocol._commands import Command
from ._protocol._session import Awaited
from ._reading import Pieces
from ._reply import Reply
from ._sources import SourceFailed, closing
from ._stock import Stock
from ._tasks import UngroupedTasks
from ._turns import Turn
from ._writing import Written
from .errors import SMTPException

# A message up to this size leaves in one write, together with its end.
ONE_WRITE = 65536
# Seconds to wait for what a server says when it cuts a message off.
_LAST_WORDS = 1.0


class Body:
    """A message on its way out, and whom to tell how it goes."""

    __slots__ = ("chunk", "chunks", "end", "hand_over", "progress", "size", "take_final")

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
        self.end: Awaited
        """What its end awaits, from its first octet on: in LMTP that has more replies than one."""

    def in_one_write(self) -> bytes | None:
        """What is written, all of it, where it is small."""
        chunks = self.chunks
        is_small = self.size is not None and self.size <= ONE_WRITE
        # A source is never small: what is, was read before.
        if not (is_small and isinstance(chunks, (tuple, Iterable))):
            return None
        # Of one piece it makes no copy.
        whole = b"".join(chunks)
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
    body.end = end = channel.begin_body(body.size, body.take_final, body.chunk)
    if (wire := body.in_one_write()) is None:
        await _InPieces(channel, body, end, turn, take_along=take_along).send()
        return
    flights = _flights_behind(channel, body, end, turn, take_along=take_along)
    await _write_with(channel, wire, flights, turn)
    body.progress(body.size or 0)
    await channel.wait(end, turn)


async def send_at_once(
    channel: Channel,
    message: bytes,
    take_final: Callable[[Reply], None],
    hand_over: Callable[[], None],
    turn: Turn,
) -> None:
    """What `send_body` does, for a small message behind DATA in one piece."""
    channel.check_open()
    await checkpoint_if_cancelled()
    end = channel.begin_body(len(message), take_final)
    channel.end_body(end, turn)
    hand_over()
    await _write_with(channel, stuffed(message) + END, channel.turns.take_along(channel), turn)
    await channel.wait(end, turn)


async def _write_with(channel: Channel, wire: bytes, flights: bytes, turn: Turn) -> None:
    """Write a whole message, with what leaves behind it."""
    if flights:
        is_behind = _is_anybody_aboard(channel, flights, turn)
        await channel.write(wire + flights, is_behind=is_behind)
    else:
        await channel.write(wire)


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
        channel, body, end = self._channel, self._body, self._end
        chunks = body.chunks
        failures: list[SMTPException] = []

        def is_cut_off() -> bool:
            return bool(failures) or end.reply is not None

        async def listen() -> None:
            try:
                await channel.wait(end, self._turn)
            except SMTPException as error:
                failures.append(error)
            if not (end.written and end.succeeded):
                # It may read no further, also where only the last piece is still on its way.
                group.cancel_scope.cancel()

        async def write(supply: _Supply) -> None:
            try:
                await self._write(supply)
            except SMTPException as error:
                failures.append(error)
                group.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS

        try:
            async with UngroupedTasks() as group:
                group.start_soon(listen)
                if isinstance(chunks, Iterable):
                    await write(_InMemory(chunks))
                else:
                    stock = Stock(ONE_WRITE)
                    group.start_soon(write, stock)
                    await pour(channel, body, chunks, stock, is_cut_off)
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

    async def _write(self, supply: _Supply) -> None:
        """Write a message; its last piece and its end leave together."""
        channel, body = self._channel, self._body
        writer, clock = channel.writer, self._turn.clock
        front, stuff, back = body.form()
        assert clock is not None
        async with writer:
            while True:
                if supply.may_wait:
                    # The caller's own code may take as long as it likes.
                    clock.stop()
                piece, is_last = await supply.take()
                if is_last:
                    break
                clock.start(channel.timeouts.data, "the message")
                await writer.send(front + stuff(piece))
                front = b""
                body.progress(len(piece))
            await checkpoint_if_cancelled()
            last = front + stuff(piece) + back
            flights = _flights_behind(
                channel, body, self._end, self._turn, take_along=self._take_along
            )
            if _is_anybody_aboard(channel, flights, self._turn):
                await writer.send_shielded(last + flights, self._written)
            else:
                await writer.send(last + flights)
                self._written.is_done = True
            body.progress(len(piece))


async def pour(
    channel: Channel, body: Body, pieces: Pieces, stock: Stock, is_cut_off: Callable[[], bool]
) -> None:
    """Read a body's source to its end, in the caller's own task; what it raises is SourceFailed.

    ``is_cut_off``: whether it is known already that the message will not get there, so that what
    the source says to that is not the reason.
    """
    last = b""
    try:
        async with closing(pieces, channel.monitor.source_failed):
            while piece := await pieces.next():
                if body.size is not None:
                    # By the last octet a server knows the end: it is kept until we know it too.
                    last, piece = piece, last
                if piece:
                    await stock.put(piece)
            stock.end(last)
    except SourceFailed as failed:
        if not (is_cut_off() and isinstance(failed.error, Exception)):
            raise
        channel.monitor.source_failed(failed.error)


class _Supply(Protocol):
    """Where the pieces of a message come from, for the one who writes them."""

    @property
    def may_wait(self) -> bool:
        """Whether they may be long in coming."""
        ...

    async def take(self) -> tuple[bytes, bool]:
        """Some octets, and whether they are the last."""
        ...


class _InMemory:
    """What is in memory, as a `_Supply`."""

    __slots__ = ("_ahead", "_chunks")

    may_wait = False

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._ahead = next(self._chunks, b"")

    async def take(self) -> tuple[bytes, bool]:
        piece, self._ahead = self._ahead, next(self._chunks, b"")
        return piece, not self._ahead


def _flights_behind(
    channel: Channel, body: Body, end: Awaited, turn: Turn, *, take_along: bool
) -> bytes:
    """The end of the message is about to leave; what may leave behind it."""
    channel.end_body(end, turn)
    body.hand_over()
    return channel.turns.take_along(channel) if take_along else b""


def _is_anybody_aboard(channel: Channel, flights: bytes, turn: Turn) -> bool:
    """Whether a write has the whole of somebody else's message in it."""
    is_any = bool(flights) and channel.session.unanswered > 0
    return is_any and channel.is_owed_to_others(turn)
