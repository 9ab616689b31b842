"""Where a reader's program runs: servers in the places that it names, and a folder with its files.

A reader's program talks to ``smtp.example.com``. Here it does too, as far as it can tell: it is run
as it stands, in a folder with the files that it reads, with these things replaced (`Network`).

- `anyio.connect_tcp` and `anyio.connect_unix` lead to servers on loopback, each in the place of a
  host and port, and nowhere else. Where the host is not ``localhost`` the stream says that it
  comes from an address far away, because the library treats loopback specially.
- The authority that vouches for ``smtp.example.com`` is the system's only one: OpenSSL is
  told so by ``SSL_CERT_FILE``.
- `anyio.run` takes the backend of the test, where the program does not name one.
- `anyio.sleep` takes no time. Logging is as in a fresh interpreter.

The servers refuse ``nobody@``, and ``later@`` the first time, and take everything else; `Relay` has
some more of its own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from anyio.abc import ByteStream, SocketAttribute

from anysmtp.testing import DEFAULT_KEYWORDS, DROP, Act, AiosmtpdServer
from support.pages import Block
from support.scripted_proxy import ThreadedProxy
from support.threaded import ThreadedServer

USERS = {"ann": "secret"}


class Server(AiosmtpdServer):
    """aiosmtpd, which refuses ``nobody@``, and ``later@`` at first, and knows a token."""

    def __init__(self, **options: Any) -> None:
        super().__init__(users=USERS, **options)
        self.asked: set[str] = set()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        if address.startswith("later@") and address not in self.asked:
            self.asked.add(address)
            return "451 4.7.1 try again later"
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def auth_XOAUTH2(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, arguments: list[str]
    ) -> AuthResult:
        good = arguments[1:] == ["dXNlcj1hbm4BYXV0aD1CZWFyZXIgdG9rZW4BAQ=="]
        return AuthResult(success=good, handled=False)


class Relay(ThreadedServer):
    """A server for messages to whom something happens: see docs/concurrency.rst.

    - ``nobody@`` is refused, after half a second;
    - the answer for ``slow@`` comes after a second;
    - the connection is closed in place of the answer for ``crash@``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._recipients: dict[int, str] = {}

    def _answer(self, line: str) -> Act | None:
        verb, _, rest = line.upper().partition(" ")
        connection = anyio.get_current_task().id
        if verb == "RCPT":
            name = self._recipients[connection] = rest.partition("<")[2].partition("@")[0]
            return Act("550 5.1.1 no such user", late=0.5) if name == "NOBODY" else None
        if verb == "." or rest.endswith("LAST"):
            return {"SLOW": Act(late=1), "CRASH": DROP}.get(self._recipients[connection])
        return None


class FarAway(ByteStream):
    """A stream that says that it does not end on this machine."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        received: bytes = await self._stream.receive(max_bytes)
        return received

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes = self._stream.extra_attributes
        return {**attributes, SocketAttribute.remote_address: lambda: ("192.0.2.25", 25)}


class Network:
    """The servers behind the names in the documentation, and a folder with files for readers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        public, corporate = trustme.CA(), trustme.CA()
        public.cert_pem.write_to_path(folder / "public-ca.pem")
        corporate.cert_pem.write_to_path(folder / "corp-ca.pem")
        client = corporate.issue_cert("ann@corp.example")
        client.private_key_pem.write_to_path(folder / "client.key")
        client.cert_chain_pems[0].write_to_path(folder / "client.pem")
        certificate = self._context(public, "smtp.example.com")
        asking = self._context(corporate, "relay.corp.example")
        asking.verify_mode = ssl.CERT_REQUIRED
        asking.load_verify_locations(folder / "corp-ca.pem")
        self.servers = {
            "localhost:8025": Server(),
            "/run/mail/smtp.sock": Server(),
            "smtp.example.com:25": Server(starttls=certificate),
            "smtp.example.com:587": Server(starttls=certificate),
            "192.0.2.25:587": Server(starttls=certificate),
            "smtp.example.com:465": Server(implicit_tls=certificate),
            "smtp.corp.example:587": Server(starttls=self._context(corporate, "smtp.corp.example")),
            "relay.corp.example:587": Server(starttls=asking),
        }
        self.scripted: dict[str, ThreadedServer] = {
            "relay.example.com:25": Relay(keywords=[*DEFAULT_KEYWORDS, "CHUNKING", "DSN"]),
            "small.example.com:25": Relay(max_connections=2),
            "/run/dovecot/lmtp": ThreadedServer(
                lmtp=True, script={". <full@": "552 5.2.2 mailbox full"}
            ),
            "proxy.example.com:1080": ThreadedProxy(starttls=certificate),
        }

    def _context(self, authority: trustme.CA, name: str) -> ssl.SSLContext:
        """For the server of this name."""
        path = self.folder / f"{name}.pem"
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    def __enter__(self) -> Network:
        silent = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.ports = {"slow.example.com:25": silent.getsockname()[1]}
        for name, server in self.servers.items():
            self.ports[name] = self._stack.enter_context(server).port
        for name, relay in self.scripted.items():
            self.ports[name] = self._stack.enter_context(relay).port
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def forget(self) -> None:
        for server in self.servers.values():
            server.messages.clear()
            server.asked.clear()
        for relay in self.scripted.values():
            relay.server.connections.clear()

    def deliveries(self) -> Counter[tuple[object, bytes, str]]:
        """How often each message was delivered to each recipient, over each server.

        What a scripted server took and did not say counts too.
        """
        counts = Counter[tuple[object, bytes, str]]()
        for server in self.servers.values():
            counts.update((server, m.raw, to) for m in server.messages for to in m.recipients)
        for relay in self.scripted.values():
            messages = relay.server.received
            counts.update((relay, m.raw, to) for m in messages for to in m.recipients)
        return counts

    def install(self, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
        """Replace what a program reaches the world by."""
        connect, run = anyio.connect_tcp, anyio.run

        async def connect_tcp(host: str, port: int, **options: Any) -> ByteStream:
            stream = await connect("127.0.0.1", self.ports[f"{host}:{port}"])
            return stream if host == "localhost" else FarAway(stream)

        async def connect_unix(path: str) -> ByteStream:
            return await connect("127.0.0.1", self.ports[path])

        async def sleep(delay: float) -> None:
            await anyio.lowlevel.checkpoint()

        def run_on_backend(main: Callable[..., Any], backend: str = backend) -> Any:
            return run(main, backend=backend)

        monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
        monkeypatch.setattr(anyio, "connect_unix", connect_unix)
        monkeypatch.setattr(anyio, "sleep", sleep)
        monkeypatch.setattr(anyio, "run", run_on_backend)
        monkeypatch.setenv("SSL_CERT_FILE", str(self.folder / "public-ca.pem"))
        # What the program sets in the environment is forgotten.
        monkeypatch.setattr(os, "environ", os.environ.copy())
        monkeypatch.chdir(self.folder)


def run(program: Block) -> str:
    """What the program writes to its terminal."""
    # Empty lines in front make the line numbers of a traceback those of the page.
    code = compile("\n" * (program.line - 1) + program.source, str(program.page), "exec")
    terminal = io.StringIO()
    to_terminal = contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal)
    with to_terminal[0], to_terminal[1], fresh_logging():
        exec(code, {"__name__": "__main__"})
    return terminal.getvalue()


@contextlib.contextmanager
def fresh_logging() -> Generator[None]:
    """The loggers as a new interpreter has them; those of the servers are not the program's."""
    root, wire, servers = map(logging.getLogger, ("root", "anysmtp.wire", "mail.log"))
    kept, level = root.handlers, root.level
    root.handlers, servers.disabled = [], True
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers, servers.disabled = kept, False
        root.setLevel(level)
        wire.setLevel(logging.NOTSET)


def check(
    program: Block, wanted: str, network: Network, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a program; what it prints is what is wanted, and no message came twice."""
    network.install(monkeypatch, backend)
    printed = run(program)
    if not OutputChecker().check_output(wanted, printed, ELLIPSIS):
        pytest.fail(f"{program} printed\n{printed}\nand not\n{wanted}", pytrace=False)
    assert {*network.deliveries().values()} <= {1}
    assert not [what for relay in network.scripted.values() for what in relay.server.violations]
