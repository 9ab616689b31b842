"""A message object to bytes: the email package's work, with its gaps closed.

The message's own policy writes it, with CRLF line ends: folding and line lengths are as its
owner chose, and legacy messages (compat32) are not refolded by the rules of another policy.
smtplib does the same, but it also lets mbox quoting (``>From``) into compat32 messages, and raises
TypeError for those with SMTPUTF8. What is left to do here, on a copy:

- Values that the policy would write wrongly are rewritten first. Without SMTPUTF8 the header
  section is ASCII: the domains of addresses become A-labels, which encoded words cannot replace
  (RFC 2047 section 5), and raw octets above 127 become encoded words by the rules of the field.
- Parts in 8bit are put into base64 here when the server takes 7bit only. The email package
  decodes and encodes text for that, loses what does not decode, and fails for other types.
- No field adds another one or ends the header section, in any part. Python 3.12.1 lets some do so
  (CVE-2024-6923), and the generator of bytes in 3.13.0 does not look.

This is what defines the octets of a message. What is written faster elsewhere is the same.
"""

from __future__ import annotations

import re
from base64 import encodebytes
from collections.abc import Callable, Iterator
from email.generator import BytesGenerator
from email.header import Header
from email.headerregistry import BaseHeader
from email.message import Message
from email.policy import SMTP, EmailPolicy, Policy
from functools import lru_cache, partial
from io import BytesIO
from quopri import decodestring
from typing import Any, cast

from .._grammar import FIELD_NAME
from ._addresses import to_a_labels
from ._content import RawContent, with_crlf
from ._fields import ADDRESS_FIELDS, decoded, text_of, values
from ._lines import has_long_line
from ._snapshot import payload_of, set_fields, snapshot

# RFC 5322 section 2.2.3: a line end inside a field is followed by white space.
_NO_FOLD = re.compile(rb"\n(?![ \t])|\r(?![\n \t])")
CTE = "Content-Transfer-Encoding"
_ENCODINGS = frozenset(("7bit", "8bit", "binary", "quoted-printable", "base64"))


def written_by_package(
    message: Message, *, seven_bit: bool, utf8: bool, binary: bool = False
) -> RawContent:
    """The message as the email package writes it; whatever that raises is raised.

    ``binary`` lets parts be that.
    """
    copied = snapshot(message)
    policy = wire_policy(message.policy, utf8=utf8)
    for part, is_fixed in _walk(copied, has_signature(copied)):
        fields = [(n, _rewritten(n, v, policy, utf8)) for n, v in part.raw_items()]
        set_fields(part, fields)
        if not is_fixed and not (binary and encoding_of(part) == "binary"):
            rewrite_payload(part, seven_bit=seven_bit)
    written = BytesIO()
    BytesGenerator(written, mangle_from_=False, policy=policy).flatten(copied)
    return RawContent(written.getvalue())


def wire_policy(policy: Policy[Any], *, utf8: bool) -> Policy[Any]:
    """A message's own policy for the wire, with a look at each field that it writes."""
    settings: dict[str, Any] = policy.__dict__ | {"linesep": "\r\n", "cte_type": "8bit"}
    if isinstance(policy, EmailPolicy):
        settings["utf8"] = utf8
    if "fold_binary" in settings:
        settings["fold_binary"] = partial(_checked_field, settings["fold_binary"])
    checked = object.__new__(_checked(type(policy)))
    for name, value in settings.items():
        object.__setattr__(checked, name, value)
    return checked


def folded_by_package(name: str, value: object, policy: Policy[Any], *, utf8: bool) -> str:
    """One field as a policy of `wire_policy` writes it, octets above 127 as surrogate escapes."""
    folded = policy.fold_binary(name, _rewritten(name, value, policy, utf8))
    return folded.decode("ascii", "surrogateescape")


def rewrite_payload(part: Message, *, seven_bit: bool) -> None:
    """RFC 2045 section 6.2: what a part declares has to be what the transport carries.

    Octets in no lines, ``binary``, are carried for those who ask for it (RFC 3030 section 3).
    base64 carries them everywhere, and lines that are too long.
    """
    encoding = encoding_of(part)
    payload = payload_of(part)
    if isinstance(payload, str):
        if has_long_line(payload) and encoding in _ENCODINGS:
            _shorten_lines(part, encoding, payload)
        elif encoding == "binary":
            _put_into_base64(part, payload.encode("ascii", "surrogateescape"))
        elif seven_bit and encoding in ("7bit", "8bit") and not payload.isascii():
            # Lines end as the 8bit transport would have ended them.
            _put_into_base64(part, with_crlf(payload.encode("ascii", "surrogateescape")))
    elif encoding == "binary" or (seven_bit and encoding == "8bit"):
        part.replace_header(CTE, "7bit" if seven_bit else "8bit")


def encoding_of(part: Message) -> str:
    """The Content-Transfer-Encoding of a part, in lower case."""
    return next((text_of(value).lower() for value in values(part, CTE)), "7bit")


def is_signed(part: Message) -> bool:
    """Whether the parts of a part are signed octet by octet (RFC 1847 section 2.1), or whether a
    whole message is (RFC 6376)."""
    return part.get_content_type() == "multipart/signed" or has_signature(part)


def has_signature(message: Message) -> bool:
    """Whether a message has a DKIM signature over all of its octets (RFC 6376)."""
    return "dkim-signature" in {name.lower() for name, _ in message.raw_items()}


def _walk(part: Message, is_fixed: bool) -> Iterator[tuple[Message, bool]]:
    """A part and those in it, each with whether a signature covers its octets."""
    yield part, is_fixed
    payload = payload_of(part)
    if isinstance(payload, list):
        is_fixed = is_fixed or part.get_content_type() == "multipart/signed"
        for child in cast("list[Message]", payload):
            yield from _walk(child, is_fixed)


@lru_cache(maxsize=64)
def _checked(kind: type[Policy[Any]]) -> type[Policy[Any]]:
    """The class of a policy, with a look at each field that it writes.

    A class, because the generator clones policies: the parts of a multipart/signed have one that
    does not fold, so that the signature holds (RFC 1847 section 2.1).
    """

    def fold_binary(self: Policy[Any], name: str, value: str) -> bytes:
        return _checked_field(partial(kind.fold_binary, self), name, value)

    return type(kind.__name__, (kind,), {"fold_binary": fold_binary})


def _checked_field(fold: Callable[[str, str], bytes], name: str, value: str) -> bytes:
    if FIELD_NAME.fullmatch(name):
        folded = fold(name, value)
        if not _NO_FOLD.search(folded, 0, len(folded) - 2):
            return folded
    raise ValueError(f"line end or another character out of place in the field {name!r}")


def _rewritten(name: str, value: object, policy: Policy[Any], utf8: bool) -> Any:
    """A value that the policy writes as it should; most are that already."""
    is_modern = isinstance(policy, EmailPolicy)
    if isinstance(value, Header):
        # Encoded words and so ASCII already; the modern policies do not know the class.
        return value.encode(linesep="\r\n") if is_modern else value
    text = str(value)
    if text.isascii() or (is_modern and utf8 and isinstance(value, BaseHeader)):
        return value
    if utf8:
        return _utf8_source(text, is_modern)
    plain = text_of(value)
    text = _with_a_labels(name, plain)
    if is_modern and isinstance(value, BaseHeader) and text == plain:
        return value
    return _ascii_source(name, text)


def _utf8_source(text: str, is_modern: bool) -> str:
    """A value as if it had been parsed: the modern policies write UTF-8 from text, compat32 from
    raw octets.
    """
    text = decoded(text)
    if is_modern:
        return text
    return text.encode("utf-8", "surrogateescape").decode("ascii", "surrogateescape")


def _ascii_source(name: str, text: str) -> str:
    """A value as if it had been parsed from a field that was written by the rules."""
    folded: str = SMTP.header_factory(name, text).fold(policy=SMTP)
    return folded.partition(":")[2].strip()


def _with_a_labels(name: str, text: str) -> str:
    if name.lower() not in ADDRESS_FIELDS:
        return text
    try:
        return to_a_labels(text)
    except ValueError:
        # Malformed: it is written as the email package sees fit.
        return text


def _shorten_lines(part: Message, encoding: str, payload: str) -> None:
    """base64 for what has a line that is too long, or, if it is that already, other lines."""
    if encoding == "base64":
        text = "".join(payload.split())
        part.set_payload("".join(f"{text[at : at + 76]}\n" for at in range(0, len(text), 76)))
        return
    data = payload.encode("ascii", "surrogateescape")
    if encoding == "quoted-printable":
        data = decodestring(data)
    _put_into_base64(part, data if encoding == "binary" else with_crlf(data))


def _put_into_base64(part: Message, data: bytes) -> None:
    part.set_payload(encodebytes(data).decode("ascii"))
    del part[CTE]
    part[CTE] = "base64"
