"""A plain message: read in one walk over its header fields, and written at once.

Most messages that programs send are one part in ASCII under header fields of one line each. For
these one look at each field gives the envelope and the octets, where `_headers`, `_prepare` and
`_serialise` look at it a dozen times. A message is plain if it shows that

- the generator would find in it what is found here, as `written_by_hand` has it;
- each field is one line of printable ASCII that its policy writes as it stands, or addresses or
  words that it breaks between them;
- the addresses in it are written as they are read: without comments, for instance;
- none of its fields resends it, and none that means something here occurs twice;
- its body is one part of ASCII without a line that is too long, in an encoding that says so;
- it is small enough to be sent in one piece.

Then it is the same message for every transport, and what comes out is what the other modules would
make of it. They have all that is not plain, and they say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.message import Message
from email.policy import Policy
from functools import lru_cache
from typing import Any

from .._envelope import Mailbox
from .._grammar import FIELD_NAME
from ._addresses import parse_list, unique
from ._by_hand import ENCODINGS, is_known, is_leaf, is_parsed_as_usual
from ._content import CHUNK, PlainContent
from ._head import Style, Unproven, folded_object, style_of, text_of_object
from ._headers import RESENT_FIELDS, recipients_of, sender_of
from ._lines import MAX_LINE, has_long_line
from ._prepare import date_of, new_message_id

_ADDRESSES = frozenset(("from", "sender", "to", "cc", "bcc"))
_OTHERS = frozenset(("date", "message-id", "content-type", "content-transfer-encoding"))


class Plain:
    """A plain message at the moment when it was read."""

    __slots__ = ("_found", "_limit", "_lines", "_message", "_payload")

    def __init__(
        self, message: Message, lines: list[str], found: dict[str, str], limit: int, payload: str
    ) -> None:
        self._message = message
        self._lines = lines
        self._found = found
        self._limit = limit
        self._payload = payload

    def sender(self) -> Mailbox:
        """As `sender_of` has it."""
        found = self._found
        try:
            mailboxes = _mailboxes(found.get("sender", found.get("from", "")))
        except ValueError:
            mailboxes = ()
        return mailboxes[0] if len(mailboxes) == 1 else sender_of(self._message)

    def recipients(self) -> tuple[Mailbox, ...]:
        """As `recipients_of` has them."""
        found = self._found
        try:
            mailboxes = _mailboxes(found.get("to", ""))
            if "cc" in found:
                mailboxes += _mailboxes(found["cc"])
            if "bcc" in found:
                mailboxes += _mailboxes(found["bcc"])
            return unique(mailboxes)
        except ValueError:
            return recipients_of(self._message)

    def written(
        self, sender: Mailbox | None, *, add_missing_headers: bool
    ) -> tuple[PlainContent, str | None] | None:
        """The octets with what was missing, as of `prepare`, and the Message-ID.

        None if what has to be added is not plain: its domain is too long for a line.
        """
        lines, found = self._lines, self._found
        added: list[str] = []
        message_id = found.get("message-id")
        if add_missing_headers and "date" not in found:
            added.append(f"Date: {date_of(None)}")
        if message_id is not None:
            message_id = message_id.strip(" ") or None
        elif add_missing_headers:
            message_id = new_message_id(self._message, sender)
            added.append(f"Message-ID: {message_id}")
        if added and max(map(len, added)) > self._limit:
            return None
        head = "\r\n".join((*lines, *added, "", ""))
        return PlainContent(head, self._payload), message_id


def read_plain(message: Message) -> Plain | None:
    """A message that can be shown to be plain."""
    if not is_known(message):
        return None
    state = message.__dict__
    payload = state["_payload"]
    if type(payload) is not str or len(payload) > CHUNK or not payload.isascii():
        return None
    style = _style_of(state["policy"])
    if style is None or has_long_line(payload):
        return None
    survey = _survey(state["_headers"], style)
    if survey is None:
        return None
    lines, found, folded = survey
    head = "".join(lines)
    is_small = len(head) + len(payload) <= CHUNK
    if not (is_small and head.isascii() and head.isprintable() and _is_carried(state, found)):
        return None
    for place, text in folded.items():
        lines[place] = text
    return Plain(message, lines, found, min(style.source_length, MAX_LINE), payload)


def _survey(
    fields: Iterable[tuple[str, object]], style: Style
) -> tuple[list[str], dict[str, str], dict[int, str]] | None:
    """The fields of a header section without Bcc, what is in those that mean something, and how
    those are written that do not fit on a line.

    None if they are not plain; that they are printable is for the caller to see.
    """
    _, is_modern, length, source_length, _ = style
    lines: list[str] = []
    found: dict[str, str] = {}
    folded: dict[int, str] = {}
    room = CHUNK
    for name, value in fields:
        start, key = _known(name)
        text: str | None
        if type(value) is str:
            text, limit = value, source_length
            if is_modern and key == "content-type" and not is_parsed_as_usual(style):
                return None
        else:
            text, limit = text_of_object(name, value, is_modern), length
        if start is None or text is None:
            return None
        if key is not None:
            if key in found or (key in _ADDRESSES and text != value):
                return None
            found[key] = text
            if key == "bcc":
                continue
        line = start + text
        if len(line) > limit:
            if (room := room - len(line)) < 0:
                return None
            written = folded_object(name, value, text, style)
            if written is None:
                return None
            folded[len(lines)] = written
        elif len(line) > MAX_LINE:
            return None
        lines.append(line)
    return lines, found, folded


@lru_cache(maxsize=1024)
def _known(name: str) -> tuple[str | None, str | None]:
    """How the line of a field starts, None if it is not plain; and what it is, if it matters."""
    key = name.lower()
    is_plain = FIELD_NAME.fullmatch(name) and key not in RESENT_FIELDS
    return (f"{name}: " if is_plain else None), (key if key in _ADDRESSES | _OTHERS else None)


def _is_carried(state: dict[str, Any], found: dict[str, str]) -> bool:
    """Whether what is declared of the body is what every transport carries."""
    if found.get("content-transfer-encoding", "7bit").lower() not in ENCODINGS:
        return False
    if "content-type" not in found:
        return bool(state["_default_type"] == "text/plain")
    return is_leaf(found["content-type"])


@lru_cache(maxsize=64)
def _style_of(policy: Policy[Any]) -> Style | None:
    try:
        return style_of(policy, utf8=False)
    except Unproven:
        return None


@lru_cache(maxsize=256)
def _mailboxes(text: str) -> tuple[Mailbox, ...]:
    """The mailboxes in a field; the same senders come again and again, and many recipients."""
    return tuple(parse_list(text.strip(" ")))
