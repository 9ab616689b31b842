"""`SMTP`: connecting, sending, and what stands around both."""

from __future__ import annotations

import email.message
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import anyio

from ._config import DEFAULT_TIMEOUT, SMTP_PORT, SMTP_STARTTLS_PORT, SMTP_TLS_PORT
from ._login import Logins
from ._translate import result_of
from .errors import SMTPException
from .response import SMTPResponse
from .typing import Default, SMTPTokenGenerator, SocketPathType, TimeoutType

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DEFAULT_TIMEOUT", "SMTP", "SMTP_PORT", "SMTP_STARTTLS_PORT", "SMTP_TLS_PORT"]

# Leaving a client does not wait longer for the reply to QUIT.
_QUIT_TIMEOUT = 2.0


class SMTP(Logins):
    """aiosmtplib's client: one connection, which is opened by `connect` or by ``async with``.

    Tasks that share it take turns. ``timeout`` of a method is a limit for the whole call; without
    one it is the client's. After a timeout or a cancellation the connection is closed, and the
    client can be connected again.
    """

    async def connect(
        self,
        *,
        hostname: str | Literal[Default.token] | None = Default.token,
        port: int | Literal[Default.token] | None = Default.token,
        username: str | bytes | Literal[Default.token] | None = Default.token,
        password: str | bytes | Literal[Default.token] | None = Default.token,
        oauth_token_generator: SMTPTokenGenerator | Literal[Default.token] | None = Default.token,
        local_hostname: str | Literal[Default.token] | None = Default.token,
        source_address: tuple[str, int] | Literal[Default.token] | None = Default.token,
        timeout: TimeoutType = Default.token,
        use_tls: bool | None = None,
        start_tls: bool | Literal[Default.token] | None = Default.token,
        validate_certs: bool | None = None,
        client_cert: str | Literal[Default.token] | None = Default.token,
        client_key: str | Literal[Default.token] | None = Default.token,
        tls_context: ssl.SSLContext | Literal[Default.token] | None = Default.token,
        cert_bundle: str | Literal[Default.token] | None = Default.token,
        socket_path: SocketPathType | Literal[Default.token] | None = Default.token,
        sock: socket.socket | Literal[Default.token] | None = Default.token,
    ) -> SMTPResponse:
        """Connect, encrypt and log in as the client's arguments ask; the server's greeting.

        Arguments take the place of the client's, for later too, but for ``timeout``. Waits for the
        end of a connection that another task is opening; SMTPException if there is one already.
        SMTPConnectError, SMTPHeloError, and whatever `starttls` and `login` raise: then nothing
        is left open.
        """
        self._update(
            hostname=hostname,
            port=port,
            username=username,
            password=password,
            oauth_token_generator=oauth_token_generator,
            local_hostname=local_hostname,
            source_address=source_address,
            use_tls=use_tls,
            start_tls=start_tls,
            validate_certs=validate_certs,
            client_cert=client_cert,
            client_key=client_key,
            tls_context=tls_context,
            cert_bundle=cert_bundle,
            socket_path=socket_path,
            sock=sock,
        )
        ended = await self._wait_for_turn_to_connect()
        try:
            greeting = await self._open(self.timeout if timeout is Default.token else timeout)
            await self._start_tls_on_connect()
            await self._log_in_on_connect()
        except BaseException:
            if ended is self._ended:
                self.close()
                self._let_others_connect()
            raise
        return greeting

    async def _start_tls_on_connect(self) -> None:
        is_offered = not self.use_tls and self.supports_extension("starttls")
        if self._start_tls or (self._start_tls is None and is_offered):
            await self.starttls()

    async def sendmail(
        self,
        sender: str,
        recipients: str | Sequence[str],
        message: str | bytes,
        /,
        *,
        mail_options: Iterable[str] | None = None,
        rcpt_options: Iterable[str] | None = None,
        timeout: TimeoutType = Default.token,
    ) -> tuple[dict[str, SMTPResponse], str]:
        """Send a raw message; a str is ASCII. Who was refused, and the server's last word.

        SMTPRecipientsRefused if it took none of the recipients; SMTPSenderRefused, SMTPDataError.
        """
        raw = message.encode("ascii") if isinstance(message, str) else message
        of_mail, of_rcpt = tuple(mail_options or ()), tuple(rcpt_options or ())
        self._note_ehlo()
        receipt = await self._talk(
            lambda connection: connection.sendmail(
                sender,
                recipients,
                raw,
                mail_options=of_mail,
                rcpt_options=of_rcpt,
                allow_long_lines=True,
            ),
            timeout,
            sender=sender,
        )
        return result_of(receipt)

    async def send_message(
        self,
        message: email.message.EmailMessage | email.message.Message,
        /,
        *,
        sender: str | None = None,
        recipients: str | Sequence[str] | None = None,
        mail_options: Iterable[str] | None = None,
        rcpt_options: Iterable[str] | None = None,
        timeout: TimeoutType = Default.token,
    ) -> tuple[dict[str, SMTPResponse], str]:
        """Send a message object; sender and recipients are those of its header unless given.

        Returns and raises what `sendmail` does; ValueError if there is no sender or no recipient.
        """
        of_mail, of_rcpt = tuple(mail_options or ()), tuple(rcpt_options or ())
        self._note_ehlo()
        receipt = await self._talk(
            lambda connection: connection.send_message(
                message,
                sender=sender,
                recipients=recipients,
                mail_options=of_mail,
                rcpt_options=of_rcpt,
                allow_long_lines=True,
            ),
            timeout,
            sender=sender,
        )
        return result_of(receipt)

    def sendmail_sync(self, *args: Any, **kwargs: Any) -> tuple[dict[str, SMTPResponse], str]:
        """Connect, `sendmail`, QUIT, in an event loop (asyncio's) that lasts for this call.

        RuntimeError inside of an event loop.
        """
        return self._run(lambda: self.sendmail(*args, **kwargs))

    def send_message_sync(self, *args: Any, **kwargs: Any) -> tuple[dict[str, SMTPResponse], str]:
        """Connect, `send_message`, QUIT, in an event loop (asyncio's) that lasts for this call.

        RuntimeError inside of an event loop.
        """
        return self._run(lambda: self.send_message(*args, **kwargs))

    def _run(
        self, send: Callable[[], Awaitable[tuple[dict[str, SMTPResponse], str]]]
    ) -> tuple[dict[str, SMTPResponse], str]:
        async def main() -> tuple[dict[str, SMTPResponse], str]:
            async with self:
                return await send()

        return anyio.run(main)

    async def __aenter__(self) -> Self:
        if not self.is_connected:
            await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """QUIT after a clean end, in two seconds; after any other the connection is closed."""
        try:
            if exc is None and self.is_connected:
                # Whatever becomes of QUIT: the mail is sent.
                with suppress(SMTPException):
                    await self.quit(timeout=_QUIT_TIMEOUT)
        finally:
            self.close()
