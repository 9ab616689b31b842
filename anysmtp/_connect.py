"""From an endpoint to a byte stream: TCP, unix socket, anything connectable, and TLS on top.

The one place that knows sockets and ssl, and that turns their errors, and anyio's, into ours:
`connection_error`, `tls_error` and `stream_error`, each most specific first. `TimeoutError`
and `ssl.SSLError` are `OSError`s; anyio's `BrokenResourceError` and `EndOfStream` are not.

A stream of ours counts as local, so that a secret may cross it in clear, only if it is a unix
socket, or a TCP connection that was opened here to a loopback address: never by name, nor
through a connectable (``ssh -D`` listens on 127.0.0.1).
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import anyio
from anyio.abc import ByteStream, ByteStreamConnectable, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from ._grammar import LOCAL_HOSTNAME
from ._monitor import Monitor, Since
from ._reply import Reply
from .errors import SMTPConnectError, SMTPException, SMTPServerDisconnected, SMTPTLSError
from .sasl import server_end_point

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# What a stream raises when the network, the peer or another task has ended it.
STREAM_ERRORS = (
    OSError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.BusyResourceError,
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, and how to get there."""

    hostname: str
    port: int | None
    connectable: ByteStreamConnectable | os.PathLike[str] | None = None
    source_address: tuple[str, int | None] | None = None

    def __str__(self) -> str:
        if isinstance(self.connectable, os.PathLike):
            return os.fspath(self.connectable)
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return host if self.port is None else f"{host}:{self.port}"


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
    _sockets: tuple[Any, Any] | None = None
    _poll: Any = None

    def sockets(self) -> tuple[Any, Any]:
        """The TLS object and the socket, where there are such; asked for once."""
        if self._sockets is None:
            tls = self.stream.extra(TLSAttribute.ssl_object, None)
            self._sockets = tls, self.stream.extra(SocketAttribute.raw_socket, None)
        return self._sockets

    def acknowledge_at_once(self) -> None:
        """Have what comes next acknowledged without delay, where the system can do that.

        A server that does not switch off Nagle's algorithm (Postfix) holds back a second small
        write until the first one is acknowledged, which a system delays by 40 ms. Linux forgets
        the option again, so it is set before each wait.
        """
        sock = (self._sockets or self.sockets())[1]
        if sock is None or _QUICK_ACK is None or sock.family not in _TCP_FAMILIES:
            return
        # One that is closed by now says so when it is read.
        if sock.fileno() >= 0:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

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


async def open_link(endpoint: Endpoint) -> Link:
    """Connect. SMTPConnectError if that does not work."""
    is_local, port = False, None
    try:
        if isinstance(endpoint.connectable, os.PathLike):
            stream: ByteStream = await anyio.connect_unix(os.fspath(endpoint.connectable))
            is_local = True
        elif endpoint.connectable is not None:
            stream = await endpoint.connectable.connect()
        else:
            assert endpoint.port is not None
            host, port = endpoint.source_address or (None, None)
            stream = await anyio.connect_tcp(
                endpoint.hostname, endpoint.port, local_host=host, local_port=port
            )
            is_local, port = _is_loopback(stream), endpoint.port
    except (*STREAM_ERRORS, UnicodeError) as error:
        raise connection_error(error, str(endpoint)) from error
    return Link(stream, str(endpoint), endpoint.hostname, is_local, port)


async def encrypt(link: Link, context: ssl.SSLContext, monitor: Monitor, *, hint: str) -> None:
    """Put TLS on the link (RFC 8314 section 3). SMTPTLSError, with the stream closed, if it fails.

    The closing handshake is left out: an SMTP session ends with QUIT, and every message with a
    reply, so a cut can be told without it.
    """
    since = Since()
    try:
        link.stream = await TLSStream.wrap(
            link.stream,
            server_side=False,
            hostname=link.hostname.rstrip("."),
            ssl_context=context,
            standard_compatible=False,
        )
        link.forget_sockets()
    except (*STREAM_ERRORS, ValueError) as error:
        failure = tls_error(error, link, hint)
        monitor.not_encrypted(since, failure)
        await close(link)
        raise failure from error
    except BaseException as cancellation:
        monitor.not_encrypted(since, cancellation)
        await close(link)
        raise
    cipher: tuple[str, str, int] | None = link.stream.extra(TLSAttribute.cipher, None)
    version = link.stream.extra(TLSAttribute.tls_version, None)
    monitor.encrypted(since, version, None if cipher is None else cipher[0])


async def close(link: Link) -> None:
    """Close the stream at once, without saying good-bye.

    Shielded, because a caller that is cancelled must close all the same; bounded, because closing
    by force does not wait.
    """
    # Whatever a stream says of its own closing: it is not to be used any more.
    with suppress(*STREAM_ERRORS), anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(link.stream)


def looks_alive(link: Link) -> bool:
    """Whether nothing has come over an idle connection: no late reply, and no end of it.

    A look, not a question: it costs no round trip and cannot hang. A TLS record can wait inside
    the TLS object, where poll does not see it. Streams without a socket are trusted; if they are
    dead after all, the message is not sent and goes over a fresh connection.
    """
    tls, sock = link.sockets()
    if tls is not None:
        try:
            tls.read(1)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return False
        else:
            return False
    if sock is None or not hasattr(select, "poll"):
        return True
    if sock.fileno() < 0:
        return False
    return not link.poll(sock.fileno())


def local_hostname(link: Link) -> str:
    """What EHLO says of this host, if nobody says otherwise (RFC 5321 section 4.1.4).

    Its name, if that is a domain that EHLO may give; else its address. Never a DNS look-up.
    """
    name = socket.gethostname()
    is_domain = "." in name and LOCAL_HOSTNAME.fullmatch(name) is not None
    return name if is_domain and not name.lower().startswith("localhost.") else link.address_literal


def channel_bindings(stream: ByteStream) -> dict[str, bytes]:
    """What identifies the TLS channel to both of its ends, by type; without TLS nothing.

    RFC 5929 and RFC 9266. tls-unique is not defined for TLS 1.3, though OpenSSL has something to
    give there; tls-exporter is in no Python so far, and comes from here once it is in one.
    """
    tls = stream.extra(TLSAttribute.ssl_object, None)
    if tls is None:
        return {}
    kinds = {"tls-exporter"} if tls.version() == "TLSv1.3" else {"tls-unique", "tls-exporter"}
    found = {kind: tls.get_channel_binding(kind) for kind in kinds & {*ssl.CHANNEL_BINDING_TYPES}}
    if (certificate := tls.getpeercert(binary_form=True)) is not None:
        found["tls-server-end-point"] = server_end_point(certificate)
    return {kind: binding for kind, binding in found.items() if binding is not None}


def create_tls_context(
    *,
    validate_certs: bool = True,
    cafile: str | os.PathLike[str] | None = None,
    cadata: str | bytes | None = None,
    client_cert: str | os.PathLike[str] | None = None,
    client_key: str | os.PathLike[str] | None = None,
    client_key_password: str | None = None,
) -> ssl.SSLContext:
    """Make an SSLContext for ``tls_context``.

    ``cafile`` (a path) or ``cadata`` (PEM text or DER bytes) replace the system's certificate
    authorities; ``client_cert`` and ``client_key`` are paths of the client's own certificate and
    key in PEM. ``validate_certs=False`` accepts any certificate for any name.

    Reads files, so make it once, outside of the event loop's hot paths. OSError or ssl.SSLError
    where a file cannot be read or is not what it should be; ValueError for a key without a
    certificate.
    """
    for path in (cafile, client_cert, client_key):
        if path is not None:
            # OpenSSL does not say which file it could not read.
            open(path, "rb").close()
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    if not validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client_cert is not None:
        context.load_cert_chain(client_cert, client_key, client_key_password)
    elif client_key is not None:
        raise ValueError("client_key without client_cert")
    return context


def connection_error(error: Exception, server: str) -> SMTPException:
    """Why a connection could not be opened, as ours. The caller raises it from the error."""
    return SMTPConnectError(_text(_reason(error)), server=server, connection_closed=True)


def tls_error(error: Exception, link: Link, hint: str) -> SMTPException:
    """Why a TLS handshake failed, as ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        way_out = _ANOTHER_NAME if error.verify_code in _WRONG_NAME else _ANOTHER_AUTHORITY
        reason = (
            f"the certificate of {link.hostname} was not accepted: "
            f"{error.verify_message.rstrip('.')}; {way_out}"
        )
    elif isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        reason = f"the server does not speak TLS here{hint}"
    elif isinstance(error, STREAM_ERRORS) and not isinstance(error, ssl.SSLError):
        reason = f"the connection was closed during the TLS handshake{hint}"
    else:
        reason = f"the TLS handshake failed: {_text(error)}"
    return SMTPTLSError(reason, server=link.server, connection_closed=True)


def stream_error(
    error: Exception, server: str, *, greeted: bool, goodbye: Reply | None, broken: str | None
) -> SMTPException:
    """Why a connection was lost, as ours: before the server's greeting there was none."""
    if broken is not None:
        reason = broken
    elif isinstance(error, anyio.EndOfStream):
        reason = "the server closed the connection"
    elif isinstance(error, ssl.SSLError):
        reason = f"TLS failed: {_text(error)}"
    else:
        reason = f"the connection was lost: {_text(_reason(error))}"
    kind = SMTPServerDisconnected if greeted else SMTPConnectError
    return kind(reason, reply=goodbye, server=server, connection_closed=True)


# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_WRONG_NAME = frozenset({62, 64})
_ANOTHER_NAME = (
    "connect by a name that the certificate has (to another address: connectable=, and that name "
    "as hostname)"
)
_ANOTHER_AUTHORITY = (
    "tls_context=anysmtp.create_tls_context(cafile=...) trusts another authority, tls= sets "
    "another mode"
)

# OpenSSL's reasons when the peer's first octets are no TLS record; they differ by its version.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


def _is_loopback(stream: ByteStream) -> bool:
    remote = stream.extra(SocketAttribute.remote_address, None)
    if remote is None:
        return False  # The server has reset the connection already.
    address = ip_address(str(remote[0]).partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _reason(error: BaseException) -> BaseException:
    """What the operating system said, where anyio has wrapped it, the first of several."""
    cause = error.__cause__
    first = next(iter(getattr(cause, "exceptions", ())), cause)
    return first if isinstance(first, OSError) else error


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
