"""One message on its way, with as much of a book as it has needed so far.

What is asked for a message is known when it is taken; the rest is made by whoever needs it first.
One that the server takes as it comes needs no more than a Delivery, which is filled in one step:
nobody has seen it before.
"""

from __future__ import annotations

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
    """One message on its way. Its end is written on every way out of it."""

    __slots__ = (
        "_attempts",
        "_book",
        "_delivery",
        "_key",
        "_monitor",
        "_retry",
        "_since",
        "is_accepted",
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
        self.letter: Letter | None = None
        """What it is, while that is all there is to it."""
        self.size = 0
        """Octets of the message, where they are in memory."""
        self.is_accepted = False
        """Whether it has ended as a letter."""
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
        return self.is_accepted or self.book.is_settled(self.job)

    def open(self, book: Book) -> Book:
        """From here on its delivery is written in this book."""
        book.__enter__()
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
        self.open(book)
        book.ledger.message_id = letter.message_id
        self.begin(
            Job(cover.sender, cover.recipients, letter.content, message_id=letter.message_id)
        )

    def accept(self, reply: Reply, server: str) -> None:
        """The server has taken all of it, and nothing was written in its delivery yet."""
        letter, delivery = self.letter, self.delivery
        assert letter is not None
        self.letter, self.is_accepted = None, True
        keys, octets = letter.cover.keys, self.size
        ledger_of(delivery).accept(keys, reply, octets, letter.message_id, server)
        self._monitor.accepted_whole(server, len(keys), octets, delivery, self._since)

    def end(self, error: BaseException) -> None:
        """Its send ends with this error, or with this cancellation."""
        if self.letter is not None or self._book is not None:
            self.book.__exit__(type(error), error, None)

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
