"""The connections of a client: who gets which, how they are opened, kept, replaced and closed.

A lease is a claim of the `Pool` with a connection that is alive, as far as a look can tell, or with
a passenger who is on it already. It is given back in the same step as its user ends, in whatever
way; there is no background task, and what nobody does is not done.

A message is sent again, on another connection, if and only if a connection that had served before
is to blame, and nothing was handed over: `Leases.again_after` decides that. Then a server's idle
timeout looks to the caller as if it had never been.

A login is tried once before there are several: those who waited for it fail as it does, for another
try with the same password would count against the account.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial

import anyio

from ._channel import Channel, WornOut
from ._clock import Clock
from ._delivery import Ledger
from ._establish import encryption_of, establish
from ._farewell import close_all, quit_all
from ._lifecycle import Call, Lifecycle
from ._monitor import Monitor
from ._parcel import Parcel
from ._pool import Claim, Pool
from ._protocol._extensions import Extensions
from ._protocol._transaction import MAX_FLIGHT
from ._rate import Pace
from ._sending import WINDOW, Sending
from ._settings import Settings
from ._tasks import task_id
from ._turns import Turn
from .errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPHeloError,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

# What servers say to MAIL on a connection too many: Exchange 432 4.3.2 "Concurrent connections
# limit exceeded", Gmail 421 4.7.0 "Too many concurrent SMTP connections". A connection alone can be
# any: the one to a policy server that failed, or this one, which has had too many messages.
_TOO_MANY_CONNECTIONS = re.compile(
    r"(too many|concurrent|simultaneous|parallel|maximum|max|limit|exceed\w*)\b.*\bconnections\b"
    r"|\bconnections\b.*\b(limit|maximum|exceed)|\bconnection (count )?limit\b",
    re.IGNORECASE,
)

# How many connections a message tries where the server says so: between two messages another
# client, or another connection of this one, may have taken the place.
_PATIENCE = 3
# How one connection too many ends, before it has come to TLS or to a login.
_TURNED_AWAY = (SMTPConnectError, SMTPHeloError, SMTPServerDisconnected, SMTPTimeoutError)


@dataclass(frozen=True, slots=True)
class Again:
    """A message was not sent, and a connection that had served before is to blame."""

    reason: str
    is_last: bool = False
    """Whether it gets a fresh connection, and no other one after that."""
    turned_away: int = 0
    """How often the server said to it that there are too many connections."""
    believed: int = 0
    """How often that lowered their number."""
    has_begun: bool = False
    """Whether it had its turn by the rate, on a connection that was gone by then."""


_FIRST = Again("")


class Leases:
    """The connections of one client, and who has them."""

    def __init__(self, settings: Settings, life: Lifecycle) -> None:
        limits = settings.limits
        self.settings = settings
        self.pool = Pool[Channel](
            limits.max_connections,
            keepalive=limits.keepalive_expiry,
            opens_one_first=bool(settings.mechanisms),
            has_room=_has_room,
        )
        self._life = life
        self.monitor = Monitor(life.server, settings.observer)
        self._encryption = encryption_of(settings)
        self.pace = None if limits.rate is None else Pace(limits.rate)
        """Who may begin a message when."""
        self._login_failures = 0
        self._login_failure: SMTPException | None = None
        self._feeds: dict[Channel, Callable[[], Turn | None]] = {}

    async def lease(
        self,
        call: Call,
        turn: Turn,
        ledger: Ledger | None = None,
        *,
        again: Again | None = None,
        asker: object = None,
        is_held: bool = False,
    ) -> Claim[Channel]:
        """A granted claim with a connection that is alive, as far as a look can tell.

        Or one on which the passenger is under way already. ``asker`` is the task that waits for it,
        if not this one; ``is_held`` if this task may do other things with the client meanwhile.
        """
        pool = self.pool
        now = call.began if again is None else anyio.current_time()
        if expired := pool.expired(now):
            await close_all(expired, "the connection was idle for too long")
        failures = self._login_failures
        claim = pool.claim(
            turn.wake,
            task_id if asker is None else lambda: asker,
            holder=task_id() if is_held else None,
            is_first=again is not None,
            is_fresh=again is not None and again.is_last,
            may_share=turn.passenger is not None,
        )
        claim.ticket = turn
        is_ready = claim.slot is not None and self._is_ready(claim)
        try:
            while not is_ready:
                call.stop()
                if claim.slot is not None:
                    await self._discard(claim)
                    if await self._open(call, claim, ledger, failures):
                        break
                if claim.slot is None:
                    await turn.wait()
                is_ready = turn.has_boarded or self._is_ready(claim)
            return claim
        except BaseException:
            await self._let_go(claim, turn)
            raise
        finally:
            # It holds the claim, which holds the turn.
            turn.on_boarding = None

    def lease_now(self, call: Call, turn: Turn) -> Claim[Channel] | None:
        """What `lease` would give, if there is nothing to wait for."""
        pool = self.pool
        channel = pool.next_idle(call.began)
        if channel is None or not channel.looks_alive():
            return None
        claim = pool.claim(turn.wake, task_id, may_share=turn.passenger is not None)
        claim.ticket = turn
        return claim

    def again_after(
        self,
        error: SMTPException,
        sending: Sending,
        claim: Claim[Channel],
        turn: Turn,
        before: Again | None,
    ) -> Again | None:
        """Whether a message that has failed so is sent again, without the caller seeing it.

        ``before``: why it is on this connection, if it was sent again already.
        """
        channel = claim.connection
        assert channel is not None
        before = before or _FIRST
        is_silent = isinstance(error, SMTPServerDisconnected) and error.reply is None
        # Where it waited for the rate on a fresh connection, that was not fresh any more.
        is_believed = before.is_last and not (is_silent and channel.has_rested)
        if is_believed or not sending.can_be_repeated:
            return None
        if isinstance(error, WornOut):
            return replace(before, reason="the connection takes no other message")
        if before.turned_away < _PATIENCE and self._is_too_many(error):
            return self._turned_away(channel, before)
        is_gone = isinstance(error, SMTPServerDisconnected)
        is_old = claim.was_used or turn.has_boarded or channel.has_rested
        if is_old and (is_gone or sending.is_stale):
            reason = "the connection was worn out, taking a new one"
            return Again(reason, is_last=True, has_begun=is_silent and sending.has_begun)
        return None

    def _is_too_many(self, error: SMTPException) -> bool:
        """Whether the server wants fewer connections than there are, or were a moment ago."""
        return (self.pool.size > 1 or self.pool.is_lowered) and _is_too_many_connections(error)

    def _turned_away(self, channel: Channel, before: Again) -> Again:
        """The server means the connection that a message was on: the others have to do.

        Or it means the message. That is believed once; and again if others are told the same, for
        where many ask for the last place it may be the same one who does not get it each time.
        """
        channel.is_stale = True
        believed = before.believed
        if not believed or self.pool.refusals > believed:
            believed += 1
            # Those that are refused together count together, also one that is still in use.
            stale = sum(connection.is_stale for connection in self.pool.connections())
            self.pool.lower(self.pool.size - stale, anyio.current_time())
        reason = "the server wants fewer connections"
        return Again(reason, turned_away=before.turned_away + 1, believed=believed)

    def sending(self, parcel: Parcel, again: Again | None) -> Sending:
        """Make what brings a message through a channel; ``again``: why it is sent once more."""
        settings, ledger = self.settings, parcel.book.ledger
        pace = None if again is not None and again.has_begun else self.pace
        ledger.phase = "waiting"
        parcel.sending = Sending(parcel.job, ledger, settings.pipelining, settings.chunking, pace)
        return parcel.sending

    def offered_in_use(self) -> Extensions | None:
        """What the server offers on a connection that somebody uses, if there is one."""
        channels = (channel for channel in self.pool.connections_in_use() if channel.is_open)
        return next((channel.session.extensions for channel in channels), None)

    def took_message(self) -> None:
        """The server took a message."""
        if self.pool.is_lowered:
            self.pool.took_message(anyio.current_time())

    def feed(self, channel: Channel, source: Callable[[], Turn | None]) -> None:
        """Where passengers of a connection come from when nobody waits for one."""
        self._feeds.setdefault(channel, source)

    def feed_no_more(self, channel: Channel, source: Callable[[], Turn | None]) -> None:
        if self._feeds.get(channel) is source:
            del self._feeds[channel]

    def _is_ready(self, claim: Claim[Channel]) -> bool:
        """Whether the claim brought a connection that can be used."""
        slot = claim.slot
        if slot is None or (channel := slot.connection) is None:
            return False
        return slot.users > 1 or (not claim.is_fresh and channel.looks_alive())

    async def _discard(self, claim: Claim[Channel]) -> None:
        """Close the connection that the claim brought, if it brought one, for it is of no use."""
        if (channel := claim.connection) is not None:
            self.pool.opening(claim)
            await channel.close("the connection was replaced")

    async def _open(
        self, call: Call, claim: Claim[Channel], ledger: Ledger | None, login_failures: int
    ) -> bool:
        """Open a connection; False if the claim waits for another one instead."""
        # Whoever is asked for a token may send a message.
        claim.holder = claim.holder or task_id()
        self._join_failed_login(ledger, login_failures)
        if ledger is not None:
            ledger.phase = "connecting"
        try:
            channel = await self._establish(call)
        except SMTPException as error:
            self._remember(error, ledger)
            call.release()
            if not self._may_wait_after(error) or not self.pool.refused(
                claim, anyio.current_time()
            ):
                raise
            self.monitor.lets_in_fewer(self.pool.allowed)
            return False
        finally:
            if ledger is not None:
                ledger.phase = "waiting"
        channel.max_messages = _least(
            self.settings.limits.max_messages_per_connection,
            channel.session.extensions.limits.get("MAILMAX"),
        )
        channel.is_pooled = True
        channel.turns.others = partial(self._next_passenger, channel)
        self.pool.opened(claim, channel)
        return True

    async def _establish(self, call: Call) -> Channel:
        if not self.pool.open:
            return await establish(self.settings, call, self._encryption, self.monitor)
        # A clock of its own: where others are open, its end is not the end of the call.
        with Clock(self._life.server) as clock:
            return await establish(self.settings, clock, self._encryption, self.monitor)

    def _join_failed_login(self, ledger: Ledger | None, login_failures: int) -> None:
        """Raise the failure of a login that was tried while this one waited for it.

        So that one that fails for now is tried once per pause of a `Retry`, and not once for each
        message: a pause is such a wait too.
        """
        if ledger is not None and ledger.login_failures is not None:
            login_failures = ledger.login_failures
        if self._login_failures > login_failures:
            # It was waiting for this very login: another try would count against the account.
            assert self._login_failure is not None
            self._tell_of_login(ledger)
            raise copy(self._login_failure)

    def _remember(self, error: SMTPException, ledger: Ledger | None) -> None:
        """A login that failed is not tried by those who waited for it to work."""
        if isinstance(error, SMTPAuthenticationError):
            self.pool.opens_one_first = True
            self._login_failures += 1
            # As it is now: once its send has ended, it says what became of that message.
            self._login_failure = copy(error)
            self._tell_of_login(ledger)

    def _tell_of_login(self, ledger: Ledger | None) -> None:
        if ledger is not None:
            ledger.login_failures = self._login_failures

    def _may_wait_after(self, error: SMTPException) -> bool:
        """Whether a connection was refused because of those that there are.

        A reply for now may say so. A server that is known to work may just not answer, or hang up,
        or turn away one more by a greeting that says no for ever ("554 too many connections from
        you"). A wrong password, and a certificate that is, are what they are.
        """
        if error.reply is not None and error.reply.is_transient:
            return True
        return isinstance(error, _TURNED_AWAY) and self.pool.open > 0

    def _next_passenger(self, channel: Channel) -> Turn | None:
        """Who waits first for a connection, if he has a message that may ride along."""
        if not channel.is_pooled:
            return None
        claim = self.pool.next
        if claim is None:
            feed = self._feeds.get(channel)
            return None if feed is None else feed()
        if claim.is_fresh or not claim.may_share:
            return None
        turn = claim.ticket
        assert isinstance(turn, Turn)
        turn.on_boarding = partial(self.pool.board, claim, channel)
        return turn

    async def _let_go(self, claim: Claim[Channel], turn: Turn) -> None:
        """The task went away before it used what it asked for."""
        channel = claim.connection
        if channel is None:
            self.pool.withdraw(claim, anyio.current_time())
            self._life.notify()
            return
        try:
            if turn.has_boarded:
                channel.forsake(turn)
                await channel.leave(turn)
        finally:
            await self.give_back(claim)

    async def give_back(self, claim: Claim[Channel]) -> None:
        """Keep the connection if its session is in order, else close it after its last user."""
        slot = claim.slot
        assert slot is not None
        channel = slot.connection
        assert channel is not None
        keep = channel.is_idle and not channel.is_worn and self._life.state != "closed"
        is_last = slot.users == 1
        self.pool.release(claim, anyio.current_time(), keep=keep)
        self._life.notify()
        if is_last and not keep:
            if channel.is_worn:
                await channel.close("the connection was worn out")
            else:
                await channel.break_off("the connection was not left in order")

    async def say_goodbye(self) -> None:
        """QUIT on every connection; what does not answer in time is closed."""
        await quit_all(self.pool.drain(), "the client was closed")

    async def abort(self) -> None:
        """Close every connection."""
        await close_all([*self.pool.drain(), *self.pool.connections()], "the client was closed")


def _is_too_many_connections(error: SMTPException) -> bool:
    reply = error.reply
    is_about_mail = error.command is not None and error.command.startswith("MAIL")
    if reply is None or not reply.is_transient or not is_about_mail:
        return False
    return _TOO_MANY_CONNECTIONS.search(reply.text) is not None


def _has_room(channel: Channel) -> bool:
    """Whether another message can be on its way on a connection in use."""
    if not channel.is_pooled:
        return False
    is_free = channel.is_open and not channel.is_worn and channel.turns.holder is None
    session = channel.session
    return is_free and 0 < session.unanswered < WINDOW // 2 and session.awaits < MAX_FLIGHT // 2


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)
