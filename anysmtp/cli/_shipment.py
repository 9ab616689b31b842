"""One run of ``anysmtp bulk``: letters from the source, by way of the journal, to the server.

A group of letters is read and begun in the journal, in a thread, before any of it is given to the
client; what became of each is written there as it comes, again for several at once. The client
tells it twice, by the delivery that comes out of `send_many` and by its observer, which hears of
those too that are cut off by Ctrl-C; whichever comes first counts. A letter that was begun and of
which nothing is heard at the end of the run was not sent: that is what the library promises, and
the journal then has it as it was before.

So the letters that a kill leaves under way in the journal are a group, and those that the client
had taken in advance, of which it takes few.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from itertools import islice
from typing import Any, Literal, TypeAlias, TypeVar

from anyio import to_thread

from .. import SMTP, Delivery, Envelope, Limits, Mail, SMTPException
from .._message import domain_of, sender_of
from ..events import Event, MessageEvent
from ._exit import Exit, of_error
from ._journal import Journal, JournalError
from ._letters import UNREADABLE, Letter, Letters
from ._past import Fact, Facts, Past, Todo, Wanted, facts_of

T = TypeVar("T")

# Letters that are begun with one wait for the disk, at most.
_GROUP = 16
# Octets of letters in a group, after which it is complete.
_HEAVY = 4 * 1024 * 1024
# Letters that are read in one go in the thread, although there is nothing to do with them.
_READ = 256

End: TypeAlias = Literal[
    "accepted", "accepted before", "changed", "refused", "in doubt", "malformed", "not sent"
]
_STANDS: dict[str, End] = {
    "accepted": "accepted before",
    "changed": "changed",
    "refused": "refused",
    "not_sent": "not sent",
    "in_doubt": "in doubt",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A letter that is not accepted, or not all of it."""

    key: str
    name: str
    end: End
    code: Exit
    facts: Facts = field(default_factory=dict[str, Fact])
    reason: str = ""


@dataclass(slots=True)
class _Begun:
    """A letter that is in the journal as under way."""

    letter: Letter
    past: Past | None
    todo: Todo
    mail: Mail[Letter]

    @property
    def known(self) -> Facts:
        """What the journal says of the recipients until more is known."""
        asked = self.todo.recipients or ()
        return {**self.todo.facts, **dict.fromkeys(asked, Fact("in_doubt"))}


@dataclass(slots=True)
class _Group:
    """Letters that were read."""

    begun: list[_Begun] = field(default_factory=list[_Begun])
    settled: list[Trouble] = field(default_factory=list["Trouble"])
    """What is not sent, for it has come to an end already."""
    is_last: bool = False


class Shipment:
    """What is to be sent, and how far it is."""

    def __init__(
        self,
        letters: Letters,
        journal: Journal,
        wanted: Wanted,
        sender: str | None,
        recipients: tuple[str, ...],
    ) -> None:
        self.total = letters.count()
        self.tally: Counter[End] = Counter()
        """How many have come to which end."""
        self.troubles: list[Trouble] = []
        self.failure: Exception | None = None
        """Why there is no connection to be had, or the journal or source cannot be used."""
        self.on_progress: Callable[[], None] = lambda: None
        self._letters = letters
        self._journal = journal
        self._wanted = wanted
        self._sender = sender
        self._recipients = recipients or None
        self._open: dict[str, _Begun] = {}
        # Filled in the event loop, and emptied in threads.
        self._ended: deque[tuple[Letter, Facts]] = deque()
        self._taken_back: deque[tuple[Letter, Past | None]] = deque()
        self._group = _GROUP
        self._ahead = 2 * _GROUP

    @property
    def unfinished(self) -> int:
        """How many have come to no end of their own."""
        return max(0, self.total - sum(self.tally.values()))

    def suit(self, limits: Limits) -> None:
        """Begin no more in advance than these limits have a use for."""
        if limits.rate is not None:
            messages, seconds = limits.rate
            self._group = max(1, min(_GROUP, int(messages / seconds)))
        self._ahead = 2 * max(self._group, limits.max_connections)

    def observe(self, event: Event) -> None:
        """The client's observer."""
        if isinstance(event, MessageEvent) and event.outcome != "not_sent":
            self._end(event.delivery)

    async def send(self, client: SMTP) -> None:
        """Send what is left to do. What stops it as a whole is in `failure` then."""
        try:
            async with (
                client,
                client.send_many(self._mails(), read_ahead=self._ahead) as deliveries,
            ):
                async for delivery in deliveries:
                    self._end(delivery)
                    if self._ended or self._taken_back:
                        await to_thread.run_sync(self._write_ends)
                    self.on_progress()
        except (SMTPException, JournalError, *UNREADABLE) as error:
            self.failure = error

    def finish(self) -> None:
        """Whatever ended the run, the journal knows all of it then."""
        self._taken_back += [(begun.letter, begun.past) for begun in self._open.values()]
        self._open.clear()
        known = {trouble.key for trouble in self.troubles if trouble.end == "in doubt"}
        try:
            self._write_ends()
            for past in self._journal.in_doubt():
                if past.key not in known:
                    self._count(_standing(past, "in doubt"))
        except JournalError as error:
            self.failure = error
        finally:
            self._journal.close()

    async def _mails(self) -> AsyncIterator[Mail[Letter]]:
        letters = iter(self._letters)
        is_last = False
        while not is_last:
            group = await to_thread.run_sync(self._next_group, letters)
            is_last = group.is_last
            for trouble in group.settled:
                self._count(trouble)
            self.on_progress()
            for begun in group.begun:
                yield begun.mail

    def _next_group(self, letters: Iterator[Letter]) -> _Group:
        """Read on until there are enough to send, and begin them. In a thread.

        The letters are open before the journal has them as under way, so that it loses none if the
        run is interrupted meanwhile.
        """
        group = _Group()
        octets = 0
        for letter in islice(letters, _READ):
            looked_at = self._look(letter)
            if isinstance(looked_at, Trouble):
                group.settled.append(looked_at)
                continue
            group.begun.append(looked_at)
            octets += letter.size
            if len(group.begun) >= self._group or octets > _HEAVY:
                break
        else:
            group.is_last = len(group.begun) + len(group.settled) < _READ
        if group.begun:
            self._open.update((begun.letter.key, begun) for begun in group.begun)
            self._journal.begin((begun.letter, begun.known) for begun in group.begun)
        return group

    def _look(self, letter: Letter) -> _Begun | Trouble:
        """What is to be done with a letter, or how it stands."""
        past = self._journal.past(letter.key)
        message = letter.message
        if message is None:
            if past is None or past.state in ("not_sent", "refused"):
                return _malformed(letter, letter.problem)
            return _standing(past, _STANDS[past.state])
        todo = self._wanted.left_to_do(past, letter.digest)
        if not isinstance(todo, Todo):
            assert past is not None
            return _standing(past, _STANDS[todo])
        self._identify(letter, message)
        recipients = todo.recipients or letter.recipients or self._recipients
        envelope = Envelope(sender=self._sender, recipients=recipients)
        return _Begun(letter, past, todo, Mail(message, envelope, key=letter))

    def _identify(self, letter: Letter, message: Message) -> None:
        """A Message-ID for one that has none, the same in each run.

        By it a reader sees that two messages are one, if it is sent again in doubt.
        """
        if any(name.lower().startswith(("message-id", "resent-")) for name in message):
            return
        domain = None
        with contextlib.suppress(ValueError):
            domain = domain_of(sender_of(message))
        unique = hashlib.sha256(self._journal.secret + letter.key.encode() + letter.digest)
        message["Message-ID"] = f"<{unique.hexdigest()[:32]}@{domain or 'localhost'}>"

    def _end(self, delivery: Delivery[Any]) -> None:
        """A send has ended."""
        letter: Letter = delivery.key
        if (begun := self._open.pop(letter.key, None)) is None:
            return
        error = delivery.exception()
        news = facts_of(delivery)
        if not news or isinstance(error, (ValueError, TypeError)):
            self._taken_back.append((letter, begun.past))
            self._count(_malformed(letter, str(error)))
            return
        facts = {**begun.todo.facts, **news}
        self._ended.append((letter, facts))
        past = Past(letter.key, letter.name, letter.digest, facts=facts)
        if past.state == "accepted":
            self.tally["accepted"] += 1
            return
        trouble = _standing(past, _STANDS[past.state])
        if isinstance(error, Exception):
            code = of_error(error) if trouble.end == "not sent" else trouble.code
            trouble = replace(trouble, code=code, reason=str(error))
        self._count(trouble)

    def _count(self, trouble: Trouble) -> None:
        self.tally[trouble.end] += 1
        if trouble.end != "accepted before":
            self.troubles.append(trouble)

    def _write_ends(self) -> None:
        if ended := _emptied(self._ended):
            self._journal.end(ended)
        if taken_back := _emptied(self._taken_back):
            self._journal.take_back(taken_back)


_CODES: dict[End, Exit] = {
    "accepted before": Exit.OK,
    "changed": Exit.OK,
    "refused": Exit.REFUSED,
    "in doubt": Exit.IN_DOUBT,
    "not sent": Exit.UNREACHABLE,
}


def _emptied(items: deque[T]) -> list[T]:
    return [items.popleft() for _ in range(len(items))]


def _standing(past: Past, end: End) -> Trouble:
    """How a letter stands that is not sent now."""
    return Trouble(past.key, past.name, end, _CODES[end], past.facts)


def _malformed(letter: Letter, reason: str) -> Trouble:
    return Trouble(letter.key, letter.name, "malformed", Exit.USAGE, reason=reason)
