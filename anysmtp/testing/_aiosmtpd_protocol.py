"""One connection of an `AiosmtpdServer`; the only module of the kit that imports aiosmtpd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP

if TYPE_CHECKING:
    from ._aiosmtpd import AiosmtpdServer


class Protocol(SMTP):
    """aiosmtpd's SMTP; told, not asked, that a login may be required without TLS."""

    def __init__(self, server: AiosmtpdServer, loop: Any) -> None:
        super().__init__(
            server,
            hostname="mail.example.test",
            ident="ESMTP",
            enable_SMTPUTF8=True,
            data_size_limit=server.size_limit,
            tls_context=server.starttls,
            auth_require_tls=not server.plaintext_auth,
            authenticator=server.authenticate,
            loop=loop,
        )
        self._auth_required = server.require_auth

    def hang_up(self) -> None:
        """Close the connection at once, also below TLS."""
        transports: list[Any] = [self.transport, self._original_transport]
        for transport in transports:
            if transport is not None:
                transport.abort()
