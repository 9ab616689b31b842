"""What a source has given, and the connection has not taken yet.

The caller's task reads the source and puts what it gives into the stock; another task takes it out
and writes it. Pieces that come one behind another leave together, and none waits long for the next:
what is there is taken when it is enough, when the source has ended, or after a second. So a source
that takes its time keeps a server busy (RFC 5321 section 4.5.3.2.5 has it wait three minutes for
each piece), and one that gives a line at a time costs no write, and no BDAT, for each.
"""

from __future__ import annotations

import anyio

from ._bell import Bell

# Seconds for which octets wait for others to leave with them.
_PAUSE = 1.0


class Stock:
    """Octets between the one who reads a source and the one who writes."""

    __slots__ = ("_enough", "_found", "_is_over", "_length", "_news", "_room", "_taken")

    may_wait = True

    def __init__(self, enough: int) -> None:
        """``enough``: octets that are taken at once; no more are put in then."""
        self._enough = enough
        self._found: list[bytes] = []
        self._length = 0  # with what was taken last
        self._taken = 0
        self._is_over = False
        self._news = Bell()
        self._room = Bell()

    async def put(self, piece: bytes) -> None:
        """Add octets; where there are enough, wait until these are out."""
        self._found.append(piece)
        self._length += len(piece)
        self._news.ring()
        while self._is_ready:
            await self._room.wait()

    def end(self, last: bytes = b"") -> None:
        """Nothing more is put in, but for the last octets, which leave with the end."""
        self._found.append(last)
        self._length += len(last)
        self._is_over = True
        self._news.ring()

    async def take(self) -> tuple[bytes, bool]:
        """What is there, once there is something, and whether it is the last.

        What was taken before is out.
        """
        self._length -= self._taken
        self._taken = 0
        self._room.ring()
        while not (self._found or self._is_over):
            await self._news.wait()
        if not self._is_ready:
            with anyio.move_on_after(_PAUSE):
                while not self._is_ready:
                    await self._news.wait()
        taken = b"".join(self._found)
        self._found.clear()
        self._taken = len(taken)
        return taken, self._is_over

    @property
    def _is_ready(self) -> bool:
        return self._is_over or self._length >= self._enough
