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
from collections.abc import Callable
from email.generator import BytesGenerator
from email.header import Header
from email.headerregistry import BaseHeader
from email.message import Message
from email.policy import SMTP, EmailPolicy, Policy
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

from .._grammar import FIELD_NAME
from ._addresses import to_a_labels
from ._content import RawContent, with_crlf
from ._fields import ADDRESS_FIELDS, decoded, text_of, values
from ._snapshot import payload_of, set_fields, snapshot

# RFC 5322 section 2.2.3: a line end inside a field is followed by white space.
_NO_FOLD = re.compile(rb"\n(?![ \t])|\r(?![\n \t])")
_CTE = "Content-Transfer-Encoding"


def written_by_package(message: Message, *, seven_bit: bool, utf8: bool) -> RawContent:
    """The message as the email package writes it; whatever that raises is raised."""
    copied = snapshot(message)
    policy = wire_policy(message.policy, utf8=utf8)
    for part in copied.walk():
        fields = [(n, _rewritten(n, v, policy, utf8)) for n, v in part.raw_items()]
        set_fields(part, fields)
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

    No server carries ``binary``, with its octets in no lines (RFC 3030 section 3): base64 does.
    """
    encoding = next((text_of(value).lower() for value in values(part, _CTE)), "7bit")
    payload = payload_of(part)
    if isinstance(payload, str):
        if encoding == "binary":
            _put_into_base64(part, payload.encode("ascii", "surrogateescape"))
        elif seven_bit and encoding in ("7bit", "8bit") and not payload.isascii():
            # Lines end as the 8bit transport would have ended them.
            _put_into_base64(part, with_crlf(payload.encode("ascii", "surrogateescape")))
    elif encoding == "binary" or (seven_bit and encoding == "8bit"):
        part.replace_header(_CTE, "7bit" if seven_bit else "8bit")


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


def _put_into_base64(part: Message, data: bytes) -> None:
    part.set_payload(encodebytes(data).decode("ascii"))
    del part[_CTE]
    part[_CTE] = "base64"
