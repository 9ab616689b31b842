"""Which connection serves whom: pure synchronous state.

Nothing here awaits, so no cancellation can tear it. A caller makes a `Claim`; it is granted at
once, or later by what another one does, first come first served, and `wake` is called then. What
it is granted is a *slot*: one with an idle connection; an empty one, whose holder opens a
connection; or a share of one in use, where two messages can be on their way on the same connection.
Every claim is given back, by `release` or, if its task went away while it waited, by `withdraw`,
and what it held goes to the next in line.

How many slots there may be follows the server. One that refuses a connection while it serves others
lowers `allowed` to what it serves, and the claim waits for one of those; as messages are taken,
and after a pause that doubles with each refusal, one more is tried: the way of Postfix's scheduler,
which never asks at full strength again at once. Only a few are opened at a time until as many are
there, and only one until a login has worked.

Time is what the caller says it is, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

C = TypeVar("C")

# How many connections are opened at once while fewer than that are open (Postfix's
# initial_destination_concurrency).
OPENED_AT_ONCE = 5
# Seconds before a server that refused a connection is asked for one more; doubled each time.
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 640.0
# So many use one connection together at most: more would wait there while another becomes idle.
MAX_SHARE = 16
# Taken from the number of a claim that has waited before: more than claims are ever counted, so
# that all of those come before all others, and in their own order.
_IN_FRONT = 2**60


class Slot(Generic[C]):
    """Room for one connection."""

    __slots__ = ("connection", "idle_since", "users", "was_used")

    def __init__(self) -> None:
        self.connection: C | None = None
        self.users = 0
        self.was_used = False
        """Whether the connection served somebody before those who have it now."""
        self.idle_since = 0.0


class Claim(Generic[C]):
    """One caller's right, or wait, to use one connection."""

    __slots__ = (
        "asker",
        "holder",
        "is_fresh",
        "may_share",
        "number",
        "slot",
        "ticket",
        "wake",
        "was_used",
    )

    def __init__(
        self,
        wake: Callable[[], None],
        number: int,
        *,
        holder: object,
        is_fresh: bool,
        may_share: bool,
    ) -> None:
        self.holder = holder
        """Who has it, if he may ask for another one meanwhile; else None."""
        self.asker: object = None
        """Who cannot go on before it is granted, where it was not granted at once."""
        self.wake = wake
        self.number = number
        self.is_fresh = is_fresh
        """Whether it must be a connection that has served nobody."""
        self.may_share = may_share
        self.ticket: object = None
        """Whatever the caller wants to know the claim by when it is the next one."""
        self.slot: Slot[C] | None = None
        self.was_used = False
        """Whether the connection had served somebody else when it was granted."""

    @property
    def is_granted(self) -> bool:
        return self.slot is not None

    @property
    def connection(self) -> C | None:
        """The connection in use; None while the holder has to open one."""
        return None if self.slot is None else self.slot.connection


class Pool(Generic[C]):
    """The connections of one client, at most ``capacity`` of them."""

    def __init__(
        self,
        capacity: int,
        *,
        keepalive: float | None = None,
        opens_one_first: bool = False,
        has_room: Callable[[C], bool] = lambda connection: False,
    ) -> None:
        self.capacity = capacity
        self.allowed = capacity
        """How many connections the server is asked for at present."""
        self.refusals = 0
        """How often it was lowered since it was the capacity."""
        self.opens_one_first = opens_one_first
        """Whether only one is opened at a time, because it is not known that a login works."""
        self._keepalive = keepalive
        self._has_room = has_room
        self._slots: list[Slot[C]] = []
        self._idle: list[Slot[C]] = []
        self._waiting: deque[Claim[C]] = deque()
        self._granted: set[Claim[C]] = set()
        self._numbers = 0
        self._taken = 0  # messages since `allowed` changed last
        self._pause = FIRST_PAUSE
        self._not_before = 0.0
        self._was_raised = True

    @property
    def open(self) -> int:
        """How many connections there are."""
        return sum(slot.connection is not None for slot in self._slots)

    @property
    def size(self) -> int:
        """How many connections there are or are being opened."""
        return len(self._slots)

    @property
    def idle(self) -> int:
        """How many connections wait for somebody to use them."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """How many slots are somebody's."""
        return len(self._slots) - len(self._idle)

    @property
    def granted(self) -> int:
        """How many claims are granted."""
        return len(self._granted)

    @property
    def waiting(self) -> int:
        """How many claims are not."""
        return len(self._waiting)

    @property
    def next(self) -> Claim[C] | None:
        """Who waits first."""
        return self._waiting[0] if self._waiting else None

    def claim(
        self,
        wake: Callable[[], None],
        asker: Callable[[], object],
        *,
        holder: object = None,
        is_first: bool = False,
        is_fresh: bool = False,
        may_share: bool = False,
    ) -> Claim[C]:
        """Ask for a connection; ``is_first``, because it has waited before, in front of the others.

        ``asker`` says who waits, if somebody has to. RuntimeError if everybody who has a connection
        waits for another one, this asker included.
        """
        self._numbers += 1
        # In front of all that ask for the first time, and behind those that have asked again.
        number = self._numbers - _IN_FRONT if is_first else self._numbers
        claim: Claim[C] = Claim(wake, number, holder=holder, is_fresh=is_fresh, may_share=may_share)
        if self._idle and not self._waiting and not is_fresh:
            self._give(claim, self._idle.pop())
            return claim
        claim.asker = asker()
        self._queue(claim)
        self._grant()
        if claim.slot is None and self._is_deadlocked():
            self._waiting.remove(claim)
            raise RuntimeError(
                "this task holds the last connection and asks for another one: send on the "
                "connection that it has"
            )
        return claim

    def next_idle(self, now: float) -> C | None:
        """The connection that a claim would get now, if none was idle for too long."""
        idle, keepalive = self._idle, self._keepalive
        if not idle or self._waiting:
            return None
        if keepalive is not None and now - idle[0].idle_since > keepalive:
            return None
        return idle[-1].connection

    def board(self, claim: Claim[C], connection: C) -> None:
        """The one who waits first rides along on a connection in use."""
        (slot,) = (slot for slot in self._slots if slot.connection is connection)
        assert claim is self._waiting[0]
        self._waiting.popleft()
        self._give(claim, slot)

    def opening(self, claim: Claim[C]) -> None:
        """The connection in the slot was of no use: its only holder opens another one."""
        assert claim.slot is not None
        claim.slot.connection = None
        claim.was_used = False

    def opened(self, claim: Claim[C], connection: C) -> None:
        """The holder of an empty slot, or one whose connection was dead, has opened one."""
        slot = claim.slot
        assert slot is not None
        slot.connection = connection
        slot.was_used = False
        self.opens_one_first = False
        if len(self._slots) == self.allowed:
            self._pause = FIRST_PAUSE
        self._grant()

    def refused(self, claim: Claim[C], now: float) -> bool:
        """The server did not let this one in: whether the claim may wait for one that it serves.

        If not, it is for the caller to give it back.
        """
        slot = claim.slot
        assert slot is not None
        others = len(self._slots) - 1
        if not others:
            return False
        self.lower(others, now)
        self._granted.remove(claim)
        self._slots.remove(slot)
        claim.slot = None
        claim.is_fresh = False
        slot.users = 0
        self._queue(claim)
        if not self._idle and self._is_deadlocked():
            self._waiting.remove(claim)
            self._slots.append(slot)
            self._give(claim, slot)
            return False
        self._grant()
        return True

    def lower(self, allowed: int, now: float) -> None:
        """The server has said that there are too many connections."""
        self.refusals = self.refusals + 1 if self.is_lowered else 1
        self.allowed = max(1, min(allowed, self.allowed))
        self._taken = 0
        # Those that were opened together are refused together: that is one refusal.
        if self._was_raised or now >= self._not_before:
            self._was_raised = False
            self._not_before = now + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    @property
    def is_lowered(self) -> bool:
        """Whether the server is asked for fewer connections than there might be."""
        return self.allowed < self.capacity

    def took_message(self, now: float) -> None:
        """The server took a message: it may be asked for more connections, slowly."""
        if not self.is_lowered:
            return
        self._taken += 1
        if self._taken >= self.allowed and now >= self._not_before:
            self.allowed += 1
            self._was_raised = True
            self._taken = 0
            self._not_before = now + FIRST_PAUSE
            self._grant()

    def release(self, claim: Claim[C], now: float, *, keep: bool) -> None:
        """The holder is done; ``keep`` if the connection can be used again."""
        slot = claim.slot
        assert slot is not None
        self._granted.remove(claim)
        claim.slot = claim.ticket = None
        slot.users -= 1
        if not slot.users:
            if keep:
                slot.was_used = True
                slot.idle_since = now
                self._idle.append(slot)
            else:
                self._slots.remove(slot)
        if self._waiting:
            self._grant()

    def withdraw(self, claim: Claim[C], now: float) -> None:
        """The caller went away before he used what he asked for."""
        if claim.is_granted:
            self.release(claim, now, keep=claim.connection is not None)
        elif claim in self._waiting:
            self._waiting.remove(claim)
            # Behind one that could not be served there may be one that can share.
            self._grant()

    def expired(self, now: float) -> list[C]:
        """Take out the connections that were idle for too long; the caller closes them."""
        # The one that was used first stands in front.
        idle, keepalive = self._idle, self._keepalive
        if keepalive is None or not idle or now - idle[0].idle_since <= keepalive:
            return []
        return self._take_out([slot for slot in idle if now - slot.idle_since > keepalive])

    def drain(self) -> list[C]:
        """Take out all idle connections."""
        return self._take_out([*self._idle])

    def connections(self) -> list[C]:
        """All connections, idle and in use."""
        return [slot.connection for slot in self._slots if slot.connection is not None]

    def connections_in_use(self) -> list[C]:
        return [held.connection for held in self._granted if held.connection is not None]

    def is_held_by(self, holder: object) -> bool:
        return any(held.holder == holder for held in self._granted)

    def _take_out(self, slots: list[Slot[C]]) -> list[C]:
        for slot in slots:
            self._idle.remove(slot)
            self._slots.remove(slot)
        return [slot.connection for slot in slots if slot.connection is not None]

    def _queue(self, claim: Claim[C]) -> None:
        """In the order of asking, also for one that comes back."""
        behind: list[Claim[C]] = []
        while self._waiting and self._waiting[-1].number > claim.number:
            behind.append(self._waiting.pop())
        self._waiting.append(claim)
        self._waiting.extend(reversed(behind))

    def _grant(self) -> None:
        while self._waiting and (slot := self._slot_for(self._waiting[0])) is not None:
            self._give(self._waiting.popleft(), slot)

    def _give(self, claim: Claim[C], slot: Slot[C]) -> None:
        claim.slot = slot
        claim.was_used = slot.was_used or slot.users > 0
        slot.users += 1
        self._granted.add(claim)
        claim.wake()

    def _slot_for(self, claim: Claim[C]) -> Slot[C] | None:
        if claim.is_fresh and self._may_open():
            return self._new_slot()
        if self._idle:
            # The one used last is the least likely to have been closed by the server.
            return self._idle.pop()
        if self._may_open():
            return self._new_slot()
        if claim.may_share and not claim.is_fresh:
            shareable = filter(self._is_shareable, self._slots)
            return min(shareable, key=_users, default=None)
        return None

    def _may_open(self) -> bool:
        if len(self._slots) >= self.allowed:
            # Whoever waits for himself is better off with the server's word.
            return len(self._slots) < self.capacity and self._is_deadlocked()
        opening = len(self._slots) - self.open
        at_once = 1 if self.opens_one_first else max(OPENED_AT_ONCE, self.open)
        return opening < at_once

    def _new_slot(self) -> Slot[C]:
        slot: Slot[C] = Slot()
        self._slots.append(slot)
        return slot

    def _is_shareable(self, slot: Slot[C]) -> bool:
        if slot.connection is None or slot.users >= MAX_SHARE:
            return False
        return self._has_room(slot.connection)

    def _is_deadlocked(self) -> bool:
        """Whether everybody who could give back a connection waits for one."""
        waiting = {claim.asker for claim in self._waiting}
        return bool(self._granted) and all(held.holder in waiting for held in self._granted)


def _users(slot: Slot[Any]) -> int:
    return slot.users
