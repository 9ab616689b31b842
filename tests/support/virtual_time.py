"""Both backends in virtual time: seconds pass only when nobody can do anything, and cost nothing.

For tests on memory streams: what happens in threads and on sockets takes its time outside of it. A
deadlock is then a deadline that is reached at once, and how long something took is a number and not
a measurement.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest


class _Selector(selectors.DefaultSelector):
    """Where it would wait for a file or a time, whichever is first, it jumps to the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout is not None:
            self.now += max(timeout, 0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock is its own."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def virtual_time() -> list[Any]:
    """The backends, as parameters of a test's own fixture `anyio_backend`."""
    loop: Callable[[], asyncio.AbstractEventLoop] = VirtualTimeLoop
    backends = [pytest.param(("asyncio", {"loop_factory": loop}), id="asyncio")]
    if find_spec("trio") is not None:
        from trio.testing import MockClock

        clock = MockClock(autojump_threshold=0)
        backends.append(pytest.param(("trio", {"clock": clock}), id="trio"))
    return backends


in_virtual_time = pytest.mark.parametrize("anyio_backend", virtual_time())
"""The test runs on both backends, in virtual time: a busy machine is not mistaken for a stall."""
