"""Streams of mails for `SMTP.send_many`, and what came out of them.

Mails are told apart by their key, which is also their subject and the local part of their
recipient: so a script can answer one of them, and the server's log is the judge of each.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from typing import Any, TypeVar

from anyio import get_current_task
from anyio.lowlevel import checkpoint

from anysmtp import SMTP, Delivery, Envelope, Mail
from anysmtp.testing import Sent

from .bench import SMALL, message, subject_of
from .clients import SENDER

K = TypeVar("K")


def mail(key: K, size: int = SMALL, *, sender: str = SENDER) -> Mail[K]:
    """A raw message to ``key@x.test``."""
    envelope = Envelope(sender=sender, recipients=f"{key}@x.test")
    return Mail(message(str(key), size), envelope, key=key)


class Source:
    """Mails 0, 1, 2 ... from a generator, without end unless ``count`` says so."""

    def __init__(self, count: int | None = None, make: Callable[[int], Any] = mail) -> None:
        self.pulled = 0
        """How many were asked for and given."""
        self.tasks: set[int] = set()
        """Who asked."""
        self.is_closed = False
        """Whether the generator has ended, in whatever way."""
        self._numbers = itertools.count() if count is None else range(count)
        self._make = make

    def items(self) -> Generator[Any]:
        try:
            for number in self._numbers:
                yield self._give(number)
        finally:
            self._close()

    async def items_async(self) -> AsyncGenerator[Any]:
        try:
            for number in self._numbers:
                await checkpoint()
                yield self._give(number)
        finally:
            self._close()

    def _give(self, number: int) -> Any:
        self.tasks.add(get_current_task().id)
        self.pulled += 1
        return self._make(number)

    def _close(self) -> None:
        self.is_closed = True


async def take(
    deliveries: AsyncIterable[Delivery[Any]], found: list[Delivery[Any]], count: int | None = None
) -> None:
    """Take what comes, so many or all of it; ``found`` has it also if an exception follows."""
    async for delivery in deliveries:
        found.append(delivery)
        if len(found) == count:
            return


async def send_all(
    smtp: SMTP,
    source: Iterable[Any] | AsyncIterable[Any],
    found: list[Delivery[Any]] | None = None,
    **options: Any,
) -> list[Delivery[Any]]:
    """Send a whole stream; the deliveries as they came, in ``found`` also before an exception."""
    found = [] if found is None else found
    async with smtp.send_many(source, **options) as deliveries:
        await take(deliveries, found)
    return found


def keys(deliveries: Iterable[Delivery[Any]]) -> list[Any]:
    return [delivery.key for delivery in deliveries]


def outcomes(deliveries: Iterable[Delivery[Any]]) -> dict[Any, Any]:
    return {delivery.key: delivery.outcome for delivery in deliveries}


def subjects(messages: Iterable[Sent]) -> list[str]:
    """The keys of the messages that a server has, as text."""
    return [subject_of(message) for message in messages]
