"""The messages of ``anysmtp send``: one made from options, or those that stand in files.

A message that comes from a file leaves as it stands there: its fields are not folded anew, so that
a signature on them stays good. Everything is read before anything is sent.
"""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import Compat32
from pathlib import Path

import click

from .. import Delivery

AS_IT_STANDS = Compat32(max_line_length=None)


@dataclass(slots=True)
class Letter:
    """One message, and what becomes of it."""

    source: str
    """What the user knows it by."""
    message: Message
    delivery: Delivery[None] = field(default_factory=lambda: Delivery())
    error: Exception | None = None
    """What its send raised."""
    seconds: float | None = None
    """How long its send took, once it has ended."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What the options say of a message."""

    sender: str | None
    to: tuple[str, ...]
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    subject: str | None
    body: str | None
    attach: tuple[Path, ...]

    @property
    def are_of_a_new_message(self) -> bool:
        """Whether one is to be made; sender and recipients can be those of a file's too."""
        return (
            self.subject is not None
            or self.body is not None
            or bool(self.cc + self.bcc)
            or bool(self.attach)
        )


def letters(files: Sequence[str], fields: Fields) -> list[Letter]:
    """What is to be sent. UsageError for what cannot be."""
    if [*files, fields.body, *map(str, fields.attach)].count("-") > 1:
        # It would be empty the second time.
        raise click.UsageError("- is standard input, which can be read once")
    if files and fields.are_of_a_new_message:
        raise click.UsageError(
            "a FILE is a whole message: only --from and --to go with it, and change its envelope"
        )
    if files:
        return [Letter(_name(file), _parsed(_read(file))) for file in files]
    if not fields.are_of_a_new_message:
        raise click.UsageError(
            "nothing to send: give a FILE, or - for a whole message on standard input, or --to, "
            "--from, --subject and --body for a new one"
        )
    if fields.sender is None:
        raise click.UsageError("a new message needs --from")
    try:
        return [Letter("the message", _composed(fields, fields.sender))]
    except ValueError as error:
        raise click.UsageError(f"not a message: {error}") from None


def _composed(fields: Fields, sender: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    for name, addresses in (("To", fields.to), ("Cc", fields.cc), ("Bcc", fields.bcc)):
        if addresses:
            message[name] = ", ".join(addresses)
    if fields.subject is not None:
        message["Subject"] = fields.subject
    message.set_content(_text(fields.body))
    for path in fields.attach:
        _attach(message, path)
    return message


def _text(body: str | None) -> str:
    if body != "-":
        return body or ""
    # UnicodeDecodeError is a ValueError, and says where in the text it is.
    return _read("-").decode("utf-8")


def _attach(message: EmailMessage, path: Path) -> None:
    kind, compression = mimetypes.guess_type(path.name)
    maintype, _, subtype = (kind or "application/octet-stream").partition("/")
    if compression is not None or maintype in ("message", "multipart"):
        # The type is that of what is inside; and RFC 2046 sections 5.1 and 5.2.1 have no base64
        # around messages.
        maintype, subtype = "application", "octet-stream"
    message.add_attachment(_read(str(path)), maintype, subtype, filename=path.name)


def _parsed(data: bytes) -> Message:
    return BytesParser(policy=AS_IT_STANDS).parsebytes(data)


def _read(file: str) -> bytes:
    if "://" in file:
        # It is not repeated: there may be a password in it.
        raise click.UsageError("a URL stands where a file should: --server is for it")
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None


def _name(file: str) -> str:
    return "standard input" if file == "-" else file
