"""One mail of `SMTP.send_many` on its way through a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._attempts import Retry
from ._leases import Again, Leases
from ._lifecycle import Call
from ._monitor import Monitor
from ._parcel import Parcel
from ._sending import Sending
from ._turns import Turn

if TYPE_CHECKING:
    from ._folding import Folded


class Item(Parcel):
    """One mail on its way."""

    __slots__ = ("again", "folded", "number", "turn")

    def __init__(self, number: int, key: Any, monitor: Monitor, retry: Retry | None) -> None:
        super().__init__(monitor, retry, key)
        self.number = number
        self.again: Again | None = None
        self.folded: Folded | None = None
        """The transaction under way, as long as nothing is known of it but yes."""
        self.turn: Turn
        """Set by a worker."""

    @property
    def is_known(self) -> bool:
        """Whether anybody has it, may have it, or was refused: its delivery must come out then."""
        ledger = self.book.ledger
        return any(ledger.keys(outcome) for outcome in ("accepted", "refused", "in_doubt"))

    def equip(self, leases: Leases, call: Call) -> None:
        """Make what brings it through a channel."""
        self.turn = Turn(call, self.sending_through(leases))

    def sending_through(self, leases: Leases) -> Sending:
        """Make what brings it through a channel on which it has a turn."""
        return leases.sending(self, self.again)

    def unfold(self) -> None:
        """If it is on its way folded, it is no longer."""
        if self.folded is not None:
            self.folded.unfold()
