"""aiosmtpd as a server to test against: in a thread of its own, on a free loopback port.

It is somebody else's server, so it says whether an application's mail, and this library's ideas
about SMTP, hold elsewhere. It offers SIZE, 8BITMIME, SMTPUTF8 and no PIPELINING; AUTH PLAIN and
LOGIN for its users, under TLS only unless told otherwise; and keeps the messages as they came.

It is not run by aiosmtpd's own Controller: that one leaves connections open when it stops, and
tells the caller about insecure settings by a warning.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint, current_token

from .. import SMTP, Options
from ._records import Sent

if TYPE_CHECKING:
    import aiosmtpd.smtp
    from typing_extensions import Self, Unpack

    from ._aiosmtpd_protocol import Protocol


class AiosmtpdServer:
    """A real SMTP server, aiosmtpd, in a thread: ``with AiosmtpdServer() as server``.

    - ``starttls``, ``implicit_tls``: a server's SSLContext (`Certificates.server`).
    - ``users``: names and passwords; ``require_auth``: MAIL is refused without a login.
    - ``plaintext_auth``: a login is possible without STARTTLS, as it always is under implicit TLS.
    - ``refuse``: the replies to RCPT for these addresses.
    - ``size_limit``: the largest message that it takes, in octets.
    - ``tls_context``: for clients that `client` makes: one that trusts the server's certificate.

    Methods whose names start with ``handle_`` and ``auth_``, of a class that is derived from this
    one, are aiosmtpd's hooks. Entering it raises ImportError if aiosmtpd is not installed.
    """

    host: str = "127.0.0.1"
    """Where it listens."""

    def __init__(
        self,
        *,
        starttls: ssl.SSLContext | None = None,
        implicit_tls: ssl.SSLContext | None = None,
        users: Mapping[str, str] | None = None,
        require_auth: bool = False,
        plaintext_auth: bool = False,
        refuse: Mapping[str, str] | None = None,
        size_limit: int = 10_000_000,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self.messages: list[Sent] = []
        """What was taken, in the order in which it came."""
        self.port: int = 0
        """Where it listens, once the block has begun."""
        self.users: dict[str, str] = dict(users or {})
        """Who may log in, and with which password; may be changed at any time."""
        self.refuse: dict[str, str] = dict(refuse or {})
        """The replies to RCPT for these addresses; may be changed at any time."""
        self.tls_context = tls_context
        self.starttls = starttls
        self.implicit_tls = implicit_tls
        self.require_auth = require_auth
        # To aiosmtpd, only what STARTTLS began is TLS.
        self.plaintext_auth: bool = plaintext_auth or implicit_tls is not None
        self.size_limit = size_limit
        self._protocols: list[Protocol] = []
        self._stack = ExitStack()

    def client(self, **options: Unpack[Options]) -> SMTP:
        """A client of this server: encrypted as it can be, logged in as the first of its users."""
        settings: Options = {"tls": "off"}
        if self.starttls is not None or self.implicit_tls is not None:
            settings["tls"] = "implicit" if self.implicit_tls is not None else "starttls"
            settings["tls_context"] = self.tls_context
        for username, password in tuple(self.users.items())[:1]:
            settings["username"], settings["password"] = username, password
        merged: Options = {**settings, **options}
        return SMTP(self.host, self.port, **merged)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            server = portal.call(self._start)
            stack.callback(portal.call, self._stop, server)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def _start(self) -> Any:
        from ._aiosmtpd_protocol import Protocol

        loop: Any = current_token().native_token

        def protocol() -> Protocol:
            self._protocols.append(Protocol(self, loop))
            return self._protocols[-1]

        server = await loop.create_server(protocol, self.host, 0, ssl=self.implicit_tls)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _stop(self, server: Any) -> None:
        server.close()
        for protocol in self._protocols:
            protocol.hang_up()
        # Python 3.12 waits for the connections here, older ones do not.
        await server.wait_closed()
        await checkpoint()

    def authenticate(
        self,
        server: aiosmtpd.smtp.SMTP,
        session: aiosmtpd.smtp.Session,
        envelope: aiosmtpd.smtp.Envelope,
        mechanism: str,
        auth_data: Any,
    ) -> aiosmtpd.smtp.AuthResult:
        """aiosmtpd's authenticator: whether these are a user's name and password."""
        from aiosmtpd.smtp import AuthResult

        password = self.users.get(auth_data.login.decode())
        good = password is not None and password.encode() == auth_data.password
        return AuthResult(success=good, handled=False, auth_data=auth_data)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self,
        server: aiosmtpd.smtp.SMTP,
        session: aiosmtpd.smtp.Session,
        envelope: aiosmtpd.smtp.Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """aiosmtpd's hook: the reply to a recipient."""
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self,
        server: aiosmtpd.smtp.SMTP,
        session: aiosmtpd.smtp.Session,
        envelope: aiosmtpd.smtp.Envelope,
    ) -> str:
        """aiosmtpd's hook: keep the message."""
        login: Any = session.auth_data
        raw: Any = envelope.original_content
        recipients = list(envelope.rcpt_tos)
        self.messages.append(
            Sent(
                # So it writes the null reverse-path.
                str(envelope.mail_from).removeprefix("<>"),
                recipients,
                raw,
                list(envelope.mail_options),
                # aiosmtpd takes no parameters of RCPT.
                {recipient: [] for recipient in recipients},
                tls=session.ssl is not None or self.implicit_tls is not None,
                username=login.login.decode() if login else None,
                accepted_for=recipients,
            )
        )
        return "250 2.0.0 OK"
