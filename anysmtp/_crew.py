"""The workers of one `SMTP.send_many`: they send what is in line over several connections.

Theory of operation. *Workers*, as many as connections at most, each take a lease and send what is
in line one after another on it: the next message boards with the end of the one before (see
`_turns`), so that a message costs one round trip, and no task has to be woken for it. One lease of
a worker is a *conveyor*; it ends when somebody else waits for a connection.

A message leaves the line for a conveyor, and then its transaction has ended: it is given back to
the `Outlet`, or is in line again, in front, or *sleeps* until it is tried again. What is wrong with
a message or a server is in its delivery, and so is whatever a source or a signer raises; what a
worker raises is a cancellation. One that gets no connection may *rest*: nobody tries to connect
meanwhile, and what is in line goes over the connections that are there. If that is of no use either
the crew is *stuck*: nothing more is begun, and its `failure` is there once what was under way has
ended.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import Protocol, cast

import anyio
from anyio.abc import TaskGroup

from ._bell import Bell
from ._conveyor import Conveyor
from ._delivery import cancelled
from ._item import Item
from ._leases import Again, Leases
from ._lifecycle import Lifecycle
from ._reply import Reply
from ._tasks import task_id
from .errors import SMTPException

# Octets of serialised messages in line beyond which it is full.
MOST_IN_LINE = 4 * 1024 * 1024


class Outlet(Protocol):
    """Where those come out whose delivery has ended."""

    def put(self, item: Item) -> None: ...

    def ring(self) -> None:
        """A worker has left, or the crew is stuck: perhaps no other one will come out."""
        ...


class Crew:
    """Those who send what is put in line."""

    def __init__(self, leases: Leases, life: Lifecycle, group: TaskGroup, outlet: Outlet) -> None:
        self.failure: Exception | None = None
        """Why there is no connection to be had, once there is none."""
        self.is_line_full = False
        """Whether no other mail is to be taken, until a half of those in line have left it."""
        self._octets_in_line = 0
        self.room = Bell()
        """Rings when a full line has room again, and when nothing more will leave it."""
        self._leases = leases
        self._life = life
        self._group = group
        self._outlet = outlet
        self._line: deque[Item] = deque()
        self._workers = 0
        self._starting: set[anyio.CancelScope] = set()
        self._sleeping: set[Item] = set()
        self._resting = 0  # how many attempts to connect are waited for
        # Who has a connection for himself does not give it back before this has ended.
        task = task_id()
        self._asker = task if leases.pool.is_held_by(task) else None

    @property
    def is_stuck(self) -> bool:
        return self.failure is not None

    @property
    def is_at_work(self) -> bool:
        return self._workers > 0

    def put_in_line(self, item: Item) -> None:
        if self.failure is not None:
            self._leave_out(item, self.failure)
            return
        self._line.append(item)
        self._count_in(item)
        self._hire()

    def _count_in(self, item: Item) -> None:
        self._octets_in_line += item.size
        self.is_line_full = self.is_line_full or self._octets_in_line > MOST_IN_LINE

    def _hire(self) -> None:
        """One worker for each that is in line, as far as there are connections for them.

        While a connection could not be had, one worker at most begins with one that is there.
        """
        connections = 1 if self._resting else self._leases.settings.limits.max_connections
        if self._workers >= connections:
            return
        most = min(connections, self._workers + len(self._line))
        while self._may_begin() and self._workers < most:
            self._workers += 1
            self._group.start_soon(self._work)

    def _may_begin(self) -> bool:
        if not self._line or self.is_stuck:
            return False
        return not self._resting or self._leases.pool.idle > 0

    async def _work(self) -> None:
        """Send what is in line, until nothing is."""
        try:
            while self._may_begin():
                await self._serve(self.leave_line())
        finally:
            self._workers -= 1
            self._outlet.ring()

    async def _serve(self, first: Item) -> None:
        """Send a message over a connection, and whatever can follow it there."""
        aboard = deque([first])
        conveyor = Conveyor(self, self._leases, aboard, self._asker)
        scope = anyio.CancelScope()
        self._starting.add(scope)
        try:
            with scope, self._life.call(admitted=True) as call:
                await conveyor.run(call, scope)
        except BaseException as error:
            if isinstance(error, Exception) and not conveyor.has_begun:
                # Also what a caller's own token function raises.
                self._cannot_begin(first, error)
            elif isinstance(error, SMTPException):
                self._interrupted(aboard, error)
            else:
                for item in aboard:
                    item.end(error)
                raise
        finally:
            self._starting.discard(scope)
        if scope.cancelled_caught:
            # Nothing works any more: it was waiting for what another one did not get.
            assert self.failure is not None
            self._cannot_begin(first, _own(self.failure))

    def begun(self, scope: anyio.CancelScope) -> None:
        """There is a connection: what is sent on it goes on to its end."""
        self._starting.discard(scope)

    def following(self) -> Item | None:
        """Who is next in line, if a connection that was used is good enough for it."""
        if self.failure is not None or not self._line:
            return None
        item = self._line[0]
        return item if item.again is None else None

    def leave_line(self) -> Item:
        """The one who is next in line leaves it."""
        item = self._line.popleft()
        self._octets_in_line -= item.size
        if self.is_line_full and self._octets_in_line <= MOST_IN_LINE // 2:
            self.is_line_full = False
            self.room.ring()
        return item

    def give_up(self, item: Item, error: BaseException) -> None:
        """It cannot be written in a way that the server takes."""
        item.end(error)
        self._outlet.put(item)

    def took(self, item: Item, reply: Reply, server: str) -> None:
        """The server has taken a message, and has refused nobody."""
        item.folded = None
        item.take(reply, server)
        item.accept()
        self._leases.took_message()
        self._outlet.put(item)

    def settle(self, item: Item, error: SMTPException | None, again: Again | None) -> None:
        """A transaction has ended; what follows for its message."""
        if again is not None:
            self._leases.monitor.again(again.reason)
            item.again = again
            item.book.ledger.again(recipient.given for recipient in item.job.recipients)
            self._back_in_line(item)
            return
        item.again = None
        is_over = error is not None and self._life.is_over
        if not item.book.goes_on(item.attempts, error, is_over=is_over):
            self._finish(item)
        elif self.failure is not None:
            self._go_without(item, self.failure)
        elif item.attempts.delay:
            self._sleeping.add(item)
            self._group.start_soon(self._later, item)
        else:
            item.attempts.begin()
            self._back_in_line(item)

    def _interrupted(self, aboard: deque[Item], error: SMTPException) -> None:
        """The time was up, or the client was closed: for the first one, and with it the others."""
        for number, item in enumerate(tuple(aboard)):
            if item.book.is_settled(item.job):
                self.settle(item, None, None)
                continue
            is_unharmed = number > 0 and not item.book.ledger.keys("in_doubt")
            may_repeat = is_unharmed and item.again is None
            # Not the error: it may have the address of the one before it.
            reason = "the connection ended with another message"
            again = Again(reason, is_last=True) if may_repeat else None
            self.settle(item, copy(error), again)

    def _cannot_begin(self, item: Item, error: Exception) -> None:
        """There is no connection to be had: for this message, and so for the others."""
        is_first = not self.is_stuck
        may_go_on = is_first and isinstance(error, SMTPException) and not self._life.is_over
        if may_go_on and item.book.goes_on(
            item.attempts, cast("SMTPException", error), is_over=False
        ):
            # Both at once: until the task begins, another worker may, or the crew may get stuck.
            self._resting += 1
            self._sleeping.add(item)
            self._group.start_soon(self._rest, item)
            return
        item.end(error)
        if item.is_known:
            self._outlet.put(item)
        if is_first:
            self.failure = error
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        """Nothing is begun any more; what waits for that comes to its end now."""
        for scope in tuple(self._starting):
            scope.cancel()
        for item in self._take_out(self._line):
            self._leave_out(item, error)
        for item in self._take_out(self._sleeping):
            self._finish(item)
        self.room.ring()
        self._outlet.ring()

    def abandon(self) -> None:
        """The stream was left, and the workers have ended: nobody is told what becomes of these."""
        for item in (*self._take_out(self._line), *self._take_out(self._sleeping)):
            item.end(cancelled(item.delivery, item.book.ledger.outcome))

    def _take_out(self, items: deque[Item] | set[Item]) -> list[Item]:
        taken = list(items)
        items.clear()
        return taken

    async def _rest(self, item: Item) -> None:
        """Nobody tries to connect before this one tries again."""
        try:
            await self._later(item)
        finally:
            self._resting -= 1
            self._hire()

    async def _later(self, item: Item) -> None:
        """Put one that sleeps in line again after its pause."""
        failure: SMTPException | None = None
        try:
            await self._life.pause(item.attempts.delay)
        except SMTPException as error:
            failure = error
        if item not in self._sleeping:
            return
        self._sleeping.discard(item)
        if failure is not None:
            self._cannot_begin(item, failure)
            return
        item.attempts.begin()
        self._back_in_line(item)

    def _back_in_line(self, item: Item) -> None:
        if self.failure is not None:
            self._leave_out(item, self.failure)
            return
        self._line.appendleft(item)
        self._count_in(item)
        self._hire()

    def _leave_out(self, item: Item, failure: Exception) -> None:
        """It would be next, and there is no connection for it."""
        item.end(_own(failure))
        if item.is_known:
            self._outlet.put(item)

    def _go_without(self, item: Item, failure: Exception) -> None:
        """It ends as far as it came, for there is no connection for another transaction."""
        if item.book.ledger.keys("not_sent"):
            item.end(_own(failure))
            self._outlet.put(item)
        else:
            self._finish(item)

    def _finish(self, item: Item) -> None:
        try:
            item.book.close(item.attempts)
        except SMTPException as error:
            item.end(error)
        self._outlet.put(item)


def _own(failure: Exception) -> Exception:
    """The same failure for another message, whose Delivery it will name."""
    return copy(failure) if isinstance(failure, SMTPException) else failure
