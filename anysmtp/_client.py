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
import ssl
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
from anyio import lowlevel, to_thread

from . import _connect, _dialogue
from ._channel import Channel
from ._clock import Clock
from ._connection import SMTPConnection, connection_on, retire
from ._delivery import Ledger
from ._envelope import Job, Receipt
from ._establish import establish
from ._mailer import BaseMailer
from ._pool import Claim, Pool
from ._protocol._extensions import Extensions
from ._settings import Options, from_url, settle
from ._tasks import UngroupedTasks
from .errors import SMTPException, SMTPServerDisconnected, with_outcome

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
        self._tls_context = self._settings.tls_context
        self._pool = Pool[Channel](1)
        self._calls: set[_Call] = set()
        self._sends = 0
        self._state = "new"
        self._ended: anyio.Event | None = None
        self._loop: lowlevel.EventLoopToken | None = None
        self._require_all = self._settings.require_all
        self._add_missing_headers = self._settings.add_missing_headers

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
            with _Call(self) as clock:
                claim = await self._lease(clock)
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
            while self._sends or self._calls or self._pool.in_use:
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
            f"<{type(self).__name__} {self._settings.endpoint} {pool.in_use}/{pool.capacity} "
            f"idle {pool.idle} waiting {pool.waiting}{' closed' * (self._state == 'closed')}>"
        )

    def _admitted(self) -> AbstractContextManager[object]:
        self._check_open()
        return _Admitted(self)

    async def _deliver(self, job: Job, ledger: Ledger) -> Receipt:
        with _Call(self, admitted=True) as clock:
            try:
                return await self._attempt(clock, job, ledger)
            except _Stale as stale:
                _log.info("%s: the connection was worn out, taking a new one", stale.server)
                ledger.start(recipient.given for recipient in job.recipients)
            return await self._attempt(clock, job, ledger, fresh=True)

    async def _attempt(
        self, clock: Clock, job: Job, ledger: Ledger, *, fresh: bool = False
    ) -> Receipt:
        """Send once. _Stale if the connection is to blame, and the message was not sent."""
        ledger.phase = "waiting"
        clock.stop()
        claim = await self._lease(clock, ledger, fresh=fresh)
        channel = claim.connection
        assert channel is not None
        try:
            async with channel.turn():
                return await _dialogue.deliver(
                    channel, clock, job, ledger, pipelining=self._settings.pipelining
                )
        except SMTPException as error:
            lost = isinstance(error, SMTPServerDisconnected) or channel.is_stale
            if claim.was_used and lost and not ledger.keys("in_doubt"):
                raise _Stale(channel.link.server) from error
            raise
        finally:
            await self._give_back(claim)

    async def _lease(
        self, clock: Clock, ledger: Ledger | None = None, *, fresh: bool = False
    ) -> Claim[Channel]:
        """A granted claim with a connection that is alive, as far as a look can tell."""
        claim = await self._claim()
        try:
            if claim.connection is not None and not fresh and claim.connection.is_reusable:
                claim.was_used = True
                return claim
            if claim.connection is not None:
                await claim.connection.break_off("the connection was replaced")
            if ledger is not None:
                ledger.phase = "connecting"
            claim.connection = await establish(self._settings, clock, self._get_tls_context)
        except BaseException:
            self._pool.release(claim, None)
            self._notify()
            raise
        return claim

    async def _claim(self) -> Claim[Channel]:
        granted = anyio.Event()
        claim = self._pool.claim(_task(), granted.set)
        try:
            await granted.wait()
        except BaseException:
            self._pool.withdraw(claim)
            self._notify()
            raise
        return claim

    async def _give_back(self, claim: Claim[Channel]) -> None:
        """Keep the connection if its session is in order, else close it."""
        channel = claim.connection
        assert channel is not None
        if channel.is_idle and not channel.is_stale and self._state != "closed":
            self._pool.release(claim, channel)
        else:
            self._pool.release(claim, None)
            await channel.break_off("the connection was not left in order")
        self._notify()

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
        for channel in self._pool.drain(in_use=True):
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
        with _Call(client) as clock:
            self._claim = await client._lease(clock)
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

    __slots__ = ("_client", "clock")

    def __init__(self, client: SMTP, *, admitted: bool = False) -> None:
        """``admitted``: the client let it in before, and it may go on while the client closes."""
        if not admitted or client._state == "closed":
            client._check_open()
        self._client = client
        self.clock = Clock(str(client._settings.endpoint))

    def __enter__(self) -> Clock:
        self._client._calls.add(self)
        return self.clock.__enter__()

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


class _Stale(Exception):
    """A connection that had been used before ended; nothing was handed over."""

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self.server = server


async def _quit(channel: Channel) -> None:
    try:
        async with channel.turn():
            with Clock(channel.link.server) as clock:
                await _dialogue.quit_now(channel, clock)
    except SMTPException as error:
        _log.debug("%s: no good-bye: %s", channel.link.server, error)


def _task() -> int:
    return anyio.get_current_task().id
