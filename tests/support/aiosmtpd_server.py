"""aiosmtpd as a server to test against: in a thread of its own, on a free loopback port.

It is somebody else's server, so it says whether this library's ideas about SMTP hold elsewhere.
It offers SIZE, 8BITMIME, SMTPUTF8 and no PIPELINING; AUTH PLAIN and LOGIN for its users, under TLS
only unless told otherwise; and keeps the messages as they came.

It is not run by aiosmtpd's own Controller: that one leaves connections open when it stops, and
tells the caller about insecure settings by a warning, which here is an error in the thread.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message as the server took it."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    """The octets as they came, without the stuffed dots and the final one."""
    mail_options: tuple[str, ...]
    tls: bool
    username: str | None


class _Protocol(SMTP):
    """aiosmtpd's SMTP; told, not asked, that a login may be required without TLS."""

    def __init__(self, server: AiosmtpdServer) -> None:
        super().__init__(
            server,
            hostname="mail.example.test",
            ident="ESMTP",
            enable_SMTPUTF8=True,
            data_size_limit=server.size_limit,
            tls_context=server.starttls,
            auth_require_tls=not server.plaintext_auth,
            authenticator=server.authenticate,
            loop=asyncio.get_running_loop(),
        )
        self._auth_required = server.require_auth


class AiosmtpdServer:
    """A context manager. Its methods that start with ``handle_`` are aiosmtpd's hooks.

    - ``starttls``, ``implicit_tls``: a server's SSLContext.
    - ``users``: names and passwords; ``require_auth``: MAIL is refused without a login.
    - ``plaintext_auth``: a login is possible without STARTTLS, as it always is under implicit TLS.
    - ``refuse``: the replies to RCPT for these addresses.
    """

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
    ) -> None:
        self.messages: list[Delivered] = []
        """What was taken, in the order in which it came."""
        self.host = "127.0.0.1"
        self.port = 0
        self.starttls = starttls
        self.require_auth = require_auth
        # To aiosmtpd, only what STARTTLS began is TLS.
        self.plaintext_auth = plaintext_auth or implicit_tls is not None
        self.size_limit = size_limit
        self._implicit_tls = implicit_tls
        self._users = users or {}
        self._refuse = refuse or {}
        self._protocols: list[_Protocol] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="aiosmtpd")
        self._started = threading.Event()

    def __enter__(self) -> AiosmtpdServer:
        self._thread.start()
        if not self._started.wait(10):
            raise TimeoutError("aiosmtpd did not start")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "aiosmtpd did not stop"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await self._loop.create_server(
            self._protocol, self.host, 0, ssl=self._implicit_tls
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for protocol in self._protocols:
            self._hang_up(protocol)
        # Python 3.12 waits for the connections here, older ones do not.
        await server.wait_closed()
        await asyncio.sleep(0)

    def _protocol(self) -> _Protocol:
        protocol = _Protocol(self)
        self._protocols.append(protocol)
        return protocol

    @staticmethod
    def _hang_up(protocol: _Protocol) -> None:
        transports: list[Any] = [protocol.transport, protocol._original_transport]
        for transport in transports:
            if transport is not None:
                transport.abort()

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: Any
    ) -> AuthResult:
        """aiosmtpd's authenticator: whether these are a user's name and password."""
        assert isinstance(auth_data, LoginPassword)
        password = self._users.get(auth_data.login.decode())
        good = password is not None and password.encode() == auth_data.password
        return AuthResult(success=good, handled=False, auth_data=auth_data)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self._refuse:
            return self._refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        login: LoginPassword | None = session.auth_data
        assert envelope.mail_from is not None
        assert envelope.original_content is not None
        self.messages.append(
            Delivered(
                envelope.mail_from,
                tuple(envelope.rcpt_tos),
                envelope.original_content,
                tuple(envelope.mail_options),
                tls=session.ssl is not None or self._implicit_tls is not None,
                username=login.login.decode() if login else None,
            )
        )
        return "250 2.0.0 OK"
