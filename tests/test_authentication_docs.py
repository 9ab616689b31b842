"""The programs of docs/authentication.rst, run as they stand, print what stands under them.

What they connect to are servers on loopback, for the names that stand in them: a token endpoint and
a mail server that checks the token, in the place of Google's and Microsoft's; and one that knows
the mechanism of the reader's own.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import re
import ssl
import sys
import textwrap
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult

import anysmtp
from anysmtp import sasl
from anysmtp.testing import AiosmtpdServer
from support.tokens import TokenEndpoint, TokenServer

PAGE = Path(__file__).parents[1] / "docs" / "authentication.rst"
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n(?:   :caption: (?P<caption>\S+)\n)?\n"
    r"(?P<source>(?:   .*\n|\n)+)",
    re.MULTILINE,
)
BLOCKS = [
    (found["language"], found["caption"], textwrap.dedent(found["source"]).strip("\n") + "\n")
    for found in BLOCK.finditer(PAGE.read_text("utf-8"))
]
FILES = {caption: source for language, caption, source in BLOCKS if language == "python"}
# What is printed stands behind the program.
OUTPUTS = {
    BLOCKS[i - 1][1]: source
    for i, (language, _, source) in enumerate(BLOCKS)
    if language == "output"
}
NAMES = (
    "oauth2.googleapis.com",
    "smtp.gmail.com",
    "login.microsoftonline.com",
    "smtp.office365.com",
    "smtp.example.com",
)
SECRETS = {"CLIENT_ID": "me", "CLIENT_SECRET": "hush", "REFRESH_TOKEN": "r", "TENANT_ID": "contoso"}


class Reader:
    """A folder with the page's files, the certificates, and what the programs reach."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        made = authority.issue_cert(*NAMES)
        made.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(folder / "server.pem")
        self.ports: dict[str, int] = {}
        for name, source in FILES.items():
            (folder / name).write_text(source, "utf-8")
        self._patch(folder, monkeypatch, backend)

    def _patch(self, folder: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
        connect, run = anyio.connect_tcp, anyio.run

        async def connect_tcp(remote_host: str, remote_port: int, **options: Any) -> Any:
            return await connect("127.0.0.1", self.ports[f"{remote_host}:{remote_port}"])

        def run_on_backend(main: Callable[..., Any]) -> None:
            run(main, backend=backend)

        monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
        monkeypatch.setattr(anyio, "run", run_on_backend)
        if backend == "trio":
            trio = pytest.importorskip("trio")
            open_tcp = trio.open_tcp_stream

            async def open_tcp_stream(host: str, port: int, **options: Any) -> Any:
                return await open_tcp("127.0.0.1", self.ports[f"{host}:{port}"])

            monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        monkeypatch.delitem(sys.modules, "tokens", raising=False)

    def run(self, name: str) -> str:
        """What the program prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(FILES[name], name, "exec"), {"__name__": "__main__"})
        return printed.getvalue()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str) -> Iterator[Reader]:
    yield Reader(tmp_path, monkeypatch, anyio_backend)
    sys.modules.pop("tokens", None)


def test_the_page_has_these_programs() -> None:
    assert [*FILES] == ["tokens.py", "gmail.py", "microsoft.py", "own.py"]
    assert [*OUTPUTS] == ["gmail.py", "microsoft.py", "own.py"]


@pytest.mark.parametrize("revoked", [0, 1], ids=["good", "refused at first"])
@pytest.mark.parametrize(
    ("program", "endpoint", "server", "username", "request_"),
    [
        (
            "gmail.py",
            "oauth2.googleapis.com",
            "smtp.gmail.com",
            "ann@gmail.com",
            (
                "/token",
                {
                    "grant_type": "refresh_token",
                    "client_id": "me",
                    "client_secret": "hush",
                    "refresh_token": "r",
                },
            ),
        ),
        (
            "microsoft.py",
            "login.microsoftonline.com",
            "smtp.office365.com",
            "ann@contoso.com",
            (
                "/contoso/oauth2/v2.0/token",
                {
                    "grant_type": "client_credentials",
                    "client_id": "me",
                    "client_secret": "hush",
                    "scope": "https://outlook.office365.com/.default",
                },
            ),
        ),
    ],
    ids=["Gmail", "Microsoft 365"],
)
def test_a_program_with_tokens_runs(
    program: str,
    endpoint: str,
    server: str,
    username: str,
    request_: tuple[str, dict[str, str]],
    revoked: int,
    reader: Reader,
) -> None:
    with (
        TokenEndpoint(reader.context, revoked=revoked) as tokens,
        TokenServer(tokens, reader.context, username) as mail,
    ):
        reader.ports = {f"{endpoint}:443": tokens.port, f"{server}:587": mail.port}
        assert reader.run(program) == OUTPUTS[program]
    assert tokens.requests == [request_] * (1 + revoked)
    assert mail.messages[0].recipients == ["bob@example.com"]
    assert mail.messages[0].tls


@pytest.mark.anyio
async def test_tokens_are_kept_until_they_expire_and_an_endpoint_that_fails_is_seen(
    reader: Reader,
) -> None:
    namespace: dict[str, Any] = {}
    exec(FILES["tokens.py"], namespace)
    with TokenEndpoint(reader.context, revoked=9) as tokens:
        made = namespace["Tokens"]("https://oauth2.googleapis.com/token")
        with TokenServer(tokens, reader.context, "ann") as mail:
            reader.ports = {
                "oauth2.googleapis.com:443": tokens.port,
                "smtp.gmail.com:587": mail.port,
            }
            assert [await made.get() for _ in range(3)] == ["token-1"] * 3
            made._good_until = 0
            assert await made.get() == "token-2"
            auth = sasl.XOAuth2("ann", made.get, refresh=made.renew)
            async with anysmtp.SMTP("smtp.gmail.com", auth=auth) as smtp:
                with pytest.raises(anysmtp.SMTPAuthenticationError) as caught:
                    await smtp.connect()
            assert caught.value.details is not None
            assert caught.value.details["status"] == "401"
            made = namespace["Tokens"]("https://login.microsoftonline.com/token")
            reader.ports["login.microsoftonline.com:443"] = mail.port
            auth = sasl.XOAuth2("ann", made.get)
            async with anysmtp.SMTP("smtp.gmail.com", auth=auth) as smtp:
                with pytest.raises(httpx.TransportError):
                    await smtp.connect()


class ClockServer(AiosmtpdServer):
    """Knows the key of the reader's mechanism."""

    async def auth_X__CLOCK(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, arguments: list[str]
    ) -> AuthResult:
        username, now, proof = b64decode(arguments[1]).split()
        good = hmac.digest(b"shared key", b"client" + now, "sha256").hex().encode() == proof
        await server.challenge_auth(hmac.digest(b"shared key", b"server" + now, "sha256"))
        return AuthResult(success=good and username == b"ann", auth_data=None)


def test_the_mechanism_of_the_readers_own_logs_in(reader: Reader) -> None:
    with ClockServer(starttls=reader.context, require_auth=True) as mail:
        reader.ports = {"smtp.example.com:587": mail.port}
        assert reader.run("own.py") == OUTPUTS["own.py"]
    assert len(mail.messages) == 1


def test_the_table_has_every_mechanism_in_the_order_of_preference() -> None:
    text = PAGE.read_text("utf-8")
    rows = [
        name
        for row in re.findall(r"^   \* - ((?:[A-Z0-9-]+(?:, )?)+)", text, re.MULTILINE)
        for name in row.rstrip(", ").split(", ")
    ]
    from_password = [mechanism.name for mechanism in sasl.from_password("ann", "secret")]
    assert rows[: len(from_password)] == from_password
    others = {"XOAUTH2", "OAUTHBEARER", "EXTERNAL", "GSSAPI", "GSS-SPNEGO", "NTLM", "ANONYMOUS"}
    assert {*rows[len(from_password) :]} == others
    assert f"{sasl.MAX_ITERATIONS:,} iterations" in text
