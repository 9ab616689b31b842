"""From settings to a channel that mail can be sent on: connect, greet, encrypt, log in.

All of it has one deadline, ``Timeouts.connect``. Whatever ends it early closes the stream.
"""

from __future__ import annotations

from anyio.streams.tls import TLSAttribute

from . import _connect, _dialogue, _login, sasl
from ._channel import Channel
from ._clock import Clock
from ._connect import Link
from ._endpoint import Endpoint
from ._monitor import Monitor
from ._settings import Settings
from ._tls import Encryption, encrypt
from .errors import SMTPException, SMTPTLSError

_STARTTLS_HINT = "; if it wants STARTTLS: tls='starttls'"
_NO_STARTTLS_HINT = (
    "; tls='implicit' (port 465) encrypts from the first octet, tls='off' does not encrypt"
)


def encryption_of(settings: Settings) -> Encryption:
    """The TLS of a client; where a certificate is pinned, that takes the authorities' place."""
    return Encryption(
        settings.tls_context,
        verify=settings.tls != "opportunistic" and not settings.pins,
        pins=settings.pins,
    )


async def establish(
    settings: Settings,
    clock: Clock,
    encryption: Encryption,
    monitor: Monitor,
) -> Channel:
    """Open a connection and make it ready for mail.

    SMTPConnectError, SMTPTLSError, SMTPAuthenticationError and whatever else a conversation
    may raise.
    """
    clock.hold(settings.timeouts.connect, "the connection")
    with monitor.connecting():
        link = await _open(settings.endpoint, clock)
        try:
            if settings.tls == "implicit":
                await encryption.load()
                await encrypt(link, encryption, monitor, hint=_STARTTLS_HINT)
            channel = Channel(link, settings.timeouts, monitor, is_lmtp=settings.is_lmtp)
            async with channel.turn():
                await _make_ready(channel, clock, settings, encryption)
        except BaseException as error:
            await _connect.close(link)
            if isinstance(error, SMTPException):
                error.connection_closed = True
            raise
    clock.release()
    encryption.keep_session(link.stream)
    channel.is_in_service = True
    monitor.connected(link.stream.extra(TLSAttribute.tls_version, "no TLS"))
    return channel


async def _open(endpoint: Endpoint, clock: Clock) -> Link:
    if endpoint.proxy is not None:
        clock.hint = f" (by way of the proxy {endpoint.proxy})"
    try:
        link = await _connect.open_link(endpoint)
    except SMTPException:
        clock.hint = ""
        raise
    clock.hint = ""
    return link


async def _make_ready(
    channel: Channel,
    clock: Clock,
    settings: Settings,
    encryption: Encryption,
) -> None:
    name = settings.local_hostname or _connect.local_hostname(channel.link)
    await _dialogue.greet(channel, clock)
    await _dialogue.hello(channel, clock, name)
    if _wants_starttls(channel, settings):
        try:
            await encryption.load()
            await _dialogue.start_tls(channel, clock, encryption, name, hint=_NO_STARTTLS_HINT)
        except SMTPTLSError:
            # A refusal, and not a handshake that failed: RFC 7435 section 3 goes on in clear.
            if settings.tls != "opportunistic" or not channel.is_open:
                raise
    if settings.mechanisms:
        # No EHLO afterwards: RFC 4954 asks for one only behind a SASL security layer, and some
        # servers refuse it.
        with channel.monitor.logging_in():
            await _login.login(
                channel,
                clock,
                settings.mechanisms,
                allow_plaintext=settings.allow_plaintext_auth,
            )


def _wants_starttls(channel: Channel, settings: Settings) -> bool:
    """The rules of ``tls``; where it is required it is asked for though it is not offered."""
    extensions = channel.session.extensions
    if settings.tls in ("implicit", "off"):
        return False
    if settings.tls == "starttls" or settings.pins:
        return True
    if settings.tls == "opportunistic":
        return extensions.starttls
    if channel.link.is_local:
        mechanisms = settings.mechanisms
        can_log_in = sasl.choose(mechanisms, _login.context_of(channel))
        return bool(mechanisms) and not can_log_in and extensions.starttls
    if settings.endpoint.port == 587 or settings.mechanisms:
        return True
    return extensions.starttls
