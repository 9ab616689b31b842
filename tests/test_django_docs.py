"""docs/django.rst: the backend is copied, and a real Django sends with it to a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anysmtp.testing import AiosmtpdServer
from support.pages import blocks
from support.reader import Server

PAGE = Path(__file__).parents[1] / "docs" / "django.rst"
FILES = {block.caption: block for block in blocks(PAGE) if block.caption}
(COMMAND,) = (block for block in blocks(PAGE) if block.language == "sh")


def _run(folder: Path, server: AiosmtpdServer) -> str:
    """What the reader's command prints, with the port of the server that there is."""
    for name, block in FILES.items():
        source = block.source.replace("8025", f"{server.port}")
        (folder / name).write_text(source, "utf-8")
    python, *arguments = COMMAND.source.split()
    assert python == "python"
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_the_backend_sends_what_django_gives_it(tmp_path: Path) -> None:
    pytest.importorskip("django", reason="Django is not installed")
    assert [*FILES] == ["mailing.py", "invitations.py"]
    with Server() as server:
        printed = _run(tmp_path, server)
    assert f"localhost:{server.port} " in printed
    assert printed.replace(f":{server.port} ", ":8025 ") == COMMAND.output
    assert sorted(message.recipients for message in server.messages) == [
        ["bob@example.com"],
        ["bob@example.com", "dave@example.com"],
        ["carol@example.com", "dave@example.com"],
        ["erin@example.com", "dave@example.com"],
    ]
    assert not any(b"dave@" in message.raw for message in server.messages)
