"""A session on a stream: the seam at which plans meet cancellation.

Theory of operation. Several tasks may use one channel. Whoever wants to write holds the *turn*
(`_turns`); what he sends joins one queue of awaited replies, and from then on he waits for his own.
One of those who wait reads for all of them, and hands over when he has what he waits for. What a
reply means is worked out in the step that reads it (`Session.next_reply`), so no fact is lost
between an await and its caller, whoever read it. Each is timed while his reply is next in line.

What may stop at an await, and the rule for any end but the expected one:

- A write that did not return is *torn*, for nobody knows how much of it left: the session is
  broken, and the stream closed. Where others have replies in front of it, a write fits the buffers
  of the socket, and is shielded from cancellation instead.
- A wait that was cancelled leaves *orphans*, which those behind it read and throw away. If nobody
  is behind it, or if an orphan asks for more (a 354 that wants its message), the channel takes no
  new commands, and is closed once those in front have their replies.
- A wait that was too long, octets that are no reply and replies to nothing break the session too.

To break a session is synchronous, and comes first; then the stream is closed. A broken channel
costs one connection; a channel that is out of step would cost somebody's mail.

Before each write stands a checkpoint that does nothing unless the caller is cancelled already: then
nothing was written and nothing is torn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from . import _connect
from ._clock import Clock, Timeouts
from ._connect import STREAM_ERRORS, Link
from ._monitor import Monitor, Since
from ._protocol._commands import Command
from ._protocol._lmtp import LMTPSession
from ._protocol._session import Awaited, Session, Sink
from ._reply import Reply
from ._timing import ReplyTimer
from ._tls import Encryption, encrypt
from ._trace import Trace
from ._turns import Speaking, Turn, Turns
from ._writing import Writer, Written
from .errors import SMTPException, SMTPProtocolError, SMTPServerDisconnected, SMTPTLSError

_LOST = "the connection was lost"
_TORN = "a write was interrupted"
_UNFINISHED = "a conversation was not finished"


class WornOut(SMTPServerDisconnected):
    """Nothing was sent: the connection is not good enough for another message."""


class _Waiting:
    """A task that waits for a reply which another one may read."""

    __slots__ = ("news", "turn", "until")

    def __init__(self, until: Awaited, turn: Turn) -> None:
        self.until = until
        self.turn = turn
        self.news: anyio.Event | None = None

    async def wait(self) -> None:
        self.news = anyio.Event()
        await self.news.wait()
        self.news = None

    def wake(self) -> None:
        if self.news is not None:
            self.news.set()


class Channel:
    """One session on one stream. Whoever writes holds a turn."""

    def __init__(
        self, link: Link, timeouts: Timeouts, monitor: Monitor, *, is_lmtp: bool = False
    ) -> None:
        self.link = link
        self.timeouts = timeouts
        self.monitor = monitor
        self.is_in_service = False
        """Whether it was ever ready for mail: its end is told then."""
        self._since = Since()
        self.session: Session = LMTPSession() if is_lmtp else Session()
        self.turns = Turns()
        self.is_stale = False
        """Whether the server has said that it takes no more mail on this connection."""
        self.has_rested = False
        """Whether it was ever kept waiting for a message: the server may have closed it then."""
        self.is_pooled = False
        """Whether it serves whoever has a message: when it is worn out, another one does."""
        self.messages = 0
        """How many transactions were begun."""
        self.max_messages: int | None = None
        """How many there may be."""
        self._closing: str | None = None
        self._waiting: list[_Waiting] = []
        self._is_read = False
        self._trace = Trace(link.server)
        self.writer = Writer(link, self._lost)
        """For those who hold the turn, and write more than `write` takes."""
        self.timer = ReplyTimer(self.session, timeouts)
        self._breach: tuple[object, SMTPProtocolError] | None = None

    @property
    def is_open(self) -> bool:
        """Whether something can be sent, as far as is known."""
        session = self.session
        return session.broken is None and session.goodbye is None and self._closing is None

    @property
    def is_idle(self) -> bool:
        """Whether the next one can begin, as far as is known: nobody speaks, nothing is open."""
        return self.turns.holder is None and self.session.is_quiet and self.is_open

    @property
    def is_undisturbed(self) -> bool:
        """Whether nobody but the holder of the turn reads, writes or waits, and nobody looks on."""
        is_free = not self._waiting and not self._is_read and self.writer.is_free
        return is_free and self._closing is None and not self._trace.look()

    @property
    def is_worn(self) -> bool:
        """Whether no other message is to be sent here, although the session is in order."""
        return self.is_stale or self.messages >= (self.max_messages or math.inf)

    def looks_alive(self) -> bool:
        """Whether a look at a connection that awaits nothing finds it as it was left."""
        return self.is_open and _connect.looks_alive(self.link)

    def turn(self, turn: Turn | None = None) -> Speaking:
        """``async with channel.turn()``: wait until nobody else writes."""
        return Speaking(self, turn or Turn())

    async def exchange(
        self,
        commands: Sequence[Command],
        clock: Clock,
        sink: Sink | None = None,
    ) -> list[Awaited]:
        """Write one flight and read its replies.

        RuntimeError if a command cannot be sent now; then nothing was written.
        """
        turn = self.speaker(clock)
        await self.catch_up(turn)
        is_behind = self.is_owed_to_others(turn)
        awaited = [self.session.send(command, sink, turn) for command in commands]
        self._trace.look()
        self._trace.sent(commands)
        self._time()
        await self.write(b"".join([command.line for command in commands]), is_behind=is_behind)
        await self.wait(awaited[-1], turn)
        if self.session.broken is not None:
            # The server has said more than it was asked.
            raise self._reason(turn)
        return awaited

    async def catch_up(self, turn: Turn) -> None:
        """Wait until the holder of the turn may write a command.

        Where others have gone away without their replies, and no command may be sent before these
        have come, he reads them.
        """
        self.check_open()
        last = self.session.last
        if last is not None and not self.session.may_be_followed_now:
            await self.read_up_to(last, turn)
            self.check_open()
        await checkpoint_if_cancelled()

    async def read_up_to(self, awaited: Awaited, turn: Turn) -> None:
        """Wait for another one's reply, or for one that nobody else waits for."""
        awaited.owner = awaited.owner or turn
        await self.wait(awaited, turn)

    async def read_greeting(self, clock: Clock) -> Reply:
        """Read the reply that a session starts with."""
        self.check_open()
        awaited = self.session.head
        assert awaited is not None
        awaited.owner = turn = self.speaker(clock)
        await self.wait(awaited, turn)
        assert awaited.reply is not None
        return awaited.reply

    def post(
        self,
        flight: Sequence[tuple[Command, Sink | None]],
        turn: Turn,
        octets: int = 0,
        take_yes: Sink | None = None,
    ) -> Awaited:
        """Queue commands, which the caller writes before he awaits anything; the last one.

        ``octets`` of a message go out with it; for ``take_yes`` see `Session.send_flight`.
        """
        awaited = self.session.send_flight(flight, turn, octets, take_yes)
        if self._trace.look():
            self._trace.sent(command for command, _ in flight)
            if octets:
                self._trace.message(octets)
        self._time()
        return awaited

    def may_fold(self) -> bool:
        """Whether flights can be queued folded, with `Session.send_folded`: also for the trace."""
        return not self._trace.look() and self.is_open and self.session.may_fold

    async def write(self, data: bytes, *, is_behind: bool = False) -> None:
        """Write; a write that does not return is torn.

        ``is_behind``: others have replies in front of it, and it is small.
        """
        written = Written() if is_behind else None
        try:
            await self.writer.write(data, written)
        except BaseException:
            if written is None or not written.is_done:
                await self.break_off(_TORN)
            raise

    async def wait(
        self, until: Awaited, turn: Turn, heard: bytes | BaseException | None = None
    ) -> None:
        """Read, or let another task read, until this reply is there; ``turn`` is who waits.

        ``heard``: what the first read came to, if it was done already.
        """
        waiting = _Waiting(until, turn)
        self._waiting.append(waiting)
        self.timer.update(self._waiting[0].turn)
        try:
            if heard is not None:
                await self._hear(heard)
            while until.reply is None:
                if self.session.broken is not None:
                    raise self._reason(turn)
                if self._is_read:
                    await waiting.wait()
                else:
                    await self._read()
        except BaseException:
            await self._give_up(turn, waiting)
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            if self._waiting and not self._is_read:
                self._waiting[0].wake()
        if self._closing is not None:
            await self._close_if_forsaken()

    def begin_body(self, octets: int | None, sink: Sink, chunk: Command | None = None) -> Awaited:
        """The message goes out from here on, behind a BDAT or not; what its end awaits."""
        self._trace.sent(() if chunk is None else (chunk,))
        self._trace.message(octets)
        return self.session.begin_body(sink, chunk=chunk)

    def end_body(self, end: Awaited, turn: Turn) -> None:
        """The end of the message is about to leave, and its reply is awaited from now on."""
        end.written = True
        end.owner = turn
        self._time()

    async def encrypt(self, encryption: Encryption) -> None:
        """Put TLS on the stream, after the server's 220 to STARTTLS (RFC 3207 section 4)."""
        if self.session.goodbye is not None or not self.session.is_quiet:
            await self.break_off("the server spoke before the TLS handshake")
            raise self.spoke_too_soon()
        try:
            await encrypt(self.link, encryption, self.monitor, hint=" although it offered STARTTLS")
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
        """Something went wrong: send nothing any more, and close the stream at once."""
        self._break(reason)
        await _connect.close(self.link)

    def drop(self, reason: str) -> None:
        """It is not needed any more: send nothing, and close it next."""
        self._break(reason, is_lost=False)

    async def close(self, reason: str) -> None:
        """It is not needed any more: close the stream at once."""
        self.drop(reason)
        await _connect.close(self.link)

    def check_open(self) -> None:
        """SMTPServerDisconnected if nothing can be sent any more."""
        if not self.is_open:
            raise self._disconnected(
                self.session.broken or self._closing or "the server closed the connection"
            )

    def worn_out(self) -> WornOut:
        """For a message that has to go over another connection."""
        return WornOut(
            "the connection takes no other message",
            server=self.link.server,
            connection_closed=True,
        )

    def retire(self, reason: str) -> None:
        """Send nothing any more; it is closed once those who wait have their replies."""
        self._closing = self._closing or reason

    def is_owed_to_others(self, turn: Turn) -> bool:
        """Whether somebody else waits for a reply."""
        for awaited in self.session.awaited:
            owner = awaited.owner
            if owner is not turn and isinstance(owner, Turn) and owner.clock is not turn.clock:
                return True
        return False

    def let_others_write(self, turn: Turn) -> None:
        """The holder has written all that he will, and goes on waiting."""
        if self.turns.holder is turn:
            self.turns.holder = None
        self.turns.pass_on()

    def forsake(self, turn: Turn) -> None:
        """He waits no more: what he awaits is read for those behind him, by their clocks."""
        self.session.forsake(turn)
        if self.session.broken is None:
            self._time()

    async def leave(self, turn: Turn) -> None:
        """The holder writes no more; whoever is next may."""
        turns, session = self.turns, self.session
        if turns.holder is turn:
            turns.holder = None
        is_quiet = session.is_quiet
        if not is_quiet and turns.holder is None and not session.can_be_followed and self.is_open:
            self._closing = _UNFINISHED
        try:
            if self._closing is not None or not is_quiet:
                await self._close_if_forsaken()
        finally:
            turns.pass_on()

    def speaker(self, clock: Clock) -> Turn:
        """Who holds the turn, by this clock from here on."""
        turn = self.turns.holder
        assert turn is not None
        turn.clock = clock
        return turn

    async def _read(self) -> None:
        """Read once, for everybody who waits."""
        self._is_read = True
        if self.session.awaits > 1:
            # They may come one by one.
            self.link.acknowledge_at_once()
        try:
            data = await self.link.stream.receive()
        except STREAM_ERRORS as error:
            await self._end_by(error, _LOST)
        finally:
            self._is_read = False
        if not self.take(data):
            await _connect.close(self.link)

    async def _hear(self, heard: bytes | BaseException) -> None:
        """What a read has come to that was done elsewhere."""
        if isinstance(heard, STREAM_ERRORS):
            await self._end_by(heard, _LOST)
        elif isinstance(heard, BaseException):
            raise heard
        elif not self.take(heard):
            await _connect.close(self.link)

    async def tear(self, error: BaseException) -> NoReturn:
        """Raise what a write has ended with that did not return."""
        if isinstance(error, STREAM_ERRORS):
            await self._end_by(error, _TORN)
        await self.break_off(_TORN)
        raise error

    async def _end_by(self, error: Exception, reason: str) -> NoReturn:
        """The stream has failed."""
        failure = self._lost(error)
        await self.break_off(reason)
        raise failure from error

    def take(self, data: bytes) -> bool:
        """Pair what was read with those who await it; whether the session is in order."""
        session = self.session
        session.receive(data)
        try:
            while self._trace.is_on or session.settle():
                if (pair := session.next_reply()) is None:
                    break
                self._trace.answered(pair)
        except SMTPProtocolError as error:
            error.server = self.link.server
            error.connection_closed = True
            self._breach = (session.blamed and session.blamed.owner, error)
            self._break("the server did not keep to the protocol")
            return False
        if session.out_of_step:
            self._break("the server refused a chunk that it may have read as commands")
            return False
        for waiting in self._waiting:
            if waiting.news is not None and waiting.until.reply is not None:
                waiting.news.set()
        if session.awaited:
            self._time()
        else:
            self.timer.rest()
        return True

    async def _give_up(self, turn: Turn, waiting: _Waiting) -> None:
        """One who waits does so no more: nobody reads his replies for him."""
        session = self.session
        if session.broken is not None:
            return
        session.forsake(turn)
        self._waiting.remove(waiting)
        if turn.clock is not None and turn.clock.has_expired:
            await self.break_off("a reply did not come in time")
            return
        last = session.last
        if not session.can_be_followed and (last is None or last.owner is None):
            self._closing = self._closing or "a reply was not waited for"
        self._time()
        await self._close_if_forsaken()

    async def _close_if_forsaken(self) -> None:
        """Close, if the server owes replies that nobody will read, or more cannot be sent."""
        session, turns = self.session, self.turns
        if session.broken is not None or turns.holder is not None or any(session.owners):
            return
        is_in_order = session.is_quiet or (turns.are_waited_for and session.can_be_followed)
        if self._closing is not None or not is_in_order:
            owed = "a reply was not waited for" if session.awaits else _UNFINISHED
            await self.break_off(self._closing or owed)

    def _break(self, reason: str, *, is_lost: bool = True) -> None:
        if self.session.broken is not None:
            return
        self.session.broken = reason
        if self.is_in_service:
            self.monitor.gone(reason, self._since, self.messages, is_lost=is_lost)
        for waiting in self._waiting:
            waiting.wake()
        self.turns.end_rest()

    def _reason(self, owner: object) -> SMTPException:
        """Why a reply will not come: the breach, for the one to whom it happened."""
        if self._breach is not None and self._breach[0] in (None, owner):
            (_, error), self._breach = self._breach, None
            return error
        return self._disconnected(self.session.broken or "")

    def _disconnected(self, reason: str) -> SMTPServerDisconnected:
        return SMTPServerDisconnected(
            reason, reply=self.session.goodbye, server=self.link.server, connection_closed=True
        )

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
        if self.session.head is not None and self.session.broken is None:
            failure.command = self.session.head.next_command.shown
        return failure

    def _time(self) -> None:
        self.timer.update(self._waiting[0].turn if self._waiting else None)
