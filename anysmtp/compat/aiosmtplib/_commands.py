"""A method for each command, and STARTTLS: what is asked is checked, said, and told.

What aiosmtplib refuses to put into a command line is refused here as well, in front of what anysmtp
refuses.
"""

from __future__ import annotations

import codecs
import re
import ssl
from collections.abc import Iterable
from email.utils import parseaddr
from typing import Literal

from ... import SMTPConnection
from ._session import Session
from ._translate import response_of
from .errors import (
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
)
from .response import SMTPResponse
from .typing import Default, SMTPStatus, TimeoutType

# What would end an address, outside of a quoted local part.
_ENDS_ADDRESS = re.compile(r'[\s<>"]')
_QUOTED = re.compile(r'"(?:[^"\\\r\n]|\\.)*"')


class Commands(Session):
    """The commands of a client. Each raises SMTPServerDisconnected without a connection."""

    async def execute_command(
        self, *args: bytes, timeout: TimeoutType = Default.token
    ) -> SMTPResponse:
        """Any command that is one line and one reply; the reply, whatever its code.

        ValueError for AUTH, BDAT, DATA and STARTTLS, after which more has to follow: they have
        methods. ValueError for control characters.
        """
        line = b" ".join(args).decode()
        is_quit = line.partition(" ")[0].upper() == "QUIT"

        async def execute(connection: SMTPConnection) -> SMTPResponse:
            reply = await (connection.quit() if is_quit else connection.command(line))
            return response_of(reply)

        return await self._talk(execute, timeout)

    async def help(self, *, timeout: TimeoutType = Default.token) -> str:
        """HELP; the text. SMTPResponseException if it is refused."""
        self._note_ehlo()
        reply = await self._talk(lambda connection: connection.help(), timeout)
        return response_of(reply).message

    async def rset(self, *, timeout: TimeoutType = Default.token) -> SMTPResponse:
        """RSET: no transaction is open afterwards. SMTPResponseException if it is refused."""
        self._note_ehlo()
        return response_of(await self._talk(lambda connection: connection.rset(), timeout))

    async def noop(self, *, timeout: TimeoutType = Default.token) -> SMTPResponse:
        """NOOP. SMTPResponseException if it is refused."""
        self._note_ehlo()
        return response_of(await self._talk(lambda connection: connection.noop(), timeout))

    async def vrfy(
        self,
        address: str,
        /,
        *,
        options: Iterable[str] | None = None,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """VRFY. SMTPResponseException for a no."""
        self._note_ehlo()
        argument = self._argument(address, options)
        return response_of(await self._talk(lambda connection: connection.vrfy(argument), timeout))

    async def expn(
        self,
        address: str,
        /,
        *,
        options: Iterable[str] | None = None,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """EXPN. SMTPResponseException for a no."""
        self._note_ehlo()
        argument = self._argument(address, options)
        return response_of(await self._talk(lambda connection: connection.expn(argument), timeout))

    async def quit(self, *, timeout: TimeoutType = Default.token) -> SMTPResponse:
        """QUIT; the connection is closed whatever the reply says.

        SMTPResponseException if it is not 221.
        """
        reply = await self._talk(lambda connection: connection.quit(), timeout)
        if reply.code != SMTPStatus.closing:
            raise SMTPResponseException(*response_of(reply))
        return response_of(reply)

    async def mail(
        self,
        sender: str,
        /,
        *,
        options: Iterable[str] | None = None,
        encoding: str = "ascii",
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """MAIL. SMTPSenderRefused if it is refused; ``""`` is the null reverse-path."""
        self._note_ehlo()
        _check_encoding(encoding)
        given = tuple(options or ())
        reply = await self._talk(
            lambda connection: connection.mail(sender, given), timeout, sender=sender
        )
        return response_of(reply)

    async def rcpt(
        self,
        recipient: str,
        /,
        *,
        options: Iterable[str] | None = None,
        encoding: str = "ascii",
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """RCPT. SMTPRecipientRefused if it is refused."""
        self._note_ehlo()
        _check_encoding(encoding)
        given = tuple(options or ())
        try:
            reply = await self._talk(lambda connection: connection.rcpt(recipient, given), timeout)
        except SMTPRecipientsRefused as error:
            (refused,) = error.recipients
            raise SMTPRecipientRefused(*refused.args) from error.__cause__
        return response_of(reply)

    async def data(
        self, message: str | bytes, /, *, timeout: TimeoutType = Default.token
    ) -> SMTPResponse:
        """DATA, and the message; a str is ASCII. SMTPDataError if either is refused."""
        self._connection()
        self._note_ehlo()
        raw = message.encode("ascii") if isinstance(message, str) else message
        reply = await self._talk(
            lambda connection: connection.data(raw, allow_long_lines=True), timeout
        )
        return response_of(reply)

    async def starttls(
        self,
        *,
        server_hostname: str | None = None,
        validate_certs: bool | None = None,
        client_cert: str | Literal[Default.token] | None = Default.token,
        client_key: str | Literal[Default.token] | None = Default.token,
        cert_bundle: str | Literal[Default.token] | None = Default.token,
        tls_context: ssl.SSLContext | Literal[Default.token] | None = Default.token,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """STARTTLS and the TLS handshake (RFC 3207).

        SMTPException if the server does not offer it, or TLS is on; SMTPResponseException if it
        refuses, SMTPTLSError if the handshake fails. ValueError for a ``server_hostname`` that is
        not the client's ``hostname``.
        """
        connection = self._connection()
        if connection.is_encrypted:
            raise SMTPException("TLS is on already")
        if server_hostname not in (None, self.hostname or "localhost"):
            raise ValueError("server_hostname is the hostname that the client was connected with")
        self._update(
            validate_certs=validate_certs,
            client_cert=client_cert,
            client_key=client_key,
            cert_bundle=cert_bundle,
            tls_context=tls_context,
        )
        if not self.supports_extension("starttls"):
            raise SMTPException("the server does not offer STARTTLS")
        context = await self._get_tls_context()
        reply = await self._talk(lambda connection: connection.starttls(context), timeout)
        self._tls_context = context
        self._forget_server()
        self._has_said_ehlo = True
        return response_of(reply)

    def _argument(self, address: str, options: Iterable[str] | None) -> str:
        """What follows VRFY or EXPN: an address, or a name, and options."""
        given = tuple(options or ())
        bare = parseaddr(address)[1] or address.strip()
        if _ENDS_ADDRESS.search(_QUOTED.sub("", bare, count=1)):
            raise ValueError(f"not an address or a name: {address!r}")
        if not any(option.lower() == "smtputf8" for option in given):
            bare.encode("ascii")
        elif not self.supports_extension("smtputf8"):
            raise SMTPNotSupported("the server does not offer SMTPUTF8")
        return " ".join((bare, *given))


def _check_encoding(encoding: str) -> None:
    """An address is in ASCII, or by SMTPUTF8 in UTF-8 (RFC 6531): there is nothing to choose."""
    if codecs.lookup(encoding).name not in ("ascii", "utf-8"):
        raise ValueError(f"addresses are in ASCII or UTF-8, not in {encoding}")
