"""What becomes of a mail of `SMTP.send_many` before it is put in line.

It is checked and serialised, as by any other way to send. A short message that asks for nothing but
addresses, be it raw or a plain message object, is done with in one step. Raw mails mostly have the
envelope of the one before, or one that differs in its recipient.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from email.message import Message
from typing import Any, TypeAlias, cast

from ._book import Asked, Book
from ._envelope import Envelope, Job, Mail
from ._item import Item, Letter
from ._leases import Leases
from ._message import RawContent, parse_recipients, parse_sender, read_plain
from ._protocol._folded import Cover, cover_of
from ._protocol._transaction import EAGER_SIZE

Prepare: TypeAlias = Callable[[Mail[Any], Book], Awaitable[Job]]


class Intake:
    """Makes items of mails."""

    def __init__(self, leases: Leases, prepare: Prepare) -> None:
        settings = leases.settings
        self._settings = settings
        self._monitor = leases.monitor
        self._prepare = prepare
        self._may_be_plain = not (settings.signers or settings.require_all)
        # The last envelope, with its addresses as they were then, and what it came to.
        self._envelope: Envelope | None = None
        self._addresses: object = None
        self._cover: Cover | None = None

    def item(self, number: int, mail: Any) -> Item:
        """One that is to be serialised."""
        key = None if isinstance(mail, Message) else getattr(mail, "key", None)
        return Item(number, key, self._monitor, self._settings.retry)

    def at_once(self, number: int, mail: Any) -> Item | None:
        """An item that is ready, if the mail is short and plain, and nothing is wrong with it."""
        if isinstance(mail, Message):
            mail = _as_mail(cast("Message", mail))
        if type(mail) is not Mail or not self._may_be_plain:
            return None
        try:
            letter = self._letter(mail.message, mail.envelope)
        except Exception:  # noqa: BLE001 - whoever looks again raises it for this mail
            return None
        if letter is None:
            return None
        item = self.item(number, mail)
        item.begin_at_once(letter)
        return item

    def _letter(self, message: Any, envelope: Envelope | None) -> Letter | None:
        if type(message) is bytes:
            return self._letter_of_raw(message, envelope)
        if isinstance(message, Message):
            return self._letter_of_object(cast("Message", message), envelope)
        return None

    def _letter_of_raw(self, message: bytes, envelope: Envelope | None) -> Letter | None:
        if type(envelope) is not Envelope or not 0 < len(message) <= EAGER_SIZE:
            return None
        cover = self._cover if self._is_as_before(envelope) else self._cover_of(envelope)
        if cover is None:
            return None
        content = RawContent(message)
        if content.has_long_lines:
            return None
        whole = content.whole()
        assert whole is not None
        return Letter(cover, content, whole, content.message_id())

    def _letter_of_object(self, message: Message, envelope: Envelope | None) -> Letter | None:
        given, named = None, list[str]()
        if envelope is not None:
            if type(envelope) is not Envelope or not envelope.is_bare:
                return None
            given, named = envelope.sender, _texts(envelope.recipients)
            if not named and envelope.recipients is not None:
                # It may be something that can be read only once.
                return None
        if (plain := read_plain(message)) is None:
            return None
        sender = plain.sender() if given is None else parse_sender(given)
        cover = cover_of(sender, parse_recipients(named) if named else plain.recipients())
        if cover is None:
            return None
        written = plain.written(sender, add_missing_headers=self._settings.add_missing_headers)
        if written is None or written[0].size > EAGER_SIZE:
            return None
        content, message_id = written
        return Letter(cover, content, content.whole(), message_id)

    def _is_as_before(self, envelope: Envelope) -> bool:
        """Whether the envelope of a raw mail has come to the cover that is there, or would."""
        before = self._envelope
        if before is None or envelope.recipients != self._addresses:
            return False
        return envelope is before or (envelope.sender == before.sender and envelope.is_bare)

    def _cover_of(self, envelope: Envelope) -> Cover | None:
        """The envelope of a raw mail parsed, if there is nothing but text in it.

        ValueError for what is wrong with it.
        """
        self._envelope, self._cover = None, None
        sender, recipients = envelope.sender, _texts(envelope.recipients)
        if not (isinstance(sender, str) and recipients and envelope.is_bare):
            return None
        cover = cover_of(parse_sender(sender), parse_recipients(recipients))
        # A list may be another one the next time.
        addresses = envelope.recipients
        self._addresses = recipients if isinstance(addresses, list) else addresses
        self._envelope, self._cover = envelope, cover
        return cover

    async def serialise(self, item: Item, given: Any) -> None:
        """Open its book, and make its job. TypeError for what is no mail."""
        mail = _as_mail(given)
        message = mail.message
        asked = Asked(
            {"envelope": mail.envelope, "delivery": item.delivery},
            require_all=self._settings.require_all,
            signers=self._settings.signers,
        )
        if isinstance(message, Message):
            book = asked.book_for_object(message, self._monitor)
        else:
            book = asked.book(self._monitor)
        item.open(book)
        try:
            job = await self._prepare(mail, book)
        except BaseException as error:
            item.end(error)
            raise
        item.begin(job)


def _as_mail(mail: Message | Mail[Any]) -> Mail[Any]:
    """A message object alone is a mail with the envelope of its header fields."""
    if isinstance(mail, Message):
        return Mail(mail)
    if not isinstance(mail, Mail):
        raise TypeError(f"a mail is a message object or a Mail, not {type(mail).__name__}")
    return mail


def _texts(recipients: object) -> list[str]:
    """Addresses that are text, and nothing else; none for any other kind.

    A list of a class of the caller's own may be one that can be read only once.
    """
    if isinstance(recipients, str):
        return [recipients]
    if type(recipients) not in (list, tuple):
        return []
    found: list[str] = [
        each for each in cast("Sequence[object]", recipients) if isinstance(each, str)
    ]
    return found if len(found) == len(cast("Sequence[object]", recipients)) else []
