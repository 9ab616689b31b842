"""`SMTP`: session and pool in one. Connections are opened when needed, kept, looked at, replaced.

Theory of operation. Every call stands in a `_Call`: a clock that is registered with the client,
so that closing it can end the call. A call claims a connection from the pool (synchronous
state), opens one where the pool has none that is alive, uses it, and gives it back; in whatever way
it ends, the claim is given back in the same step as the call does. There are no background
tasks: what a call does not do is not done.

A message is sent a second time if, and only if, the connection was one that had been used
before, it turned out to be dead or worn out, and nothing was handed over: then a server's idle
timeout looks to the caller as if it had never been.
"""

from __future__ import annotations

import logging
import re
import ssl
from contextlib import AbstractContextManager
from copy import copy
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
from anyio import lowlevel, to_thread

from . import _connect, _dialogue
from ._channel import Channel
from ._clock import Clock
from ._connection import SMTPConnection, connection_on, retire
from ._delivery import Ledger
from ._envelope import Job
from ._establish import establish
from ._mailer import BaseMailer
from ._pool import Claim, Pool
from ._protocol._extensions import Extensions
from ._protocol._transaction import MAX_FLIGHT
from ._rate import Rate
from ._sending import WINDOW, Sending
from ._settings import Options, from_url, settle
from ._tasks import UngroupedTasks
from ._turns import Turn
from .errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    with_outcome,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_log = logging.getLogger("anysmtp")

# Seconds for QUIT on all connections together, when a client is closed.
_QUIT_TIMEOUT = 2.0


class SMTP(BaseMailer):
    """A client for one server, safe to use from many tasks.

    ``port`` is 465 for implicit TLS, 587 for ``tls="starttls"`` and with credentials, else 25. The
    keyword options are those of `Options`; wrong ones are a ValueError or TypeError here.

    Use it as ``async with SMTP(...) as smtp``: entering opens nothing, a clean exit lets sends in
    flight finish and says QUIT, an exit by an exception or cancellation aborts at once. Or
    without entering it, ended by `aclose`. RuntimeError if it is used after its end, or from
    another event loop.
    """

    def __init__(
        self, hostname: str = "localhost", port: int | None = None, **options: Unpack[Options]
    ) -> None:
        self._settings = settle(hostname, port, options)
        self._server = str(self._settings.endpoint)
        self._tls_context = self._settings.tls_context
        limits = self._settings.limits
        self._pool = Pool[Channel](
            limits.max_connections,
            keepalive=limits.keepalive_expiry,
            opens_one_first=bool(self._settings.mechanisms),
            has_room=_has_room,
        )
        self._rate = None if limits.rate is None else Rate(*limits.rate)
        self._pacing = anyio.Lock()
        self._login_failures = 0
        self._login_failure: SMTPException | None = None
        self._calls: set[_Call] = set()
        self._sends = 0
        self._state = "new"
        self._ended: anyio.Event | None = None
        self._loop: lowlevel.EventLoopToken | None = None
        self._require_all = self._settings.require_all
        self._add_missing_headers = self._settings.add_missing_headers
        self._retry = self._settings.retry

    @classmethod
    def from_url(cls, url: str, **options: Unpack[Options]) -> Self:
        """A client from a URL: ``smtp://``, ``smtp+starttls://``, ``smtps://``, ``smtp+unix:///path``.

        User name and password are percent-decoded. The query may have ``local_hostname``,
        ``timeout``, ``require_all`` and ``pipelining``. ValueError, which never shows the URL, for
        anything else.
        """
        hostname, port, from_the_url = from_url(url)
        if both := set(from_the_url) & set(options):
            raise ValueError(f"the URL says it already: {', '.join(sorted(both))}")
        merged: Options = {**from_the_url, **options}
        return cls(hostname, port, **merged)

    async def connect(self) -> Extensions:
        """Open a connection and check it now; what the server offers on it.

        Does nothing where one is open already. SMTPConnectError, SMTPTLSError, SMTPHeloError,
        SMTPAuthenticationError, SMTPNotSupported for a missing STARTTLS, and what may go wrong
        in any conversation. In whatever way it fails, cancellation included, it leaves nothing
        open.
        """
        try:
            with _Call(self) as call:
                claim = await self._lease(call, Turn(call.clock))
                channel = claim.connection
                assert channel is not None
                await self._give_back(claim)
                return channel.session.extensions
        except SMTPException as error:
            with_outcome(error, "not_sent")
            raise

    def connection(self) -> Borrowed:
        """One connection for oneself: ``async with smtp.connection() as conn``.

        Entering waits for one, and raises as `connect` does. RuntimeError if this task has it
        already.
        """
        return Borrowed(self)

    async def aclose(self) -> None:
        """End the client: let sends in flight finish, say QUIT, close.

        Takes at most two seconds longer than the sends. Cancelled, it aborts them. Nothing
        happens if it has ended.
        """
        if self._state == "closed":
            await lowlevel.checkpoint()
            return
        self._check_loop()
        if self._pool.is_held_by(_task()):
            raise RuntimeError("closing the client inside its own connection()")
        self._state = "closing"
        try:
            while self._sends or self._calls or self._pool.granted:
                # Several tasks may close the client: they all wait for the same event.
                if self._ended is None or self._ended.is_set():
                    self._ended = anyio.Event()
                await self._ended.wait()
            await self._say_goodbye()
        finally:
            await self._abort()

    async def __aenter__(self) -> Self:
        self._check_open()
        if self._state != "new":
            raise RuntimeError("the client is entered already")
        self._state = "open"
        await lowlevel.checkpoint()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            await self.aclose()
        else:
            await self._abort()

    def __repr__(self) -> str:
        pool = self._pool
        return (
            f"<{type(self).__name__} {self._settings.endpoint} {pool.in_use}/{pool.allowed} "
            f"idle {pool.idle} waiting {pool.waiting}{' closed' * (self._state == 'closed')}>"
        )

    def _admitted(self) -> AbstractContextManager[object]:
        self._check_open()
        return _Admitted(self)

    async def _deliver(self, job: Job, ledger: Ledger) -> None:
        with _Call(self, admitted=True) as call:
            again: _Again | None = None
            while True:
                await self._pace(call.clock)
                try:
                    await self._attempt(call, job, ledger, again)
                except _Again as caught:
                    again = caught
                    _log.info("%s: %s", self._settings.endpoint, again)
                    ledger.again(recipient.given for recipient in job.recipients)
                else:
                    return

    async def _attempt(self, call: _Call, job: Job, ledger: Ledger, again: _Again | None) -> None:
        """Send once. _Again if the connection is to blame, and the message was not sent."""
        ledger.phase = "waiting"
        sending = Sending(job, ledger, self._settings.pipelining)
        turn = Turn(call.clock, sending)
        claim = await self._lease(call, turn, ledger, again=again)
        channel = claim.connection
        assert channel is not None
        try:
            async with channel.turn(turn):
                await sending.deliver(channel, turn)
            self._pool.took_message(anyio.current_time())
        except SMTPException as error:
            if ledger.keys("in_doubt") or (again is not None and again.is_last):
                raise
            if self._pool.open > 1 and _is_too_many_connections(error):
                self._pool.lower(self._pool.open - 1, anyio.current_time())
                channel.is_stale = True
                raise _Again("the server wants fewer connections") from error
            is_lost = isinstance(error, SMTPServerDisconnected) or channel.is_stale
            if is_lost and (turn.has_boarded or self._was_used(claim)):
                reason = "the connection was worn out, taking a new one"
                raise _Again(reason, is_last=True) from error
            raise
        finally:
            await self._give_back(claim)

    async def _lease(
        self,
        call: _Call,
        turn: Turn,
        ledger: Ledger | None = None,
        *,
        again: _Again | None = None,
    ) -> Claim[Channel]:
        """A granted claim with a connection that is alive, as far as a look can tell.

        Or one on which the passenger is under way already.
        """
        pool = self._pool
        for channel in pool.expired(anyio.current_time()):
            await channel.break_off("the connection was idle for too long")
        call.clock.stop()
        claim = pool.claim(
            _task(),
            turn.wake,
            is_first=again is not None,
            is_fresh=again is not None and again.is_last,
            may_share=turn.passenger is not None,
        )
        claim.ticket = turn
        try:
            while True:
                if not claim.is_granted:
                    await turn.wait()
                if turn.has_boarded or await self._is_ready(claim):
                    return claim
                if await self._open(call, claim, ledger):
                    return claim
        except BaseException:
            await self._let_go(claim, turn)
            raise

    async def _is_ready(self, claim: Claim[Channel]) -> bool:
        """Whether the claim brought a connection that can be used; it is closed if it cannot."""
        channel, slot = claim.connection, claim.slot
        if channel is None or slot is None:
            return False
        if slot.users > 1 or (not claim.is_fresh and channel.is_reusable):
            return True
        self._pool.opening(claim)
        await channel.break_off("the connection was replaced")
        return False

    async def _open(self, call: _Call, claim: Claim[Channel], ledger: Ledger | None) -> bool:
        """Open a connection; False if the claim waits for another one instead."""
        if self._login_failures > call.login_failures:
            # It was waiting for this very login: another try would count against the account.
            assert self._login_failure is not None
            raise copy(self._login_failure)
        if ledger is not None:
            ledger.phase = "connecting"
        try:
            channel = await establish(self._settings, call.clock, self._get_tls_context)
        except SMTPException as error:
            self._remember(error)
            call.clock.release()
            if not self._may_wait_after(error) or not self._pool.refused(
                claim, anyio.current_time()
            ):
                raise
            _log.info("%s lets in no more than %d", self._settings.endpoint, self._pool.allowed)
            return False
        channel.max_messages = _least(
            self._settings.limits.max_messages_per_connection,
            channel.session.extensions.limits.get("MAILMAX"),
        )
        channel.turns.others = lambda: self._next_passenger(channel)
        self._pool.opened(claim, channel)
        return True

    def _remember(self, error: SMTPException) -> None:
        """A login that failed is not tried by those who waited for it to work."""
        if isinstance(error, SMTPAuthenticationError):
            self._pool.opens_one_first = True
            self._login_failures += 1
            self._login_failure = error

    def _may_wait_after(self, error: SMTPException) -> bool:
        """Whether a connection was refused because of those that there are.

        A reply may say so; a server that is known to work may just not answer.
        """
        if error.reply is not None:
            return error.reply.is_transient
        is_silent = isinstance(error, (SMTPConnectError, SMTPServerDisconnected, SMTPTimeoutError))
        return is_silent and self._pool.open > 0

    def _next_passenger(self, channel: Channel) -> Turn | None:
        """Who waits first for a connection, if he has a message that may ride along."""
        claim = self._pool.next
        if claim is None or claim.is_fresh or not claim.may_share:
            return None
        turn = claim.ticket
        assert isinstance(turn, Turn)
        turn.on_boarding = partial(self._pool.board, claim, channel)
        return turn

    def _was_used(self, claim: Claim[Channel]) -> bool:
        return claim.slot is not None and (claim.slot.was_used or claim.slot.users > 1)

    async def _let_go(self, claim: Claim[Channel], turn: Turn) -> None:
        """The task went away before it used what it asked for."""
        channel = claim.connection
        if channel is None:
            self._pool.withdraw(claim, anyio.current_time())
            self._notify()
            return
        if turn.has_boarded:
            channel.session.forsake(turn)
            await channel.leave(turn)
        await self._give_back(claim)

    async def _give_back(self, claim: Claim[Channel]) -> None:
        """Keep the connection if its session is in order, else close it after its last user."""
        channel, slot = claim.connection, claim.slot
        assert channel is not None
        assert slot is not None
        keep = channel.is_idle and not channel.is_worn and self._state != "closed"
        is_last = slot.users == 1
        self._pool.release(claim, anyio.current_time(), keep=keep)
        self._notify()
        if is_last and not keep:
            await channel.break_off("the connection was not left in order")

    async def _pace(self, clock: Clock) -> None:
        """Wait until another message may begin, in the order of asking."""
        if self._rate is None:
            return
        clock.stop()
        async with self._pacing:
            await anyio.sleep(self._rate.delay(anyio.current_time()))
            self._rate.begin(anyio.current_time())

    async def _get_tls_context(self) -> ssl.SSLContext:
        """The caller's context, or the default one, made once; loading it reads files."""
        if self._tls_context is None:
            verify = self._settings.tls != "opportunistic"
            self._tls_context = await to_thread.run_sync(
                lambda: _connect.create_tls_context(validate_certs=verify)
            )
        return self._tls_context

    async def _say_goodbye(self) -> None:
        """QUIT on every connection, all at once; what does not answer in time is closed."""
        idle = self._pool.drain()
        try:
            with anyio.move_on_after(_QUIT_TIMEOUT):
                async with UngroupedTasks() as group:
                    for channel in idle:
                        group.start_soon(_quit, channel)
        finally:
            for channel in idle:
                await channel.break_off("the client was closed")

    async def _abort(self) -> None:
        """End everything that is under way, and close every connection."""
        self._state = "closed"
        for call in self._calls:
            call.clock.abort("the client was closed")
        for channel in (*self._pool.drain(), *self._pool.connections()):
            await channel.break_off("the client was closed")

    def _check_loop(self) -> None:
        loop = lowlevel.current_token()
        if self._loop is None:
            self._loop = loop
        elif self._loop != loop:
            raise RuntimeError("the client belongs to another event loop: make one for this loop")

    def _check_open(self) -> None:
        if self._state in ("closing", "closed"):
            raise RuntimeError("the client is closed: make a new one")
        self._check_loop()

    def _notify(self) -> None:
        """Tell whoever waits for the end of all calls to look again."""
        if self._ended is not None:
            self._ended.set()


class Borrowed:
    """``async with smtp.connection() as conn``: an `SMTPConnection` for one task at a time.

    Leaving it gives the connection back, or closes it if a command was not finished.
    """

    def __init__(self, client: SMTP) -> None:
        self._client = client
        self._claim: Claim[Channel] | None = None
        self._connection: SMTPConnection | None = None

    async def __aenter__(self) -> SMTPConnection:
        if self._claim is not None:
            raise RuntimeError("each `connection()` is entered once")
        client = self._client
        with _Call(client) as call:
            self._claim = await client._lease(call, Turn(call.clock))
        channel = self._claim.connection
        assert channel is not None
        settings = client._settings
        self._connection = connection_on(
            channel,
            local_hostname=settings.local_hostname,
            allow_plaintext_auth=settings.allow_plaintext_auth,
            is_opportunistic=settings.tls == "opportunistic",
            pipelining=settings.pipelining,
            require_all=settings.require_all,
            add_missing_headers=settings.add_missing_headers,
        )
        return self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._claim is not None
        assert self._connection is not None
        retire(self._connection)
        await self._client._give_back(self._claim)


class _Call:
    """One call of a client: its clock, by which closing the client can end it."""

    __slots__ = ("_client", "clock", "login_failures")

    def __init__(self, client: SMTP, *, admitted: bool = False) -> None:
        """``admitted``: the client let it in before, and it may go on while the client closes."""
        if not admitted or client._state == "closed":
            client._check_open()
        self._client = client
        self.clock = Clock(client._server)
        self.login_failures = client._login_failures
        """How many logins had failed before."""

    def __enter__(self) -> Self:
        self._client._calls.add(self)
        self.clock.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client._calls.discard(self)
        self._client._notify()
        self.clock.__exit__(exc_type, exc, traceback)


class _Admitted:
    """A send, from its beginning: a clean exit of the client waits for its end."""

    __slots__ = ("_client",)

    def __init__(self, client: SMTP) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client._sends += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client._sends -= 1
        self._client._notify()


class _Again(Exception):
    """A message was not sent, and a connection that had been used before is to blame."""

    def __init__(self, reason: str, *, is_last: bool = False) -> None:
        super().__init__(reason)
        self.is_last = is_last
        """Whether it gets a fresh connection, and no other one after that."""


# What servers say to MAIL on a connection too many: Exchange 432 4.3.2 "Concurrent connections limit
# exceeded", Gmail 421 4.7.0 "Too many concurrent SMTP connections".
_TOO_MANY_CONNECTIONS = re.compile(r"\bconnections?\b", re.IGNORECASE)


def _is_too_many_connections(error: SMTPException) -> bool:
    reply = error.reply
    is_about_mail = error.command is not None and error.command.startswith("MAIL")
    if reply is None or not reply.is_transient or not is_about_mail:
        return False
    return _TOO_MANY_CONNECTIONS.search(reply.text) is not None


def _has_room(channel: Channel) -> bool:
    """Whether another message can be on its way on a connection in use."""
    is_free = channel.is_open and not channel.is_worn and channel.turns.holder is None
    session = channel.session
    return is_free and 0 < session.unanswered < WINDOW // 2 and session.awaits < MAX_FLIGHT // 2


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


async def _quit(channel: Channel) -> None:
    try:
        async with channel.turn():
            with Clock(channel.link.server) as clock:
                await _dialogue.quit_now(channel, clock)
    except SMTPException as error:
        _log.debug("%s: no good-bye: %s", channel.link.server, error)


def _task() -> int:
    return anyio.get_current_task().id
