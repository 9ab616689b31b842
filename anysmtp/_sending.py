"""One mail transaction on a channel: planned, written, and paid for by replies.

A `Sending` begins in one of two ways. It holds the turn and writes its first flight itself; or it
is a passenger, whose first flight leaves with the end of the message before it. What follows is the
same: wait for the flight's replies, write the next one, until the envelope is settled; then the
message, with whose end the next passenger may leave.

An eager one is all in its first flight. It gives the turn back as soon as that is written, so that
a window of them is on the way at once: as many as the buffers of a socket take, as a rule, so that
a write seldom waits. One that does, while others have replies in front of it, is shielded from
cancellation for a moment, which does not tear it (see `_writing`).
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from anyio.lowlevel import checkpoint_if_cancelled

from ._alone import Stopped, cover_for, may_go_alone, send_alone, telling
from ._channel import Channel
from ._chunks import send_in_chunks
from ._clock import Clock
from ._delivery import Ledger
from ._envelope import Content, Job, Stream
from ._protocol._commands import Command
from ._protocol._demands import needs_downgrade, takes_8bit
from ._protocol._lmtp import LMTPTransaction
from ._protocol._session import Awaited, Sink
from ._protocol._transaction import (
    EAGER_SIZE,
    MAX_FLIGHT,
    Chunking,
    Pipelining,
    Transaction,
)
from ._rate import Pace
from ._reply import Reply
from ._sources import chunks_of
from ._transfer import Body, send_body
from ._turns import Turn
from .errors import SMTPException, SMTPServerDisconnected

# Octets of messages on the way, unanswered, on one connection: what a socket's buffers take, as a
# rule.
WINDOW = 65536


class Sending:
    """A job on its way through one channel."""

    __slots__ = (
        "_channel",
        "_chunking",
        "_content",
        "_job",
        "_last",
        "_ledger",
        "_out",
        "_pace",
        "_pipelining",
        "_stopped",
        "_transaction",
        "has_begun",
    )

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        pipelining: Pipelining,
        chunking: Chunking = "auto",
        pace: Pace | None = None,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._pipelining: Pipelining = pipelining
        self._chunking: Chunking = chunking
        self._pace = pace
        self._content: Content | Stream = job.content
        self._channel: Channel | None = None
        self._transaction: Transaction | None = None
        self._last: Awaited | None = None
        # Those of one that was on the short way first: what stopped it, and what its end awaits.
        self._stopped: Stopped | None = None
        self._out: Awaited | None = None
        self.has_begun = pace is None
        """Whether it has had its turn by the rate, where there is one."""

    @property
    def needs_turn(self) -> bool:
        """Whether more is to be written once the first flight is answered."""
        assert self._transaction is not None
        return not self._transaction.is_eager

    @property
    def is_stale(self) -> bool:
        """Whether the server has refused the connection, not the message."""
        return self._transaction is not None and self._transaction.is_stale

    @property
    def can_be_repeated(self) -> bool:
        """Whether the message is still there, and the server certainly does not have it."""
        keys = [recipient.given for recipient in self._job.recipients]
        may_have_it = any(self._ledger.is_any(each, keys) for each in ("in_doubt", "accepted"))
        return not (self._job.is_spent or may_have_it)

    def board(self, channel: Channel, turn: Turn) -> bytes:
        """Begin with somebody else's write: the first flight's octets, or nothing if it cannot."""
        extensions = channel.session.extensions
        is_possible = (
            self._pipelining != "off"
            and extensions.pipelining
            and channel.is_open
            and not channel.is_worn
            and not needs_downgrade(self._job.content, extensions)
            and (self._pace is None or self._pace.may_begin_now)
            and self._has_room(channel)
        )
        if not is_possible:
            return b""
        try:
            transaction = self._plan(channel)
        except SMTPException:
            # What it lacks it will be told when it has a turn of its own.
            return b""
        if self._pace is not None:
            self._pace.begin_now()
            self.has_begun = True
        channel.messages += 1
        return self._post(transaction.flight(), turn)

    async def send(self, channel: Channel, turn: Turn) -> None:
        """Send, by the holder of the turn or as a passenger; or raise the server's refusal."""
        if self._transaction is not None or not await self._go_alone(channel, turn):
            await self.deliver(channel, turn)

    async def _go_alone(self, channel: Channel, turn: Turn) -> bool:
        """Send on the short way, as the holder of the turn, if it can; whether that was the end.

        If not, nothing has happened, or `deliver` goes on from where it came to. It raises nothing,
        but for a cancellation before it begins.
        """
        await checkpoint_if_cancelled()
        ledger = self._ledger
        is_usual = self._pipelining == "auto" and self._chunking != "always" and self._pace is None
        if not is_usual or not may_go_alone(channel):
            return False
        content, extensions = self._content, channel.session.extensions
        cover = cover_for(self._job, content, extensions)
        if cover is None or isinstance(content, Stream):
            return False
        ledger.phase, ledger.bytes_total = "envelope", content.size
        message = b"".join(content.chunks())
        end = await send_alone(channel, turn, cover, content, message, ledger)
        if isinstance(end, Stopped):
            self.catch_up(channel, turn, end)
            return False
        ledger.settle(cover.keys, end)
        ledger.server = channel.link.server
        return True

    async def deliver(self, channel: Channel, turn: Turn) -> None:
        """Send on the general way, from where it has come to."""
        failure: SMTPException | None = None
        try:
            if self._transaction is None:
                await self._begin(channel, turn)
            elif self._stopped is not None:
                await self._feel(channel, self._stopped)
            transaction = self._transaction
            assert transaction is not None
            await self._settle_envelope(transaction, turn)
            await self._end(transaction, turn)
        except SMTPException as error:
            failure = error
        self.conclude(channel, failure)

    def conclude(self, channel: Channel, failure: SMTPException | None) -> None:
        """The transaction has ended, by this error or without one: raise why nobody has it."""
        transaction = self._transaction
        try:
            # How the write ended that took others along is no matter once the reply is there.
            if failure is not None and not (transaction and transaction.is_settled):
                raise failure
            assert transaction is not None
            self._ledger.server = channel.link.server
            transaction.result()
        except SMTPException as error:
            failure = self._reason(error)
            failure.server = channel.link.server
            failure.connection_closed = not channel.is_open
            if failure is not error:
                raise failure from error
            raise

    def _reason(self, error: SMTPException) -> SMTPException:
        """The server's good-bye, where the connection then was lost."""
        transaction = self._transaction
        if transaction is not None and isinstance(error, SMTPServerDisconnected):
            return transaction.goodbye or error
        return error

    async def _begin(self, channel: Channel, turn: Turn) -> None:
        """Write the first flight, and behind one that is eager those of others."""
        session, clock = channel.session, turn.clock
        assert clock is not None
        if needs_downgrade(self._content, session.extensions) and self._job.downgrade is not None:
            clock.stop()
            self._content = await self._job.downgrade()
        while session.awaited and not self._has_room(channel):
            await channel.read_up_to(session.awaited[0], turn)
        await channel.catch_up(turn)
        if channel.is_pooled and channel.is_worn:
            raise channel.worn_out()
        if self._pace is not None:
            await self._wait_for_pace(self._pace, channel, clock)
        is_behind = channel.is_owed_to_others(turn)
        transaction = self._plan(channel)
        flight = self._post(transaction.flight(), turn)
        channel.messages += 1
        if transaction.is_eager and (others := channel.turns.take_along(channel)):
            flight += others
            is_behind = is_behind or channel.is_owed_to_others(turn)
        await channel.write(flight, is_behind=is_behind)

    def catch_up(self, channel: Channel, turn: Turn, stopped: Stopped) -> None:
        """Tell the session, and the ledger, what they have missed."""
        self._stopped = stopped
        with telling(channel, turn):
            transaction = self._plan(channel)
            self._post(transaction.flight(), turn)
            if stopped.answer is not None:
                channel.take(stopped.answer)
            if stopped.is_handed_over:
                self._out = channel.begin_body(self._content.size, transaction.take_final)
                channel.end_body(self._out, turn)
                self._is_out(transaction, 0 if stopped.is_torn else self._content.size)

    async def _feel(self, channel: Channel, stopped: Stopped) -> None:
        """Raise what has stopped it on the short way, if that was no read."""
        error = stopped.heard
        if not isinstance(error, BaseException):
            return
        if stopped.is_torn:
            await channel.tear(error)
        if stopped.answer is not None and not stopped.is_handed_over:
            raise error

    async def _wait_for_pace(self, pace: Pace, channel: Channel, clock: Clock) -> None:
        """Wait until another message may begin; a connection may have died meanwhile."""
        clock.stop()
        self._ledger.phase = "waiting"
        is_alone = channel.session.is_quiet
        if not pace.may_begin_now:
            channel.has_rested = True
            # Where the server may have gone away meanwhile, the message is not staked on a guess;
            # and the round trip is nothing against the wait.
            self._pipelining = "auto" if self._pipelining == "eager" else self._pipelining
        is_possible = await channel.turns.rest(
            lambda: pace.begin(lambda: not is_alone or channel.looks_alive())
        )
        self.has_begun = bool(is_possible)
        channel.check_open()
        if not is_possible:
            raise channel.worn_out()

    def take_up(self, channel: Channel, awaited: Awaited, *, sent: int | None = None) -> None:
        """Go on as if this flight, which was queued folded, had been this one's from the start.

        ``sent``: how much of the message behind it has left, if its end has.
        """
        transaction = self._plan(channel, is_folded=True)
        *front, last = transaction.flight()
        self._last = awaited
        awaited.unfold = None
        if transaction.is_eager:
            self._is_out(transaction, self._content.size)
        if awaited.reply is None:
            awaited.command, awaited.sink = last
            awaited.front, awaited.take_yes = deque(front), transaction.take_yes
        else:
            assert transaction.take_yes is not None
            transaction.take_yes(awaited.reply)
        if sent is not None:
            self._is_out(transaction, sent)

    def _is_out(self, transaction: Transaction, octets: int | None) -> None:
        transaction.hand_over()
        self._ledger.bytes_sent = octets or 0

    def take_final(self, reply: Reply) -> None:
        """The reply to a message that was sent for this one."""
        assert self._transaction is not None
        self._transaction.take_final(reply)

    def _plan(self, channel: Channel, *, is_folded: bool = False) -> Transaction:
        session = channel.session
        kind = LMTPTransaction if session.is_lmtp else Transaction
        self._transaction = transaction = kind(
            self._job,
            self._content,
            session.extensions,
            self._ledger,
            reset_first=is_folded or session.may_have_transaction,
            domains=session.domains if channel.is_pooled else None,
            pipelining=self._pipelining,
            chunking=self._chunking,
            is_tls_verified=bool(self._job.mail_parameters) and channel.link.is_verified,
            refused_in_a_row=0 if is_folded else session.refused_in_a_row,
        )
        self._channel = channel
        self._ledger.phase, self._ledger.bytes_total = "envelope", self._content.size
        return transaction

    def _post(self, flight: list[tuple[Command, Sink]], turn: Turn) -> bytes:
        """Queue what a flight awaits; its octets."""
        transaction, channel = self._transaction, self._channel
        assert transaction is not None
        assert channel is not None
        lines = [command.line for command, _ in flight]
        content = self._content
        if transaction.is_eager and not isinstance(content, Stream):
            octets = content.size
            self._last = channel.post(flight, turn, octets, transaction.take_yes)
            transaction.hand_over()
            self._ledger.bytes_sent = octets
            lines += content.chunks()
        else:
            self._last = channel.post(flight, turn, take_yes=transaction.take_yes)
        return b"".join(lines)

    async def _settle_envelope(self, transaction: Transaction, turn: Turn) -> None:
        """Wait for the first flight's replies, and write and wait for those that follow it."""
        channel = self._channel
        assert channel is not None
        if transaction.is_eager:
            await refill(channel, turn)
        heard = self._stopped.heard if self._stopped is not None and self._out is None else None
        while True:
            assert self._last is not None
            await channel.wait(self._last, turn, heard)
            heard = None
            if not (commands := transaction.flight()):
                return
            await checkpoint_if_cancelled()
            channel.check_open()
            await channel.write(self._post(commands, turn))

    async def _end(self, transaction: Transaction, turn: Turn) -> None:
        """What follows the envelope."""
        channel, clock = self._channel, turn.clock
        assert channel is not None
        assert clock is not None
        channel.is_stale |= transaction.is_stale or transaction.wears_out
        if self._out is not None:
            assert self._stopped is not None
            await channel.wait(self._out, turn, self._stopped.heard)
        elif transaction.end == "message":
            await self._send_message(transaction, clock)
        elif transaction.end == "lone dot":
            nothing = Body((), 0, take_final=_ignore, hand_over=_ignore, progress=_ignore)
            # Whatever becomes of it, the server's refusals before it are the result.
            with suppress(SMTPException):
                await send_body(channel, nothing, clock, take_along=True)
        elif transaction.end == "hang up":
            await channel.break_off("the server waits for a message that was given up")
        if transaction.goodbye is not None:
            # Those behind learn from the end of the stream whether that was meant.
            channel.retire("the server takes no more mail on this connection")
        session = channel.session
        session.refused_in_a_row = session.refused_in_a_row + 1 if transaction.took_nobody else 0

    async def _send_message(self, transaction: Transaction, clock: Clock) -> None:
        channel, ledger = self._channel, self._ledger
        assert channel is not None
        ledger.phase = "body"

        def progress(octets: int) -> None:
            ledger.bytes_sent += octets

        content = self._content
        may_be_8bit = takes_8bit(self._job.mail_options, channel.session.extensions)
        body = Body(
            chunks_of(content, takes_8bit=may_be_8bit, takes_utf8=transaction.is_utf8),
            content.size,
            take_final=transaction.take_final,
            hand_over=transaction.hand_over,
            progress=progress,
            chunk=transaction.chunk,
        )
        if transaction.is_chunked and transaction.chunk is None:
            await send_in_chunks(channel, body, clock)
        else:
            await send_body(channel, body, clock, take_along=True)
        channel.is_stale |= transaction.wears_out

    def _has_room(self, channel: Channel) -> bool:
        """Whether what is on the way cannot fill either side's buffers (RFC 2920 section 3.1)."""
        session = channel.session
        if not session.awaited:
            return True
        replies = min(len(self._job.recipients) + 3, MAX_FLIGHT)
        size = self._content.size
        octets = 0
        if self._pipelining == "eager" and size is not None and size <= EAGER_SIZE:
            octets = size
        is_room = session.unanswered + octets <= WINDOW or not session.unanswered
        return is_room and session.awaits + replies <= MAX_FLIGHT


async def refill(channel: Channel, turn: Turn) -> None:
    """Others may write now; and what they have ready leaves at once if there is room for it."""
    turns = channel.turns
    if turns.holder in (None, turn) and channel.session.unanswered < WINDOW // 2:
        turns.holder = turn
        if flights := turns.take_along(channel):
            await channel.write(flights, is_behind=channel.is_owed_to_others(turn))
    channel.let_others_write(turn)


def _ignore(*_: object) -> None:
    """A lone dot hands nothing over, and the reply to it means nothing."""
