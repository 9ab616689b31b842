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

    __slots__ = ("_awaited", "_is_ahead", "_left", "_session", "_timeouts", "_turn")

    def __init__(self, session: Session, timeouts: Timeouts) -> None:
        self._session = session
        self._timeouts = timeouts
        self._awaited: Awaited | None = None  # what a clock was started for
        self._left = 0  # how much of it, and whose
        self._turn: Turn | None = None
        self._is_ahead = False

    def update(self, first_waiting: Turn | None) -> None:
        """Start the clock for the reply that is next in line now, and only that clock."""
        session = self._session
        if self._is_ahead or not session.awaited or not (head := session.awaited[0]).written:
            return
        owner, left = head.owner, len(head.front or ())
        is_same = head is self._awaited and left == self._left
        if is_same and owner is self._turn and owner is not None:
            return
        turn = owner or next(session.owners, None) or first_waiting
        if (is_same and turn is self._turn) or not isinstance(turn, Turn):
            return
        last, self._awaited, self._left, self._turn = self._turn, head, left, turn
        clock = turn.clock
        if last is not None and last.clock is not None and last.clock is not clock:
            last.clock.stop()
        if clock is not None:
            command = head.front[0][0] if head.front else head.command
            clock.start(seconds_for(self._timeouts, command.verb), command.shown)

    def run_ahead(self) -> None:
        """The clock runs already for what the session is about to be told."""
        self._is_ahead = True

    def go_on(self, turn: Turn) -> None:
        """The session was told: what is next in line is what this turn's clock was started for."""
        self._is_ahead = False
        if (head := self._session.head) is not None:
            self._awaited, self._left, self._turn = head, len(head.front or ()), turn
            assert turn.clock is not None
            turn.clock.waiting_for = head.next_command.shown

    def rest(self) -> None:
        """Nothing is awaited: whoever waited last is not to be stopped for the next one."""
        self._awaited = self._turn = None
