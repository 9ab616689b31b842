"""Through proxies, by a script: what they are told, what they may answer, where it can end."""

from __future__ import annotations

import gc
import logging
import pickle
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.abc import SocketAttribute

from anysmtp import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPProxyError,
    SMTPTimeoutError,
    SMTPTLSError,
)
from anysmtp._proxy import Tunnel
from anysmtp.testing import ScriptedServer
from anysmtp.testing._memory import memory_pair
from support.cancel import How, cancel_at
from support.clients import ONE, deliver
from support.fixtures import Tally
from support.leaks import no_leaks
from support.scripted_proxy import (
    ANSWERS,
    HTTP_CONNECTED,
    SOCKS4_CONNECTED,
    SOCKS5_CONNECTED,
    SOCKS5_HELLO,
    SOCKS5_LOGGED_IN,
    SOCKS5_WANTS_LOGIN,
    ScriptedProxy,
)
from support.tls import Certificates

pytestmark = pytest.mark.anyio

SECRET = "p@ss:wörd"
ENCODED = "p%40ss%3Aw%C3%B6rd"
LOGIN: dict[str, Any] = {"username": "ann", "password": "tanstaaf"}
PLAIN_SCHEMES = ["socks5", "socks5h", "socks4a", "http"]
EVERY_SCHEME = [*PLAIN_SCHEMES, "https"]

each_plain_scheme = pytest.mark.parametrize("scheme", PLAIN_SCHEMES)
each_scheme = pytest.mark.parametrize("scheme", EVERY_SCHEME)

Client: TypeAlias = Callable[..., SMTP]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """Makes a client whose TCP connections go to a scripted proxy, in memory."""

    def make(
        proxy: ScriptedProxy, scheme: str, user: str = "", host: str = "", **options: Any
    ) -> SMTP:
        monkeypatch.setattr(anyio, "connect_tcp", proxy.connect_tcp)
        url = f"{scheme}://{user}proxy.example.test:1234"
        settings: dict[str, Any] = {"tls": "off", "limits": ONE, "proxy": url, **options}
        return SMTP(host or "192.0.2.25", 2525, **settings)

    return make


def answers(scheme: str, tail: bytes = b"") -> list[bytes]:
    *first, last = ANSWERS[scheme]
    return [*first, last + tail]


def tls_of(scheme: str, certificates: Certificates) -> tuple[ssl.SSLContext | None, dict[str, Any]]:
    """What a proxy of this scheme needs, and a client of it."""
    if scheme != "https":
        return None, {}
    proxy = certificates.server_named("proxy.example.test", "127.0.0.1")
    return proxy, {"proxy_tls_context": certificates.client}


# What a proxy is told


@pytest.mark.parametrize(
    ("scheme", "host", "heard"),
    [
        ("socks5h", "mail.test", [b"\5\1\0", b"\5\1\0\3\x09mail.test\x09\xdd"]),
        ("socks5h", "bücher.test", [b"\5\1\0", b"\5\1\0\3\x12xn--bcher-kva.test\x09\xdd"]),
        ("socks5", "192.0.2.25", [b"\5\1\0", b"\5\1\0\1\xc0\x00\x02\x19\x09\xdd"]),
        ("socks5", "::1", [b"\5\1\0", b"\5\1\0\4" + bytes(15) + b"\1\x09\xdd"]),
        ("socks4a", "mail.test", [b"\4\1\x09\xdd\0\0\0\xff\0mail.test\0"]),
        ("socks4a", "192.0.2.25", [b"\4\1\x09\xdd\xc0\x00\x02\x19\0"]),
        ("http", "mail.test", [b"CONNECT mail.test:2525 HTTP/1.1\r\nHost: mail.test:2525\r\n\r\n"]),
        ("http", "::1", [b"CONNECT [::1]:2525 HTTP/1.1\r\nHost: [::1]:2525\r\n\r\n"]),
    ],
)
async def test_a_proxy_is_asked_for_the_server(
    scheme: str, host: str, heard: list[bytes], client: Client
) -> None:
    async with (
        ScriptedServer() as server,
        ScriptedProxy(server, *answers(scheme)) as proxy,
        client(proxy, scheme, host=host) as smtp,
    ):
        receipt = await deliver(smtp)
    assert proxy.heard == heard
    assert proxy.asked == [("proxy.example.test", 1234)]
    assert receipt.server == (f"[{host}]:2525" if ":" in host else f"{host}:2525")
    assert len(server.messages) == 1


BASIC = b64encode(f"ann:{SECRET}".encode())


@pytest.mark.parametrize(
    ("scheme", "user", "said", "heard"),
    [
        (
            "socks5h",
            f"ann:{ENCODED}@",
            [SOCKS5_WANTS_LOGIN, SOCKS5_LOGGED_IN, SOCKS5_CONNECTED],
            [b"\5\2\0\2", b"\1\3ann\x0a" + SECRET.encode()],
        ),
        (
            "socks5h",
            "ann@",
            [SOCKS5_WANTS_LOGIN, SOCKS5_LOGGED_IN, SOCKS5_CONNECTED],
            [b"\1\3ann\0"],
        ),
        ("socks5h", "ann:x@", [SOCKS5_HELLO, SOCKS5_CONNECTED], [b"\5\2\0\2"]),
        ("socks4a", "ann@", [SOCKS4_CONNECTED], [b"ann\0mail.test\0"]),
        ("http", f"ann:{ENCODED}@", [HTTP_CONNECTED], [b"Proxy-Authorization: Basic " + BASIC]),
    ],
)
async def test_credentials_are_percent_decoded(
    scheme: str, user: str, said: list[bytes], heard: list[bytes], client: Client
) -> None:
    async with (
        ScriptedServer() as server,
        ScriptedProxy(server, *said) as proxy,
        client(proxy, scheme, user, host="mail.test") as smtp,
    ):
        await deliver(smtp)
    everything = b"|".join(proxy.heard)
    assert all(part in everything for part in heard)
    assert SECRET not in repr(smtp) + repr(smtp._settings)


@pytest.mark.parametrize(
    ("families", "asked"),
    [
        ([socket.AF_INET6, socket.AF_INET], b"\1\xc0\x00\x02\x07"),
        ([socket.AF_INET6], b"\4" + socket.inet_pton(socket.AF_INET6, "2001:db8::7")),
    ],
)
async def test_with_socks5_the_name_is_looked_up_here(
    families: list[socket.AddressFamily],
    asked: bytes,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = {socket.AF_INET: ("192.0.2.7", 2525), socket.AF_INET6: ("2001:db8::7", 2525, 0, 0)}

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        return [(family, socket.SOCK_STREAM, 6, "", addresses[family]) for family in families]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with (
        ScriptedServer() as server,
        ScriptedProxy(server, *answers("socks5")) as proxy,
        client(proxy, "socks5", host="mail.test") as smtp,
    ):
        await deliver(smtp)
    assert proxy.heard[1] == b"\5\1\0" + asked + b"\x09\xdd"


@pytest.mark.parametrize(
    ("scheme", "host"), [("socks5", "mail.test"), ("socks5h", "bü" * 40 + ".test")]
)
async def test_a_name_that_is_none_is_not_the_proxys_fault(
    scheme: str, host: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*args: Any, **options: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with ScriptedProxy(None) as proxy, client(proxy, scheme, host=host) as smtp:
        with pytest.raises(SMTPConnectError) as caught:
            await smtp.connect()
    assert type(caught.value) is SMTPConnectError
    assert caught.value.server == f"{host}:2525"
    assert proxy.asked == []


# What it answers


@each_plain_scheme
async def test_an_answer_may_come_byte_by_byte(scheme: str, client: Client) -> None:
    server = ScriptedServer()
    async with (
        server,
        ScriptedProxy(server, *answers(scheme), bytewise=True) as proxy,
        client(proxy, scheme) as smtp,
    ):
        await deliver(smtp)
    assert len(server.messages) == 1


@each_scheme
async def test_what_comes_behind_an_answer_is_the_mail_servers(
    scheme: str, client: Client, certificates: Certificates
) -> None:
    context, options = tls_of(scheme, certificates)
    server = ScriptedServer(script={"GREETING": b""})
    early = answers(scheme, b"220 mail.example.test ready\r\n")
    async with (
        server,
        ScriptedProxy(server, *early, tls=context) as proxy,
        client(proxy, scheme, **options) as smtp,
    ):
        await deliver(smtp)
    assert len(server.messages) == 1


@pytest.mark.parametrize("kind", [b"\3\x0bproxy.local", b"\4" + bytes(16), b"\3\0"])
async def test_the_address_that_a_socks5_proxy_tells_may_be_of_any_kind(
    kind: bytes, client: Client
) -> None:
    said = (SOCKS5_HELLO, b"\5\0\0" + kind + b"\0\x19")
    async with (
        ScriptedServer() as server,
        ScriptedProxy(server, *said) as proxy,
        client(proxy, "socks5h") as smtp,
    ):
        await deliver(smtp)
    assert len(server.messages) == 1


async def test_interim_responses_are_passed_over(client: Client) -> None:
    said = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + HTTP_CONNECTED
    async with (
        ScriptedServer() as server,
        ScriptedProxy(server, said) as proxy,
        client(proxy, "http") as smtp,
    ):
        await deliver(smtp)
    assert len(server.messages) == 1


WITH = f"ann:{ENCODED}@"


@pytest.mark.parametrize(
    ("scheme", "user", "said", "hop", "reason"),
    [
        ("socks5", "", [b""], "proxy", "closed the connection"),
        ("socks5", "", [b"\5"], "proxy", "closed the connection"),
        ("socks5", "", [b"HTTP/1.0 400 Bad Request\r\n"], "proxy", "does not speak SOCKS 5"),
        ("socks5", "", [b"\5\xff"], "login", "wants a login"),
        ("socks5", "", [b"\5\2"], "login", "wants a login"),
        ("socks5", WITH, [b"\5\xff"], "login", "wants another login"),
        ("socks5", WITH, [b"\5\1"], "login", "wants another login"),
        ("socks5", WITH, [b"\5\2", b"\1\1"], "login", "refused the user name or password"),
        ("socks5", WITH, [b"\5\2", b""], "proxy", "closed the connection"),
        ("socks5", "", [b"\5\0", b"\5\2\0\1"], "target", "not allowed by its rules"),
        ("socks5", "", [b"\5\0", b"\5\5\0\1"], "target", "server: connection refused"),
        ("socks5", "", [b"\5\0", b"\5\xf0\0\1"], "target", "server: error 240"),
        ("socks5", "", [b"\5\0", b"\5\0\0\2"], "proxy", "broke the protocol"),
        ("socks5", "", [b"\5\0", b"\4\0\0\1"], "proxy", "broke the protocol"),
        ("socks5", "", [b"\5\0", b"\4\0\0\3\0\0\0"], "proxy", "broke the protocol"),
        ("socks5", "", [b"\5\0", b"\4\2\0\1"], "proxy", "broke the protocol"),
        ("socks5", WITH, [b"\5\2", b"\5\0"], "login", "broke the protocol"),
        ("socks5", "", [b"\5\0", b"\5\0\0\1\0\0"], "proxy", "closed the connection"),
        ("socks4a", "", [b"\5\xff\0\0\0\0\0\0"], "proxy", "does not speak SOCKS 4A"),
        ("socks4a", "", [b"\0\x5b\0\0\0\0\0\0"], "target", "server: error 91"),
        ("socks4a", "", [b"\0\x5c\0\0\0\0\0\0"], "login", "refused the user name"),
        ("socks4a", "ann@", [b"\0\x5d\0\0\0\0\0\0"], "login", "refused the user name"),
        ("http", "", [b"HTTP/1.1 407 Who\r\n\r\n"], "login", r"wants a login \(407\)"),
        ("http", WITH, [b"HTTP/1.1 407 Who\r\n\r\n"], "login", r"or password \(407\)"),
        ("http", WITH, [b"HTTP/1.0 401 No\r\n\r\n"], "login", r"or password \(401\)"),
        ("http", "", [b"HTTP/1.1 403 Forbidden\r\n\r\n"], "target", "server: 403 Forbidden"),
        ("http", "", [b"HTTP/1.1 502 \xffG\x7f\r\n\r\n"], "target", r"502 .G\?$"),
        ("http", "", [b"HTTP/1.1 502 a\rb\r\n\r\n"], "proxy", "does not speak HTTP"),
        ("http", "", [b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"], "target", "301 Moved"),
        ("http", "", [b"HTTP/1.1 502 " + b"x" * 9999 + b"\r\n\r\n"], "target", "502 x{100}$"),
        ("http", "", [b"220 mail.example.test ESMTP\r\n\r\n"], "proxy", "does not speak HTTP"),
        ("http", "", [b"\5\xff"], "proxy", "does not speak HTTP"),
        ("http", "", [b"HTTP/1.1 200 OK\r\n"], "proxy", "closed the connection"),
        ("http", "", [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000], "proxy", "does not speak HTTP"),
        ("http", "", [b"HTTP/1.1 103 x\r\n\r\n" * 9999], "proxy", "says too much"),
    ],
)
async def test_an_error_says_at_which_hop_it_ended(
    scheme: str,
    user: str,
    said: list[bytes],
    hop: str,
    reason: str,
    client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with no_leaks(), ScriptedProxy(None, *said) as proxy:
        with caplog.at_level(logging.DEBUG):
            async with client(proxy, scheme, user, host="192.0.2.25") as smtp:
                with pytest.raises(SMTPProxyError, match=reason) as caught:
                    await smtp.connect()
        error = caught.value
        del caught
        gc.collect()
    assert error.hop == hop
    assert str(error).startswith(f"192.0.2.25:2525: the proxy {scheme}://proxy.example.test:1234 ")
    assert error.connection_closed
    assert error.outcome == "not_sent"
    assert error.may_retry == (hop != "login")
    assert pickle.loads(pickle.dumps(error)).hop == hop
    text = f"{error!r} {error} {error.__cause__!r} {error.__context__!r} {caplog.text}"
    assert not any(secret in text for secret in (SECRET, ENCODED, BASIC.decode()))


async def test_a_proxy_that_is_not_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    async with SMTP("mail.test", proxy=f"socks5h://ann:{ENCODED}@127.0.0.1:{port}") as smtp:
        with pytest.raises(SMTPProxyError, match=f"socks5h://127.0.0.1:{port} cannot") as caught:
            await smtp.connect()
    assert caught.value.hop == "proxy"
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_proxy_that_resets_the_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedProxy(None, then="stall") as proxy, client(proxy, "http") as smtp:

        async def connect(*args: Any, **options: Any) -> Any:
            stream = await proxy.connect_tcp("", 0)
            stream.reset()
            return stream

        monkeypatch.setattr(anyio, "connect_tcp", connect)
        with pytest.raises(SMTPProxyError, match="was lost: ") as caught:
            await smtp.connect()
    assert caught.value.hop == "proxy"


@each_scheme
async def test_a_proxy_that_says_nothing_is_timed_out_by_name(
    scheme: str, client: Client, certificates: Certificates
) -> None:
    context, options = tls_of(scheme, certificates)
    async with no_leaks(), ScriptedProxy(None, tls=context, then="stall") as proxy:
        smtp = client(proxy, scheme, "ann:x@" * (scheme != "socks4a"), timeout=0.05, **options)
        async with smtp:
            with pytest.raises(SMTPTimeoutError, match=f"the proxy {scheme}://proxy.example"):
                await smtp.connect()


# What a tunnel is and is not


async def test_a_tunnel_hands_on_an_end_and_shows_the_socket_alone() -> None:
    client, server = memory_pair()
    carrier, peer = memory_pair()
    tunnel = Tunnel(client, carrier, b"early")
    async with client, server, carrier, peer:
        assert [await tunnel.receive(3), await tunnel.receive(3)] == [b"ear", b"ly"]
        await tunnel.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await server.receive()
        assert tunnel.extra(SocketAttribute.raw_socket, None) is None


@each_scheme
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_tls_with_the_mail_server_runs_inside(
    scheme: str, tls: str, client: Client, certificates: Certificates
) -> None:
    context, options = tls_of(scheme, certificates)
    server = ScriptedServer(
        users={"ann": "tanstaaf"},
        starttls=certificates.server if tls == "starttls" else None,
        implicit_tls=certificates.server if tls == "implicit" else None,
    )
    async with server, ScriptedProxy(server, *answers(scheme), tls=context) as proxy:
        smtp = client(
            *(proxy, scheme),
            **{**options, **LOGIN},
            host="127.0.0.1",
            tls=tls,
            tls_context=certificates.client,
        )
        async with smtp:
            await deliver(smtp)
            await deliver(smtp)
    assert all(message.tls for message in server.messages)
    assert len(server.messages) == 2
    assert server.connection.logins[0].accepted


async def test_a_mail_servers_certificate_is_the_mail_servers_fault(
    client: Client, certificates: Certificates
) -> None:
    server = ScriptedServer(implicit_tls=certificates.server_untrusted)
    context, options = tls_of("https", certificates)
    async with server, ScriptedProxy(server, *answers("https"), tls=context) as proxy:
        options["tls_context"] = certificates.client
        async with client(proxy, "https", host="127.0.0.1", tls="implicit", **options) as smtp:
            with pytest.raises(SMTPTLSError, match=r"of 127\.0\.0\.1 was not accepted"):
                await smtp.connect()


async def test_a_proxys_certificate_is_the_proxys_fault(
    client: Client, certificates: Certificates
) -> None:
    async with (
        ScriptedProxy(None, tls=certificates.server) as proxy,
        client(proxy, "https") as smtp,
    ):
        with pytest.raises(SMTPProxyError, match="proxy_tls_context=anysmtp") as caught:
            await smtp.connect()
    assert caught.value.hop == "proxy"
    assert "the certificate of proxy.example.test was not accepted" in str(caught.value)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_tls_with_a_proxy_that_has_none(client: Client) -> None:
    async with (
        ScriptedProxy(None, b"HTTP/1.0 400 Bad Request\r\n\r\n") as proxy,
        client(proxy, "https") as smtp,
    ):
        with pytest.raises(SMTPProxyError, match="under TLS: it does not speak TLS"):
            await smtp.connect()


@each_scheme
async def test_tls_with_a_proxy_is_not_tls_with_the_mail_server(
    scheme: str, client: Client, certificates: Certificates
) -> None:
    context, options = tls_of(scheme, certificates)
    server = ScriptedServer(keywords=["AUTH PLAIN"], users={"ann": "tanstaaf"})
    async with server, ScriptedProxy(server, *answers(scheme), tls=context) as proxy:
        smtp = client(proxy, scheme, **options, **LOGIN)
        async with smtp:
            with pytest.raises(SMTPAuthenticationError, match="would cross the network"):
                await smtp.connect()
    assert server.connection.logins == []


@each_scheme
async def test_a_connection_that_died_meanwhile_is_replaced(
    scheme: str, certificates: Certificates
) -> None:
    context, options = tls_of(scheme, certificates)
    server = ScriptedServer()
    async with server, ScriptedProxy(server, *answers(scheme), tls=context) as proxy:
        port = await proxy.listen()
        url = f"{scheme}://127.0.0.1:{port}"
        async with SMTP("192.0.2.25", tls="off", limits=ONE, proxy=url, **options) as smtp:
            for how in ("close", "reset", "push"):
                await deliver(smtp)
                if how == "push":
                    await server.push("421 4.4.2 idle")
                    await anyio.sleep(0.01)
                else:
                    await server.hang_up("reset" if how == "reset" else "close")
            await deliver(smtp)
            assert smtp.statistics().connections_lost <= 3
    assert len(server.messages) == 4
    assert len(server.connections) == 4


@each_scheme
async def test_stopping_at_any_await_leaves_nothing_open(
    scheme: str, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    context, options = tls_of(scheme, certificates)
    server = ScriptedServer(implicit_tls=certificates.server)
    options["tls_context"] = certificates.client
    async with server, ScriptedProxy(server, *answers(scheme), tls=context) as proxy:
        url = f"{scheme}://127.0.0.1:{await proxy.listen()}"
        async with no_leaks():
            for k in range(1, 100):
                smtp = SMTP("127.0.0.1", tls="implicit", limits=ONE, proxy=url, **options)
                async with smtp:
                    ended = await cancel_at(k, cancel_how, smtp.connect)
                    ended.unwrap()
                    assert smtp.statistics().open_connections == (ended.how == "finished")
                    await smtp.connect()
                if not ended.stopped:
                    break
            else:
                pytest.fail("the scenario has no end")
    tally("awaits at which a tunnel was stopped", k)
