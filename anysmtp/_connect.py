"""From an endpoint to a byte stream: TCP, unix socket, anything connectable, a proxy.

With `_tls` and `_proxy` the one place that knows sockets and ssl, and that turns their errors, and
anyio's, into ours: `connection_error` and `stream_error`, each most specific first. `TimeoutError`
and `ssl.SSLError` are `OSError`s; anyio's `BrokenResourceError` and `EndOfStream` are not.

A stream of ours counts as local, so that a secret may cross it in clear, only if it is a unix
socket, or a TCP connection that was opened here to a loopback address: never by name, nor
through a connectable or a proxy (``ssh -D`` listens on 127.0.0.1).
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from ._endpoint import Endpoint
from ._grammar import LOCAL_HOSTNAME
from ._reply import Reply
from .errors import SMTPConnectError, SMTPException, SMTPServerDisconnected

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# Octets for which asyncio asks the system at each read, into memory of its own.
_READ_BY_ASYNCIO = 256 * 1024
# What a stream raises when the network, the peer or another task has ended it.
STREAM_ERRORS = (
    OSError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.BusyResourceError,
)


@dataclass(slots=True)
class Link:
    """An open stream, and what it is to the client."""

    stream: ByteStream
    server: str
    """The server in messages, as ``"smtp.example.com:587"``."""
    hostname: str
    """The name that the server's certificate must be for."""
    is_local: bool = False
    """Whether it never leaves this machine, for certain."""
    port: int | None = None
    """The server's TCP port, where that is what the client connected to."""
    proxy_tls: Any = None
    """The TLS object of a proxy that is spoken to under TLS."""
    _sockets: tuple[Any, Any] | None = None
    _tcp: Any = None
    _poll: Any = None

    def __post_init__(self) -> None:
        keep_memory_for_reads()

    def sockets(self) -> tuple[Any, Any]:
        """The TLS object and the socket, where there are such; asked for once."""
        if self._sockets is None:
            tls = self.stream.extra(TLSAttribute.ssl_object, None)
            sock = self.stream.extra(SocketAttribute.raw_socket, None)
            self._sockets = tls, sock
            is_tcp = sock is not None and sock.family in _TCP_FAMILIES
            self._tcp = sock if is_tcp and _QUICK_ACK is not None else None
        return self._sockets

    def acknowledge_at_once(self) -> None:
        """Have what comes next acknowledged without delay, where the system can do that.

        A server that does not switch off Nagle's algorithm (Postfix) holds back a second small
        write until the first one is acknowledged, which a system delays by 40 ms. Linux forgets
        the option again, so it is set before each wait.
        """
        if self._sockets is None:
            self.sockets()
        # One that is closed by now says so when it is read.
        if self._tcp is not None and self._tcp.fileno() >= 0:
            self._tcp.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def poll(self, descriptor: int) -> object:
        """Whether there is something to read, or the end, on the socket that is underneath."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        return self._poll.poll(0)

    def forget_sockets(self) -> None:
        """The stream was replaced."""
        self._sockets = None

    @property
    def is_encrypted(self) -> bool:
        return self.stream.extra(TLSAttribute.ssl_object, None) is not None

    @property
    def is_verified(self) -> bool:
        """Whether it is under TLS with a certificate that was verified, and is for the server."""
        tls = self.stream.extra(TLSAttribute.ssl_object, None)
        if tls is None:
            return False
        return tls.context.verify_mode == ssl.CERT_REQUIRED and tls.context.check_hostname

    @property
    def address_literal(self) -> str:
        """This side's address as EHLO gives it (RFC 5321 section 4.1.3)."""
        address: object = None
        # Of a socket that is closed already nothing can be asked.
        with suppress(*STREAM_ERRORS):
            address = self.stream.extra(SocketAttribute.local_address, None)
        if not isinstance(address, tuple):
            return "[127.0.0.1]"
        host = address[0].partition("%")[0]
        return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


@cache
def keep_memory_for_reads() -> None:
    """See to it that asyncio's reads do not map memory each; done once in a process.

    For as many octets as it asks for, glibc has the system map memory, and unmap it as soon as the
    few that came are all that is kept: two page faults and three calls of the system for each read,
    a fifth of what a short message takes. It does so until a block as large was freed once; then it
    keeps that much instead (mallopt(3), M_MMAP_THRESHOLD; python/cpython#85451). No page of these
    is ever touched. Elsewhere nothing comes of it.
    """
    # Several at once: there may be room for one or two in memory that is kept already.
    blocks = [bytes(_READ_BY_ASYNCIO) for _ in range(8)]
    del blocks


async def open_link(endpoint: Endpoint) -> Link:
    """Connect. SMTPConnectError if that does not work."""
    if endpoint.proxy is not None:
        from ._proxy import open_tunnel

        return await open_tunnel(endpoint, endpoint.proxy)
    is_local, port = False, None
    try:
        if isinstance(endpoint.connectable, os.PathLike):
            stream: ByteStream = await anyio.connect_unix(os.fspath(endpoint.connectable))
            is_local = True
        elif endpoint.connectable is not None:
            stream = await endpoint.connectable.connect()
        else:
            stream = await connect_tcp(endpoint, endpoint.hostname, endpoint.port)
            is_local, port = _is_loopback(stream), endpoint.port
    except (*STREAM_ERRORS, UnicodeError) as error:
        raise connection_error(error, str(endpoint)) from error
    return Link(stream, str(endpoint), endpoint.hostname, is_local, port)


async def connect_tcp(endpoint: Endpoint, hostname: str, port: int | None) -> ByteStream:
    """TCP to the server, or to the proxy, from the address that the caller wants."""
    assert port is not None
    host, local_port = endpoint.source_address or (None, None)
    return await anyio.connect_tcp(hostname, port, local_host=host, local_port=local_port)


async def close(link: Link) -> None:
    """Close the stream at once, without saying good-bye.

    Shielded, because a caller that is cancelled must close all the same; bounded, because closing
    by force does not wait.
    """
    _keep_session_good(link)
    # Whatever a stream says of its own closing: it is not to be used any more.
    with suppress(*STREAM_ERRORS), anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(link.stream)


def _keep_session_good(link: Link) -> None:
    """OpenSSL takes a session for spoilt whose connection did not say close_notify.

    Since TLS 1.1 it is not (RFC 5246 section 7.2.1), so the word is said, and not sent.
    """
    tls, _ = link.sockets()
    if tls is not None:
        with suppress(OSError, ValueError):
            tls.unwrap()


def looks_alive(link: Link) -> bool:
    """Whether nothing has come over an idle connection: no late reply, and no end of it.

    A look, not a question: it costs no round trip and cannot hang. A TLS record can wait inside
    the TLS object, where poll does not see it. Streams without a socket are trusted; if they are
    dead after all, the message is not sent and goes over a fresh connection.
    """
    tls, sock = link.sockets()
    for each in (tls, link.proxy_tls):
        if each is not None and not _is_quiet(each):
            return False
    if sock is None or not hasattr(select, "poll"):
        return True
    if sock.fileno() < 0:
        return False
    return not link.poll(sock.fileno())


def _is_quiet(tls: Any) -> bool:
    """Whether a TLS object holds nothing that was not read."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return True
    except ssl.SSLError:
        return False
    return False


def local_hostname(link: Link) -> str:
    """What EHLO says of this host, if nobody says otherwise (RFC 5321 section 4.1.4).

    Its name, if that is a domain that EHLO may give; else its address. Never a DNS look-up.
    """
    name = socket.gethostname()
    is_domain = "." in name and LOCAL_HOSTNAME.fullmatch(name) is not None
    return name if is_domain and not name.lower().startswith("localhost.") else link.address_literal


def connection_error(error: Exception, server: str) -> SMTPException:
    """Why a connection could not be opened, as ours. The caller raises it from the error."""
    return SMTPConnectError(text_of(error), server=server, connection_closed=True)


def stream_error(
    error: Exception, server: str, *, greeted: bool, goodbye: Reply | None, broken: str | None
) -> SMTPException:
    """Why a connection was lost, as ours: before the server's greeting there was none."""
    if broken is not None:
        reason = broken
    elif isinstance(error, anyio.EndOfStream):
        reason = "the server closed the connection"
    elif isinstance(error, ssl.SSLError):
        reason = f"TLS failed: {text_of(error)}"
    else:
        reason = f"the connection was lost: {text_of(error)}"
    kind = SMTPServerDisconnected if greeted else SMTPConnectError
    return kind(reason, reply=goodbye, server=server, connection_closed=True)


def _is_loopback(stream: ByteStream) -> bool:
    remote = stream.extra(SocketAttribute.remote_address, None)
    if remote is None:
        return False  # The server has reset the connection already.
    address = ip_address(str(remote[0]).partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def text_of(error: BaseException) -> str:
    """What the operating system said, where anyio has wrapped it, the first of several."""
    cause = error.__cause__
    first = next(iter(getattr(cause, "exceptions", ())), cause)
    reason = first if isinstance(first, OSError) else error
    return _in_words_of_the_system(reason) + (str(reason) or type(reason).__name__)


def _in_words_of_the_system(error: BaseException) -> str:
    """What is to stand in front of the text of an error, which says only that, and not why.

    asyncio has "Connect call failed" for whatever it was that the system said.
    """
    if not isinstance(error, OSError) or isinstance(error, (ssl.SSLError, socket.gaierror)):
        return ""  # Their numbers are not the system's.
    said = os.strerror(error.errno) if error.errno else ""
    return f"{said}: " if said and said not in str(error) else ""
