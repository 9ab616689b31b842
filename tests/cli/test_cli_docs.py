"""The commands of docs/cli.rst, run as they stand, print what stands under them.

``smtp.example.com`` is a server on this machine, as is ``old.example.com``, whose certificate is
neither good nor its own; ``ann`` has a password in the environment. All commands of the page are
run in its order, with what it exports. The tables of the page are compared with the code.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from anyio.abc import ByteStream

from anysmtp.cli import _findings
from anysmtp.cli._exit import Exit
from anysmtp.testing import AiosmtpdServer
from support.cli import cli
from support.tls import Certificates

PAGE = Path(__file__).parents[2] / "docs" / "cli.rst"
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n\n"
    r"(?P<source>(?:   .*\n|\n)+)",
    re.MULTILINE,
)
FILES = {
    "menu.txt": "Soup\n",
    **{
        f"{meal}.eml": f"From: ann@example.com\nTo: bob@example.com\nSubject: {meal}\n"
        f"Message-ID: <{meal}@example.com>\n\nAt noon?\n"
        for meal in ("lunch", "dinner")
    },
    **{
        f"letters/{day}.eml": f"From: ann@example.com\nTo: bob@example.com\n\n{day}?\n"
        for day in ("monday", "tuesday", "wednesday")
    },
    "invitation.eml": "From: Ann <ann@example.com>\nTo: {{name}} <{{email}}>\n"
    "Subject: Lunch on {{day}}?\n\nHello {{name}},\n\nshall we meet on {{day}}?\n",
    "guests.csv": "name,email,day\nBob,bob@example.com,Monday\n"
    '"Carol, of Example",carol@example.com,Tuesday\nNobody,nobody@example.com,Monday\n',
}


@dataclass
class Example:
    """A command, and what stands under it."""

    command: str
    output: str = ""


def _examples() -> Iterator[Example]:
    example = None
    for found in BLOCK.finditer(PAGE.read_text("utf-8")):
        source = textwrap.dedent(found["source"]).strip("\n") + "\n"
        if found["language"] == "sh":
            if example is not None:
                yield example
            example = Example(source)
        else:
            assert found["language"] == "output"
            assert example is not None
            example.output = source
    assert example is not None
    yield example


class Server(AiosmtpdServer):
    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        return await super().handle_RCPT(server, session, envelope, address, options)


@pytest.fixture
def _world(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The servers, and a folder with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    users = {"ann": "secret"}
    with (
        Server(starttls=certificates.server_named("smtp.example.com"), users=users) as good,
        Server(implicit_tls=certificates.server_of_2001("smtp.example.com")) as old,
    ):
        ports = {587: good.port, 465: old.port}
        connect = anyio.connect_tcp

        async def connect_tcp(host: str, port: int, **_: Any) -> ByteStream:
            return await connect("127.0.0.1", ports[port])

        async def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
            return [(0, 0, 0, "", ("192.0.2.25", port))]

        monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
        monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
        yield


@pytest.mark.usefixtures("_world")
def test_each_command_prints_what_stands_under_it(certificates: Certificates) -> None:
    authorities = str(certificates.cafile)
    variables = {"ANYSMTP_PASSWORD": "secret", "SSL_CERT_FILE": authorities}
    commands = 0
    for example in _examples():
        words = shlex.split(example.command.replace("\\\n", ""))
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            variables[name] = value
        elif words[0] == "cat":
            assert Path(words[1]).read_text() == example.output
        elif words[0] != "pip":
            _check(example, words, variables)
            commands += 1
    assert commands == 13


def _check(example: Example, words: list[str], variables: Mapping[str, str]) -> None:
    shows_exit_code = words[-2:] == ["echo", "$?"]
    if shows_exit_code:
        words = [word.removesuffix(";") for word in words[:-2]]
    stdin = b""
    if "<" in words:
        stdin = Path(words.pop()).read_bytes()
        words.pop()
    assert words.pop(0) == "anysmtp"
    given: dict[str, Any] = {"stdin": stdin, **variables}
    ran = cli(*words, **given)
    # The dialogue comes first on a terminal, what was refused last.
    printed = ran.errors + ran.output if "-v" in words else ran.output + ran.errors
    if shows_exit_code:
        printed += f"{ran.code:d}\n"
    else:
        assert ran.code == Exit.OK
    matches = OutputChecker().check_output(example.output, printed, ELLIPSIS | NORMALIZE_WHITESPACE)
    if not matches:
        pytest.fail(f"{example.command} printed\n{printed}\nnot\n{example.output}", pytrace=False)


def test_the_page_has_every_exit_code() -> None:
    table = PAGE.read_text("utf-8").partition("\nExit codes\n")[2].partition("\nFor machines\n")[0]
    assert [int(code) for code in re.findall(r"\* - (\d+)$", table, re.MULTILINE)] == [*Exit]


def test_the_page_has_every_code_of_a_finding() -> None:
    source = Path(_findings.__file__).read_text("utf-8")
    made = {"lost", "refused"}
    for kind in ("problem", "note"):
        made |= set(re.findall(rf'_{kind}\(\s*"(\w+)"', source))
    probe = PAGE.read_text("utf-8").partition("\nProbe\n")[2].partition("\nExit codes\n")[0]
    assert made <= set(re.findall(r"``(\w+)``", probe))
