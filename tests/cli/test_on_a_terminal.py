"""The command line as a person has it: on a terminal, against aiosmtpd and Postfix."""

from __future__ import annotations

import re
import sys
from typing import Any

import anyio
import pytest

from anysmtp.cli._exit import Exit
from anysmtp.testing import STALL, AiosmtpdServer
from support.fixtures import USERS
from support.postfix import Postfix
from support.threaded import ThreadedServer
from support.tls import Certificates

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals here", allow_module_level=True)

from support.terminal import Terminal

NEW = ("--from", "ann@x.test", "--to", "bob@x.test", "--body", "hello")


def test_a_password_is_asked_for_and_not_shown(
    aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    url = f"smtp://ann@localhost:{aiosmtpd_starttls.port}"
    arguments = ("send", *NEW, "--server", url, "--cafile", str(certificates.cafile), "-v")
    with Terminal(*arguments) as terminal:
        terminal.wait_for("Password of ann at localhost: ")
        terminal.type(f"{USERS['ann']}\n")
        assert terminal.wait_closed() == Exit.OK
    assert "accepted for bob@x.test" in terminal.shown
    assert "horse" not in terminal.shown
    assert aiosmtpd_starttls.messages[0].username == "ann"


def test_ctrl_c_at_the_question_for_a_password_ends_it() -> None:
    with Terminal("send", *NEW, "--server", "smtp://ann@localhost:1") as terminal:
        terminal.wait_for("Password of ann at localhost: ")
        terminal.type("\x03")
        assert terminal.wait_closed() == Exit.INTERRUPTED
    assert terminal.shown.endswith("interrupted\r\n")
    assert "Traceback" not in terminal.shown


def test_ctrl_c_ends_a_send_that_is_stuck() -> None:
    with ThreadedServer(script={".": STALL}, watched=".") as server:
        url = f"smtp://127.0.0.1:{server.port}"
        with Terminal("send", *NEW, "--server", url) as terminal:
            terminal.wait_for(server.reached)
            terminal.type("\x03")
            assert terminal.wait_closed() == Exit.IN_DOUBT
    assert "in doubt for bob@x.test, the server may have it: interrupted" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_a_message_goes_to_postfix_with_its_dialogue_on_the_screen(
    postfix: Postfix, certificates: Certificates
) -> None:
    recipient = postfix.address()
    name, password = next(iter(postfix.users.items()))
    with Terminal(
        *("send", "--server", f"smtp+starttls://localhost:{postfix.ports['submission']}", "-v"),
        *("--username", name, "--cafile", str(certificates.cafile)),
        *("--from", "ann@x.test", "--to", recipient, "--to", "unknown@example.test"),
        *("--subject", "Grüße", "--body", "Hällo"),
        variables={"ANYSMTP_PASSWORD": password},
    ) as terminal:
        assert terminal.wait_closed() == Exit.REFUSED
    stored = anyio.run(postfix.wait_for, recipient)
    assert b"Subject: =?utf-8?" in stored.data
    assert "> AUTH " in terminal.shown
    assert f"the message: accepted for {recipient}: 250 2.0.0 Ok: queued as " in terminal.shown
    assert "the message: refused for unknown@example.test: 550 5.1.1 " in terminal.shown
    assert password not in terminal.shown


@pytest.mark.parametrize("port", ["submission", "smtps"])
def test_postfix_is_found_to_be_in_order(
    port: str, postfix: Postfix, certificates: Certificates
) -> None:
    mode = {"submission": "starttls", "smtps": "implicit"}[port]
    server = f"localhost:{postfix.ports[port]}"
    options = ("--tls", mode, "--cafile", str(certificates.cafile))
    with Terminal("probe", server, *options) as terminal:
        assert terminal.wait_closed() == Exit.OK
    for shown in (
        "greeting       220 ",
        "under TLS      PIPELINING, SIZE ",
        "TLS            TLSv1.3, ",
        "logins         ",
        "TLS handshake ",
        # In green.
        "\x1b[32m  Nothing is wrong.\x1b[0m",
    ):
        assert shown in terminal.shown


# What is wrong with a server, by its TLS, the mode that is asked for, and what is said of it.
WRONG: dict[str, tuple[dict[str, str], str, str]] = {
    "no STARTTLS": ({}, "starttls", "STARTTLS is not offered"),
    "expired": (
        {"starttls": "server_expired"},
        "starttls",
        "the certificate expired on 2001-02-01",
    ),
    "another name": (
        {"implicit_tls": "server_misnamed"},
        "implicit",
        "the certificate is for elsewhere.example.org, and not for localhost",
    ),
    "TLS too late": ({"starttls": "server"}, "implicit", "does not begin with TLS"),
    "TLS too early": ({"implicit_tls": "server"}, "starttls", "begins with TLS"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_aiosmtpd_is_said_in_red(
    case: tuple[dict[str, str], str, str], certificates: Certificates
) -> None:
    tls, mode, said = case
    contexts: dict[str, Any] = {key: getattr(certificates, name) for key, name in tls.items()}
    options = ("--tls", mode, "--cafile", str(certificates.cafile), "--timeout", "1")
    with (
        AiosmtpdServer(**contexts) as server,
        Terminal("probe", f"localhost:{server.port}", *options) as terminal,
    ):
        assert terminal.wait_closed() == Exit.TROUBLE
    assert re.search(rf"\x1b\[1;31m  WRONG  .*{re.escape(said)}", terminal.shown)
    assert "Nothing is wrong" not in terminal.shown


# The same of Postfix: its port, the mode that is asked for, and what is said.
WRONG_WITH_POSTFIX = {
    "no STARTTLS": ("plain", "starttls", "STARTTLS is not offered"),
    "TLS too late": ("submission", "implicit", "does not begin with TLS"),
    "TLS too early": ("smtps", "starttls", "begins with TLS"),
}


@pytest.mark.parametrize("case", WRONG_WITH_POSTFIX.values(), ids=WRONG_WITH_POSTFIX)
def test_what_is_wrong_with_postfix_is_said(
    case: tuple[str, str, str], postfix: Postfix, certificates: Certificates
) -> None:
    port, mode, said = case
    options = ("--tls", mode, "--cafile", str(certificates.cafile), "--timeout", "1")
    with Terminal("probe", f"localhost:{postfix.ports[port]}", *options) as terminal:
        assert terminal.wait_closed() == Exit.TROUBLE
    assert re.search(rf"WRONG  .*{re.escape(said)}", terminal.shown)


def test_the_demo_shows_what_its_server_received() -> None:
    pytest.importorskip("trio", reason="trio is not installed")
    with Terminal("demo") as terminal:
        assert terminal.wait_closed() == Exit.OK
    assert "Grüße aus Zürich ⛵" in terminal.shown
    assert "What the server received is what was sent." in terminal.shown
