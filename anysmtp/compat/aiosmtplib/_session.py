"""Connected or not, whose turn it is, and what the server said to EHLO.

One `SMTPConnection` at a time stands behind a client. Each call on it goes through `_talk`: it
waits for its turn, which no timeout counts; has its timeout as a cancel scope around everything
that it says; and raises aiosmtplib's exceptions. A connection that a call leaves closed is
forgotten in the same step, so that ``connect()`` works again.

``close()`` is no coroutine in aiosmtplib, so closing must not wait: see `_run_now`.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import current_token

from ... import Extensions, Reply, SMTPConnection, errors
from ..._connection import stream_of
from ._config import Configured, checked_local_hostname
from ._stream import ClientStream, info_of, open_stream, place_of
from ._translate import OPENING_ERRORS, opening_error, response_of, translated
from .errors import (
    SMTPConnectTimeoutError,
    SMTPException,
    SMTPHeloError,
    SMTPReadTimeoutError,
    SMTPServerDisconnected,
)
from .response import SMTPResponse
from .typing import Default, TimeoutType

T = TypeVar("T")

# Closing yields once or twice, to let the event loop run.
_MAX_YIELDS = 10


class Session(Configured):
    """A client's connection, and what is known of the server."""

    protocol: SMTPConnection | None
    """The connection, if there is one: aiosmtplib has its asyncio protocol here."""
    transport: ClientStream | None
    """The byte stream below it."""
    loop: object | None
    """The event loop that the client was last connected in: asyncio's, or a token for trio's."""
    last_helo_response: SMTPResponse | None
    esmtp_extensions: dict[str, str]
    """What the server offers: keywords in lower case, and their parameters."""
    supports_esmtp: bool
    server_auth_methods: list[str]
    """The mechanisms that the server offers, in lower case."""

    def _start_afresh(self) -> None:
        self.protocol = None
        self.transport = None
        self.loop = None
        self._turn = anyio.Lock()
        # There from the beginning of a connect() to the end of its connection.
        self._ended: anyio.Event | None = None
        self._forget_connection()

    def _forget_connection(self) -> None:
        self.protocol = self.transport = None
        self._may_log_in_in_clear = False
        self._tls_context: ssl.SSLContext | None = None
        self._forget_server()

    def _forget_server(self) -> None:
        """RFC 3207 section 4.2: what was said before TLS is not known any more."""
        self.last_helo_response = None
        self._last_ehlo_response: SMTPResponse | None = None
        self.esmtp_extensions = {}
        self.server_auth_methods = []
        self.supports_esmtp = False
        # Whether the connection has said EHLO by itself, as it does after STARTTLS.
        self._has_said_ehlo = False

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known without asking."""
        return self.protocol is not None and not self.protocol.is_closed

    @property
    def last_ehlo_response(self) -> SMTPResponse | None:
        """The reply to EHLO; setting it sets what the server offers."""
        return self._last_ehlo_response

    @last_ehlo_response.setter
    def last_ehlo_response(self, response: SMTPResponse) -> None:
        extensions = Extensions(Reply(response.code, response.message))
        self._last_ehlo_response = response
        self.esmtp_extensions = {name.lower(): value for name, value in extensions.items()}
        self.server_auth_methods = [name.lower() for name in extensions.auth]
        self.supports_esmtp = True

    @property
    def is_ehlo_or_helo_needed(self) -> bool:
        """Whether neither EHLO nor HELO has been answered."""
        return self.last_ehlo_response is None and self.last_helo_response is None

    def supports_extension(self, extension: str, /) -> bool:
        """Whether the server offers it; in upper or lower case."""
        return extension.lower() in self.esmtp_extensions

    def get_transport_info(self, key: str) -> Any:
        """What is known of the connection under one of asyncio's keys; None if it is not known.

        ``peername``, ``sockname``, ``socket``; under TLS ``sslcontext``, ``ssl_object``,
        ``cipher``, ``peercert`` and ``compression`` too. SMTPServerDisconnected without a
        connection.
        """
        if self.protocol is None or self.protocol.is_closed:
            raise SMTPServerDisconnected("not connected")
        return self._tls_context if key == "sslcontext" else info_of(stream_of(self.protocol), key)

    def close(self) -> None:
        """Close the connection at once, without QUIT; nothing happens if there is none."""
        connection = self.protocol
        if connection is None:
            return
        self._forget_connection()
        # What another event loop has had it has taken with it.
        if self.loop == _running_loop():
            _run_now(connection.aclose())
            self._let_others_connect()

    async def ehlo(
        self, *, hostname: str | None = None, timeout: TimeoutType = Default.token
    ) -> SMTPResponse:
        """EHLO (RFC 5321 section 4.1.1.1). SMTPHeloError if it is refused."""
        name = self.local_hostname if hostname is None else checked_local_hostname(hostname)
        reply = await self._talk(lambda connection: connection.ehlo(name), timeout)
        response = self.last_ehlo_response = response_of(reply)
        return response

    async def helo(
        self, *, hostname: str | None = None, timeout: TimeoutType = Default.token
    ) -> SMTPResponse:
        """HELO (RFC 5321 section 4.1.1.1). SMTPHeloError if it is refused."""
        name = self.local_hostname if hostname is None else checked_local_hostname(hostname)
        reply = await self._talk(lambda connection: connection.helo(name), timeout)
        response = self.last_helo_response = response_of(reply)
        return response

    async def _open(self, seconds: float | None) -> SMTPResponse:
        """A connection that has read the server's greeting and said EHLO; the greeting."""
        with anyio.CancelScope(deadline=_deadline(seconds)):
            context = await self._get_tls_context() if self.use_tls else None
            try:
                stream = await open_stream(self, context)
            except OPENING_ERRORS as error:
                raise opening_error(error, place_of(self)) from error
            self._adopt(stream)
            self._tls_context = context
            # One scope stands around all of it, so what is said here has none of its own.
            try:
                await self.ehlo(timeout=None)
            except SMTPHeloError:
                if not self.is_connected:
                    raise
                await self.helo(timeout=None)
            return stream.take_greeting()
        raise SMTPConnectTimeoutError(f"no connection to {place_of(self)} in {seconds:g} seconds")

    def _adopt(self, stream: ClientStream) -> None:
        # Nobody who asked for TLS where it is to be had wants to log in where somebody on the way
        # says that it is not.
        self._may_log_in_in_clear = self._start_tls is False or stream.is_local
        self._turn = anyio.Lock()
        self.transport = stream
        self.protocol = SMTPConnection(
            stream,
            self.hostname or "localhost",
            timeout=None,
            local_hostname=self.local_hostname,
            allow_plaintext_auth=self._may_log_in_in_clear,
        )

    async def _wait_for_turn_to_connect(self) -> anyio.Event:
        """As aiosmtplib has it: an error if there is a connection, patience if there will be one.

        The event is set when the connection that the caller now makes has ended.
        """
        if self.loop != _running_loop():
            self._start_afresh()
            self.loop = _running_loop()
        if self.is_connected:
            raise SMTPException("the client is connected already")
        while self._ended is not None:
            await self._ended.wait()
        self._ended = anyio.Event()
        return self._ended

    def _let_others_connect(self) -> None:
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def _connection(self) -> SMTPConnection:
        if self.protocol is None:
            raise SMTPServerDisconnected("not connected")
        return self.protocol

    async def _talk(
        self,
        talk: Callable[[SMTPConnection], Awaitable[T]],
        timeout: TimeoutType,
        *,
        sender: str | None = None,
    ) -> T:
        """Wait for the turn, and say something within the timeout."""
        connection = self._connection()
        seconds = self.timeout if timeout is Default.token else timeout
        try:
            async with self._turn:
                with anyio.CancelScope(deadline=_deadline(seconds)):
                    return await talk(connection)
        except errors.SMTPException as error:
            raise translated(error, sender) from error
        finally:
            if connection.is_closed and connection is self.protocol:
                self.close()
        if connection is self.protocol:
            # It may have been about to write: whatever it was, it has not ended well.
            self.close()
        raise SMTPReadTimeoutError(f"no answer in {seconds:g} seconds")

    def _note_ehlo(self) -> None:
        """Take note of what the connection learnt from the EHLO that it says after STARTTLS."""
        if self._has_said_ehlo and self.is_ehlo_or_helo_needed:
            offered = self._connection().extensions
            lines = [self.hostname or "localhost"]
            lines += (f"{name} {value}".rstrip() for name, value in offered.items())
            self.last_ehlo_response = SMTPResponse(250, "\n".join(lines))


def _deadline(seconds: float | None) -> float:
    return math.inf if seconds is None else anyio.current_time() + seconds


def _running_loop() -> object | None:
    try:
        return current_token().native_token
    except RuntimeError:
        return None


def _run_now(closing: Coroutine[Any, Any, None]) -> None:
    """Run what closes a connection as far as it goes without waiting, which is to the end of it.

    The stream is closed before the first suspension. What is suspended there on asyncio only lets
    the loop run once, by yielding nothing, and is resumed here to throw away what is not written
    yet; trio yields a request to its scheduler, and there is nothing left to do.
    """
    try:
        for _ in range(_MAX_YIELDS):
            if closing.send(None) is not None:
                break
    except StopIteration:
        return
    closing.close()
