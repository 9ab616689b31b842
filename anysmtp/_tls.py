"""TLS on a stream: the handshake, its errors as ours, and what a client's connections share for it.

`Encryption` is the TLS side of one client: its context, made once and in a worker thread, because
that reads files; the sessions of its connections; the certificates that it demands. `encrypt` puts
TLS on a link, and is the one place that turns what may go wrong in that into an `SMTPTLSError`.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import anyio
from anyio import to_thread
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from ._connect import STREAM_ERRORS, Link, close, text_of
from ._monitor import Monitor, Since
from .errors import SMTPTLSError
from .sasl import server_end_point

# More than a client has connections, as a rule; a server sends one or two with each handshake.
_MAX_SESSIONS = 8


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What TLS came to on a connection."""

    version: str
    """The version, as ``"TLSv1.3"``."""
    cipher: str
    """The cipher's name."""
    certificate: bytes | None = field(repr=False)
    """The server's certificate (DER), whether it was verified or not."""
    is_resumed: bool
    """Whether a session of an earlier connection was taken up."""

    @property
    def fingerprint(self) -> str | None:
        """The certificate's, as ``"sha256:"`` and 64 hexadecimal digits: what can be pinned."""
        if self.certificate is None:
            return None
        return f"sha256:{hashlib.sha256(self.certificate).hexdigest()}"


def tls_info(stream: ByteStream) -> TLSInfo | None:
    """Of a stream under TLS; None without."""
    tls: ssl.SSLObject | None = stream.extra(TLSAttribute.ssl_object, None)
    if tls is None:
        return None
    cipher = tls.cipher()
    return TLSInfo(
        version=tls.version() or "",
        cipher="" if cipher is None else cipher[0],
        certificate=tls.getpeercert(binary_form=True),
        is_resumed=bool(tls.session_reused),
    )


class Encryption:
    """What the connections of one client share for TLS with the mail server.

    Sessions are taken up by other connections, each once (RFC 8446 appendix C.4), and each
    connection gives one back. All are of the same context and host name.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        *,
        verify: bool = True,
        pins: frozenset[str] = frozenset(),
    ) -> None:
        self._context = context
        self._verify = verify
        self._pins = pins
        self._loading = anyio.Lock()
        self._sessions: deque[ssl.SSLSession] = deque(maxlen=_MAX_SESSIONS)

    async def load(self) -> ssl.SSLContext:
        """The caller's context, or the default one, made once; needed before `shake_hands`."""
        async with self._loading:
            if self._context is None:
                verify = self._verify
                self._context = await to_thread.run_sync(
                    lambda: create_tls_context(validate_certs=verify)
                )
            return self._context

    async def shake_hands(self, stream: ByteStream, hostname: str) -> TLSStream:
        """TLS on a stream, with a session of an earlier connection where there is one."""
        context = self._context
        assert context is not None
        if self._sessions:
            context = cast(ssl.SSLContext, _Resuming(context, self._sessions.pop()))
        return await handshake(stream, hostname, context)

    def keep_session(self, stream: ByteStream) -> None:
        """For another connection; in TLS 1.3 it comes behind the handshake, with what is read."""
        tls: ssl.SSLObject | None = stream.extra(TLSAttribute.ssl_object, None)
        # It may be the TLS of the caller's own connectable. And what other kinds of context do to a
        # handshake, they may not do to one that is resumed.
        if (
            tls is None
            or tls.context is not self._context
            or type(tls.context) is not ssl.SSLContext
        ):
            return
        session = tls.session
        assert session is not None
        self._sessions.append(session)

    def objection(self, info: TLSInfo, hostname: str) -> str | None:
        """Why a certificate is not a pinned one; None if it is, or if any other will do."""
        if not self._pins or info.fingerprint in self._pins:
            return None
        return (
            f"the certificate of {hostname} is not the one that fingerprint= demands: "
            f"{info.fingerprint}, not {' or '.join(sorted(self._pins))}"
        )


class _Resuming:
    """A context whose handshake takes up a session.

    AnyIO calls the same method of contexts that are not the standard library's own, in a worker
    thread.
    """

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession) -> None:
        self._context = context
        self._session = session

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool,
        server_hostname: str | bytes | None,
        session: None,
    ) -> ssl.SSLObject:
        return self._context.wrap_bio(
            incoming, outgoing, server_side, server_hostname, self._session
        )


async def encrypt(link: Link, encryption: Encryption, monitor: Monitor, *, hint: str) -> TLSInfo:
    """Put TLS on the link (RFC 8314 section 3). SMTPTLSError, with it closed, if that fails."""
    since = Since()
    try:
        link.stream = await encryption.shake_hands(link.stream, link.hostname)
        link.forget_sockets()
        info = tls_info(link.stream)
        assert info is not None
        if (reason := encryption.objection(info, link.hostname)) is not None:
            raise _failure(reason, link)
    except (*STREAM_ERRORS, ValueError) as error:
        reason = why_no_tls(
            error, link.hostname, "the server", hint=hint, way_out=_ANOTHER_AUTHORITY
        )
        failure = _failure(reason, link)
        monitor.not_encrypted(since, failure)
        await close(link)
        raise failure from error
    except BaseException as error:
        monitor.not_encrypted(since, error)
        await close(link)
        raise
    monitor.encrypted(since, info.version, info.cipher, is_resumed=info.is_resumed)
    return info


def _failure(reason: str, link: Link) -> SMTPTLSError:
    return SMTPTLSError(reason, server=link.server, connection_closed=True)


async def handshake(stream: ByteStream, hostname: str, context: ssl.SSLContext) -> TLSStream:
    """TLS on a stream, with a server of this name.

    The closing handshake is left out: an SMTP session ends with QUIT, and every message with a
    reply, so a cut can be told without it.
    """
    return await TLSStream.wrap(
        stream,
        server_side=False,
        hostname=hostname.rstrip("."),
        ssl_context=context,
        standard_compatible=False,
    )


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


def why_no_tls(error: Exception, hostname: str, peer: str, *, hint: str, way_out: str) -> str:
    """Why a handshake with the server or proxy ``peer`` failed.

    ``hint``: why it may not have been the right thing to ask for. ``way_out``: what to do about an
    authority that is not trusted.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        is_other_name = error.verify_code in _WRONG_NAME
        return (
            f"the certificate of {hostname} was not accepted: "
            f"{error.verify_message.rstrip('.')}; {_ANOTHER_NAME if is_other_name else way_out}"
        )
    if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        return f"{peer} does not speak TLS here{hint}"
    if isinstance(error, STREAM_ERRORS) and not isinstance(error, ssl.SSLError):
        return f"the connection was closed during the TLS handshake{hint}"
    return f"the TLS handshake failed: {text_of(error)}"


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
