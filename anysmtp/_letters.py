"""Short messages that ask for nothing but addresses: made ready in one step.

Most messages are that. One is read, checked and written at once, to the octets that it would have
by the way that is open to all (`_book`), and needs no job of its own. Whatever is wrong with a
message, or may be more than plain, is left to that way, which says so. Raw messages mostly have the
envelope of the one before, or one that differs in its recipient.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message
from typing import Any, NamedTuple, cast

from ._envelope import Content, Mailbox
from ._message import RawContent, parse_recipients, parse_sender, read_plain
from ._protocol._folded import Cover, cover_of
from ._protocol._transaction import MAX_FLIGHT
from ._transfer import ONE_WRITE

# Recipients that can be named in one flight, with MAIL and DATA.
_MOST = MAX_FLIGHT - 2


class Letter(NamedTuple):
    """A short message that asks for nothing but addresses."""

    cover: Cover
    content: Content
    whole: bytes
    message_id: str | None


class Letters:
    """Makes letters of messages."""

    def __init__(self, *, add_missing_headers: bool) -> None:
        self._add_missing_headers = add_missing_headers
        # The last addresses of a raw message, and what they came to.
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._cover: Cover | None = None
        # The last one of any message.
        self._last: Cover | None = None

    def letter(self, message: Any, sender: Any, recipients: Any) -> Letter | None:
        """The message as one, if it is short and plain, and nothing is wrong with it.

        What is not given of a message object's sender and recipients comes from its header fields.
        """
        try:
            if type(message) in (bytes, str):
                return self._of_raw(message, sender, recipients)
            if isinstance(message, Message):
                return self._of_object(cast("Message", message), sender, recipients)
        except Exception:  # noqa: BLE001 - whoever looks again raises it for this message
            return None
        return None

    def _of_raw(self, message: bytes | str, sender: object, recipients: object) -> Letter | None:
        named = _texts(recipients)
        if not (0 < len(message) <= ONE_WRITE and type(sender) is str and named):
            return None
        if sender != self._sender or named != self._recipients:
            cover = self._cover_of(parse_sender(sender), parse_recipients(named))
            self._sender, self._recipients, self._cover = sender, named, cover
        if (cover := self._cover) is None:
            return None
        content = RawContent(message)
        # Its line ends, and what is not ASCII, may make it longer.
        if content.size > ONE_WRITE or content.has_long_lines:
            return None
        whole = content.whole()
        assert whole is not None
        return Letter(cover, content, whole, content.message_id())

    def _of_object(self, message: Message, sender: Any, recipients: object) -> Letter | None:
        named = _texts(recipients)
        if not named and recipients is not None:
            # It may be something that can be read only once.
            return None
        if (plain := read_plain(message)) is None:
            return None
        mailbox = plain.sender() if sender is None else parse_sender(sender)
        cover = self._cover_of(mailbox, parse_recipients(named) if named else plain.recipients())
        if cover is None:
            return None
        written = plain.written(mailbox, add_missing_headers=self._add_missing_headers)
        if written is None or written[0].size > ONE_WRITE:
            return None
        content, message_id = written
        return Letter(cover, content, content.whole(), message_id)

    def _cover_of(self, sender: Mailbox | None, recipients: tuple[Mailbox, ...]) -> Cover | None:
        """Addresses that were parsed before are there once: then so is their cover."""
        last = self._last
        if last is not None and last.sender is sender and last.recipients is recipients:
            return last
        cover = cover_of(sender, recipients) if len(recipients) <= _MOST else None
        self._last = cover
        return cover


def _texts(recipients: object) -> list[str]:
    """Addresses that are text, and nothing else; none for any other kind, and for too many.

    Not for classes of the caller's own: they may be equal to what they are not, or be read only
    once.
    """
    if type(recipients) is str:
        return [recipients]
    if type(recipients) not in (list, tuple):
        return []
    several = cast("Sequence[object]", recipients)
    is_text = len(several) <= _MOST and {*map(type, several)} == {str}
    return cast("list[str]", [*several]) if is_text else []
