"""A message object to octets: by hand where that comes to the same, else by the email package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from email.errors import MessageError
from email.message import Message
from typing import TypeVar

from ._addresses import parse_list
from ._binary import BinaryContent, written_binary
from ._by_hand import is_foreseen, written_by_hand
from ._by_package import has_signature, written_by_package
from ._content import RawContent, WrittenContent
from ._fields import ADDRESS_FIELDS, text_of
from ._head import Unproven
from ._lines import LongLine
from ._snapshot import payload_of

T = TypeVar("T")

# What the email package raises for what it cannot write; more than the first two by mistake.
_FAILURES = (MessageError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_CHARSET_HINT = "; text beyond ASCII needs a charset: set_payload(text, charset), or EmailMessage"
# What takes how long, in octets of a payload in ASCII, of which a millisecond writes two million:
# an octet of a payload beyond ASCII, one of a payload that the email package writes, and one of
# a header field that it folds, in ASCII and not. Fields that are folded here take less than half.
_PAYLOAD, _PAYLOAD_BEYOND_ASCII, _PAYLOAD_BY_PACKAGE = 1, 6, 25
_FOLDED, _FOLDED_BEYOND_ASCII = 500, 10_000


def serialise(
    message: Message,
    *,
    seven_bit: bool = False,
    utf8: bool = False,
    binary: bool = False,
    allow_long_lines: bool = False,
) -> RawContent | WrittenContent | BinaryContent:
    """The message as octets; parts in 8bit stay so unless ``seven_bit``. It is only read.

    ``utf8`` writes the header section in UTF-8 (RFC 6532), for a server with SMTPUTF8; otherwise it
    is ASCII. ``binary`` writes attachments as raw octets. What is still 8-bit in 7bit has no ASCII
    form, or is signed, and the content says that it is. Lines that are too long go in base64.
    ValueError for a message that the email package cannot write; LongLine where a line that is too
    long is in a header field, or in what is signed.
    """
    if binary:
        return _written(lambda: written_binary(message, utf8=utf8))
    content = _written(lambda: _lines_of(message, seven_bit=seven_bit, utf8=utf8))
    if content.has_long_lines and not allow_long_lines:
        raise LongLine
    return content


def why_fixed(message: Message) -> str | None:
    """Why the octets of a message, or of a part of it, may not be written otherwise."""
    if has_signature(message):
        return "it has a DKIM-Signature"
    is_any = any(part.get_content_type() == "multipart/signed" for part in message.walk())
    return "a part of it is signed (multipart/signed)" if is_any else None


def _lines_of(message: Message, *, seven_bit: bool, utf8: bool) -> RawContent | WrittenContent:
    try:
        return written_by_hand(message, seven_bit=seven_bit, utf8=utf8)
    except (Unproven, *_FAILURES):
        return written_by_package(message, seven_bit=seven_bit, utf8=utf8)


def _written(write: Callable[[], T]) -> T:
    """What the email package raises becomes a ValueError."""
    try:
        return write()
    except _FAILURES as error:
        hint = _CHARSET_HINT if _is_not_ascii(error) else ""
        raise ValueError(f"the message cannot be serialised: {error}{hint}") from error


def estimate_size(message: Message) -> int:
    """Roughly how much work `serialise` has, in octets of a payload in ASCII."""
    by_hand = is_foreseen(message)
    limit = message.policy.max_line_length or sys.maxsize
    parts = message.walk() if isinstance(payload_of(message), list) else (message,)
    return sum(_payload_work(part, by_hand) + _fields_work(part, limit) for part in parts)


def _payload_work(part: Message, by_hand: bool) -> int:
    payload = payload_of(part)
    if not isinstance(payload, str):
        return 0
    if not by_hand:
        return len(payload) * _PAYLOAD_BY_PACKAGE
    return len(payload) * (_PAYLOAD if payload.isascii() else _PAYLOAD_BEYOND_ASCII)


def _fields_work(part: Message, limit: int) -> int:
    """That of the fields which have to be folded; those that came folded do not."""
    work = 0
    fields: Iterable[tuple[str, object]] = part.raw_items()
    for name, value in fields:
        if not isinstance(value, str):
            continue
        # Not by the value, which has a class of its own: a method of it is looked for each time.
        if not str.isascii(value):
            work += len(value) * _FOLDED_BEYOND_ASCII
        elif len(name) + len(value) >= limit and "\n" not in value:
            work += len(value) * _FOLDED
    return work


def needs_utf8(message: Message) -> bool:
    """Whether an address in the header section has a local part that only UTF-8 can write."""
    return utf8_address_in(message) is not None


def utf8_address_in(message: Message) -> str | None:
    """The first such address."""
    for name, value in message.raw_items():
        if name.lower() in ADDRESS_FIELDS and (found := _utf8_address(value)) is not None:
            return found
    return None


def _is_not_ascii(error: Exception) -> bool:
    """Whether the email package was to write text of which it knows no charset."""
    return isinstance(error, UnicodeEncodeError) and error.encoding == "ascii"


def _utf8_address(value: object) -> str | None:
    try:
        text = text_of(value)
        if text.isascii():
            return None
        return next((found.given for found in parse_list(text) if found.ascii is None), None)
    except ValueError:
        # What is malformed names no address. It is an error if the envelope is made from it.
        return None
