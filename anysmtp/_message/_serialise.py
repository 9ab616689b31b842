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
"""

from __future__ import annotations

import re
from base64 import encodebytes
from email.errors import MessageError
from email.generator import BytesGenerator
from email.header import Header
from email.headerregistry import BaseHeader
from email.message import Message
from email.policy import SMTP, EmailPolicy, Policy
from io import BytesIO
from typing import Any

from .._grammar import FIELD_NAME
from ._addresses import parse_list, to_a_labels
from ._content import RawContent, with_crlf
from ._fields import decoded, text_of, values
from ._snapshot import payload_of, set_fields, snapshot

_ADDRESS_FIELDS = frozenset(
    prefix + name
    for prefix in ("", "resent-")
    for name in ("from", "sender", "reply-to", "to", "cc")
)
# RFC 5322 section 2.2.3: a line end inside a field is followed by white space.
_NO_FOLD = re.compile(rb"\n(?![ \t])|\r(?![\n \t])")
# What the email package raises for what it cannot write; more than the first two by mistake.
_FAILURES = (MessageError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_CHARSET_HINT = "; text beyond ASCII needs a charset: set_payload(text, charset), or EmailMessage"
_CTE = "Content-Transfer-Encoding"
# To write an octet of a header field takes about as long as this many of a payload.
_HEADER_WEIGHT = 32


def serialise(message: Message, *, seven_bit: bool = False, utf8: bool = False) -> RawContent:
    """The message as octets; parts in 8bit stay so unless ``seven_bit``. It is only read.

    ``utf8`` writes the header section in UTF-8 (RFC 6532), for a server with SMTPUTF8; otherwise it
    is ASCII. What is still 8-bit then has no ASCII form, and the content says that it is.
    ValueError for a message that the email package cannot write.
    """
    try:
        copied = snapshot(message)
        policy = _policy(message, utf8)
        for part in copied.walk():
            _rewrite_fields(part, policy, utf8)
            _rewrite_payload(part, seven_bit)
        written = BytesIO()
        BytesGenerator(written, mangle_from_=False, policy=policy).flatten(copied)
    except _FAILURES as error:
        hint = _CHARSET_HINT if _is_not_ascii(error) else ""
        raise ValueError(f"the message cannot be serialised: {error}{hint}") from error
    return RawContent(written.getvalue())


def estimate_size(message: Message) -> int:
    """Roughly how much work `serialise` has, in octets of payload."""
    return sum(
        _length(payload_of(part)) + _HEADER_WEIGHT * sum(_length(v) for _, v in part.raw_items())
        for part in message.walk()
    )


def needs_utf8(message: Message) -> bool:
    """Whether an address in the header section has a local part that only UTF-8 can write."""
    return any(
        _has_utf8_address(value)
        for name, value in message.raw_items()
        if name.lower() in _ADDRESS_FIELDS
    )


def _is_not_ascii(error: Exception) -> bool:
    """Whether the email package was to write text of which it knows no charset."""
    return isinstance(error, UnicodeEncodeError) and error.encoding == "ascii"


def _length(text: object) -> int:
    return len(text) if isinstance(text, str) else 0


def _has_utf8_address(value: object) -> bool:
    try:
        text = text_of(value)
        return not text.isascii() and any(found.ascii is None for found in parse_list(text))
    except ValueError:
        # What is malformed names no address. It is an error if the envelope is made from it.
        return False


def _policy(message: Message, utf8: bool) -> Policy[Any]:
    """The message's own policy for the wire, with a look at each field that it writes."""
    policy = message.policy.clone(linesep="\r\n", cte_type="8bit")
    if isinstance(policy, EmailPolicy):
        policy = policy.clone(utf8=utf8)
    fold_binary = policy.fold_binary

    def checked_fold_binary(name: str, value: str) -> bytes:
        folded = fold_binary(name, value) if FIELD_NAME.fullmatch(name) else None
        if folded is None or _NO_FOLD.search(folded, 0, len(folded) - 2):
            raise ValueError(f"line end or another character out of place in the field {name!r}")
        return folded

    # The generator clones the policy for each part, with all of its attributes.
    object.__setattr__(policy, "fold_binary", checked_fold_binary)
    return policy


def _rewrite_fields(part: Message, policy: Policy[Any], utf8: bool) -> None:
    set_fields(part, [(n, _rewritten(n, v, policy, utf8)) for n, v in part.raw_items()])


def _rewritten(name: str, value: object, policy: Policy[Any], utf8: bool) -> object:
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
    if name.lower() not in _ADDRESS_FIELDS:
        return text
    try:
        return to_a_labels(text)
    except ValueError:
        # Malformed: it is written as the email package sees fit.
        return text


def _rewrite_payload(part: Message, seven_bit: bool) -> None:
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


def _put_into_base64(part: Message, data: bytes) -> None:
    part.set_payload(encodebytes(data).decode("ascii"))
    del part[_CTE]
    part[_CTE] = "base64"
