"""The messages of ``anysmtp bulk``: a folder of .eml files, a Maildir or an mbox.

Each has a *key*, by which a later run knows it again, and a digest, by which it sees that it was
edited. A key is what stays when the source is used as such sources are: the path in a folder, the
unique name in a Maildir, whose flags come and go, and in an mbox, whose messages move up when one
is deleted, the Message-ID. What cannot be read has a *problem* in place of a message.

They are read one after another, in the order of the names or of the file.
"""

from __future__ import annotations

import csv
import hashlib
import mailbox
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Protocol

import click

from ._compose import AS_IT_STANDS

# What a source may raise that is changed while it is read.
UNREADABLE = (OSError, UnicodeDecodeError, csv.Error, mailbox.Error)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of many."""

    key: str
    name: str
    """What the user knows it by."""
    message: Message | None = None
    size: int = 0
    """Its octets, roughly."""
    digest: bytes = b""
    recipients: tuple[str, ...] | None = None
    """Whom it is for; None: as its header fields have it."""
    problem: str = ""
    """Why there is no message."""


class Letters(Protocol):
    """A source of messages."""

    @property
    def identity(self) -> dict[str, str]:
        """What says that a journal is one of this source."""
        ...

    @property
    def nothing(self) -> str:
        """What to say where there are none."""
        ...

    def count(self) -> int:
        """How many there are. UsageError if that cannot be found out."""
        ...

    def __iter__(self) -> Iterator[Letter]: ...


def letters_at(path: Path) -> Letters:
    """The messages that are there. UsageError if there can be none."""
    if path.is_dir():
        is_maildir = (path / "cur").is_dir() and (path / "new").is_dir()
        return Maildir(path) if is_maildir else Folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(5)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    if start not in (b"From ", b""):
        raise click.UsageError(
            f"{path} is neither a folder nor an mbox, which begins with 'From '; a template needs "
            "--csv, and one message is sent by `anysmtp send`"
        )
    return Mbox(path)


class Folder:
    """A folder, and those in it, with a file for each message."""

    kind = "folder"
    nothing = "there is no message in this folder: one is a file whose name ends in .eml"

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def identity(self) -> dict[str, str]:
        return {"kind": self.kind, "path": str(self._path.resolve())}

    def count(self) -> int:
        return len(self._files())

    def __iter__(self) -> Iterator[Letter]:
        distinct = Distinct()
        for key, file in self._files():
            name = _text(file)
            try:
                letter = _letter(key, name, file.read_bytes())
            except OSError as error:
                letter = Letter(key, name, problem=error.strerror or str(error))
            yield distinct(letter, key)

    def _files(self) -> list[tuple[str, Path]]:
        """The keys and the files, in order."""
        return sorted(
            (_text(file.relative_to(self._path)), file)
            for file in self._path.rglob("*")
            if file.suffix.lower() == ".eml" and file.is_file()
        )


class Maildir(Folder):
    """A folder as qmail made them: what is in ``new`` moves to ``cur``, where it gets flags."""

    kind = "maildir"
    nothing = "there is no message in this maildir"

    def _files(self) -> list[tuple[str, Path]]:
        return sorted(
            (_text(file).rpartition("/")[2].partition(":")[0], file)
            for folder in ("cur", "new")
            for file in (self._path / folder).iterdir()
            if not file.name.startswith(".") and file.is_file()
        )


class Mbox:
    """A file with one message after another, each after a line that begins with ``From``."""

    nothing = "there is no message in this mbox"

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def identity(self) -> dict[str, str]:
        return {"kind": "mbox", "path": str(self._path.resolve())}

    def count(self) -> int:
        with closing(mailbox.mbox(self._path, create=False)) as box:
            return len(box)

    def __iter__(self) -> Iterator[Letter]:
        distinct = Distinct()
        with closing(mailbox.mbox(self._path, create=False)) as box:
            for number, position in enumerate(box.iterkeys(), 1):
                letter = _letter(f"#{number}", f"message {number}", box.get_bytes(position))
                assert letter.message is not None
                message_id = str(letter.message["Message-ID"] or "").strip()
                yield distinct(letter, message_id or letter.key)


class Distinct:
    """Keys that are there several times are told apart by their order."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(self, letter: Letter, key: str) -> Letter:
        """The letter, with this key or one made from it."""
        self._seen[key] += 1
        count = self._seen[key]
        if count > 1:
            key = f"{key} ({count})"
        return replace(letter, key=key)


def digest_of(parts: Iterable[bytes]) -> bytes:
    """What is the same for the same parts only."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _letter(key: str, name: str, data: bytes) -> Letter:
    message = BytesParser(policy=AS_IT_STANDS).parsebytes(data)
    return Letter(key, name, message, len(data), digest_of((data,)))


def _text(path: Path) -> str:
    """A path as text that can be stored, whatever octets are in it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
