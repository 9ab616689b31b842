"""The demo's mail server: aiosmtpd in a thread, that takes mail after STARTTLS and a login only.

Its certificate is made by an authority that is made with it. What it takes it keeps as it came.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"

# At each login aiosmtpd warns that an attribute of its own, which nothing here uses, is old.
logging.getLogger("mail.log").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Received:
    """One message, and how it came."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    tls: str
    """The version of TLS, and the cipher."""
    username: str


class DemoServer:
    """A server with one user, for the length of a ``with`` block."""

    host = HOST

    def __init__(self, username: str, password: str) -> None:
        self.received: list[Received] = []
        authority = trustme.CA()
        self.authority = authority.cert_pem.bytes().decode()
        """The certificate of the authority, in PEM."""
        self._user = LoginPassword(username.encode(), password.encode())
        # Any: aiosmtpd passes most of these on without having types for them.
        controller: Any = _Controller
        self._controller: _Controller = controller(
            self,
            hostname=HOST,
            port=0,
            server_hostname="mail.example.com",
            tls_context=_tls_context(authority.issue_cert(HOST)),
            require_starttls=True,
            auth_required=True,
            authenticator=self._authenticate,
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._controller.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._controller.port

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, user: Any
    ) -> AuthResult:
        return AuthResult(success=user == self._user, handled=False, auth_data=user)

    async def handle_DATA(  # noqa: N802 - aiosmtpd calls it by this name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Keep the message."""
        tls: Any = session.ssl
        user: Any = session.auth_data
        data: Any = envelope.original_content
        self.received.append(
            Received(
                str(envelope.mail_from),
                tuple(envelope.rcpt_tos),
                data,
                f"{tls['ssl_object'].version()}, {tls['cipher'][0]}",
                user.login.decode(),
            )
        )
        return f"250 2.0.0 Ok: message {len(self.received)}"


class _Controller(Controller):
    """Runs aiosmtpd in a thread, on any free port."""

    port: int

    def _trigger_server(self) -> None:
        # It looks whether the server can be reached where it was told to listen. That was any
        # free port, and by now it has one.
        server: Any = self.server
        self.port = server.sockets[0].getsockname()[1]
        look: Any = super()._trigger_server
        look()


def _tls_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with certificate.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)
    return context
