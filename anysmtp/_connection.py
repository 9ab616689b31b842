"""The command layer: one method per SMTP command, on one byte stream.

A method sends its command and returns the server's reply; where the reply says no, it raises. A
method called by one task while another's is under way waits for its turn. A message that waits
rides along with the end of the one before it, where the server offers PIPELINING.

A method that times out after its command was written closes the connection. So does one that is
cancelled, unless another one waits for its turn, which then reads the reply that nobody waits for.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from anyio.abc import ByteStream

from . import _clock, _connect, _dialogue, _login, sasl
from ._book import raw_content
from ._channel import Channel
from ._clock import Clock, Timeouts, timeouts_of
from ._connect import Link
from ._envelope import AddressLike, RawMessage
from ._mailer import BaseMailer
from ._message import parse_address, parse_sender
from ._monitor import Monitor
from ._parameters import REQUIRETLS, says, untyped
from ._parcel import Parcel
from ._protocol import _commands
from ._protocol._commands import Command
from ._protocol._demands import require_tls
from ._protocol._extensions import Extensions
from ._protocol._transaction import Chunking, Pipelining
from ._rate import Pace
from ._reply import Reply
from ._sending import Sending
from ._signing import Signer
from ._sources import SourceFailed
from ._tls import Encryption, TLSInfo, tls_info
from ._turns import Turn
from .errors import (
    SMTPHeloError,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
)

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

# What these lead to is not a reply alone, so `command` must not send them.
_METHODS = {
    "AUTH": "login()",
    "BDAT": "send_message()",
    "DATA": "data()",
    "QUIT": "quit()",
    "STARTTLS": "starttls()",
}


class SMTPConnection(BaseMailer):
    """One SMTP connection, on any byte stream.

    Got from ``async with smtp.connection()``, or made on a stream of your own: then
    ``hostname`` is the server's name (for its certificate and for messages), and the
    greeting is read by the first method that is called.

    Every method may raise SMTPServerDisconnected, SMTPTimeoutError or SMTPProtocolError (RFC 5321
    section 3.8); the connection is closed then. After a refusal it goes on. A method that is
    cancelled after its command was written closes the connection, unless another one waits
    for its turn and can read the reply; before, it leaves it as it was.
    RuntimeError, with nothing written, for a command that is not possible in the session's
    state, such as RCPT before MAIL.
    """

    def __init__(
        self,
        stream: ByteStream,
        hostname: str = "localhost",
        *,
        timeout: Timeouts | float | None = _clock.DEFAULT,
        local_hostname: str | None = None,
        allow_plaintext_auth: bool = False,
    ) -> None:
        if not isinstance(stream, ByteStream):
            raise TypeError(f"stream is a ByteStream of anyio, not {type(stream).__name__}")
        self._monitor = Monitor(hostname)
        link = Link(stream, hostname, hostname)
        self._channel = Channel(link, timeouts_of(timeout), self._monitor)
        self._channel.is_in_service = True
        self._local_hostname = local_hostname
        self._allow_plaintext_auth = allow_plaintext_auth
        self._pipelining: Pipelining = "auto"
        self._chunking: Chunking = "auto"
        self._pace: Pace | None = None
        self._is_opportunistic = False
        self._is_retired = False
        self._mail_options: tuple[str, ...] = ()  # those of the last MAIL by hand

    @property
    def extensions(self) -> Extensions:
        """What the server offers now; nothing before EHLO, and anew after STARTTLS."""
        return self._channel.session.extensions

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more, as far as is known without asking."""
        return not self._channel.is_open

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is on."""
        return self._channel.link.is_encrypted

    @property
    def tls(self) -> TLSInfo | None:
        """The version, the cipher and the server's certificate; None without TLS."""
        return tls_info(self._channel.link.stream)

    async def ehlo(self, local_hostname: str | None = None) -> Reply:
        """EHLO (RFC 5321 section 4.1.1.1), LHLO in LMTP; ``extensions`` is what the reply offers.

        Seldom needed: methods that need it call it, with HELO where it is refused. SMTPHeloError.
        """
        greet = _commands.lhlo if self._channel.session.is_lmtp else _commands.ehlo
        return await self._demand(greet(self._name(local_hostname)), SMTPHeloError)

    async def helo(self, local_hostname: str | None = None) -> Reply:
        """HELO (RFC 5321 section 4.1.1.1), after which nothing is offered. SMTPHeloError."""
        return await self._demand(_commands.helo(self._name(local_hostname)), SMTPHeloError)

    async def starttls(self, tls_context: ssl.SSLContext | None = None) -> Reply:
        """STARTTLS, the TLS handshake, and EHLO again (RFC 3207).

        Without a context the system's authorities must vouch for ``hostname``. SMTPNotSupported if
        the server does not offer it. SMTPTLSError if the server refuses, or if the
        handshake fails: then, and when it is cancelled, the connection is closed.
        """
        encryption = Encryption(tls_context)
        await encryption.load()

        async def upgrade(clock: Clock) -> Reply:
            name = self._name(None)
            return await _dialogue.start_tls(self._channel, clock, encryption, name)

        return await self._take_turn(upgrade, ready=True)

    async def login(self, *mechanisms: sasl.Mechanism) -> Reply:
        """AUTH (RFC 4954), with the first of the mechanisms that the server offers.

        SMTPAuthenticationError if the login is refused, if the server offers none of the
        mechanisms, or if a secret would cross a network unencrypted; then nothing was sent. What
        a mechanism's own ``token`` and ``refresh`` raise passes through. After a
        cancellation the connection is closed.
        """
        if not mechanisms or not all(isinstance(given, sasl.Mechanism) for given in mechanisms):
            raise TypeError("login() takes mechanisms, as anysmtp.sasl.Plain(username, password)")
        if self._is_opportunistic:
            raise ValueError("tls='opportunistic' does not verify the server: no login with it")

        async def log_in(clock: Clock) -> Reply:
            with self._monitor.logging_in():
                return await _login.login(
                    self._channel, clock, mechanisms, allow_plaintext=self._allow_plaintext_auth
                )

        return await self._take_turn(log_in, ready=True)

    async def mail(self, sender: AddressLike, options: Iterable[str] = ()) -> Reply:
        """MAIL (RFC 5321 section 4.1.1.2) with options such as ``"SIZE=1000"``.

        ``""`` is the null reverse-path. SMTPSenderRefused. ValueError for options that contradict
        each other. SMTPTLSError for REQUIRETLS where TLS with a verified certificate is not on.
        """
        mailbox = parse_sender(sender)
        parameters = untyped(_commands.parameters(options), ())
        path = "" if mailbox is None else mailbox.ascii or mailbox.utf8
        if mailbox is not None and mailbox.ascii is None and not says(parameters, "SMTPUTF8"):
            raise ValueError(f"{mailbox.given} needs the option SMTPUTF8")
        command = _commands.mail(path, parameters)

        async def begin(clock: Clock) -> Reply:
            if says(parameters, REQUIRETLS.text):
                with _dialogue.locating(self._channel, command):
                    require_tls(is_tls_verified=self._channel.link.is_verified)
            pace = self._pace
            if pace is not None:
                clock.stop()
                await self._channel.turns.rest(lambda: pace.begin(lambda: True))
                self._channel.check_open()
            self._channel.messages += 1
            self._mail_options = parameters
            return await _dialogue.demand(self._channel, clock, command, SMTPSenderRefused)

        return await self._take_turn(begin, ready=True)

    async def rcpt(self, recipient: AddressLike, options: Iterable[str] = ()) -> Reply:
        """RCPT (RFC 5321 section 4.1.1.3) with options such as ``"NOTIFY=NEVER"``.

        SMTPRecipientsRefused. ValueError for options that contradict each other.
        """
        mailbox = parse_address(recipient)
        if mailbox.ascii is None and not says(self._mail_options, "SMTPUTF8"):
            raise ValueError(f"{mailbox.given} needs a MAIL with the option SMTPUTF8")
        parameters = untyped(_commands.parameters(options), ())
        command = _commands.rcpt(mailbox.ascii or mailbox.utf8, parameters)
        try:
            return await self._demand(command, SMTPResponseException, ready=True)
        except SMTPResponseException as error:
            refused = SMTPRecipientsRefused({mailbox.given: error.reply})
            raise _dialogue.located(refused, self._channel, command) from None

    async def data(self, message: RawMessage, *, allow_long_lines: bool = False) -> Reply:
        """DATA (RFC 5321 section 4.1.1.4), the message, and the reply to its end.

        Line ends become CRLF, dots are stuffed. ValueError for a line of more than 998 octets,
        unless ``allow_long_lines``. A header section beyond ASCII needs a MAIL with the option
        SMTPUTF8 (RFC 6531 section 3.4), and octets above 127 one without ``BODY=7BIT``: ValueError,
        or SMTPNotSupported where the server does not offer SMTPUTF8 or 8BITMIME. Then DATA was not
        sent, unless the message can be read once only; for such a one see `sendmail`.

        SMTPDataError if the server refuses. A connection that is lost or cancelled once the end of
        the message was written leaves it in doubt. RuntimeError in LMTP, where each recipient has a
        reply: `sendmail` has them all.
        """
        if self._channel.session.is_lmtp:
            raise RuntimeError("LMTP answers for each recipient: use sendmail()")
        content = await raw_content(message, allow_long_lines=allow_long_lines)

        async def transfer(clock: Clock) -> Reply:
            return await _dialogue.data(self._channel, clock, content, self._mail_options)

        try:
            return await self._take_turn(transfer, ready=True)
        except SourceFailed as failed:
            failure = failed.error
        raise failure

    async def rset(self) -> Reply:
        """RSET (RFC 5321 section 4.1.1.5): no transaction is open afterwards.

        SMTPResponseException if the server refuses.
        """
        return await self._demand(_commands.RSET)

    async def noop(self) -> Reply:
        """NOOP (RFC 5321 section 4.1.1.9). SMTPResponseException if the server refuses."""
        return await self._demand(_commands.NOOP)

    async def vrfy(self, address: str) -> Reply:
        """VRFY (RFC 5321 section 4.1.1.6). 252 is a yes that promises nothing.

        SMTPResponseException for a no. What is not ASCII goes in UTF-8 (RFC 6531 section 3.7.4.2):
        SMTPNotSupported, with nothing sent, if the server does not offer SMTPUTF8.
        """
        return await self._inquire("VRFY", address)

    async def expn(self, name: str) -> Reply:
        """EXPN (RFC 5321 section 4.1.1.7): a mailing list's members, a line each.

        SMTPResponseException for a no. What is not ASCII goes in UTF-8, as with `vrfy`.
        """
        return await self._inquire("EXPN", name)

    async def help(self, topic: str = "") -> Reply:
        """HELP (RFC 5321 section 4.1.1.8). SMTPResponseException if the server refuses."""
        return await self._demand(_commands.with_argument("HELP", topic))

    async def quit(self) -> Reply:
        """QUIT (RFC 5321 section 4.1.1.10); the connection is closed whatever the reply says."""

        async def leave(clock: Clock) -> Reply:
            return await _dialogue.quit_now(self._channel, clock)

        return await self._take_turn(leave)

    async def command(self, line: str) -> Reply:
        """Any other command, as a whole line; its reply, whatever the code says.

        ValueError for control characters, and for the commands after which more than a reply has to
        follow: they have methods.
        """
        if not isinstance(line, str):
            raise TypeError(f"a command is a str, not {type(line).__name__}")
        command = Command(line)
        if command.verb in _METHODS:
            raise ValueError(f"{command.verb} is sent by {_METHODS[command.verb]}")

        async def ask(clock: Clock) -> Reply:
            return await _dialogue.ask(self._channel, clock, command)

        return await self._take_turn(ask)

    async def aclose(self) -> None:
        """Close the connection at once, without QUIT; nothing happens if it is closed."""
        await self._channel.close("the connection was closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        link = self._channel.link
        tls = " TLS" if link.is_encrypted else ""
        state = "closed" if self.is_closed else self._channel.session.phase
        return f"<SMTPConnection {link.server}{tls} {state}>"

    async def _deliver(self, parcel: Parcel) -> None:
        ledger = parcel.book.ledger
        sending = Sending(parcel.job, ledger, self._pipelining, self._chunking, self._pace)

        async def transact(clock: Clock) -> None:
            await sending.send(self._channel, turn)

        turn = Turn(passenger=sending)
        ledger.phase = "waiting"
        await self._take_turn(transact, ready=True, turn=turn)

    async def _inquire(self, verb: str, argument: str) -> Reply:
        command = _commands.inquiry(verb, argument)

        async def inquire(clock: Clock) -> Reply:
            if not argument.isascii() and not self.extensions.smtputf8:
                error = SMTPNotSupported(
                    f"{argument} is not ASCII and the server does not offer SMTPUTF8"
                )
                raise _dialogue.located(error, self._channel, command)
            return await _dialogue.demand(self._channel, clock, command)

        return await self._take_turn(inquire, ready=True)

    async def _demand(
        self,
        command: Command,
        refused: type[SMTPResponseException] = SMTPResponseException,
        *,
        ready: bool = False,
    ) -> Reply:
        async def demand(clock: Clock) -> Reply:
            return await _dialogue.demand(self._channel, clock, command, refused)

        return await self._take_turn(demand, ready=ready)

    async def _take_turn(
        self,
        talk: Callable[[Clock], Awaitable[T]],
        *,
        ready: bool = False,
        turn: Turn | None = None,
    ) -> T:
        """Wait for the turn, and say something; after the greeting, and EHLO where needed."""
        if self._is_retired:
            raise RuntimeError("the connection was given back to its client")
        channel, turn = self._channel, turn or Turn()
        with Clock(channel.link.server) as clock:
            turn.clock = clock
            async with channel.turn(turn):
                try:
                    if not turn.has_boarded:
                        await self._make_ready(clock, ready=ready)
                    return await talk(clock)
                except BaseException:
                    # The time can be up between two commands too, when nothing is owed.
                    if clock.has_expired:
                        await channel.break_off("it took too long")
                    raise

    async def _make_ready(self, clock: Clock, *, ready: bool) -> None:
        channel = self._channel
        channel.check_open()
        await _dialogue.greet(channel, clock)
        if ready and channel.session.phase == "greeted":
            await _dialogue.hello(channel, clock, self._name(None))

    def _name(self, local_hostname: str | None) -> str:
        link = self._channel.link
        return local_hostname or self._local_hostname or _connect.local_hostname(link)


def retire(connection: SMTPConnection) -> None:
    """It goes back to its client: whoever still uses it gets RuntimeError."""
    connection._is_retired = True


def stream_of(connection: SMTPConnection) -> ByteStream:
    """What it speaks on at present: STARTTLS puts another one on top."""
    return connection._channel.link.stream


def connection_on(
    channel: Channel,
    *,
    local_hostname: str | None,
    allow_plaintext_auth: bool,
    is_opportunistic: bool,
    pipelining: Pipelining,
    chunking: Chunking,
    pace: Pace | None,
    require_all: bool,
    add_missing_headers: bool,
    signers: tuple[Signer, ...],
) -> SMTPConnection:
    """The command layer on a channel that is open and logged in, as a client has it set."""
    connection = SMTPConnection(
        channel.link.stream,
        channel.link.hostname,
        local_hostname=local_hostname,
        allow_plaintext_auth=allow_plaintext_auth,
    )
    connection._channel = channel
    connection._monitor = channel.monitor
    connection._is_opportunistic = is_opportunistic
    connection._pipelining = pipelining
    connection._chunking = chunking
    connection._pace = pace
    connection._require_all = require_all
    connection._add_missing_headers = add_missing_headers
    connection._signers = signers
    return connection
