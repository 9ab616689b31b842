"""How many messages may begin in how many seconds: pure state, in any window of that length."""

from __future__ import annotations

from collections import deque


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
