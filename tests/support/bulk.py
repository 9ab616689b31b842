"""Many small messages, as the sources of ``anysmtp bulk`` have them, and the command for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from .cli import Ran, cli

TEMPLATE = """\
From: Ann <ann@x.test>
To: {{name}} <{{email}}>
Subject: {{name}}

Hello {{name}}!
"""


class Server(Protocol):
    """Whatever listens on loopback."""

    port: int


def url(server: Server) -> str:
    return f"smtp://127.0.0.1:{server.port}"


def bulk(server: Server, *arguments: str | Path, **options: Any) -> Ran:
    """Run ``anysmtp bulk`` in this process."""
    return cli("bulk", "--server", url(server), *map(str, arguments), **options)


def eml(subject: str, to: str = "bob@x.test") -> bytes:
    """A message that is told by its subject."""
    return f"From: ann@x.test\nTo: {to}\nSubject: {subject}\n\nhello\n".encode()


def folder(path: Path, subjects: Iterable[str]) -> Path:
    """A folder of .eml files, named by their subjects."""
    path.mkdir()
    for subject in subjects:
        (path / f"{subject}.eml").write_bytes(eml(subject))
    return path


def mbox(path: Path, subjects: Iterable[str]) -> Path:
    """An mbox file."""
    separated = (b"From ann@x.test Sun Nov 22 12:00:00 2026\n" + eml(s) + b"\n" for s in subjects)
    path.write_bytes(b"".join(separated))
    return path


def maildir(path: Path, subjects: Iterable[str]) -> Path:
    """A Maildir; every other message has been seen."""
    for name in ("cur", "new", "tmp"):
        (path / name).mkdir(parents=True)
    for number, subject in enumerate(subjects):
        place = path / "cur" / f"{subject}:2,S" if number % 2 else path / "new" / subject
        place.write_bytes(eml(subject))
    return path


def template(path: Path, subjects: Iterable[str]) -> tuple[Path, str, Path]:
    """A template and its CSV file, as arguments."""
    rows = path.with_suffix(".csv")
    path.write_text(TEMPLATE)
    rows.write_text("email,name\n" + "".join(f"{s}@x.test,{s}\n" for s in subjects))
    return path, "--csv", rows


def source(kind: str, path: Path, subjects: Iterable[str]) -> tuple[str | Path, ...]:
    """The arguments for one of each kind."""
    if kind == "template":
        return template(path, subjects)
    return ({"folder": folder, "mbox": mbox, "maildir": maildir}[kind](path, subjects),)


KINDS = ("folder", "mbox", "maildir", "template")
