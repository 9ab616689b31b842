"""Through a proxy to the mail server: SOCKS 5 (RFC 1928, RFC 1929), SOCKS 4A, HTTP CONNECT.

The packets are those of the sans-IO libraries socksio and h11; reading and judging them is done
here. A proxy's answer ends where the mail server's first octet may begin, so of a SOCKS answer
exactly as many octets are read as it has, and what came behind the head of an HTTP response is kept
for the one who reads next. No answer may be longer than a few lines of text.

A proxy is another's machine: it never counts as local, and TLS with it is not TLS with the mail
server. So what lies under a tunnel is not to be seen from above it, but for the socket.

Each error says at which hop the way ended (`SMTPProxyError.hop`); none has a password.
"""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from typing import Any, Literal, TypeAlias

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSAttribute

from ._connect import STREAM_ERRORS, Link, close, connect_tcp, connection_error, text_of
from ._endpoint import Endpoint, Proxy, authority
from ._tls import handshake, why_no_tls
from .errors import SMTPProxyError

Hop: TypeAlias = Literal["proxy", "login", "target"]

# Octets of a response's head; h11's own limit, and Apache's for one field is half of it.
_MAX_HEAD = 16384
# Characters of what a proxy says that are worth repeating.
_MAX_SAID = 100

_ANOTHER_AUTHORITY = (
    "proxy_tls_context=anysmtp.create_tls_context(cafile=...) trusts another authority"
)

# The version octet that answers begin with: RFC 1928 section 3, and RFC 1929 section 2.
_SOCKS5 = 5
_SOCKS5_LOGIN = 1
# RFC 1928 section 6.
_SOCKS5_REFUSALS: Mapping[int, str] = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
_SOCKS5_ADDRESS_LENGTHS = {1: 4, 4: 16}
_SOCKS5_NAME = 3
_SOCKS4_GRANTED = 0x5A
# The user name was not what the client's identd said, or there was none.
_SOCKS4_WRONG_USER = (0x5C, 0x5D)
# RFC 9110 section 15.5.8; some proxies (tinyproxy) say 401 to wrong credentials.
_HTTP_WANTS_LOGIN = (401, 407)


class _No(Exception):
    """The proxy's no, or what is no answer at all."""

    def __init__(self, hop: Hop, reason: str) -> None:
        super().__init__(reason)
        self.hop: Hop = hop


class Tunnel(ByteStream):
    """The way to the mail server: of what lies below, its socket alone can be asked for."""

    def __init__(self, stream: ByteStream, carrier: ByteStream, early: bytes = b"") -> None:
        self._stream = stream
        self._carrier: Any = carrier
        self._early = early

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._early:
            return await self._stream.receive(max_bytes)
        await checkpoint()
        chunk, self._early = self._early[:max_bytes], self._early[max_bytes:]
        return chunk

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: Mapping[Any, Callable[[], Any]] = self._carrier.extra_attributes
        return attributes


async def open_tunnel(endpoint: Endpoint, proxy: Proxy) -> Link:
    """Connect to the proxy, and have it connect to the mail server.

    SMTPProxyError; SMTPConnectError for a name of the mail server's that is looked up here, and
    does not exist.
    """
    host = await _target(endpoint, proxy)
    try:
        stream = await connect_tcp(endpoint, proxy.hostname, proxy.port)
    except (*STREAM_ERRORS, UnicodeError) as error:
        no = _No("proxy", f"cannot be reached: {text_of(error)}")
        raise _failure(no, endpoint, proxy) from error
    link = Link(stream, str(endpoint), endpoint.hostname, port=endpoint.port)
    try:
        await dig(link, proxy, host)
    except _No as no:
        await close(link)
        raise _failure(no, endpoint, proxy) from no.__cause__
    except BaseException:
        await close(link)
        raise
    return link


async def dig(link: Link, proxy: Proxy, host: str) -> None:
    """Have the proxy at the other end connect to this host, whose stream the link has then."""
    carrier = link.stream
    if proxy.encryption is not None:
        await _encrypt(link, proxy, await proxy.encryption.load())
    try:
        early = await _ASK[proxy.scheme](link, proxy, host)
    except STREAM_ERRORS as error:
        reason = "closed the connection" if _is_end(error) else f"was lost: {text_of(error)}"
        raise _No("proxy", reason) from error
    link.stream = Tunnel(link.stream, carrier, early)
    link.forget_sockets()


async def _encrypt(link: Link, proxy: Proxy, context: Any) -> None:
    try:
        link.stream = await handshake(link.stream, proxy.hostname, context)
    except (*STREAM_ERRORS, ValueError) as error:
        reason = why_no_tls(error, proxy.hostname, "it", hint="", way_out=_ANOTHER_AUTHORITY)
        raise _No("proxy", f"cannot be spoken to under TLS: {reason}") from error
    link.proxy_tls = link.stream.extra(TLSAttribute.ssl_object)


async def _target(endpoint: Endpoint, proxy: Proxy) -> str:
    """What the proxy is asked for: an address, or the name as DNS has it.

    With ``socks5`` the name is looked up here. A proxy is likelier to reach IPv4 addresses, and
    whether it can reach the others the system here does not know.
    """
    name = endpoint.hostname
    with suppress(ValueError):
        return str(ip_address(name))
    try:
        if proxy.scheme == "socks5":
            found = await anyio.getaddrinfo(name, endpoint.port, type=socket.SOCK_STREAM)
            return str(min(found, key=lambda info: info[0] != socket.AF_INET)[4][0])
        return name if name.isascii() else _a_labels(name)
    except (OSError, UnicodeError) as error:
        raise connection_error(error, str(endpoint)) from error


def _a_labels(name: str) -> str:
    import idna

    return idna.encode(name, uts46=True).decode("ascii")


async def _socks5(link: Link, proxy: Proxy, host: str) -> bytes:
    from socksio import socks5

    methods = [socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.username is not None:
        methods.append(socks5.SOCKS5AuthMethod.USERNAME_PASSWORD)
    hello = socks5.SOCKS5AuthMethodsRequest(methods)
    version, method = await _ask(link.stream, hello.dumps(), 2)
    if version != _SOCKS5:
        raise _No("proxy", "does not speak SOCKS 5")
    if bytes([method]) not in methods:
        raise _No("login", "wants another login" if proxy.username else "wants a login")
    if proxy.username is not None and method:
        login = socks5.SOCKS5UsernamePasswordRequest(
            proxy.username.encode(), proxy.password.encode()
        )
        version, status = await _ask(link.stream, login.dumps(), 2)
        if version != _SOCKS5_LOGIN:
            raise _No("login", "broke the protocol (SOCKS 5)")
        if status:
            raise _No("login", "refused the user name or password")
    request = socks5.SOCKS5CommandRequest.from_address(
        socks5.SOCKS5Command.CONNECT, (host, _port(link))
    )
    version, code, _, kind = await _ask(link.stream, request.dumps(), 4)
    if version != _SOCKS5:
        raise _No("proxy", "broke the protocol (SOCKS 5)")
    if code:
        why = _SOCKS5_REFUSALS.get(code, f"error {code}")
        raise _No("target", f"cannot connect to the mail server: {why}")
    # The address that the proxy connected from: it says nothing, but it has to be read.
    if kind == _SOCKS5_NAME:
        [length] = await _exactly(link.stream, 1)
    elif (length := _SOCKS5_ADDRESS_LENGTHS.get(kind, 0)) == 0:
        raise _No("proxy", "broke the protocol (SOCKS 5)")
    await _exactly(link.stream, length + 2)
    return b""


async def _socks4a(link: Link, proxy: Proxy, host: str) -> bytes:
    from socksio import socks4

    kind = socks4.SOCKS4Request if _is_ipv4(host) else socks4.SOCKS4ARequest
    user = (proxy.username or "").encode()
    request = kind.from_address(socks4.SOCKS4Command.CONNECT, (host, _port(link)), user)
    version, code, *_ = await _ask(link.stream, request.dumps(), 8)
    if version != 0:
        raise _No("proxy", "does not speak SOCKS 4A")
    if code in _SOCKS4_WRONG_USER:
        raise _No("login", "refused the user name")
    if code != _SOCKS4_GRANTED:
        raise _No("target", f"cannot connect to the mail server: error {code}")
    return b""


async def _http(link: Link, proxy: Proxy, host: str) -> bytes:
    """RFC 9110 section 9.3.6; what came behind the response."""
    import h11

    target = authority(host, link.port)
    headers = [("Host", target)]
    if proxy.username is not None:
        user = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {user}"))
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    request = connection.send(h11.Request(method="CONNECT", target=target, headers=headers))
    end = connection.send(h11.EndOfMessage())
    await link.stream.send((request or b"") + (end or b""))
    try:
        response = await _response(connection, link.stream)
    except h11.RemoteProtocolError as error:
        raise _No("proxy", f"does not speak HTTP: {text_of(error)}") from error
    code = response.status_code
    if code in _HTTP_WANTS_LOGIN and proxy.username is None:
        raise _No("login", f"wants a login ({code})")
    if code in _HTTP_WANTS_LOGIN:
        raise _No("login", f"refused the user name or password ({code})")
    if not 200 <= code < 300:
        raise _No("target", f"cannot connect to the mail server: {code} {_said(response.reason)}")
    return connection.trailing_data[0]


async def _response(connection: Any, stream: ByteStream) -> Any:
    """The first response that is not an interim one; so many octets at most come before it."""
    import h11

    read = 0
    while not isinstance(event := connection.next_event(), h11.Response):
        if event is not h11.NEED_DATA:
            continue
        if read > _MAX_HEAD:
            raise _No("proxy", "says too much")
        data = await stream.receive(_MAX_HEAD)
        read += len(data)
        connection.receive_data(data)
    return event


_ASK: Mapping[str, Callable[[Link, Proxy, str], Awaitable[bytes]]] = {
    "socks5": _socks5,
    "socks5h": _socks5,
    "socks4a": _socks4a,
    "http": _http,
    "https": _http,
}


async def _ask(stream: ByteStream, question: bytes, length: int) -> bytes:
    """So many octets of the answer."""
    await stream.send(question)
    return await _exactly(stream, length)


async def _exactly(stream: ByteStream, length: int) -> bytes:
    """So many octets and no more: what follows may be the mail server's."""
    answer = b""
    while len(answer) < length:
        answer += await stream.receive(length - len(answer))
    return answer


def _port(link: Link) -> int:
    assert link.port is not None
    return link.port


def _is_ipv4(host: str) -> bool:
    with suppress(ValueError):
        IPv4Address(host)
        return True
    return False


def _is_end(error: BaseException) -> bool:
    return isinstance(error, anyio.EndOfStream)


def _said(reason: bytes) -> str:
    """What a proxy says, fit to be shown."""
    text = reason.decode("ascii", "replace")[:_MAX_SAID]
    return "".join(character if character.isprintable() else "?" for character in text)


def _failure(no: _No, endpoint: Endpoint, proxy: Proxy) -> SMTPProxyError:
    return SMTPProxyError(
        f"the proxy {proxy} {no}", hop=no.hop, server=str(endpoint), connection_closed=True
    )
