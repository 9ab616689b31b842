"""A stream in between, that counts round trips and keeps what came first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyio.abc import ByteStream

# Octets of what came first that are kept; a greeting is a line or a few.
_HEAD = 2048


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was waited for."""

    name: str
    seconds: float
    round_trips: int


class Tap(ByteStream):
    """Passes everything on, and watches."""

    def __init__(self, stream: ByteStream, on_first_send: Callable[[], None] | None = None) -> None:
        # Any: the types of anyio's streams have holes at their attributes.
        self._stream: Any = stream
        self._on_first_send = on_first_send
        self._is_turn = True
        self._greeting: bytes | None = None
        self.head = b""
        """What the server said first."""
        self.round_trips = 0
        """How often there was something to wait for; to be connected is to have asked."""

    @property
    def greeting(self) -> str | None:
        """What the server said unasked; None if it said nothing."""
        said = self.head if self._greeting is None else self._greeting
        return said.decode("utf-8", "replace").strip() or None

    async def send(self, item: bytes) -> None:
        if self._greeting is None:
            self._greeting = self.head
            if self._on_first_send is not None:
                self._on_first_send()
        self._is_turn = True
        await self._stream.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = await self._stream.receive(max_bytes)
        self.round_trips += self._is_turn
        self._is_turn = False
        self.head += data[: _HEAD - len(self.head)]
        return data

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: Mapping[Any, Callable[[], Any]] = self._stream.extra_attributes
        return attributes


class Stopwatch:
    """Writes down steps, each from where the one before it ended."""

    def __init__(self, steps: list[Step], tap: Tap) -> None:
        self._steps = steps
        self._tap = tap
        self._round_trips = 0
        self.skip()

    def mark(self, name: str) -> None:
        """A step has ended."""
        seconds = time.perf_counter() - self._start
        self._steps.append(Step(name, seconds, self._tap.round_trips - self._round_trips))
        self._round_trips = self._tap.round_trips
        self.skip()

    def skip(self) -> None:
        """What was done since the last step is not of any step."""
        self._start = time.perf_counter()
