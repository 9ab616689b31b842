"""One mail of `SMTP.send_many` on its way, with as much of a book as it has needed so far.

What a mail asks for is known when it is put in line; the rest is made by whoever needs it first. A
plain message that the server takes as it comes needs no more than a Delivery, which is filled in
one step: the caller has not seen it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ._attempts import Attempts, Retry
from ._book import Asked, Book
from ._delivery import Delivery, ledger_of
from ._envelope import Content, Job
from ._leases import Again, Leases
from ._lifecycle import Call
from ._monitor import Monitor, Since
from ._protocol._folded import Cover
from ._reply import Reply
from ._sending import Sending
from ._turns import Turn

if TYPE_CHECKING:
    from ._folding import Folded


class Letter(NamedTuple):
    """A short message that asks for nothing but addresses."""

    cover: Cover
    content: Content
    whole: bytes
    message_id: str | None


class Item:
    """One mail on its way."""

    __slots__ = (
        "_attempts",
        "_book",
        "_delivery",
        "_key",
        "_monitor",
        "_retry",
        "_since",
        "again",
        "folded",
        "letter",
        "number",
        "sending",
        "size",
        "turn",
    )

    def __init__(self, number: int, key: Any, monitor: Monitor, retry: Retry | None) -> None:
        self.number = number
        self._key = key
        self._monitor = monitor
        self._retry = retry
        self._delivery: Delivery[Any] | None = None
        self._book: Book | None = None
        self._attempts: Attempts | None = None
        self._since: Since | None = None
        self.again: Again | None = None
        self.letter: Letter | None = None
        """What it is, while that is all there is to it."""
        self.size = 0
        """Octets of the message, where they are in memory."""
        self.folded: Folded | None = None
        """The transaction under way, as long as nothing is known of it but yes."""
        # Set by a worker.
        self.sending: Sending
        self.turn: Turn

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
    def is_known(self) -> bool:
        """Whether anybody has it, may have it, or was refused: its delivery must come out then."""
        ledger = self.book.ledger
        return any(ledger.keys(outcome) for outcome in ("accepted", "refused", "in_doubt"))

    def open(self, book: Book) -> None:
        """From here on its delivery is written in this book."""
        book.__enter__()
        self._book = book

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
        self.book.ledger.message_id = letter.message_id
        self.begin(
            Job(cover.sender, cover.recipients, letter.content, message_id=letter.message_id)
        )

    def equip(self, leases: Leases, call: Call) -> None:
        """Make what brings it through a channel."""
        self.turn = Turn(call, self.sending_through(leases))

    def sending_through(self, leases: Leases) -> Sending:
        """Make what brings it through a channel on which it has a turn."""
        settings, ledger = leases.settings, self.book.ledger
        pace = leases.pace_of(self.again)
        self.sending = Sending(self.job, ledger, settings.pipelining, settings.chunking, pace)
        ledger.phase = "waiting"
        return self.sending

    def unfold(self) -> None:
        """If it is on its way folded, it is no longer."""
        if self.folded is not None:
            self.folded.unfold()

    def accept(self, reply: Reply, server: str) -> None:
        """The server has taken all of it, and nothing was written in its delivery yet."""
        letter, delivery = self.letter, self.delivery
        assert letter is not None
        keys, octets = letter.cover.keys, self.size
        ledger_of(delivery).accept(keys, reply, octets, letter.message_id, server)
        self._monitor.accepted_whole(server, len(keys), octets, delivery, self._since)

    def end(self, error: BaseException) -> None:
        """Its send ends with this error, or with this cancellation."""
        self.book.__exit__(type(error), error, None)
