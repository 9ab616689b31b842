"""How many messages may begin in how many seconds, in any span of that length.

`Rate` is pure state; `Pace` has those that come too early wait, in the order of asking. A message
begins when its connection is there, and is found alive after the wait, so that one who stops
waiting has used up nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio


class Rate:
    """At most ``count`` messages in any ``seconds``."""

    def __init__(self, count: int, seconds: float) -> None:
        self._seconds = seconds
        self._begun: deque[float] = deque(maxlen=count)

    def delay(self, now: float) -> float:
        """Seconds until another one may begin; 0: now."""
        begun = self._begun
        if len(begun) < (begun.maxlen or 0):
            return 0.0
        return max(0.0, begun[0] + self._seconds - now)

    def begin(self, now: float) -> None:
        """One begins."""
        self._begun.append(now)


class Pace:
    """The rate of one client."""

    def __init__(self, rate: tuple[int, float]) -> None:
        self._rate = Rate(*rate)
        self._line = anyio.Lock(fast_acquire=True)

    async def begin(self, is_possible: Callable[[], bool]) -> bool:
        """Begin a message as soon as one may, if it still is possible then; whether it was."""
        async with self._line:
            if delay := self._rate.delay(anyio.current_time()):
                await anyio.sleep(delay)
                if not is_possible():
                    return False
            self.begin_now()
            return True

    @property
    def may_begin_now(self) -> bool:
        """Whether one may, and nobody waits."""
        return not self._line.locked() and not self._rate.delay(anyio.current_time())

    def begin_now(self) -> None:
        """Begin a message."""
        self._rate.begin(anyio.current_time())
