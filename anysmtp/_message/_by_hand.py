"""A message object to text, without the email package's generator, which it takes after.

The generator copies payloads several times, and takes header fields apart, and both come out as
they went in. What can be shown to is taken as it is:

- most header fields (see `head_of`);
- the text of a part, but for its line ends, which `WrittenContent` sees to;
- multiparts and attached messages, whose frame is built here the way the generator does it.

Anything that is unusual, a policy or a class of the user's own for instance, raises `Unproven`:
then the whole message is the email package's to write.
"""

from __future__ import annotations

import random
import re
import sys
from email import headerregistry as registry
from email.generator import BytesGenerator
from email.message import Message
from email.policy import EmailPolicy
from functools import lru_cache
from typing import Any, cast

from ._by_package import has_signature, rewrite_payload
from ._content import WrittenContent
from ._head import POLICIES, Head, Style, Unproven, head_of, style_of, unfolded
from ._lines import has_long_line
from ._snapshot import payload_of, snapshot

# What the generator and `Message` itself ask a message for: methods, and what no class has.
_METHODS = frozenset(
    (
        *("get", "get_boundary", "get_content_maintype", "get_content_subtype", "get_param"),
        *("get_content_type", "get_default_type", "get_payload", "is_multipart", "raw_items"),
        *("replace_header", "set_boundary", "set_payload", "walk", "_get_params_preserve"),
        *("__delitem__", "__getattribute__", "__setattr__", "__setitem__"),
    )
)
_ATTRIBUTES = frozenset(
    (
        *("_default_type", "_headers", "_payload", "_write_headers", "epilogue", "policy"),
        *("preamble", "__getattr__"),
    )
)

_TOKEN_DIGITS = len(repr(sys.maxsize - 1))
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+[ \t]*(?:;.*)?", re.DOTALL)
_PRINTABLE = re.compile(r"[ -~]+")
ENCODINGS = frozenset(("7bit", "8bit", "quoted-printable", "base64"))
_HANDLER_OF_OTHERS = getattr(BytesGenerator, "_writeBody", None)
_HANDLERS = {
    getattr(BytesGenerator, f"_handle_{name}"): name
    for name in ("text", "multipart", "multipart_signed", "message")
}


def written_by_hand(message: Message, *, seven_bit: bool, utf8: bool) -> WrittenContent:
    """The same octets as `written_by_package` gives; Unproven if that cannot be shown.

    Whatever else is raised, the email package may write the message all the same.
    """
    style = style_of(message.policy, utf8)
    _require_known(message)
    head = head_of(message, style)
    is_ready = _is_ready(message, head, seven_bit)
    if isinstance(payload_of(message), list) or not is_ready:
        # It will be written to.
        message = snapshot(message)
    writer = _Writer(seven_bit, has_signature(message))
    writer.write(message, style, head, is_ready=is_ready)
    return WrittenContent(writer.pieces, has_long_lines=writer.has_long_lines)


def is_foreseen(message: Message) -> bool:
    """Whether the message is of the kind that is written here, as far as a glance tells."""
    return type(message.policy) in POLICIES and is_known(message)


class _Writer:
    """Collects the pieces of a tree, in the order in which the generator would write them."""

    def __init__(self, seven_bit: bool, is_fixed: bool) -> None:
        self.pieces: list[str] = []
        self.has_long_lines = False
        self._seven_bit = seven_bit
        self._is_fixed = is_fixed

    def write(self, part: Message, style: Style, head: Head, *, is_ready: bool) -> None:
        """Append a part: its header section, and its body."""
        if self._is_fixed:
            self._note_lines(payload_of(part))
        elif not is_ready:
            rewrite_payload(part, seven_bit=self._seven_bit)
            head = head_of(part, style)
            self._note_lines(payload_of(part))
        text, content_type, _ = head
        self._note_lines(text)
        self.pieces.append(text)
        payload = payload_of(part)
        handler = _handler_of(_content_type(part, content_type, style))
        if handler == "text":
            self._write_text(payload)
        elif not isinstance(payload, list):
            raise Unproven
        elif handler == "message":
            # ValueError if it is not one: the generator takes the first.
            (attached,) = cast("list[Message]", payload)
            self._write_part(attached, style)
        elif handler == "multipart":
            self._write_multipart(part, style, style)
        else:
            was_fixed, self._is_fixed = self._is_fixed, True
            self._write_multipart(part, style, unfolded(style))
            self._is_fixed = was_fixed

    def _write_part(self, part: Message, style: Style) -> None:
        _require_known(part)
        head = head_of(part, style)
        is_ready = self._is_fixed or _is_ready(part, head, self._seven_bit)
        self.write(part, style, head, is_ready=is_ready)

    def _note_lines(self, text: object) -> None:
        self.has_long_lines |= isinstance(text, str) and has_long_line(text)

    def _write_text(self, text: object) -> None:
        if type(text) is str:
            self.pieces.append(text)
        elif text is not None:
            raise Unproven

    def _write_multipart(self, part: Message, style: Style, inner: Style) -> None:
        outer, place, bodies = self.pieces, len(self.pieces) - 1, list[list[str]]()
        for each in cast("list[Message]", payload_of(part)):
            self.pieces = []
            self._write_part(each, inner)
            bodies.append(self.pieces)
        self.pieces = outer
        boundary, is_new = _boundary_of(part, style, bodies)
        if is_new:
            outer[place], *_ = head_of(part, style)
        self._note_lines(part.preamble)
        self._note_lines(part.epilogue)
        if part.preamble is not None:
            self._write_text(part.preamble)
            outer.append("\r\n")
        outer.append(f"--{boundary}\r\n")
        for number, body in enumerate(bodies):
            if number:
                outer.append(f"\r\n--{boundary}\r\n")
            outer += body
        outer.append(f"\r\n--{boundary}--\r\n")
        self._write_text(part.epilogue)


def _is_ready(part: Message, head: Head, seven_bit: bool) -> bool:
    """Whether `rewrite_payload` would certainly leave the part as it is."""
    *_, declared = head
    encoding = "7bit" if declared is None else str(declared).lower()
    if encoding not in ENCODINGS:
        return False
    payload = payload_of(part)
    if isinstance(payload, str) and has_long_line(payload):
        return False
    if not seven_bit or encoding in ("quoted-printable", "base64"):
        return True
    return isinstance(payload, str) and payload.isascii()


def _content_type(part: Message, value: object, style: Style) -> str:
    """What `Message.get_content_type` says."""
    if value is None:
        value = part.get_default_type()
    elif type(value) is str:
        if not (value.isascii() and _CONTENT_TYPE.fullmatch(value) and is_parsed_as_usual(style)):
            raise Unproven
    elif not isinstance(value, registry.BaseHeader):
        raise Unproven
    return _type_in(str(value))


def _type_in(text: str) -> str:
    kind = text.partition(";")[0].strip().lower()
    return kind if kind.count("/") == 1 else "text/plain"


@lru_cache(maxsize=256)
def is_leaf(text: str) -> bool:
    """Whether the Content-Type in a field is that of a part which has no parts."""
    try:
        return bool(_CONTENT_TYPE.fullmatch(text)) and _handler_of(_type_in(text)) == "text"
    except Unproven:
        return False


def is_parsed_as_usual(style: Style) -> bool:
    """Whether the Content-Type of a parsed message is read by the email package's own class."""
    if not isinstance(style.policy, EmailPolicy):
        return True
    factory = cast("Any", style.policy.header_factory)
    found = factory.__class__, factory.base_class, factory.registry.get("content-type")
    return found == (registry.HeaderRegistry, registry.BaseHeader, registry.ContentTypeHeader)


@lru_cache(maxsize=256)
def _handler_of(content_type: str) -> str:
    """Which method the generator has for a type of content."""
    main, _, sub = content_type.replace("-", "_").partition("/")
    found = [getattr(BytesGenerator, f"_handle_{name}", None) for name in (f"{main}_{sub}", main)]
    handler = found[0] or found[1] or _HANDLER_OF_OTHERS
    if handler not in _HANDLERS:
        raise Unproven
    return _HANDLERS[handler]


def _boundary_of(part: Message, style: Style, bodies: list[list[str]]) -> tuple[str, bool]:
    """The boundary of a multipart, which is given one if it has none: then it is new."""
    # The generator has every part read by one policy.
    part.policy = style.policy
    boundary = part.get_boundary()
    if boundary:
        if not _PRINTABLE.fullmatch(boundary):
            raise Unproven
        return boundary, False
    boundary = f"{'=' * 15}{random.randrange(sys.maxsize):0{_TOKEN_DIGITS}}=="
    # Most attachments have no hyphen at all, which is seen at once.
    if any("-" in piece and f"--{boundary}" in piece for body in bodies for piece in body):
        raise Unproven
    part.set_boundary(boundary)
    return boundary, True


def _require_known(part: Message) -> None:
    if not is_known(part):
        raise Unproven


def is_known(part: Message) -> bool:
    """Whether the generator would see in a part what is seen here."""
    kind: Any = type(part)
    return _is_known_class(kind) and _METHODS.isdisjoint(part.__dict__)


@lru_cache(maxsize=256)
def _is_known_class(kind: type[object]) -> bool:
    return all(getattr(kind, name) is getattr(Message, name) for name in _METHODS) and not any(
        hasattr(kind, name) for name in _ATTRIBUTES
    )
