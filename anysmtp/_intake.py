"""What becomes of a mail of `SMTP.send_many` before it is put in line.

It is checked and serialised, as by any other way to send; in one step, if it is a letter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.message import Message
from typing import Any, TypeAlias

from ._book import Asked, Book
from ._envelope import Envelope, Job, Mail
from ._item import Item
from ._leases import Leases
from ._letters import Letter, Letters

Prepare: TypeAlias = Callable[[Mail[Any], Book], Awaitable[Job]]


class Intake:
    """Makes items of mails."""

    def __init__(self, leases: Leases, prepare: Prepare) -> None:
        settings = leases.settings
        self._settings = settings
        self._monitor = leases.monitor
        self._prepare = prepare
        self._letters = Letters(add_missing_headers=settings.add_missing_headers)
        # The last one that says who, and nothing else: many mails may have it.
        self._bare: Envelope | None = None

    def item(self, number: int, mail: Any) -> Item:
        """One that is to be serialised."""
        key = None if isinstance(mail, Message) else getattr(mail, "key", None)
        return Item(number, key, self._monitor, self._settings.retry)

    def at_once(self, number: int, mail: Any) -> Item | None:
        """An item that is ready, if the mail is a letter."""
        letter = None if self._settings.are_of_each else self._letter(mail)
        if letter is None:
            return None
        item = self.item(number, mail)
        item.begin_at_once(letter)
        return item

    def _letter(self, mail: Any) -> Letter | None:
        if isinstance(mail, Message):
            return self._letters.letter(mail, None, None)
        if type(mail) is not Mail:
            return None
        try:
            message, envelope = mail.message, mail.envelope
            if envelope is None:
                return self._letters.letter(message, None, None)
            if envelope is not self._bare:
                if type(envelope) is not Envelope or not envelope.is_bare:
                    return None
                self._bare = envelope
        except Exception:  # noqa: BLE001 - whoever looks again raises it for this mail
            return None
        return self._letters.letter(message, envelope.sender, envelope.recipients)

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
