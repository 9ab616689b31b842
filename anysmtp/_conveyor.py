"""One lease of a worker of `SMTP.send_many`: the messages that it sends over one connection.

The next one in line boards with the end of the one before, or behind it, so that no task has to be
woken for it. Those that ride along folded (see `_folding`), and are answered while another one is
waited for, are done with in passing.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ._channel import Channel
from ._folding import Folded, Folding
from ._item import Item
from ._leases import Again, Leases
from ._lifecycle import Call
from ._pool import Claim
from ._sources import SourceFailed
from ._turns import Turn
from .errors import SMTPException

if TYPE_CHECKING:
    from ._crew import Crew


class Conveyor:
    """The messages of one lease, from its beginning to its end."""

    __slots__ = ("_aboard", "_asker", "_crew", "_leases", "has_begun")

    def __init__(self, crew: Crew, leases: Leases, aboard: deque[Item], asker: object) -> None:
        self._crew = crew
        self._leases = leases
        self._aboard = aboard
        self._asker = asker
        self.has_begun = False
        """Whether there was a connection."""

    async def run(self, call: Call, scope: anyio.CancelScope) -> None:
        """Send what is aboard, and whatever boards."""
        leases, aboard = self._leases, self._aboard
        first = aboard[0]
        first.equip(leases, call)
        claim = await leases.lease(
            call, first.turn, first.book.ledger, again=first.again, asker=self._asker
        )
        self.has_begun = True
        self._crew.begun(scope)
        channel = claim.connection
        assert channel is not None
        is_alone = not first.turn.has_boarded
        folding = Folding(self._crew, aboard, leases, call, channel)
        feed = partial(self._passenger, call, folding)
        if is_alone:
            leases.feed(channel, feed)
        try:
            while aboard:
                if not self._took_answered(channel):
                    await self._send(aboard[0], channel, claim)
                if is_alone and not aboard:
                    self._go_on(call, channel)
        finally:
            leases.feed_no_more(channel, feed)
            try:
                await self._let_go(channel)
            finally:
                await leases.give_back(claim)

    async def _let_go(self, channel: Channel) -> None:
        """Nobody waits any more for the replies of those who are aboard still."""
        for item in self._aboard:
            item.unfold()
        turns = [item.turn for item in self._aboard if item.turn.has_boarded]
        for turn in turns:
            channel.forsake(turn)
        for turn in turns:
            await channel.leave(turn)

    async def _send(self, item: Item, channel: Channel, claim: Claim[Channel]) -> None:
        error: SMTPException | None = None
        again: Again | None = None
        folded = item.folded
        try:
            if folded is not None:
                folded.come_first()
            async with channel.turn(item.turn):
                if folded is not None:
                    await folded.deliver()
                else:
                    await item.sending.deliver(channel, item.turn)
            if not _is_taken(folded):
                self._leases.took_message()
        except SMTPException as caught:
            error = caught
            again = self._leases.again_after(error, item.sending, claim, item.turn, item.again)
        except Exception as failure:
            if _is_taken(folded):
                raise
            # It cannot be read, or not be written in 7bit, which is all that the server takes.
            item.unfold()
            self._aboard.popleft()
            error_of_it = failure.error if isinstance(failure, SourceFailed) else failure
            self._crew.give_up(item, error_of_it)
            return
        # What comes next finds a connection that has served before.
        claim.was_used = True
        if not _is_taken(folded):
            self._aboard.popleft()
            self._crew.settle(item, error, again)

    def _took_answered(self, channel: Channel) -> bool:
        """Be done with those to whom the server has said yes already; whether there were any.

        Who comes first of the others is waited for.
        """
        aboard, server, before = self._aboard, channel.link.server, len(self._aboard)
        while aboard and (folded := aboard[0].folded) is not None:
            if (answer := folded.answer) is None:
                break
            self._crew.took(aboard.popleft(), answer, server)
        return len(aboard) < before

    def _passenger(self, call: Call, folding: Folding) -> Turn | None:
        """Who is next in line rides along, unless somebody else waits for a connection."""
        if (item := self._crew.following()) is None:
            return None
        if folding.is_possible and (turn := folding.turn_for(item)) is not None:
            return turn
        item.equip(self._leases, call)
        item.turn.on_boarding = lambda: self._board(item)
        return item.turn

    def _board(self, item: Item) -> None:
        left = self._crew.leave_line()
        assert left is item
        self._aboard.append(item)

    def _go_on(self, call: Call, channel: Channel) -> None:
        """Take the next one from the line, if the connection is nobody else's."""
        is_free = channel.is_idle and not channel.is_worn and not self._leases.pool.waiting
        if is_free and (item := self._crew.following()) is not None:
            item.equip(self._leases, call)
            self._board(item)


def _is_taken(folded: Folded | None) -> bool:
    """Whether the server has taken a message while it was folded."""
    return folded is not None and folded.answer is not None
