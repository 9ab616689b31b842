"""The rows of docs/comparison.rst that have a star: what the libraries do, as they are installed.

Those that are not installed, or not at the version that the page names, are skipped.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import smtplib
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import pytest
from packaging.requirements import Requirement

import anysmtp
from anysmtp import sasl
from anysmtp.testing import DEFAULT_KEYWORDS
from support.threaded import ThreadedServer

# smtpproto 2.0.0 imports a name that anyio 4.16 has elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:The anyio.abc.BlockingPortal:DeprecationWarning")

PAGE = (Path(__file__).parents[1] / "docs" / "comparison.rst").read_text("utf-8")
LIBRARIES = ["smtplib", "aiosmtplib", "smtpproto", "anysmtp"]
VERSIONS = dict(re.findall(r"(aiosmtplib|smtpproto) (\d+(?:\.\d+)+)", PAGE))
ROW = re.compile(r"^   \* - (\S.* )\*\n((?:     - .*\n)+)", re.MULTILINE)
ROWS = {
    title.strip(): dict(zip(LIBRARIES, re.findall(r"     - (.*)\n", cells), strict=True))
    for title, cells in ROW.findall(PAGE)
}
BOB, CAROL, NOBODY = "bob@example.com", "carol@example.com", "nobody@example.com"


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name in VERSIONS:
        pytest.importorskip(name, reason=f"{name} is not installed")
        if importlib.metadata.version(name) != VERSIONS[name]:
            pytest.skip(f"the page is about {name} {VERSIONS[name]}")
    return name


def _message(*recipients: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "ann@example.com", ", ".join(recipients)
    message.set_content("At noon?")
    return message


def _by_smtplib(port: int, message: EmailMessage) -> Any:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example") as smtp:
        return smtp.send_message(message)


def _by_aiosmtplib(port: int, message: EmailMessage) -> Any:
    import aiosmtplib

    async def main() -> Any:
        async with aiosmtplib.SMTP(
            hostname="127.0.0.1", port=port, local_hostname="client.example"
        ) as smtp:
            return await smtp.send_message(message)

    return anyio.run(main)


def _by_smtpproto(port: int, message: EmailMessage) -> Any:
    from smtpproto.client import AsyncSMTPClient

    client = AsyncSMTPClient("127.0.0.1", port, domain="client.example")
    return anyio.run(client.send_message, message)


def _by_anysmtp(port: int, message: EmailMessage) -> Any:
    async def main() -> Any:
        async with anysmtp.SMTP("127.0.0.1", port) as smtp:
            return await smtp.send_message(message)

    return anyio.run(main)


SEND: dict[str, Callable[[int, EmailMessage], Any]] = {
    "smtplib": _by_smtplib,
    "aiosmtplib": _by_aiosmtplib,
    "smtpproto": _by_smtpproto,
    "anysmtp": _by_anysmtp,
}


def test_these_rows_are_checked() -> None:
    assert [*ROWS] == [
        "Needs",
        "Writes for a message to three, with PIPELINING",
        "One recipient of two is refused",
        "Passwords by",
        "Tokens by",
        "Unix sockets",
        "LMTP",
    ]


def test_what_is_needed(library: str) -> None:
    requires = [] if library == "smtplib" else importlib.metadata.requires(library) or []
    needed = {
        need.name
        for need in map(Requirement, requires)
        if need.marker is None or need.marker.evaluate({"extra": ""})
    }
    assert (", ".join(sorted(needed)) or "nothing") == ROWS["Needs"][library]


def test_writes(library: str) -> None:
    assert "PIPELINING" in DEFAULT_KEYWORDS
    with ThreadedServer(keywords=DEFAULT_KEYWORDS) as server:
        SEND[library](server.port, _message(BOB, CAROL, "dave@example.com"))
        (record,) = server.server.connections
    first = next(n for n, write in enumerate(record.writes) if write.upper().startswith(b"MAIL"))
    last = max(n for n, write in enumerate(record.writes) if write.endswith(b".\r\n"))
    assert str(last + 1 - first) == ROWS["Writes for a message to three, with PIPELINING"][library]


def _smtpproto_error() -> type[Exception]:
    """What smtpproto raises; where it is not installed, nothing that anybody raises."""
    try:
        from smtpproto.protocol import SMTPException
    except ImportError:
        return type("Never", (Exception,), {})
    return SMTPException


def test_a_partial_refusal(library: str) -> None:
    kinds = {dict: "a dictionary", tuple: "a tuple", anysmtp.Receipt: "a receipt"}
    with ThreadedServer(script={f"RCPT TO:<{NOBODY}>": "550 5.1.1 no such user"}) as server:
        try:
            kind = kinds[type(SEND[library](server.port, _message(BOB, NOBODY)))]
        except _smtpproto_error():
            kind = "an exception"
    assert kind == ROWS["One recipient of two is refused"][library]


PASSWORDS = {"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM"}
TOKENS = {"XOAUTH2", "OAUTHBEARER"}


def _mechanisms(library: str) -> set[str]:
    """The names of the mechanisms that there are, without the numbers of hashes."""
    if library == "anysmtp":
        exported = (getattr(sasl, name) for name in sasl.__all__)
        names = {name for kind in exported if isinstance(name := getattr(kind, "name", None), str)}
        return {"SCRAM" if "SCRAM" in name else name for name in names}
    if library == "smtpproto":
        from smtpproto import auth

        kinds = (name for name in vars(auth) if name.endswith("Authenticator"))
        stems = {name.removesuffix("Authenticator").upper() for name in kinds} - {"SMTP"}
        return {"XOAUTH2" if stem == "OAUTH2" else stem for stem in stems}
    client = importlib.import_module(library).SMTP
    methods = (name for name in dir(client) if name.startswith("auth_"))
    names = {name.removeprefix("auth_").upper().replace("_", "-") for name in methods}
    return {"CRAM-MD5" if name == "CRAMMD5" else name for name in names}


def test_mechanisms(library: str) -> None:
    found = _mechanisms(library)
    passwords, tokens = found & PASSWORDS, found & TOKENS
    assert ", ".join(sorted(passwords)) == ROWS["Passwords by"][library]
    assert (", ".join(sorted(tokens)) or "``auth()`` with a function") == ROWS["Tokens by"][library]


def test_unix_sockets_and_lmtp(library: str) -> None:
    name = "smtpproto.client" if library == "smtpproto" else library
    module = importlib.import_module(name)
    has_lmtp = hasattr(module, "LMTP")
    client = module.AsyncSMTPClient if library == "smtpproto" else module.SMTP
    options = {*inspect.signature(client.__init__).parameters}
    if library == "anysmtp":
        options |= {*anysmtp.Options.__annotations__}
    has_unix = bool(options & {"socket_path", "connectable"})
    assert ROWS["LMTP"][library].startswith("yes" if has_lmtp else "no")
    by_lmtp = "for LMTP" if has_lmtp else "no"
    assert ROWS["Unix sockets"][library] == ("yes" if has_unix else by_lmtp)
