"""A session on a stream: the seam at which plans meet cancellation.

Theory of operation. Whoever wants to speak holds the *turn*, a fair lock, from its first octet to
its last reply. Everything that can stop at an await is in three places, and each has one rule for
any end but the expected one, be it an error, a timeout or cancellation:

- `_write`: a write that did not return is torn, for nobody knows how much of it left;
- `_read_until`: replies that nobody waits for any more would be taken for the next task's;
- `_send_long`, which writes and reads at once.

And a turn that ends in the middle of a conversation, a 354 without its message, ends the
channel too.

The rule: the session is broken first, synchronously, then the stream is closed, and nothing is ever
sent in it again. A broken channel costs one connection; a channel that is out of step would cost
somebody's mail. What a reply means is worked out in the step that reads it (`Session.next_reply`),
so no fact is lost between an await and its caller.

Before each write stands a checkpoint that does nothing unless the caller is cancelled already: then
nothing was written and nothing is torn.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from . import _connect
from ._clock import Clock, Timeouts, seconds_for
from ._connect import STREAM_ERRORS, Link
from ._protocol._body import END, DotStuffer
from ._protocol._commands import Command
from ._protocol._session import Awaited, Session
from ._reply import Reply
from ._tasks import UngroupedTasks
from .errors import SMTPException, SMTPProtocolError, SMTPServerDisconnected, SMTPTLSError

_wire = logging.getLogger("anysmtp.wire")

# A message up to this size leaves in one write, together with its end.
ONE_WRITE = 65536
# Seconds to wait for what a server says when it cuts a message off.
_LAST_WORDS = 1.0


class Body:
    """A message on its way out, and whom to tell how it goes."""

    __slots__ = ("chunks", "hand_over", "progress", "size", "take_final")

    def __init__(
        self,
        chunks: Iterable[bytes],
        size: int,
        *,
        take_final: Callable[[Reply], None],
        hand_over: Callable[[], None],
        progress: Callable[[int], None],
    ) -> None:
        self.chunks = chunks
        self.size = size
        self.take_final = take_final
        """Called with the final reply, or with a refusal that comes before the end is out."""
        self.hand_over = hand_over
        """Called before the write that contains the end of the message."""
        self.progress = progress
        """Called with the number of octets of each chunk that was written."""


class Channel:
    """One session on one stream. Its methods are called by the holder of the `turn`."""

    def __init__(self, link: Link, timeouts: Timeouts) -> None:
        self.link = link
        self.timeouts = timeouts
        self.session = Session()
        self._lock = anyio.Lock(fast_acquire=True)
        self.is_stale = False
        """Whether the server has said that it takes no more mail on this connection."""

    @property
    def is_open(self) -> bool:
        """Whether something can be sent, as far as is known."""
        return self.session.broken is None and self.session.goodbye is None

    @property
    def is_idle(self) -> bool:
        """Whether the next one can begin, as far as is known: nobody speaks, nothing is open."""
        return self.is_open and self.session.is_quiet and not self._lock.locked()

    @property
    def is_reusable(self) -> bool:
        """Whether a look at an idle connection finds it as it was left."""
        return self.is_idle and _connect.looks_alive(self.link.stream)

    def turn(self) -> Turn:
        """``async with channel.turn()``: wait until nobody else speaks."""
        return Turn(self, self._lock)

    async def exchange(
        self,
        commands: Sequence[Command],
        clock: Clock,
        sink: Callable[[Reply], None] | None = None,
    ) -> list[Awaited]:
        """Write one flight and read its replies.

        RuntimeError if a command cannot be sent now; then nothing was written.
        """
        self.check_open()
        await checkpoint_if_cancelled()
        awaited = [self.session.send(command, sink) for command in commands]
        self._trace(">", (command.shown for command in commands))
        self._time(clock)
        await self._write(b"".join([command.line for command in commands]))
        await self._read_until(awaited[-1], clock)
        return awaited

    async def read_greeting(self, clock: Clock) -> Reply:
        """Read the reply that a session starts with."""
        self.check_open()
        awaited = self.session.head
        assert awaited is not None
        await self._read_until(awaited, clock)
        assert awaited.reply is not None
        return awaited.reply

    async def send_message(self, body: Body, clock: Clock) -> None:
        """Write a message after the server's 354, and read the reply to it.

        Returns when the final reply, or a refusal that came early, was taken; after the latter
        the channel is closed.
        """
        self.check_open()
        await checkpoint_if_cancelled()
        end = self.session.begin_body(body.take_final)
        self._trace(">", (f"(a message of {body.size} octets)",))
        if body.size > ONE_WRITE:
            await self._send_long(body, end, clock)
            return
        wire = b"".join([*map(DotStuffer().stuff, body.chunks), END])
        self._time(clock)
        end.written = True
        body.hand_over()
        await self._write(wire)
        body.progress(body.size)
        try:
            await self._read_until(end, clock)
        except SMTPProtocolError:
            # The message is settled, whatever the server said behind its final reply.
            if end.reply is None:
                raise

    async def encrypt(self, context: ssl.SSLContext) -> None:
        """Put TLS on the stream, after the server's 220 to STARTTLS (RFC 3207 section 4)."""
        if self.session.goodbye is not None or not self.session.is_quiet:
            await self.break_off("the server spoke before the TLS handshake")
            raise self.spoke_too_soon()
        try:
            await _connect.encrypt(self.link, context, hint=" although it offered STARTTLS")
        except BaseException:
            self._break("the TLS handshake failed")
            raise
        self.session.encrypted()

    def spoke_too_soon(self) -> SMTPTLSError:
        """What came in clear behind the 220: whoever put it there wants it taken for the server's
        word under TLS.
        """
        return SMTPTLSError(
            "more than one reply came before the TLS handshake",
            server=self.link.server,
            command="STARTTLS",
            connection_closed=True,
        )

    async def break_off(self, reason: str) -> None:
        """Send nothing any more, and close the stream at once."""
        self._break(reason)
        await _connect.close(self.link)

    async def _send_long(self, body: Body, end: Awaited, clock: Clock) -> None:
        """Write a message piece by piece, and listen at the same time.

        A server may refuse a message before it has all of it, and stop reading: what it says is
        the reason that the caller should see, not that the connection was lost.
        """
        failures: list[SMTPException] = []
        is_written = False

        async def listen() -> None:
            try:
                await self._read_until(end)
            except SMTPException as error:
                failures.append(error)
            if not (end.written and end.succeeded):
                # It may read no further, also where only the last piece is still on its way.
                group.cancel_scope.cancel()

        try:
            async with UngroupedTasks() as group:
                group.start_soon(listen)
                try:
                    await self._write_pieces(body, end, clock)
                    is_written = True
                except SMTPException as error:
                    failures.append(error)
                    group.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS
        except BaseException:
            await self.break_off("the writing of a message was interrupted")
            raise
        if failures or not is_written:
            await self.break_off("a message was not written to its end")
        if end.reply is None:
            raise failures[0]

    async def _write_pieces(self, body: Body, end: Awaited, clock: Clock) -> None:
        """Write a message; its last piece and its end leave together."""
        stuff = DotStuffer().stuff
        behind: bytes | None = None
        for chunk in body.chunks:
            if behind is not None:
                clock.start(self.timeouts.data, "the message")
                await self._send(stuff(behind))
                body.progress(len(behind))
            behind = chunk
        assert behind is not None
        await checkpoint_if_cancelled()
        self._time(clock)
        end.written = True
        body.hand_over()
        await self._send(stuff(behind) + END)
        body.progress(len(behind))

    async def _send(self, data: bytes) -> None:
        try:
            await self.link.stream.send(data)
        except STREAM_ERRORS as error:
            raise self._lost(error) from error

    async def _write(self, data: bytes) -> None:
        """Write; a write that does not return is torn."""
        try:
            await self._send(data)
        except BaseException:
            await self.break_off("a write was interrupted")
            raise

    async def _read_until(self, awaited: Awaited, clock: Clock | None = None) -> None:
        """Read replies until this one is there; each is timed while it is next in line."""
        timed: Awaited | None = None
        try:
            while awaited.reply is None:
                if clock is not None and timed is not self.session.head:
                    timed = self.session.head
                    self._time(clock)
                self._take(await self.link.stream.receive())
        except STREAM_ERRORS as error:
            failure = self._lost(error)
            await self.break_off(str(failure))
            raise failure from error
        except BaseException:
            await self.break_off("a reply was not waited for")
            raise

    def _take(self, data: bytes) -> None:
        self.session.receive(data)
        try:
            while (pair := self.session.next_reply()) is not None:
                self._trace("<", pair.shown())
        except SMTPProtocolError as error:
            error.server = self.link.server
            error.connection_closed = True
            raise

    def check_open(self) -> None:
        """SMTPServerDisconnected if nothing can be sent any more."""
        if not self.is_open:
            raise SMTPServerDisconnected(
                self.session.broken or "the server closed the connection",
                reply=self.session.goodbye,
                server=self.link.server,
                connection_closed=True,
            )

    def _break(self, reason: str) -> None:
        self.session.broken = self.session.broken or reason

    def _lost(self, error: Exception) -> SMTPException:
        """A stream's error as ours, with what the server said last.

        A channel that is broken already says why: its stream was closed on our side.
        """
        failure = _connect.stream_error(
            error,
            self.link.server,
            greeted=self.session.phase != "connected",
            goodbye=self.session.goodbye,
            broken=self.session.broken,
        )
        if self.session.head is not None:
            failure.command = self.session.head.command.shown
        return failure

    def _time(self, clock: Clock) -> None:
        """Start the clock for the reply that is next in line."""
        head = self.session.head
        assert head is not None
        clock.start(seconds_for(self.timeouts, head.command.verb), head.command.shown)

    def _trace(self, direction: str, lines: Iterable[str]) -> None:
        if _wire.isEnabledFor(logging.DEBUG):
            for line in lines:
                _wire.debug("%s %s %s", self.link.server, direction, line)


class Turn:
    """The right to speak on a channel, for as long as the block takes."""

    __slots__ = ("_channel", "_lock")

    def __init__(self, channel: Channel, lock: anyio.Lock) -> None:
        self._channel = channel
        self._lock = lock

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._channel.is_open and not self._channel.session.is_quiet:
                await self._channel.break_off("a conversation was not finished")
        finally:
            self._lock.release()
