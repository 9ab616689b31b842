"""Every example in README and docs is a program that runs, and prints what stands under it.

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

A file of tests is run by pytest, with the same things replaced.

A block of code that is not found, or is of a kind that nothing checks, fails a test too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import io
import logging
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from anyio.abc import ByteStream, SocketAttribute

import anysmtp
import anysmtp.testing
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, Act, AiosmtpdServer
from support.scripted_proxy import ThreadedProxy
from support.threaded import ThreadedServer

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci" / "run"
# These have tests of their own: test_authentication_docs, cli/test_cli_docs and
# testing/test_testing_docs.
ELSEWHERE = ("authentication", "cli", "testing")
OTHERS = (path for path in (ROOT / "docs").glob("*.rst") if path.stem not in ELSEWHERE)
PAGES = [ROOT / "README.md", *sorted(OTHERS)]
USERS = {"ann": "secret"}

# What opens a block of code in Markdown or reStructuredText, in whatever way.
OPENING = re.compile(
    r" *(```\S+|>>> |\.\. (code|code-block|sourcecode|parsed-literal|literalinclude)::"
    r"|(?!\.\. )\S.*::$)"
)
MARKDOWN = re.compile(r"^```(?P<language>\S+)\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
RST = re.compile(
    r"^(?P<indent> *)\.\. code-block:: (?P<language>\S+)\n"
    r"(?P<options>(?:(?P=indent)   :.*\n)*)\n+"
    r"(?P<source>(?:(?P=indent)   .*\n|\n)+)",
    re.MULTILINE,
)
RUNS_ON = re.compile(r"^(anyio|asyncio|trio)\.run\(", re.MULTILINE)
# What is in the standard library, or the language, only from Python 3.11 on.
NEW = ("asyncio.timeout(", "except* ")


@dataclass(frozen=True)
class Block:
    """A block of code, and what is written under it as its output."""

    page: Path
    line: int
    language: str
    source: str
    caption: str = ""
    """The name of the file that the reader makes of it."""
    output: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    block = None
    for found in (MARKDOWN if page.suffix == ".md" else RST).finditer(text):
        line = text.count("\n", 0, found.start("source")) + 1
        source = textwrap.dedent(found["source"]).strip("\n") + "\n"
        if found["language"] != "output":
            if block is not None:
                yield block
            options = found.groupdict().get("options", "")
            caption = options.partition(":caption:")[2].partition("\n")[0].strip()
            block = Block(page, line, found["language"], source, caption)
        elif block is None or block.output:
            raise ValueError(f"{page.name}:{line} is the output of nothing")
        else:
            block = replace(block, output=source)
    if block is not None:
        yield block


BLOCKS = [block for page in PAGES for block in _blocks(page)]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]
TESTS = [program for program in PROGRAMS if program.caption.startswith("test_")]
FIRST = next(block for block in PROGRAMS if block.page.name == "index.rst")


def _programs(runner: str) -> list[Block]:
    """The programs whose event loop this is; one that has none, or several, is in no list."""
    return [program for program in PROGRAMS if RUNS_ON.findall(program.source) == [runner]]


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


@pytest.fixture(scope="module")
def all_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("reader")) as network:
        yield network


@pytest.fixture
def network(all_servers: Network) -> Network:
    all_servers.forget()
    return all_servers


def _run(program: Block) -> str:
    """What the program writes to its terminal."""
    # Empty lines in front make the line numbers of a traceback those of the page.
    code = compile("\n" * (program.line - 1) + program.source, str(program.page), "exec")
    terminal = io.StringIO()
    to_terminal = contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal)
    with to_terminal[0], to_terminal[1], _fresh_logging():
        exec(code, {"__name__": "__main__"})
    return terminal.getvalue()


@contextlib.contextmanager
def _fresh_logging() -> Generator[None]:
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    openings = [line for line in lines if OPENING.match(line)]
    found = [block for block in BLOCKS if block.page == page]
    outputs = [block for block in found if block.output]
    pages = [line for line in openings if line == ".. literalinclude:: ../CHANGELOG.md"]
    assert len(openings) == len(found) + len(outputs) + len(pages)
    assert {block.language for block in found} <= {"python", "sh"}
    run = [program for runner in ("anyio", "asyncio", "trio") for program in _programs(runner)]
    assert {block for block in found if block.language == "python"} <= {*run, *TESTS}


@pytest.mark.parametrize("program", _programs("anyio"), ids=str)
def test_a_program_runs_on_either_backend(
    program: Block, network: Network, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_if_new(program)
    _check(program, network, anyio_backend, monkeypatch)


@pytest.mark.parametrize("program", _programs("asyncio"), ids=str)
def test_a_program_for_asyncio_runs(
    program: Block, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_if_new(program)
    _check(program, network, "asyncio", monkeypatch)


@pytest.mark.parametrize("program", _programs("trio"), ids=str)
def test_a_program_for_trio_runs(
    program: Block, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trio", reason="trio is not installed")
    _check(program, network, "trio", monkeypatch)


@pytest.mark.parametrize("program", TESTS, ids=str)
def test_a_file_of_tests_passes_on_every_backend(
    program: Block, network: Network, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    backends = [name for name in ("asyncio", "trio") if importlib.util.find_spec(name)]
    network.install(monkeypatch, backends[0])
    monkeypatch.chdir(pytester.path)
    pytester.makeini("[pytest]\nfilterwarnings = error")
    (pytester.path / program.caption).write_text(program.source, "utf-8")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-k", " or ".join(backends))
    result.assert_outcomes(passed=len(backends) * program.source.count("def test_"))
    assert sum(network.deliveries().values()) == len(backends)


def _skip_if_new(program: Block) -> None:
    if sys.version_info < (3, 11) and any(words in program.source for words in NEW):
        pytest.skip("it needs Python 3.11")


def _output_of(program: Block) -> str:
    """What stands under the program, or under the command that runs its file."""
    runs = [block.output for block in SHELL if block.source == f"python {program.caption}\n"]
    return runs[0] if runs else program.output


def _check(program: Block, network: Network, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program; what it prints is what stands under it, and no message came twice."""
    network.install(monkeypatch, backend)
    printed = _run(program)
    wanted = _output_of(program)
    if not OutputChecker().check_output(wanted, printed, ELLIPSIS):
        pytest.fail(f"{program} printed\n{printed}\nand not\n{wanted}", pytrace=False)
    assert {*network.deliveries().values()} <= {1}
    assert not [what for relay in network.scripted.values() for what in relay.server.violations]


def test_the_first_program_reaches_the_server_that_the_page_starts(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = [block.source for block in SHELL if "aiosmtpd" in block.source]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = shlex.split(command.replace(":8025", f":{port}"))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, *words[1:]], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            _wait_for(port)
            monkeypatch.setitem(network.ports, "localhost:8025", port)
            _check(FIRST, network, "asyncio", monkeypatch)
        finally:
            server.terminate()
        assert server.stdout is not None
        assert "Subject: Lunch" in server.stdout.read()


def _wait_for(port: int) -> None:
    """Wait until somebody listens there, which nobody announces."""
    for _ in range(500):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.02)
    pytest.fail("the server did not start")


@pytest.mark.parametrize("block", [b for b in SHELL if b.page.suffix == ".rst"], ids=str)
def test_a_command_names_what_there_is(block: Block) -> None:
    into_environment = "python3 -m venv .venv\n. .venv/bin/activate\n"
    words = shlex.split(block.source.removeprefix(into_environment))
    if words[:2] == ["pip", "install"]:
        extras = importlib.metadata.metadata("anysmtp").get_all("Provides-Extra", [])
        assert {*re.findall(r"\w+", words[2])} <= {*extras}
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(f"{words[2]}.__main__")
    else:
        captions = [program.caption for program in PROGRAMS if program.page == block.page]
        assert words[0] == "python"
        assert words[1] in captions


@pytest.mark.parametrize(
    "module", [anysmtp, anysmtp.events, anysmtp.testing], ids=lambda module: module.__name__
)
def test_the_reference_has_every_public_name(module: Any) -> None:
    pages = [ROOT / "docs" / f"{name}.rst" for name in ("api", "errors", "testing")]
    entry = re.compile(
        r"^\.\. (?:auto(?:class|exception|function)|py:(?:type|data)):: (\w+)", re.MULTILINE
    )
    found = {name for page in pages for name in entry.findall(page.read_text("utf-8"))}
    objects = {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    assert objects - {"__version__"} <= found


def test_the_layers_have_every_room() -> None:
    page = (ROOT / "docs" / "design.rst").read_text("utf-8")
    table = page[page.index("   * - level") : page.index("A message has one road")]
    package = Path(anysmtp.__path__[0])
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} <= {*re.findall(r"``(\w+)``", table)}


@pytest.mark.skipif(not CI.exists(), reason="a source distribution does not have it")
def test_the_commands_of_readme_are_those_that_the_continuous_integration_runs() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    marked = re.findall(r"^<!-- command: (\w+) -->\n```sh\n[^\n]+\n```$", readme, re.MULTILINE)
    run = re.findall(r"^run_readme_command (\w+)$", CI.read_text("utf-8"), re.MULTILINE)
    assert marked == run
    assert len([block for block in SHELL if block.page.name == "README.md"]) == len(marked)
