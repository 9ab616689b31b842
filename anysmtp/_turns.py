"""Whose turn it is to write on a channel, and who may ride along.

A `Turn` is the right to write, from the first octet of a conversation to the point from which
others may follow. It is waited for in a fair queue. One who waits with a message that is ready is a
*passenger*: the write that ends the message before his takes his first flight along, so that his
envelope needs no write and no wait of its own. From then on the turn is his, unless all of his
message was in that flight.

Nothing here awaits but the waiting itself, and what is granted to a task that is being cancelled
is passed on in the same step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio

if TYPE_CHECKING:
    from ._channel import Channel
    from ._clock import Clock

T = TypeVar("T")


class Passenger(Protocol):
    """A message that can begin with somebody else's write."""

    @property
    def needs_turn(self) -> bool:
        """Whether more is to be written once the first flight is answered."""
        ...

    def board(self, channel: Channel, turn: Turn) -> bytes:
        """Plan the transaction and queue what its first flight awaits; its octets, to be written
        now.

        Nothing if it cannot begin like that; then nothing has changed.
        """
        ...


class Turn:
    """One task's wait for the right to write, and the right."""

    __slots__ = ("_granted", "clock", "has_boarded", "on_boarding", "passenger")

    def __init__(
        self,
        clock: Clock | None = None,
        passenger: Passenger | None = None,
        on_boarding: Callable[[], None] | None = None,
    ) -> None:
        self.clock = clock
        """What times the replies that are awaited with it."""
        self.passenger = passenger
        self.on_boarding = on_boarding
        """Called when a passenger who waits elsewhere is about to leave."""
        self.has_boarded = False
        """Whether it has."""
        self._granted: anyio.Event | None = None

    def wake(self) -> None:
        if self._granted is not None:
            self._granted.set()

    async def wait(self) -> None:
        self._granted = anyio.Event()
        await self._granted.wait()


class Turns:
    """The turns of one channel: one holder at most, and those who wait."""

    __slots__ = ("_rest", "_waiting", "holder", "others")

    def __init__(self) -> None:
        self.holder: Turn | None = None
        self._waiting: deque[Turn] = deque()
        self._rest: anyio.CancelScope | None = None
        self.others: Callable[[], Turn | None] | None = None
        """Who is next of those who wait elsewhere, for any channel."""

    @property
    def are_waited_for(self) -> bool:
        return bool(self._waiting)

    def take_now(self, turn: Turn) -> bool:
        """Take the turn if nobody has it or waits for it; whether that was so."""
        if self.holder is not None or self._waiting:
            return False
        self.holder = turn
        return True

    async def take(self, turn: Turn) -> None:
        """Wait for a turn that is not free; a passenger may be under way when this returns."""
        self._waiting.append(turn)
        if turn.clock is not None:
            turn.clock.stop()
        try:
            await turn.wait()
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
            raise

    async def rest(self, until: Callable[[], Awaitable[T]]) -> T | None:
        """Have the holder wait for what does not come from the server; None: that was ended."""
        with anyio.CancelScope() as self._rest:
            try:
                return await until()
            finally:
                self._rest = None
        return None

    def end_rest(self) -> None:
        """Whatever the holder waits for like that: he need not."""
        if self._rest is not None:
            self._rest.cancel()

    def pass_on(self) -> None:
        """Nobody writes now: whoever is next may."""
        if self.holder is None and self._waiting:
            self.holder = self._waiting.popleft()
            self.holder.wake()

    def take_along(self, channel: Channel) -> bytes:
        """The first flights of those who are next, for a write that ends a message.

        The last of them has the turn, if he needs it.
        """
        if (turn := self._next()) is None:
            return b""
        flights: list[bytes] = []
        while turn is not None and turn.passenger is not None:
            if not (flight := turn.passenger.board(channel, turn)):
                break
            flights.append(flight)
            self._board(turn)
            if turn.passenger.needs_turn:
                self.holder = turn
                break
            turn = self._next()
        return b"".join(flights)

    @property
    def is_anybody_next(self) -> bool:
        """Whether somebody waits, here or elsewhere, who may board or have the turn next."""
        return bool(self._waiting) or (self.others is not None and self.others() is not None)

    def _next(self) -> Turn | None:
        if self._waiting:
            return self._waiting[0]
        return None if self.others is None else self.others()

    def _board(self, turn: Turn) -> None:
        turn.has_boarded = True
        if self._waiting:
            self._waiting.popleft()
        else:
            assert turn.on_boarding is not None
            turn.on_boarding()
        turn.on_boarding = None
        turn.wake()


class Speaking:
    """The right to write on a channel, for as long as the block takes, or until `leave`."""

    __slots__ = ("_channel", "_turn")

    def __init__(self, channel: Channel, turn: Turn) -> None:
        self._channel = channel
        self._turn = turn

    async def __aenter__(self) -> Turn:
        turn = self._turn
        turns = self._channel.turns
        if not (turn.has_boarded or turns.take_now(turn)):
            try:
                await turns.take(turn)
            except BaseException:
                self._channel.forsake(turn)
                await self._channel.leave(turn)
                raise
        return turn

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            # One that rode along may not have come to wait for its replies.
            self._channel.forsake(self._turn)
        await self._channel.leave(self._turn)
