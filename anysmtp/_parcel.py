"""One message on its way, with as much of a book as it has needed so far.

What is asked for a message is known when it is taken; the rest is made by whoever needs it first.
One that the server takes as it comes needs no more than a Delivery, which is filled in one step:
nobody has seen it before. How far it has come is noted at each step all the same, for the book that
is opened if anything else happens.
"""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._attempts import Attempts, Retry
from ._book import Asked, Book
from ._delivery import Delivery, ledger_of
from ._envelope import Job
from ._letters import Letter
from ._monitor import Monitor, Since
from ._reply import Reply
from ._sending import Sending

if TYPE_CHECKING:
    from typing_extensions import Self


class Parcel:
    """One message on its way; around a block, whatever that raises is its end."""

    __slots__ = (
        "_attempts",
        "_book",
        "_delivery",
        "_is_handed_over",
        "_key",
        "_monitor",
        "_retry",
        "_since",
        "_taken",
        "bytes_sent",
        "letter",
        "sending",
        "size",
    )

    def __init__(self, monitor: Monitor, retry: Retry | None, key: Any = None) -> None:
        self._monitor = monitor
        self._retry = retry
        self._key = key
        self._delivery: Delivery[Any] | None = None
        self._book: Book | None = None
        self._attempts: Attempts | None = None
        self._since: Since | None = None
        # Of a letter: whether the server may have it, and what the one says that has it.
        self._is_handed_over = False
        self._taken: tuple[Reply, str] | None = None
        self.bytes_sent = 0
        """Octets of it that were written while it is a letter."""
        self.letter: Letter | None = None
        """What it is, while that is all there is to it."""
        self.size = 0
        """Octets of the message, where they are in memory."""
        self.sending: Sending
        """What brings it through a channel, once it is more than a letter there."""

    @property
    def delivery(self) -> Delivery[Any]:
        if self._delivery is None:
            self._delivery = Delivery(key=self._key)
        return self._delivery

    @property
    def book(self) -> Book:
        if self._book is None:
            self._open_letter()
        assert self._book is not None
        return self._book

    @property
    def attempts(self) -> Attempts:
        if self._attempts is None:
            self._open_letter()
        assert self._attempts is not None
        return self._attempts

    @property
    def job(self) -> Job:
        """What the next transaction is for."""
        return self.attempts.job

    @property
    def is_settled(self) -> bool:
        """Whether the server has the message, and has said so, for all whom it did not refuse."""
        return self.book.is_settled(self.job)

    def open(self, book: Book) -> Book:
        """From here on its delivery is written in this book."""
        book.open()
        self._book = book
        return book

    def begin(self, job: Job) -> None:
        """The message is serialised."""
        self._attempts = Attempts(job, self.book.ledger, self._retry)
        self.size = job.content.size or 0

    def begin_at_once(self, letter: Letter) -> None:
        """It needs no book for now."""
        self.letter = letter
        self.size = len(letter.whole)
        self._since = self._monitor.since()

    def _open_letter(self) -> None:
        """From here on there is more to it."""
        letter, self.letter = self.letter, None
        assert letter is not None
        cover = letter.cover
        asked = Asked({"delivery": self.delivery}, require_all=False)
        book = Book(asked, self._monitor, cover.sender, cover.recipients, since=self._since)
        ledger = self.open(book).ledger
        ledger.message_id = letter.message_id
        if self._is_handed_over:
            ledger.bytes_total, ledger.bytes_sent = self.size, self.bytes_sent
            ledger.hand_over(cover.keys)
        if self._taken is not None:
            reply, ledger.server = self._taken
            ledger.settle(cover.keys, reply)
        self.begin(
            Job(cover.sender, cover.recipients, letter.content, message_id=letter.message_id)
        )

    def hand_over(self, _: Collection[str], /) -> None:
        """The end of the letter is about to leave: from here on the server may have it."""
        self._is_handed_over = True

    def take(self, reply: Reply, server: str) -> None:
        """The server has taken all of the letter."""
        self._taken = reply, server

    def accept(self) -> None:
        """The send of a letter that was taken has ended: nothing was written of it before."""
        letter, delivery = self.letter, self.delivery
        assert letter is not None
        assert self._taken is not None
        self.letter = None
        keys, octets, (reply, server) = letter.cover.keys, self.size, self._taken
        ledger_of(delivery).accept(keys, reply, octets, letter.message_id, server)
        self._monitor.accepted_whole(server, len(keys), octets, delivery, self._since)

    def end(self, error: BaseException) -> None:
        """Its send ends with this error, or with this cancellation."""
        if self.letter is not None or self._book is not None:
            self.book.fail(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self.end(exc)
