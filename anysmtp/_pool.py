"""Which connection serves whom: pure synchronous state.

Nothing here awaits, so no cancellation can tear it. A caller makes a `Claim`; it is granted at
once, or later by the `release` or `withdraw` of another one, first come first served, and `wake` is
called then. A granted claim may bring an idle connection; if it does not, its holder
opens one. Every claim is given back, by `release` with the connection if that can be used again, or
by `withdraw` if it was never used; a claim that was granted while its task was being
cancelled passes what it holds on to the next in line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class Claim(Generic[C]):
    """One caller's right, or wait, to use one connection."""

    __slots__ = ("connection", "holder", "is_granted", "wake", "was_used")

    def __init__(self, holder: object, wake: Callable[[], None]) -> None:
        self.holder = holder
        self.wake = wake
        self.is_granted = False
        self.connection: C | None = None
        """The connection in use; None while the holder has to open one."""
        self.was_used = False
        """Whether the connection served somebody before."""


class Pool(Generic[C]):
    """The connections of one client, at most ``capacity`` of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._idle: list[C] = []
        self._waiting: deque[Claim[C]] = deque()
        self._granted: set[Claim[C]] = set()

    @property
    def idle(self) -> int:
        """How many connections wait for somebody to use them."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """How many claims are granted."""
        return len(self._granted)

    @property
    def waiting(self) -> int:
        """How many claims are not."""
        return len(self._waiting)

    def claim(self, holder: object, wake: Callable[[], None]) -> Claim[C]:
        """Ask for a connection.

        RuntimeError if every connection is held by the same holder: he would wait for himself.
        """
        claim = Claim[C](holder, wake)
        self._waiting.append(claim)
        self._grant()
        if not claim.is_granted and all(held.holder == holder for held in self._granted):
            self._waiting.remove(claim)
            raise RuntimeError(
                "this task holds the last connection and asks for another one: send on the "
                "connection that it has"
            )
        return claim

    def release(self, claim: Claim[C], connection: C | None) -> None:
        """The holder is done; ``connection`` if it can be used again, None if it is closed."""
        self._granted.remove(claim)
        if connection is not None:
            self._idle.append(connection)
        self._grant()

    def withdraw(self, claim: Claim[C]) -> None:
        """The caller went away before he used what he asked for."""
        if claim.is_granted:
            self.release(claim, claim.connection)
        else:
            self._waiting.remove(claim)

    def drain(self, *, in_use: bool = False) -> list[C]:
        """Take out all idle connections; with ``in_use``, name the others too."""
        drained, self._idle = self._idle, []
        if in_use:
            drained += [held.connection for held in self._granted if held.connection is not None]
        return drained

    def is_held_by(self, holder: object) -> bool:
        return any(held.holder == holder for held in self._granted)

    def _grant(self) -> None:
        while self._waiting and len(self._granted) < self.capacity:
            claim = self._waiting.popleft()
            claim.is_granted = True
            # The one used last is the least likely to have been closed by the server.
            claim.connection = self._idle.pop() if self._idle else None
            self._granted.add(claim)
            claim.wake()
