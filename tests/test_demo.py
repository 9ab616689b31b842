"""``python -m anysmtp`` and its demo, as a newcomer calls them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import anysmtp
from anysmtp.__main__ import main
from anysmtp.cli import _demo
from anysmtp.cli._demo_server import DemoServer
from support.cli import hide

needs_trio = pytest.mark.skipif(
    importlib.util.find_spec("trio") is None, reason="trio is not installed"
)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "anysmtp", *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=60,
    )


@needs_trio
def test_the_demo_shows_what_the_server_received(tmp_path: Path) -> None:
    ran = run(tmp_path, "demo")
    assert (ran.returncode, ran.stderr) == (0, "")
    for shown in (
        "Under asyncio",
        "Under trio",
        "TLSv1.3",
        "login        zoe",
        "zoe@example.com -> joerg@example.org",
        "Zoë Müller <zoe@example.com>",
        "Jörg Straße <joerg@example.org>",
        "Grüße aus Zürich ⛵",
        "Message-ID   <",
        "€, Ω, 漢字 and ⛵ made it too.\n               .\n",
        "every byte, für Jörg.bin, 1024 bytes",
        "What the server received is what was sent.",
        'anysmtp.SMTP("smtp.example.com", username="you", password="secret")',
    ):
        assert shown in ran.stdout, ran.stdout


def test_a_terminal_without_unicode_is_shown_escapes(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "anysmtp", "demo"],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert rb"Gr\xfc\xdfe aus Z\xfcrich" in ran.stdout


def test_without_trio_the_demo_runs_under_asyncio_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "trio")
    assert main(["demo"]) == 0
    output = capsys.readouterr().out
    assert "Under trio" not in output
    assert "trio is not installed" in output
    assert "pip install 'anysmtp[trio]'" in output


def test_without_its_extra_the_demo_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "aiosmtpd", "trustme")
    assert main(["demo"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert "needs aiosmtpd and trustme" in errors
    assert "pip install 'anysmtp[demo]'" in errors


def test_the_demo_fails_if_something_else_arrives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle_data = DemoServer.handle_DATA

    async def garble(self: DemoServer, server: Any, session: Any, envelope: Any) -> str:
        envelope.rcpt_tos = ["somebody@example.net"]
        return await handle_data(self, server, session, envelope)

    monkeypatch.setattr(DemoServer, "handle_DATA", garble)
    assert main(["demo"]) == 1
    output = capsys.readouterr().out
    assert "is NOT what was sent" in output
    assert "under asyncio: recipients: sent ('joerg@example.org',), received (" in output
    assert "In a program of your own" not in output


def test_the_program_that_the_demo_ends_with_works(monkeypatch: pytest.MonkeyPatch) -> None:
    server = DemoServer("you", "secret")
    tls_context = anysmtp.create_tls_context(cadata=server.authority)
    message = _demo._message()

    def client(hostname: str, **options: Any) -> anysmtp.SMTP:
        assert hostname == "smtp.example.com"
        return real_client(server.host, server.port, tls_context=tls_context, **options)

    real_client = anysmtp.SMTP
    monkeypatch.setattr(anysmtp, "SMTP", client)
    with server:
        exec(_demo.SNIPPET, {"message": message})
    assert [received.username for received in server.received] == ["you"]


def test_the_demo_runs_without_the_extra_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "click", "cryptography", "rich", "trio")
    assert main(["demo"]) == 0
    assert "What the server received is what was sent." in capsys.readouterr().out
