"""Which reply is timed, and by whose clock.

The clock that runs is the one of the reply that is next in line, from the moment that it is next:
what a server owes to others is not counted against anybody. Where nobody waits for that reply, the
clock of the first one behind it runs.
"""

from __future__ import annotations

from ._clock import Timeouts, seconds_for
from ._protocol._session import Awaited, Session
from ._turns import Turn


class ReplyTimer:
    """The one running clock of a session with several users."""

    __slots__ = ("_awaited", "_session", "_timeouts", "_turn", "is_for_nobody")

    def __init__(self, session: Session, timeouts: Timeouts) -> None:
        self._session = session
        self._timeouts = timeouts
        self._awaited: Awaited | None = None  # what a clock was started for, and whose
        self._turn: Turn | None = None
        self.is_for_nobody = False
        """Whether a reply is next that nobody waits for, and nobody waits behind it."""

    def update(self, first_waiting: Turn | None) -> None:
        """Start the clock for the reply that is next in line now, and only that clock."""
        session = self._session
        if not session.awaited or not (head := session.awaited[0]).written:
            return
        owner = head.owner
        if head is self._awaited and owner is self._turn and owner is not None:
            return
        turn = owner or next(session.owners, None) or first_waiting
        self.is_for_nobody = turn is None
        if (head is self._awaited and turn is self._turn) or not isinstance(turn, Turn):
            return
        last, self._awaited, self._turn = self._turn, head, turn
        clock = turn.clock
        if last is not None and last.clock is not None and last.clock is not clock:
            last.clock.stop()
        if clock is not None:
            clock.start(seconds_for(self._timeouts, head.command.verb), head.command.shown)
