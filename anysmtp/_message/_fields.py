"""Header fields as they are stored, and what they say, whatever class and policy hold them.

A value can be a header object of the modern policies, a str as the caller set it or as the parser
found it (folded, with octets above 127 as surrogate escapes), or a `Header` of the legacy API.
Fields are read raw: `Message.get_all` parses each of them, slowly, and in some Python
versions raises what it should not for fields that it does not understand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import policy
from email.errors import HeaderParseError, InvalidHeaderDefect
from email.header import Header
from email.headerregistry import BaseHeader
from email.message import Message

# The fields that name who a message is from and to, but for those who are not to be named.
ADDRESS_FIELDS = frozenset(
    prefix + name
    for prefix in ("", "resent-")
    for name in ("from", "sender", "reply-to", "to", "cc")
)
# RFC 5322 section 2.2.3: to unfold is to remove a line end in front of white space.
_FOLD = re.compile(r"(?:\r\n?|\n)(?=[ \t])")
_AS_GIVEN = policy.SMTPUTF8.clone(max_line_length=None)


def values(message: Message, name: str) -> Iterator[object]:
    """The values of the fields of one name, as they are stored."""
    wanted = name.lower()
    return (value for field, value in message.raw_items() if field.lower() == wanted)


def text_of(value: object) -> str:
    """What a field says, unfolded; encoded words as they are where it was given with them.

    ValueError for what has no text.
    """
    if isinstance(value, Header):
        text = _text_of_legacy(value)
    elif isinstance(value, BaseHeader) and _is_malformed(value):
        # Its str() leaves out what the email package's parser did not understand.
        text = value.fold(policy=_AS_GIVEN).partition(":")[2].removesuffix("\r\n")
    else:
        text = str(value)
    # Nearly all are one line of ASCII.
    if text.isascii() and text.isprintable():
        return text.strip(" ")
    return _FOLD.sub("", decoded(text)).replace("\t", " ").strip(" ")


def decoded(text: str) -> str:
    """Raw octets that are UTF-8 as what they say; others stay surrogate escapes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _is_malformed(value: BaseHeader) -> bool:
    defects = value.defects
    return bool(defects) and any(isinstance(defect, InvalidHeaderDefect) for defect in defects)


def _text_of_legacy(value: Header) -> str:
    """With encoded words a comma in a name is no separator; without, it would be.

    But ``Header("Jörg <j@x.example>", "utf-8")``, which many do, encodes the address too.
    """
    try:
        encoded = value.encode(maxlinelen=0)
    except HeaderParseError as error:
        raise ValueError(str(error)) from error
    return encoded if "@" in encoded else str(value)
