"""Header fields that come out of the email package as they went in.

Most do: the package takes a value apart, puts it together again, and writes the same text. What can
be shown to be like that is taken as it is: printable ASCII that fits its lines, in values of the
package's own classes, by a policy of its own. Any other field is left to the package, one at a
time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from email import headerregistry as registry
from email.message import Message
from email.policy import SMTP, Compat32, EmailPolicy, Policy
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from .._grammar import FIELD_NAME
from ._by_package import folded_by_package, wire_policy
from ._content import text_with_crlf
from ._lines import MAX_LINE
from ._trees import folded_tree, text_of_tree

Head: TypeAlias = tuple[str, object, object]
"""A header section, and the values of Content-Type and Content-Transfer-Encoding in it."""


class Unproven(Exception):
    """What the email package would write cannot be shown here."""


class Style(NamedTuple):
    """How a policy writes fields."""

    policy: Policy[Any]
    """For the fields that are not written here."""
    is_modern: bool
    length: int
    """Of a line with a header object."""
    source_length: int
    """Of a line with a value as it was parsed."""
    utf8: bool


# What a policy consists of if its owner has only set what there is to be set.
_SETTINGS = frozenset(
    (
        *("cte_type", "linesep", "max_line_length", "mangle_from_", "message_factory"),
        *("raise_on_defect", "utf8", "refold_source", "header_factory", "content_manager"),
        "verify_generated_headers",
    )
)
POLICIES = (EmailPolicy, Compat32)
# The email package takes no limit to be this one.
_LEGACY_LENGTH = 1_000_000

# Header objects by the class that reads their value. The text of most is what is written. A date's
# is, if it is one. That of addresses is put together anew, while what was given is written.
_AS_TEXT, _AS_DATE, _AS_ADDRESSES = "text", "date", "addresses"
_WRITTEN: dict[tuple[type, ...], str] = {
    (kind, registry.BaseHeader): written
    for written, kinds in {
        _AS_TEXT: (
            registry.UnstructuredHeader,
            registry.UniqueUnstructuredHeader,
            registry.MIMEVersionHeader,
            registry.ContentTypeHeader,
            registry.ContentDispositionHeader,
            registry.ContentTransferEncodingHeader,
            registry.MessageIDHeader,
        ),
        _AS_DATE: (registry.DateHeader, registry.UniqueDateHeader),
        _AS_ADDRESSES: (
            registry.AddressHeader,
            registry.UniqueAddressHeader,
            registry.SingleAddressHeader,
            registry.UniqueSingleAddressHeader,
        ),
    }.items()
    for kind in kinds
}
# The classes that are made for header values are of this module; a user's are of his.
_REGISTRY = registry.__name__

# The lengths of lines for which fields are broken here: the words of a sample fit on the shortest,
# and the longest is all that SMTP takes.
_BREAKABLE = range(55, MAX_LINE + 1)
_HEADER_OF = registry.HeaderRegistry()

# A value that was parsed from several lines, none of which is blank or ends in white space.
_FOLDED = re.compile(r"(?:[\t -~]*[!-~])?(?:\r?\n[ \t]+(?:[!-~][\t -~]*)?[!-~])+|[\t -~]*")


def style_of(policy: Policy[Any], utf8: bool) -> Style:
    if type(policy) not in POLICIES:
        raise Unproven
    return _style(policy, utf8)


@lru_cache(maxsize=64)
def _style(policy: Policy[Any], utf8: bool) -> Style:
    if not policy.__dict__.keys() <= _SETTINGS:
        raise Unproven
    return _limits(wire_policy(policy, utf8=utf8), utf8)


@lru_cache(maxsize=64)
def unfolded(style: Style) -> Style:
    """For the parts of a multipart/signed (RFC 1847 section 2.1)."""
    return _limits(style.policy.clone(max_line_length=0), style.utf8)


def _limits(policy: Policy[Any], utf8: bool) -> Style:
    length = policy.max_line_length
    if not isinstance(policy, EmailPolicy):
        limit = length or _LEGACY_LENGTH
        return Style(policy, False, limit, limit, utf8)
    limit = length or sys.maxsize
    # The policy refolds values as they were parsed always, never, or if they are long.
    by_refold = {"all": -1, "none": sys.maxsize, "long": limit}
    return Style(policy, True, limit, by_refold.get(policy.refold_source, -1), utf8)


def head_of(part: Message, style: Style) -> Head:
    """Write the header section of a part, and see what it declares on the way."""
    _, is_modern, length, source_length, _ = style
    content_type = encoding = None
    text: str | None
    lines: list[str] = []
    fields: Iterable[tuple[str, object]] = part.raw_items()
    for name, value in fields:
        if type(value) is str:
            text, limit = value, source_length
        else:
            text, limit = text_of_object(name, value, is_modern), length
        if text is None or not (text.isascii() and text.isprintable() and _is_field_name(name)):
            lines.append(_other_lines(name, value, style))
        elif len(name) + len(text) + 2 <= limit:
            lines.append(f"{name}: {text}\r\n")
        else:
            folded = folded_object(name, value, text, style)
            lines.append(f"{folded}\r\n" if folded else _other_lines(name, value, style))
        # Most names are told apart by their first letter.
        if name[:1] in "cC":
            key = name.lower()
            if key == "content-type" and content_type is None:
                content_type = value
            elif key == "content-transfer-encoding" and encoding is None:
                encoding = value
    lines.append("\r\n")
    return "".join(lines), content_type, encoding


def _other_lines(name: str, value: Any, style: Style) -> str:
    """A field that is not one line of what is stored."""
    if type(value) is str and _is_field_name(name) and _FOLDED.fullmatch(value):
        first, *others = value.splitlines()
        if max(len(name) + 2 + len(first), *map(len, others), 0) <= style.source_length:
            return "\r\n".join((f"{name}: {first}", *others, ""))
    return text_with_crlf(folded_by_package(name, value, style.policy, utf8=style.utf8))


def text_of_object(name: str, value: object, is_modern: bool) -> str | None:
    """The text of a header object as it is written, if it is written on one line."""
    kind = type(value)
    written = _WRITTEN.get(kind.__bases__)
    if written is None or kind.__module__ != _REGISTRY:
        return None
    text = str(value)
    if not is_modern:
        return text
    # Not by its attributes: each value has a class of its own, in which they are looked for anew.
    state = value.__dict__
    if not text or state["_name"] != name:
        return None
    if written is _AS_ADDRESSES:
        return text_of_tree(state["_parse_tree"]) if text.isascii() else None
    if written is _AS_DATE and state["_datetime"] is None:
        return None
    return text


def folded_object(name: str, value: Any, text: str, style: Style) -> str | None:
    """A header object that is too long for one line, on several, without the last line end.

    ``text`` is what `text_of_object` has for it. None where it cannot be shown how the package
    writes it.
    """
    if type(value) is str or not style.is_modern:
        return None
    if not breaks_as_usual(style.length, utf8=style.utf8):
        return None
    return _folded(name, value, text, style.length)


def _folded(name: str, value: Any, text: str, length: int) -> str | None:
    lines = folded_tree(name, value.__dict__["_parse_tree"], text, length)
    return None if lines is None else "\r\n".join(lines)


@lru_cache(maxsize=64)
def breaks_as_usual(length: int, *, utf8: bool) -> bool:
    """Whether fields with lines of this length are broken here as this Python breaks them.

    Policies of the package's own do it alike but for these two.
    """
    if length not in _BREAKABLE:
        return False
    policy = wire_policy(SMTP.clone(max_line_length=length), utf8=utf8)
    for name, sample in _samples(length):
        value = _HEADER_OF(name, sample)
        written = folded_by_package(name, value, policy, utf8=utf8)
        if written != f"{_folded(name, value, sample, length)}\r\n":
            return False
    return True


def _samples(length: int) -> list[tuple[str, str]]:
    """Fields of addresses and of words: that take several lines, that fit on one behind the name's,
    and with a first address that ends where the line does, or one before, in front of a comma.
    """
    several, last = length // 8, "b@x.example"
    first = [f"{'a' * (length - taken)}@x.example" for taken in (len(last) + 13, 14, 15)]
    return [
        ("To", ", ".join(f"Some One <one{number}@x.example>, {last}" for number in range(several))),
        *(("To", f"{address}, {last}") for address in first),
        ("Subject", " ".join("x" * (number % 30 + 1) for number in range(2 * several))),
        ("Subject", f"{'x' * (length - 29)} {'y' * 27}"),
    ]


@lru_cache(maxsize=1024)
def _is_field_name(name: str) -> bool:
    return FIELD_NAME.fullmatch(name) is not None
