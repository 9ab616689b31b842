"""A message for each row of a CSV file, made from a template.

A template is a message whose fields and text have ``{{column}}`` in them. A value can do no more
than stand where its column is named:

- The addresses of a header field are those of the template: a value is a part of a name, which is
  quoted as it needs, or of an address, which has to be one (RFC 5322 section 3.4).
- In any field, a line break or another control character is an error of the row, whatever would
  have become of it; and so is an encoded word, which the email package would decode.
- In HTML it is text, not tags.

Sender, recipient and everything else of the envelope are not the template's: the recipient is
a column, the one address that the message is for, whatever stands in To.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email import message_from_bytes, policy
from email.errors import MessageError
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.utils import getaddresses
from pathlib import Path

import click

from ._letters import Distinct, Letter, digest_of
from ._rows import Row, Rows

_FIELD = re.compile(r"\{\{\s*(.+?)\s*\}\}")
# What str.splitlines and with it the email package may take for a line break is among these.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# RFC 2047 section 2: what it stands for may be anything, line breaks too.
_ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[BQbq]\?")
_ADDRESSES = frozenset(("from", "sender", "reply-to", "to", "cc", "bcc"))
# What each message has of its own.
_NEW = frozenset(("date", "message-id"))
# In place of a field while addresses are parsed: an atom, whatever the column's name is.
_STAND_IN = "anysmtp7f3a{}z"
_STANDS_IN = re.compile("anysmtp7f3a([0-9]+)z")


@dataclass(frozen=True, slots=True)
class _Header:
    """A header field of the template."""

    name: str
    text: str

    def fill(self, row: Row) -> str | tuple[Address, ...]:
        """Its value for a row. ValueError."""
        if self.name.lower() not in _ADDRESSES:
            return _in_header(_decoded(self.text), row)
        named: list[str] = []

        def stand_in(found: re.Match[str]) -> str:
            named.append(found[0])
            return _STAND_IN.format(len(named) - 1)

        def back(text: str) -> str:
            return _in_header(_STANDS_IN.sub(lambda found: named[int(found[1])], text), row)

        pairs = getaddresses([_FIELD.sub(stand_in, self.text)])
        return tuple(_address(back(_decoded(name)), back(address)) for name, address in pairs)


class Template:
    """The letters that a template and a CSV file come to."""

    nothing = "there is no row for the template"

    def __init__(self, path: Path, rows: Rows, column: str) -> None:
        self._rows = rows
        self._path = path
        self._column = column
        try:
            self._source = path.read_bytes()
        except OSError as error:
            raise click.UsageError(f"{path}: {error.strerror}") from None
        message = message_from_bytes(self._source)
        try:
            self._headers = [
                _Header(name, _unfolded(value))
                for name, value in message.raw_items()
                if not _is_about_content(name) and name.lower() not in _NEW
            ]
            texts = [_text_of(part) for part in message.walk() if _is_text(part)]
        except (LookupError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{path} is not in UTF-8: {error}") from None
        used = {
            name
            for text in (*(header.text for header in self._headers), *texts)
            for name in _FIELD.findall(text)
        }
        self._check_columns(used)
        self._used = tuple(sorted(used | {column}))

    @property
    def identity(self) -> dict[str, str]:
        return {
            "kind": "template",
            "path": str(self._path.resolve()),
            "csv": str(self._rows.path.resolve()),
            "column": self._column,
        }

    def count(self) -> int:
        return self._rows.count

    def __iter__(self) -> Iterator[Letter]:
        distinct = Distinct()
        for line, row in self._rows:
            recipient = row.get(self._column, "").strip()
            name = f"line {line}" + (f", {recipient}" if recipient else "")
            letter = Letter(recipient, name, digest=self._digest(row))
            yield distinct(self._filled(letter, recipient, row), recipient)

    def _filled(self, letter: Letter, recipient: str, row: Row) -> Letter:
        try:
            if missing := [column for column in self._used if column not in row]:
                raise ValueError(f"there is nothing in {', '.join(missing)}")
            if not recipient:
                raise ValueError(f"there is no address in {self._column}")
            _check(self._column, recipient)
            message = self._message(row)
        except (ValueError, MessageError) as error:
            return replace(letter, problem=str(error))
        size = len(self._source)
        return replace(letter, message=message, size=size, recipients=(recipient,))

    def _message(self, row: Row) -> EmailMessage:
        message = message_from_bytes(self._source, policy=policy.SMTP)
        assert isinstance(message, EmailMessage)
        for name in {name for name in message if not _is_about_content(name)}:
            del message[name]
        for header in self._headers:
            message[header.name] = header.fill(row)
        for part in message.walk():
            if _is_text(part):
                _fill_text(part, row)
        return message

    def _digest(self, row: Row) -> bytes:
        values = [row.get(column) for column in self._used]
        return digest_of((self._source, json.dumps(values).encode()))

    def _check_columns(self, used: set[str]) -> None:
        there = f"{self._rows.path}, which has {', '.join(self._rows.columns)}"
        if self._column not in self._rows.columns:
            raise click.UsageError(
                f"no column {self._column!r} with the recipients in {there}: --column names it"
            )
        if unknown := sorted(used.difference(self._rows.columns)):
            fields = ", ".join("{{" + name + "}}" for name in unknown)
            raise click.UsageError(f"no column for {fields} of {self._path} in {there}")


def _is_about_content(name: str) -> bool:
    return name.lower() == "mime-version" or name.lower().startswith("content-")


def _is_text(part: Message) -> bool:
    """Whether it is text to be read, and not an attachment."""
    disposition = part.get_content_disposition()
    return part.get_content_maintype() == "text" and disposition != "attachment"


def _text_of(part: Message) -> str:
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode(part.get_content_charset() or "utf-8").replace("\r\n", "\n")


def _fill_text(part: EmailMessage, row: Row) -> None:
    text = _text_of(part)
    if not _FIELD.search(text) and text.isascii():
        return
    subtype = part.get_content_subtype()
    escape = html.escape if subtype == "html" else str
    content_id, disposition = part["Content-ID"], part.get_content_disposition()
    part.set_content(_replaced(text, row, escape), subtype=subtype, charset="utf-8")
    if disposition is not None:
        part["Content-Disposition"] = disposition
    if content_id is not None:
        part["Content-ID"] = content_id


def _unfolded(value: object) -> str:
    """A field's value as text: raw octets are UTF-8, and encoded words are what they say."""
    text = str(value).encode("ascii", "surrogateescape").decode("utf-8")
    return re.sub(r"\r?\n", "", text).strip()


def _decoded(text: str) -> str:
    """RFC 2047."""
    return str(make_header(decode_header(text))) if "=?" in text else text


def _in_header(text: str, row: Row) -> str:
    for column in _FIELD.findall(text):
        _check(column, row[column])
    return _replaced(text, row, str)


def _check(column: str, value: str) -> None:
    """What could begin a header field of its own, or a command, is in none."""
    if _CONTROL.search(value):
        raise ValueError(f"a line break or another control character in {column}")
    if _ENCODED_WORD.search(value):
        raise ValueError(f"an encoded word, which would be taken for what it says, in {column}")


def _replaced(text: str, row: Mapping[str, str], escape: Callable[[str], str]) -> str:
    return _FIELD.sub(lambda found: escape(row[found[1]]), text)


def _address(name: str, address: str) -> Address:
    """ValueError for what is none."""
    try:
        return Address(name, addr_spec=address)
    except (ValueError, IndexError, MessageError):
        raise ValueError(f"not an address: {address!r}") from None
