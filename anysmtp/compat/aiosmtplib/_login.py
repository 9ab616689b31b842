"""Logins: user names and passwords to anysmtp's mechanisms.

anysmtp picks one mechanism and tries another only if the server does not want it. That a password
was refused is the end: aiosmtplib's further tries with it would count against the account.
"""

from __future__ import annotations

from ... import sasl
from ._commands import Commands
from ._translate import response_of
from .errors import SMTPException
from .response import SMTPResponse
from .typing import Default, TimeoutType


class Logins(Commands):
    """The logins of a client. SMTPAuthenticationError if the server says no.

    SMTPException if there can be no login: none is offered, or it would cross a network in clear.
    """

    AUTH_METHODS: tuple[str, ...] = (
        "scram-sha-512-plus",
        "scram-sha-256-plus",
        "scram-sha-1-plus",
        "scram-sha-512",
        "scram-sha-256",
        "scram-sha-1",
        "cram-md5",
        "plain",
        "login",
    )
    """What a password is used with, the strongest first; aiosmtplib has the last three."""

    @property
    def supported_auth_methods(self) -> list[str]:
        """Those of ``AUTH_METHODS`` that the server offers."""
        return [name for name in self.AUTH_METHODS if name in self.server_auth_methods]

    async def login(
        self,
        username: str | bytes,
        password: str | bytes,
        /,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """Log in with the first of ``AUTH_METHODS`` that the server offers."""
        known = {
            mechanism.name.lower(): mechanism
            for mechanism in sasl.from_password(_text(username), _text(password))
        }
        chosen = [known[name] for name in self.AUTH_METHODS if name in known]
        return await self._log_in(timeout, *chosen)

    async def auth_crammd5(
        self,
        username: str | bytes,
        password: str | bytes,
        /,
        *,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """CRAM-MD5 (RFC 2195)."""
        return await self._log_in(timeout, sasl.CramMD5(_text(username), _text(password)))

    async def auth_plain(
        self,
        username: str | bytes,
        password: str | bytes,
        /,
        *,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """PLAIN (RFC 4616)."""
        return await self._log_in(timeout, sasl.Plain(_text(username), _text(password)))

    async def auth_login(
        self,
        username: str | bytes,
        password: str | bytes,
        /,
        *,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """LOGIN."""
        return await self._log_in(timeout, sasl.Login(_text(username), _text(password)))

    async def auth_xoauth2(
        self,
        username: str | bytes,
        access_token: str | bytes,
        /,
        *,
        timeout: TimeoutType = Default.token,
    ) -> SMTPResponse:
        """XOAUTH2."""
        return await self._log_in(timeout, sasl.XOAuth2(_text(username), _text(access_token)))

    async def _log_in(self, timeout: TimeoutType, *mechanisms: sasl.Mechanism) -> SMTPResponse:
        self._note_ehlo()
        connection = self._connection()
        if not mechanisms:
            raise SMTPException("AUTH_METHODS has no mechanism that is known")
        in_clear = not (connection.is_encrypted or self._may_log_in_in_clear)
        try:
            reply = await self._talk(lambda connection: connection.login(*mechanisms), timeout)
        except SMTPException as error:
            if in_clear and type(error) is SMTPException:
                # The options that anysmtp's words name are not to be had here.
                hint = "this client logs in in clear with start_tls=False"
                raise SMTPException(f"{error.message} ({hint})") from error.__cause__
            raise
        return response_of(reply)

    async def _log_in_on_connect(self) -> None:
        """The login that the client's arguments ask for."""
        if self._oauth_token_generator is not None:
            if self._username is None:
                raise SMTPException("oauth_token_generator needs a username")
            self._note_ehlo()
            if "xoauth2" not in self.server_auth_methods:
                raise SMTPException("the server does not offer XOAUTH2")
            # Not in the call's timeout: it is the caller's own code.
            await self.auth_xoauth2(self._username, await self._oauth_token_generator())
        elif self._username is not None:
            await self.login(self._username, "" if self._password is None else self._password)


def _text(credential: str | bytes) -> str:
    return credential.decode() if isinstance(credential, bytes) else credential
