"""`SMTP`: session and pool in one. Connections are opened when needed, kept, looked at, replaced.

The client is where what users see comes together: what its connections are, and who has
them, is the affair of `Leases`; whether it is open, of `Lifecycle`; one message's way through a
connection, of `Sending`; a stream of messages, of `SendMany`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from contextlib import AbstractContextManager
from email.message import Message
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from anyio import lowlevel

from ._alone import send_letter
from ._channel import Channel
from ._connection import SMTPConnection, connection_on, retire
from ._envelope import Mail
from ._leases import Again, Leases
from ._letters import Letters
from ._lifecycle import Call, Lifecycle
from ._mailer import BaseMailer
from ._many import READ_AHEAD, SendMany, send_many
from ._parcel import Parcel
from ._pool import Claim
from ._protocol._extensions import Extensions
from ._reply import Reply
from ._settings import Options, settle
from ._statistics import Statistics, statistics_of
from ._tasks import task_id
from ._turns import Turn
from ._urls import from_url
from .errors import SMTPException, with_outcome

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

K = TypeVar("K")


class SMTP(BaseMailer):
    """A client for one server, safe to use from many tasks.

    ``port`` is 465 for implicit TLS, 587 for ``tls="starttls"`` and with credentials, else 25. The
    keyword options are those of `Options`; wrong ones are a ValueError or TypeError here.

    Use it as ``async with SMTP(...) as smtp``: entering opens nothing, a clean exit lets sends in
    flight finish and says QUIT, an exit by an exception or cancellation aborts at once. Or
    without entering it, ended by `aclose`. RuntimeError if it is used after its end, or from
    another event loop.
    """

    _is_lmtp: ClassVar[bool] = False

    def __init__(
        self, hostname: str = "localhost", port: int | None = None, **options: Unpack[Options]
    ) -> None:
        self._settings = settle(hostname, port, options, is_lmtp=self._is_lmtp)
        self._life = Lifecycle(str(self._settings.endpoint))
        self._leases = Leases(self._settings, self._life)
        self._monitor = self._leases.monitor
        self._require_all = self._settings.require_all
        self._add_missing_headers = self._settings.add_missing_headers
        self._signers = self._settings.signers
        self._retry = self._settings.retry
        self._pause = self._life.pause
        if self._settings.sends_letters:
            self._letters = Letters(add_missing_headers=self._add_missing_headers)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[Options]) -> Self:
        """A client from a URL: ``smtp://``, ``smtp+starttls://``, ``smtps://``,
        ``smtp+unix:///path``; of `LMTP` ``lmtp://`` and ``lmtp+unix:///path``.

        User name and password are percent-decoded. The query may have ``local_hostname``,
        ``timeout``, ``require_all``, ``pipelining``, ``chunking``, ``proxy`` and ``fingerprint``.
        ValueError, which never shows the URL, for anything else.
        """
        hostname, port, from_the_url = from_url(url, is_lmtp=cls._is_lmtp)
        if both := set(from_the_url) & set(options):
            raise ValueError(f"the URL says it already: {', '.join(sorted(both))}")
        merged: Options = {**from_the_url, **options}
        return cls(hostname, port, **merged)

    @overload
    def send_many(
        self,
        mails: Iterable[Mail[K]] | AsyncIterable[Mail[K]],
        *,
        ordered: bool = False,
        read_ahead: int = READ_AHEAD,
    ) -> SendMany[K]: ...
    @overload
    def send_many(
        self,
        mails: Iterable[Message] | AsyncIterable[Message],
        *,
        ordered: bool = False,
        read_ahead: int = READ_AHEAD,
    ) -> SendMany[None]: ...
    def send_many(
        self,
        mails: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool = False,
        read_ahead: int = READ_AHEAD,
    ) -> SendMany[Any]:
        """Send a stream of messages: ``async with smtp.send_many(mails) as deliveries``.

        ``mails`` are message objects or `Mail` values, from an iterable or an async one, of which
        one task takes them, ``read_ahead`` (or a few MiB) at most beyond the deliveries that
        were taken. Each message's `Delivery` comes out of the ``async for`` when it has ended,
        in the order of the mails with ``ordered=True``. A message that is malformed or refused does
        not end the stream: its `Delivery` says so. What ends it, raised from the ``async for``
        once what was under way has come out of it, is an exception of the source's own, and a
        client that cannot open a connection at all (see `connect`).

        Leaving the block early cancels what has not ended; then messages may be in doubt.
        """
        return send_many(
            mails,
            self._leases,
            self._life,
            self._entered,
            ordered=ordered,
            read_ahead=read_ahead,
        )

    async def connect(self) -> Extensions:
        """Open a connection and check it now; what the server offers on it.

        Does nothing where one is open already, in use or not. SMTPConnectError, SMTPTLSError,
        SMTPHeloError, SMTPAuthenticationError, SMTPNotSupported for a missing STARTTLS, and
        what may go wrong in any conversation. In whatever way it fails, cancellation included,
        it leaves nothing open.
        """
        try:
            with self._life.call() as call:
                if (offered := self._leases.offered_in_use()) is not None:
                    await lowlevel.checkpoint()
                    return offered
                claim = await self._leases.lease(call, Turn(call))
                channel = claim.connection
                assert channel is not None
                await self._leases.give_back(claim)
                return channel.session.extensions
        except SMTPException as error:
            with_outcome(error, "not_sent")
            raise

    def connection(self) -> Borrowed:
        """One connection for oneself: ``async with smtp.connection() as conn``.

        Entering waits for one, and raises as `connect` does. RuntimeError if this task has it
        already. What is sent on it counts for the `Limits` of the client: it waits for the
        ``rate``; a connection that has had its ``max_messages_per_connection`` is replaced once
        it is given back. A `Retry` is not applied: who speaks for himself hears each refusal.
        """
        return Borrowed(self)

    def statistics(self) -> Statistics:
        """What the client has, and has done since it was made."""
        return statistics_of(self._leases.pool, self._monitor)

    async def aclose(self) -> None:
        """End the client: let sends in flight finish, say QUIT, close.

        Takes at most two seconds longer than the sends. Cancelled, it aborts them. Nothing
        happens if it has ended.
        """
        life, pool = self._life, self._leases.pool
        if life.state == "closed":
            await lowlevel.checkpoint()
            return
        life.check_loop()
        if pool.is_held_by(task_id()):
            raise RuntimeError("closing the client inside its own connection()")
        if task_id() in life.insides:
            raise RuntimeError("closing the client inside its own send_many()")
        life.state = "closing"
        try:
            await life.wait_until_quiet(lambda: pool.granted > 0)
            await self._leases.say_goodbye()
        finally:
            await self._abort()

    async def __aenter__(self) -> Self:
        await lowlevel.checkpoint()
        self._life.check_open()
        if self._life.state != "new":
            raise RuntimeError("the client is entered already")
        self._life.state = "open"
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
        pool = self._leases.pool
        return (
            f"<{type(self).__name__} {self._settings.endpoint} {pool.in_use}/{pool.allowed} "
            f"idle {pool.idle} waiting {pool.waiting}{' closed' * (self._life.state == 'closed')}>"
        )

    def _admitted(self) -> AbstractContextManager[object]:
        return self._life.admit()

    @property
    def _is_over(self) -> bool:
        return self._life.is_over

    async def _abort(self) -> None:
        """End everything that is under way, and close every connection."""
        self._life.abort("the client was closed")
        await self._leases.abort()

    async def _deliver(self, parcel: Parcel) -> None:
        seconds = self._settings.timeouts.command
        with self._life.call(admitted=True, seconds=seconds) as call:
            again: Again | None = None
            while True:
                if (again := await self._attempt(call, parcel, again)) is None:
                    return
                self._monitor.again(again.reason)
                parcel.book.ledger.again(recipient.given for recipient in parcel.job.recipients)

    async def _attempt(self, call: Call, parcel: Parcel, again: Again | None) -> Again | None:
        """Send once; whether, after a failure that the caller need not see, it is sent again."""
        leases, turn = self._leases, Turn(call)
        claim = leases.lease_now(call, turn) if again is None else None
        if claim is None or parcel.letter is None:
            turn.passenger = leases.sending(parcel, again)
        if claim is None:
            claim = await leases.lease(call, turn, parcel.book.ledger, again=again)
        channel = claim.connection
        assert channel is not None
        try:
            async with channel.turn(turn):
                if parcel.letter is None or not await self._go_alone(parcel, channel, turn):
                    await parcel.sending.send(channel, turn)
        except SMTPException as error:
            # It is no letter any more: the short way raises none of these.
            sending = parcel.sending
            if (more := leases.again_after(error, sending, claim, turn, again)) is not None:
                return more
            raise
        else:
            leases.took_message()
            return None
        finally:
            await leases.give_back(claim)

    async def _go_alone(self, parcel: Parcel, channel: Channel, turn: Turn) -> bool:
        """Send a letter; whether the server has taken it. Else it goes on as any other message."""
        assert parcel.letter is not None
        end = await send_letter(channel, turn, parcel.letter, parcel)
        if isinstance(end, Reply):
            parcel.take(end, channel.link.server)
            return True
        sending = self._leases.sending(parcel, None)
        if end is not None:
            sending.catch_up(channel, turn, end)
        return False


class LMTP(SMTP):
    """A client for a server that delivers mail and speaks LMTP (RFC 2033), such as Dovecot's.

    All is as with `SMTP`, but for two things. There is no default port: ``port`` or ``connectable``
    is required, and it is not 25. And such a server answers the end of a message for each
    recipient: those who were refused then are in the `Receipt` beside those who have it, with
    ``require_all`` too, which holds for the envelope only; SMTPRecipientsRefused if nobody has it.
    """

    _is_lmtp = True


class Borrowed:
    """``async with smtp.connection() as conn``: an `SMTPConnection` for one task at a time.

    Leaving it gives the connection back, or closes it if a command was not finished.
    """

    def __init__(self, client: SMTP) -> None:
        self._client = client
        self._is_entered = False
        self._claim: Claim[Channel] | None = None
        self._connection: SMTPConnection | None = None

    async def __aenter__(self) -> SMTPConnection:
        if self._is_entered:
            raise RuntimeError("each `connection()` is entered once")
        self._is_entered = True
        client = self._client
        with client._life.call() as call:
            self._claim = await client._leases.lease(call, Turn(call), is_held=True)
        channel = self._claim.connection
        assert channel is not None
        settings = client._settings
        # Nobody else's message rides along while somebody speaks for himself.
        channel.is_pooled = False
        self._connection = connection_on(
            channel,
            local_hostname=settings.local_hostname,
            allow_plaintext_auth=settings.allow_plaintext_auth,
            is_opportunistic=settings.tls == "opportunistic",
            pipelining=settings.pipelining,
            pace=client._leases.pace,
            chunking=settings.chunking,
            require_all=settings.require_all,
            add_missing_headers=settings.add_missing_headers,
            signers=settings.signers,
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
        assert self._claim.connection is not None
        self._claim.connection.is_pooled = True
        await self._client._leases.give_back(self._claim)
