"""Getting a connection: TCP, unix sockets and anything else; TLS in each mode, and its errors."""

from __future__ import annotations

import errno
import gc
import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

import anysmtp
from anysmtp import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPNotSupported,
    SMTPProtocolError,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    SMTPTLSError,
    create_tls_context,
)
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, RESET, STALL, Act, Answer, ScriptedServer
from support.clients import Script, Through, Wrapped, deliver, on_memory, on_tcp
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

USERS = {"ann": "secret"}
LOGIN: dict[str, Any] = {"username": "ann", "password": "secret"}

Road: TypeAlias = Literal["memory", "tcp", "unix"]


@pytest.fixture
def local_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has no name that EHLO may give."""
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")


class Resolver:
    """In the place of the system's: only the names that it knows exist."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.hosts: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode("ascii") if isinstance(host, bytes) else host
        if name[:1].isdecimal() or ":" in name:
            return self._real(host, port, *args, **options)
        self.asked.append(name)
        if name not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            found
            for address in self.hosts[name]
            for found in self._real(address, port, type=socket.SOCK_STREAM)
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return resolver


# TCP


@pytest.mark.usefixtures("local_name")
async def test_tcp_and_the_address_literal() -> None:
    async with no_leaks(), ScriptedServer() as server, await on_tcp(server) as smtp:
        receipt = await deliver(smtp)
    assert server.connection.hello == "[127.0.0.1]"
    assert receipt.server == f"127.0.0.1:{server.port}"


@pytest.mark.usefixtures("local_name")
@pytest.mark.parametrize("with_port", [True, False])
async def test_the_source_address(with_port: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.3", 0))
        port = free.getsockname()[1]
    source = ("127.0.0.3", port) if with_port else "127.0.0.3"
    server = ScriptedServer()
    async with (
        server,
        await on_tcp(server, source_address=source) as smtp,
        smtp.connection() as conn,
    ):
        address = conn._channel.link.stream.extra(SocketAttribute.local_address)
        assert address[0] == "127.0.0.3"
        assert (address[1] == port) is with_port
    assert server.connection.hello == "[127.0.0.3]"


# Under trio, anyio (4.16) does not close a socket that it could not bind.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_source_address_that_is_not_ours_is_a_connect_error() -> None:
    server = ScriptedServer()
    async with server, await on_tcp(server, source_address="192.0.2.1") as smtp:
        with pytest.raises(SMTPConnectError, match=rf"\[Errno {errno.EADDRNOTAVAIL}\]") as caught:
            await smtp.connect()
    assert isinstance(caught.value.__cause__, OSError)
    del caught
    gc.collect()


@pytest.mark.usefixtures("local_name")
@pytest.mark.parametrize("hostname", ["::1", "[::1]"])
async def test_an_ipv6_address_is_written_with_and_without_brackets(hostname: str) -> None:
    async with ScriptedServer() as server:
        try:
            port = await server.listen("::1")
        except OSError:
            pytest.skip("there is no IPv6 here")
        async with SMTP(hostname, port) as smtp:
            receipt = await deliver(smtp)
    assert receipt.server == f"[::1]:{port}"
    assert server.connection.hello == "[IPv6:::1]"


async def test_nothing_listening_is_a_connect_error_that_says_so() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with SMTP("127.0.0.1", port) as smtp:
            with pytest.raises(
                SMTPConnectError, match=rf"\[Errno {errno.ECONNREFUSED}\]"
            ) as caught:
                await deliver(smtp)
    assert str(caught.value).count(os.strerror(errno.ECONNREFUSED)) == 1
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.server == f"127.0.0.1:{port}"
    assert caught.value.outcome == "not_sent"
    assert caught.value.may_retry
    assert caught.value.connection_closed


@pytest.mark.parametrize(
    "hostname", ["nowhere.test", "x" * 64 + ".test", "ü" * 64 + ".test", "xn--a.test"]
)
async def test_a_name_that_does_not_exist_is_a_connect_error(
    hostname: str, resolver: Resolver
) -> None:
    async with SMTP(hostname) as smtp:
        with pytest.raises(SMTPConnectError) as caught:
            await smtp.connect()
    assert caught.value.__cause__ is not None
    assert hostname in str(caught.value)


@pytest.mark.parametrize(
    ("hostname", "asked"),
    [
        ("bücher.test", "xn--bcher-kva.test"),
        ("Straße.test", "xn--strae-oqa.test"),
    ],
)
async def test_a_name_in_other_letters_is_looked_up_verified_and_sent_in_a_labels(
    hostname: str, asked: str, resolver: Resolver, certificates: Certificates
) -> None:
    resolver.hosts[asked] = ["127.0.0.1"]
    names: list[str | None] = []
    context = certificates.server_named(asked)
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    async with no_leaks(), ScriptedServer(implicit_tls=context) as server:
        port = await server.listen()
        settings: dict[str, Any] = {"tls": "implicit", "tls_context": certificates.client}
        async with SMTP(hostname, port, **settings) as smtp:
            await deliver(smtp)
    assert set(resolver.asked) == {asked}
    assert names == [asked]


async def test_a_name_with_several_addresses_is_tried_at_each(resolver: Resolver) -> None:
    resolver.hosts["two.test"] = ["127.0.0.2", "127.0.0.1"]
    server = ScriptedServer()
    async with no_leaks(), server, SMTP("two.test", await server.listen("127.0.0.1")) as smtp:
        await deliver(smtp)
    assert len(server.messages) == 1


async def test_a_name_none_of_whose_addresses_answers_is_a_connect_error(
    resolver: Resolver,
) -> None:
    resolver.hosts["two.test"] = ["127.0.0.2", "127.0.0.3"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with SMTP("two.test", closed.getsockname()[1]) as smtp:
            with pytest.raises(SMTPConnectError, match=rf"\[Errno {errno.ECONNREFUSED}\]"):
                await smtp.connect()


# Unix sockets and whatever else connects


@pytest.mark.usefixtures("local_name")
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with no_leaks(), ScriptedServer() as server:
        await server.listen_unix(path)
        async with SMTP(connectable=path) as smtp:
            receipt = await deliver(smtp)
    assert server.connection.hello == "[127.0.0.1]"
    assert receipt.server == str(path)


async def test_a_unix_socket_that_is_not_there_is_a_connect_error(tmp_path: Path) -> None:
    async with SMTP(connectable=tmp_path / "socket") as smtp:
        with pytest.raises(SMTPConnectError, match="No such file") as caught:
            await smtp.connect()
    assert caught.value.server == str(tmp_path / "socket")


async def test_a_url_of_a_unix_socket(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        await server.listen_unix(tmp_path / "a socket")
        async with SMTP.from_url(f"smtp+unix://{tmp_path}/a%20socket") as smtp:
            await deliver(smtp)
    assert len(server.messages) == 1


async def test_what_anyio_can_connect_to(tmp_path: Path) -> None:
    async with no_leaks(), ScriptedServer() as server:
        await server.listen_unix(tmp_path / "socket")
        remotes: list[Any] = [
            anyio.as_connectable(("127.0.0.1", await server.listen())),
            anyio.as_connectable(str(tmp_path / "socket")),
        ]
        for remote in remotes:
            async with SMTP("mail.example.test", connectable=remote) as smtp:
                receipt = await deliver(smtp)
            assert receipt.server == "mail.example.test:25"
    assert len(server.messages) == 2


async def test_a_connectable_that_refuses_is_a_connect_error() -> None:
    async with ScriptedServer(script={"CONNECT": DROP}) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPConnectError, match="the script refuses the connection") as caught:
            await deliver(smtp)
    assert caught.value.outcome == "not_sent"


@pytest.mark.parametrize("act", [DROP, RESET])
async def test_a_server_that_hangs_up_at_once_is_a_connect_error(act: Act) -> None:
    server = ScriptedServer(script={"GREETING": act})
    async with no_leaks(), server, await on_tcp(server) as smtp:
        with pytest.raises(
            SMTPConnectError, match=r"the connection was lost|closed the connection"
        ):
            await deliver(smtp)
    assert len(server.connections) == 1


def test_connecting_has_one_deadline_for_all_of_it() -> None:
    pytest.importorskip("trio")
    from trio.testing import MockClock

    async def connect() -> None:
        script: Script = {"GREETING": Act(late=20), "EHLO": Act(late=20)}
        async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
            start = anyio.current_time()
            with pytest.raises(SMTPTimeoutError, match=r"EHLO .*: nothing came within 30 seconds"):
                await smtp.connect()
            assert anyio.current_time() - start == pytest.approx(30)

    options = {"clock": MockClock(autojump_threshold=0)}
    anyio.run(connect, backend="trio", backend_options=options)


# What counts as this machine


class Elsewhere(Wrapped):
    """Says that it is connected to another address than it is."""

    remote: Any = None

    @property
    def extra_attributes(self) -> Any:
        if self.remote is None:
            return {}
        return {SocketAttribute.remote_address: lambda: self.remote}


@pytest.mark.parametrize(
    ("remote", "is_local"),
    [
        (("127.0.0.1", 25), True),
        (("127.9.9.9", 25), True),
        (("::1", 25), True),
        (("::ffff:127.0.0.1", 25), True),
        (("::1%lo", 25), True),
        (("192.0.2.1", 25), False),
        (("::ffff:192.0.2.1", 25), False),
        (("fe80::1%eth0", 25), False),
        (("0.0.0.0", 25), False),
        (None, False),
    ],
)
async def test_loopback_is_told_by_the_remote_address_of_our_own_tcp_connection(
    remote: Any, is_local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never by the name: localhost is what somebody's hosts file says it is."""
    async with ScriptedServer(users=USERS) as server:

        async def connect_tcp(*_: Any, **__: Any) -> ByteStream:
            stream = Elsewhere(await server.connect())
            stream.remote = remote
            return stream

        monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
        async with SMTP("localhost", 25, tls="off", **LOGIN) as smtp:
            if is_local:
                await deliver(smtp)
            else:
                with pytest.raises(SMTPAuthenticationError, match="cross the network unencrypted"):
                    await deliver(smtp)
    assert ("AUTH" in server.connection.verbs) is is_local


async def test_a_connectable_is_never_loopback() -> None:
    """``ssh -D`` listens on 127.0.0.1."""
    async with ScriptedServer(users=USERS) as server:
        remote = anyio.as_connectable(("127.0.0.1", await server.listen()))
        async with SMTP("localhost", connectable=remote, tls="off", **LOGIN) as smtp:
            with pytest.raises(SMTPAuthenticationError, match="cross the network unencrypted"):
                await deliver(smtp)
    assert "AUTH" not in server.connection.verbs


# Which mode of tls does what


class Case:
    """A server that offers STARTTLS or not, and AUTH when, and a client's settings for it."""

    def __init__(
        self,
        road: Road,
        ends: str,
        *,
        port: int = 25,
        offers: bool = True,
        auth: Literal["never", "clear", "tls"] = "never",
        **options: Any,
    ) -> None:
        self.road: Road = road
        self.ends = ends
        self.port = port
        self.offers = offers
        self.auth = auth
        self.options = options

    def server(self, certificates: Certificates) -> ScriptedServer:
        auth = ["AUTH PLAIN"] if self.auth == "clear" else []
        implicit = self.ends == "implicit"
        return ScriptedServer(
            keywords=[*DEFAULT_KEYWORDS, *auth],
            starttls=certificates.server if self.offers and not implicit else None,
            implicit_tls=certificates.server if implicit else None,
            tls_keywords=[*DEFAULT_KEYWORDS, "AUTH PLAIN"] if self.auth != "never" else None,
            users=USERS if self.auth == "clear" or self.auth == "tls" else None,
            strict=False,
        )

    async def client(
        self, server: ScriptedServer, certificates: Certificates, folder: Path
    ) -> SMTP:
        context = None if self.options.get("tls") == "off" else certificates.client
        options: dict[str, Any] = {"tls_context": context, **self.options}
        if self.road == "tcp":
            return SMTP("127.0.0.1", await server.listen(), **options)
        if self.road == "unix":
            await server.listen_unix(folder / "socket")
            return SMTP(connectable=folder / "socket", port=self.port, **options)
        connectable = server.connectable
        return SMTP("mail.example.test", self.port, connectable=connectable, **options)


CASES = {
    # Over a network: STARTTLS where it is offered, required on 587 and with credentials.
    "network, offered": Case("memory", "starttls"),
    "network, not offered": Case("memory", "clear", offers=False),
    "587, offered": Case("memory", "starttls", port=587),
    "587, not offered": Case("memory", "not supported", port=587, offers=False),
    "465": Case("memory", "implicit", port=465),
    "465, credentials": Case("memory", "implicit", port=465, auth="tls", **LOGIN),
    "credentials, offered": Case("memory", "starttls", auth="clear", **LOGIN),
    "credentials, not offered": Case(
        "memory", "not supported", offers=False, auth="clear", **LOGIN
    ),
    # On this machine: only when the login needs it.
    "loopback": Case("tcp", "clear"),
    "unix": Case("unix", "clear"),
    "unix, 587": Case("unix", "clear", port=587),
    "unix, 465": Case("unix", "implicit", port=465),
    "loopback, login in clear": Case("tcp", "clear", auth="clear", **LOGIN),
    "loopback, login needs it": Case("tcp", "starttls", auth="tls", **LOGIN),
    "unix, login needs it": Case("unix", "starttls", auth="tls", **LOGIN),
    "loopback, no login": Case("tcp", "no login", offers=False, **LOGIN),
    # Asked for by name.
    "starttls": Case("memory", "starttls", tls="starttls"),
    "starttls on loopback": Case("tcp", "starttls", tls="starttls"),
    "starttls, not offered": Case("tcp", "not supported", offers=False, tls="starttls"),
    "starttls on 465": Case("memory", "starttls", port=465, tls="starttls"),
    "implicit": Case("memory", "implicit", tls="implicit"),
    "implicit on loopback": Case("tcp", "implicit", tls="implicit"),
    "off": Case("memory", "clear", tls="off"),
    "off on 465": Case("memory", "clear", port=465, tls="off"),
    "off on 587": Case("memory", "clear", port=587, tls="off"),
    "opportunistic": Case("memory", "starttls", tls="opportunistic"),
    "opportunistic on loopback": Case("tcp", "starttls", tls="opportunistic"),
    "opportunistic, not offered": Case("memory", "clear", offers=False, tls="opportunistic"),
    "opportunistic on 587": Case("memory", "clear", port=587, offers=False, tls="opportunistic"),
    # The caller may send his secret in clear, if he says so.
    "off, permitted": Case(
        "memory", "clear", auth="clear", tls="off", allow_plaintext_auth=True, **LOGIN
    ),
    "off, not permitted": Case("memory", "no login", auth="clear", tls="off", **LOGIN),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_whether_a_connection_is_encrypted(
    case: Case, certificates: Certificates, tmp_path: Path
) -> None:
    errors: dict[str, type[SMTPException]] = {
        "not supported": SMTPNotSupported,
        "no login": SMTPAuthenticationError,
    }
    async with no_leaks(), case.server(certificates) as server:
        async with await case.client(server, certificates, tmp_path) as smtp:
            if case.ends in errors:
                with pytest.raises(errors[case.ends]) as caught:
                    await deliver(smtp)
                assert caught.value.connection_closed
                has_hint = "STARTTLS; tls='implicit' (port 465)" in str(caught.value)
                assert has_hint is (case.ends == "not supported")
            else:
                await deliver(smtp)
        await server.wait_closed()
    record = server.connection
    assert ("STARTTLS" in record.verbs) is (case.ends == "starttls")
    assert record.tls is (case.ends in ("starttls", "implicit"))
    assert len(server.messages) == (0 if case.ends in errors else 1)
    assert [login.accepted for login in record.logins] == (
        [True] if "username" in case.options and case.ends not in errors else []
    )
    if record.tls:
        assert server.messages[0].tls


async def test_opportunistic_does_not_verify_unless_it_is_given_a_context(
    certificates: Certificates,
) -> None:
    async with no_leaks(), ScriptedServer(starttls=certificates.server_untrusted) as server:
        async with on_memory(server, tls="opportunistic") as smtp:
            await deliver(smtp)
        context = certificates.client
        async with on_memory(server, tls="opportunistic", tls_context=context) as smtp:
            with pytest.raises(SMTPTLSError, match="was not accepted"):
                await deliver(smtp)
    assert [message.tls for message in server.messages] == [True]


async def test_opportunistic_goes_on_in_clear_where_starttls_is_refused(
    certificates: Certificates,
) -> None:
    """RFC 7435 section 3; but no connection goes on whose handshake has failed."""
    server = ScriptedServer(
        starttls=certificates.server,
        script={"STARTTLS": ["454 4.7.0 Not now", Act("220 Go", then="close"), "220 Go\n250 Or"]},
    )
    async with no_leaks(), server:
        async with on_memory(server, tls="opportunistic") as smtp:
            await deliver(smtp)
        for _ in range(2):
            async with on_memory(server, tls="opportunistic") as smtp:
                with pytest.raises(SMTPTLSError):
                    await deliver(smtp)
    assert [message.tls for message in server.messages] == [False]


@pytest.mark.parametrize("tls", ["starttls", "auto"])
async def test_starttls_that_is_refused_ends_the_connection(
    tls: str, certificates: Certificates
) -> None:
    server = ScriptedServer(starttls=certificates.server, script={"STARTTLS": "454 4.7.0 Not now"})
    async with no_leaks(), server, on_memory(server, tls=tls) as smtp:
        with pytest.raises(SMTPTLSError) as caught:
            await deliver(smtp)
        await server.wait_closed()
    assert str(caught.value) == f"{caught.value.server} STARTTLS: 454 4.7.0 Not now"
    assert caught.value.connection_closed
    assert server.connection.verbs == ["EHLO", "STARTTLS"]


# After STARTTLS


async def test_after_starttls_nothing_is_remembered_from_before_it(
    certificates: Certificates,
) -> None:
    server = ScriptedServer(
        keywords=["PIPELINING", "8BITMIME", "SIZE 10", "AUTH PLAIN"],
        tls_keywords=["DSN"],
        starttls=certificates.server,
    )
    async with (
        no_leaks(),
        server,
        on_memory(server, tls="auto", tls_context=certificates.client) as smtp,
    ):
        assert dict(await smtp.connect()) == {"DSN": ""}
        await deliver(smtp)
    record = server.connection
    assert record.verbs == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert b"MAIL FROM:<a@x.test>\r\n" in record.commands


async def test_a_login_that_was_offered_before_tls_only_is_not_tried(
    certificates: Certificates,
) -> None:
    server = ScriptedServer(
        keywords=["AUTH PLAIN"], tls_keywords=["SIZE"], starttls=certificates.server
    )
    async with server:
        options = {"tls": "auto", "tls_context": certificates.client, **LOGIN}
        async with on_memory(server, **options) as smtp:
            with pytest.raises(SMTPAuthenticationError, match="offers no login"):
                await deliver(smtp)
    assert "AUTH" not in server.connection.verbs


@pytest.mark.parametrize("road", ["memory", "tcp"])
@pytest.mark.parametrize(
    "injected",
    [
        b"250 2.0.0 Ok\r\n",
        b"250-mail.example.test\r\n250 AUTH PLAIN\r\n",
        b"250 half a rep",
        b"\r\n",
        b"\x16\x03\x01",
        b"421 Bye\r\n",
    ],
)
async def test_bytes_behind_the_reply_to_starttls_are_an_error(
    injected: bytes, road: Road, certificates: Certificates
) -> None:
    server = ScriptedServer(
        starttls=certificates.server, script={"STARTTLS": Act(b"220 Ready\r\n" + injected)}
    )
    options: dict[str, Any] = {"tls": "starttls", "tls_context": certificates.client, **LOGIN}
    async with no_leaks(), server:
        client = await on_tcp(server, **options) if road == "tcp" else on_memory(server, **options)
        async with client as smtp:
            with pytest.raises(SMTPTLSError, match="before the TLS handshake") as caught:
                await deliver(smtp)
        await server.wait_closed()
    assert caught.value.connection_closed
    assert caught.value.command == "STARTTLS"
    assert server.connection.verbs == ["EHLO", "STARTTLS"]
    assert not server.connection.tls


@pytest.mark.parametrize("reply", ["354 Go on", "what?", "220-Ready\n250 Ready"])
async def test_a_reply_to_starttls_that_is_none_is_a_breach(
    reply: str, certificates: Certificates
) -> None:
    server = ScriptedServer(starttls=certificates.server, script={"STARTTLS": Act(reply)})
    async with server, on_memory(server, tls="starttls") as smtp:
        with pytest.raises(SMTPProtocolError) as caught:
            await deliver(smtp)
        await server.wait_closed()
    assert caught.value.connection_closed


async def test_bytes_that_come_a_little_later_are_an_error_too(certificates: Certificates) -> None:
    """The TLS layer gets them, and finds that they are none of its records."""
    reply = b"220 Ready\r\n"
    server = ScriptedServer(
        starttls=certificates.server,
        script={"STARTTLS": Act(reply + b"250 Welcome")},
        split=len(reply),
    )
    async with (
        no_leaks(),
        server,
        on_memory(server, tls="starttls", tls_context=certificates.client) as smtp,
    ):
        with pytest.raises(SMTPTLSError):
            await deliver(smtp)
    assert server.connection.verbs == ["EHLO", "STARTTLS"]


# Certificates


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
@pytest.mark.parametrize(
    ("which", "reason", "ways_out"),
    [
        (
            "server_untrusted",
            "unable to get local issuer certificate|self.signed",
            ["create_tls_context(cafile=...)", "tls="],
        ),
        (
            "server_misnamed",
            "not valid for 'mail.example.test'; connect by a name that the certificate has",
            ["connectable="],
        ),
        ("server_expired", "certificate has expired", ["cafile=", "tls="]),
    ],
)
async def test_a_certificate_that_does_not_hold_is_an_error_that_names_the_ways_out(
    which: str, reason: str, ways_out: list[str], mode: str, certificates: Certificates
) -> None:
    context = getattr(certificates, which)
    server = (
        ScriptedServer(implicit_tls=context)
        if mode == "implicit"
        else ScriptedServer(starttls=context)
    )
    async with no_leaks(), server:
        async with on_memory(server, tls=mode, tls_context=certificates.client) as smtp:
            with pytest.raises(SMTPTLSError, match=reason) as caught:
                await deliver(smtp)
        await server.wait_closed()
    text = str(caught.value)
    assert "the certificate of mail.example.test was not accepted" in text
    assert all(way in text for way in ways_out)
    assert ("cafile=" in text) is (which != "server_misnamed")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert caught.value.outcome == "not_sent"
    assert caught.value.connection_closed
    assert not server.connection.received


@pytest.mark.parametrize("mode", ["implicit", "starttls", "auto"])
async def test_the_default_context_trusts_the_systems_authorities_and_nobody_else(
    mode: str, certificates: Certificates
) -> None:
    implicit = certificates.server if mode == "implicit" else None
    starttls = None if implicit else certificates.server
    server = ScriptedServer(implicit_tls=implicit, starttls=starttls)
    async with no_leaks(), server, on_memory(server, tls=mode) as smtp:
        with pytest.raises(SMTPTLSError, match="was not accepted"):
            await deliver(smtp)


async def test_the_default_context_is_made_once_and_in_a_thread(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def create(*_: Any, **__: Any) -> ssl.SSLContext:
        threads.append(threading.get_ident())
        return certificates.client

    server = ScriptedServer(starttls=certificates.server)
    async with no_leaks(), server, on_memory(server, tls="starttls") as smtp:
        with monkeypatch.context() as patched:
            patched.setattr(ssl, "create_default_context", create)
            for _ in range(3):
                await deliver(smtp)
                await server.hang_up()
    assert len(server.connections) == 3
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("hostname", "sent"),
    [
        ("mail.example.test", "mail.example.test"),
        ("mail.example.test.", "mail.example.test"),
        ("MAIL.example.test", "MAIL.example.test"),
        ("127.0.0.1", None),
        ("::1", None),
    ],
)
async def test_the_name_is_sent_and_verified_and_an_address_is_verified(
    hostname: str, sent: str | None, certificates: Certificates
) -> None:
    """RFC 6066 section 3 has no addresses in SNI."""
    names: list[str | None] = []
    context = certificates.server_named("mail.example.test", "127.0.0.1", "::1")
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    async with no_leaks(), ScriptedServer(implicit_tls=context) as server:
        settings: dict[str, Any] = {"connectable": server.connectable, "tls": "implicit"}
        async with SMTP(hostname, tls_context=certificates.client, **settings) as smtp:
            await deliver(smtp)
    assert names == [sent]


async def test_tls_1_2(certificates: Certificates) -> None:
    async with no_leaks(), ScriptedServer(implicit_tls=certificates.server_tls12) as server:
        context = certificates.client
        async with on_memory(server, tls="implicit", tls_context=context) as smtp:
            await deliver(smtp)
    assert server.connection.tls_version == "TLSv1.2"


# The client's certificate


async def test_a_client_certificate_from_files(certificates: Certificates) -> None:
    context = create_tls_context(
        cafile=certificates.cafile,
        client_cert=certificates.client_cert,
        client_key=certificates.client_key,
    )
    server = ScriptedServer(starttls=certificates.server_asking)
    async with no_leaks(), server, on_memory(server, tls="starttls", tls_context=context) as smtp:
        await deliver(smtp)
    assert server.connection.client_certificate is not None


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
async def test_a_server_may_just_go_where_a_client_certificate_is_missing(
    mode: str, certificates: Certificates
) -> None:
    implicit = certificates.server_asking if mode == "implicit" else None
    starttls = None if implicit else certificates.server_asking
    server = ScriptedServer(implicit_tls=implicit, starttls=starttls)
    async with (
        no_leaks(),
        server,
        on_memory(server, tls=mode, tls_context=certificates.client) as smtp,
    ):
        with pytest.raises(SMTPException, match="the server closed the connection") as caught:
            await deliver(smtp)
    assert type(caught.value) is (SMTPConnectError if implicit else SMTPServerDisconnected)
    assert caught.value.outcome == "not_sent"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_may_say_that_a_client_certificate_is_missing(
    version: ssl.TLSVersion, certificates: Certificates
) -> None:
    """With TLS 1.3 it can only when the handshake is over for the client."""
    context = create_tls_context(cafile=certificates.cafile)
    context.maximum_version = version
    with Handshaker(certificates.server_asking) as port:
        async with SMTP("127.0.0.1", port, tls="implicit", tls_context=context) as smtp:
            with pytest.raises((SMTPTLSError, SMTPConnectError), match="TLS") as caught:
                await deliver(smtp)
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    assert "alert" in str(caught.value).lower()
    assert caught.value.outcome == "not_sent"


class Handshaker:
    """``with Handshaker(context) as port``: a server that does a TLS handshake, and no more.

    anyio's TLS streams, which the scripted server uses, do not send alerts.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        accepted, _ = self._socket.accept()
        with accepted, suppress(ssl.SSLError):
            self._context.wrap_socket(accepted, server_side=True).close()

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._socket.getsockname()[1]
        return port

    def __exit__(self, *exc_info: object) -> None:
        self._thread.join(10)
        self._socket.close()


def test_a_context_for_what_the_caller_trusts(certificates: Certificates) -> None:
    pem = certificates.cafile.read_text()
    for context in (
        create_tls_context(cafile=certificates.cafile),
        create_tls_context(cadata=pem),
        create_tls_context(cadata=ssl.PEM_cert_to_DER_cert(pem)),
    ):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert len(context.get_ca_certs()) == 1


def test_a_context_that_trusts_anybody_is_asked_for_by_name() -> None:
    context = create_tls_context(validate_certs=False)
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_a_context_of_files_that_are_wrong(certificates: Certificates, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="client_key without client_cert"):
        create_tls_context(client_key=certificates.client_key)
    with pytest.raises(FileNotFoundError, match="nothing"):
        create_tls_context(cafile=tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing"):
        create_tls_context(client_cert=certificates.cafile, client_key=tmp_path / "nothing")
    with pytest.raises(ssl.SSLError):
        create_tls_context(client_cert=certificates.cafile, client_key=certificates.client_key)


async def test_a_caller_who_trusts_anybody_is_served(certificates: Certificates) -> None:
    context = create_tls_context(validate_certs=False)
    server = ScriptedServer(implicit_tls=certificates.server_misnamed)
    async with no_leaks(), server, on_memory(server, tls="implicit", tls_context=context) as smtp:
        await deliver(smtp)
    assert server.messages[0].tls


# TLS where there is none, and none where there is


async def test_tls_to_a_plaintext_port_gets_a_hint() -> None:
    server = ScriptedServer(strict=False)
    async with no_leaks(), server, on_memory(server, tls="implicit") as smtp:
        with pytest.raises(SMTPTLSError, match="does not speak TLS here") as caught:
            await deliver(smtp)
    assert "tls='starttls'" in str(caught.value)
    assert isinstance(caught.value.__cause__, ssl.SSLError)


@in_virtual_time
async def test_plaintext_to_a_tls_port_gets_a_hint(certificates: Certificates) -> None:
    server = ScriptedServer(implicit_tls=certificates.server)
    async with (
        no_leaks(),
        server,
        on_memory(server, timeout=anysmtp.Timeouts(connect=0.05)) as smtp,
    ):
        with pytest.raises(SMTPTimeoutError, match="tls='implicit'") as caught:
            await deliver(smtp)
    assert "nothing came within 0.05 seconds" in str(caught.value)


@in_virtual_time
async def test_a_timeout_under_tls_gets_no_such_hint(certificates: Certificates) -> None:
    script: dict[str, Answer] = {"GREETING": STALL}
    async with (
        no_leaks(),
        ScriptedServer(implicit_tls=certificates.server, script=script) as server,
    ):
        timeout = anysmtp.Timeouts(connect=0.3)
        context = certificates.client
        async with on_memory(server, tls="implicit", tls_context=context, timeout=timeout) as smtp:
            with pytest.raises(SMTPTimeoutError) as caught:
                await deliver(smtp)
    assert "implicit" not in str(caught.value)


async def test_a_server_that_says_220_to_starttls_and_speaks_no_tls(
    certificates: Certificates,
) -> None:
    server = ScriptedServer(
        starttls=certificates.server,
        script={"STARTTLS": Act("220 Go\nnonsense", then="stall")},
        split=len("220 Go\r\n"),
    )
    async with no_leaks(), server, on_memory(server, tls="starttls") as smtp:
        with pytest.raises(SMTPTLSError, match="does not speak TLS here although it offered"):
            await deliver(smtp)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("mode", ["implicit", "starttls"])
async def test_a_server_that_goes_during_the_handshake(
    mode: str, how: Literal["close", "reset"], certificates: Certificates
) -> None:
    implicit = mode == "implicit"
    server = ScriptedServer(
        starttls=certificates.server,
        script={
            "GREETING" if implicit else "STARTTLS": Act(b"" if implicit else "220 Go", then=how)
        },
    )
    async with (
        no_leaks(),
        server,
        await on_tcp(server, tls=mode, tls_context=certificates.client) as smtp,
    ):
        with pytest.raises(SMTPTLSError, match="closed during the TLS handshake") as caught:
            await deliver(smtp)
    assert ("tls='starttls'" in str(caught.value)) is implicit
    assert caught.value.outcome == "not_sent"


async def test_a_connection_that_breaks_inside_tls_says_so(certificates: Certificates) -> None:
    """A record that was tampered with."""

    class Tampering(Wrapped):
        records = 0

        async def receive(self, max_bytes: int = 65536) -> bytes:
            data = await super().receive(max_bytes)
            self.records += 1
            return data if self.records < 3 else data[:-1] + bytes([data[-1] ^ 1])

    async with no_leaks(), ScriptedServer(implicit_tls=certificates.server_tls12) as server:
        settings: dict[str, Any] = {"connectable": Through(server, Tampering), "tls": "implicit"}
        async with SMTP("mail.example.test", tls_context=certificates.client, **settings) as smtp:
            with pytest.raises(SMTPException, match="TLS") as caught:
                await deliver(smtp)
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    assert caught.value.outcome == "not_sent"
