"""A scenario that is played again and again, and stopped somewhat later each time.

One of those who play is stopped, in the ways of `cancel`; the others are not to feel it. After each
time the client's counts must be back at zero and the client must work, also for a message that
may be sent again; at the end the server's log is the judge of what each Delivery says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anysmtp import SMTP, SMTPConnection

from .bench import RECIPIENTS, SMALL, Bench, send, subject_of
from .cancel import Ended, How, cancel_at, cancel_in_turn
from .sends import Send

# Turns of the event loop until what is waited for must have come about; some of them are those
# that a jump of the clock takes.
_TURNS = 1000


class Stage:
    """One time that a scenario is played."""

    def __init__(self, bench: Bench, smtp: SMTP, k: int, how: How) -> None:
        self.bench = bench
        self.smtp = smtp
        self.k = k
        self.how: How = how
        self.mine = Send(smtp, f"stopped-{k}")
        """The one that is stopped, where it is a message."""
        self.others: list[Send] = []
        self.may_be_left_behind = False
        """Whether the others use a connection that nobody replaces for them."""
        self.ended: Ended[Any] | None = None
        """What became of what was stopped, once it has ended."""

    @property
    def sends(self) -> list[Send]:
        return [self.mine, *self.others]

    def other(self, mailer: SMTP | SMTPConnection | None = None) -> Send:
        """Another one's message, who is not to feel anything."""
        self.others.append(Send(mailer or self.smtp, f"other-{self.k}-{len(self.others)}"))
        return self.others[-1]

    def mine_on(self, mailer: SMTP | SMTPConnection, size: int = SMALL) -> Send:
        """The one that is stopped, sent in another way."""
        self.mine = Send(mailer, self.mine.subject, size)
        return self.mine

    async def stop(self, afn: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run it, and stop it at its k-th await."""
        self.ended = await cancel_at(self.k, self.how, afn)
        self.ended.unwrap()

    async def stop_in_turn(self, afn: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run it, and stop it in the k-th turn of the event loop."""
        self.ended = await cancel_in_turn(self.k, self.how, afn)
        self.ended.unwrap()

    async def until_waiting(self, count: int) -> None:
        """Wait until so many wait for a connection, and the one that is stopped, if it does."""
        for _ in range(_TURNS):
            if self.smtp.statistics().waiting == count - (self.ended is not None):
                return
            await checkpoint()
        raise AssertionError(f"{self.smtp!r} does not come to have {count} who wait")

    async def check(self) -> None:
        """All of it has ended: nothing is in use, and the client works."""
        self.check_counts()
        assert self.mine.error is None, "a cancellation became an error"
        for other in self.others:
            is_unharmed = other.has_its_reply or (
                self.may_be_left_behind and other.outcome == "not_sent"
            )
            assert is_unharmed, f"{other.subject} ended with {other.receipt or other.error!r}"
        if self.mine.delivery.may_retry:
            await send(self.smtp, self.mine.subject, delivery=self.mine.delivery)
        await send(self.smtp, f"after-{self.k}")
        self.check_counts()

    def check_counts(self) -> None:
        """Nobody has or wants a connection."""
        now = self.smtp.statistics()
        assert (now.sending, now.waiting) == (0, 0)
        assert now.open_connections == now.idle_connections
        assert f" 0/{now.allowed_connections} idle {now.idle_connections} waiting 0" in repr(
            self.smtp
        )


async def start_in_order(*sends: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run them beside each other, each begun when the one before it waits for something."""
    async with anyio.create_task_group() as group:
        for each in sends:
            group.start_soon(each)
            await checkpoint()


def judge(bench: Bench, sends: Iterable[Send]) -> None:
    """What each Delivery says must be what the server saw; all its connections have ended."""
    received = Counter(
        (subject_of(message), recipient)
        for message in bench.server.received
        for recipient in message.recipients
    )
    accepted = {
        (subject_of(message), recipient)
        for message in bench.server.messages
        for recipient in message.accepted_for
    }
    for each in sends:
        delivery = each.delivery
        is_known = delivery.accepted or delivery.refused or delivery.in_doubt or delivery.not_sent
        assert delivery.phase == "done" or not is_known, f"{each.subject} has no end"
        for recipient in RECIPIENTS:
            key = (each.subject, recipient)
            assert received[key] <= 1, f"{key} was sent twice"
            if recipient in delivery.accepted:
                assert key in accepted, f"{key} is not accepted"
            elif recipient in delivery.not_sent:
                assert not received[key], f"{key} is called not_sent, and the server has it"
            elif recipient in delivery.refused:
                assert key not in accepted, f"{key} is called refused, and the server took it"
            else:
                assert recipient in delivery.in_doubt or not received[key], f"{key} is unknown"
