"""The stream in between passes everything on, and counts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from anyio import ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute

from anysmtp.cli._tap import Step, Stopwatch, Tap
from anysmtp.testing._memory import MemoryByteStream, memory_pair

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pair() -> AsyncIterator[tuple[MemoryByteStream, MemoryByteStream]]:
    ours, theirs = memory_pair(65536)
    async with ours, theirs:
        yield ours, theirs


async def test_what_is_said_before_the_first_send_is_the_greeting(
    pair: tuple[MemoryByteStream, MemoryByteStream],
) -> None:
    ours, theirs = pair
    sent: list[str] = []
    tap = Tap(ours, lambda: sent.append("sent"))
    assert (tap.greeting or "nothing", sent) == ("nothing", [])
    await theirs.send(b"220 \xff\r\n")
    assert await tap.receive() == b"220 \xff\r\n"
    assert (tap.greeting, sent) == ("220 \ufffd", [])
    await tap.send(b"EHLO\r\n")
    await tap.send(b"NOOP\r\n")
    await theirs.send(b"250 ok\r\n")
    await tap.receive()
    assert (tap.greeting, sent) == ("220 \ufffd", ["sent"])
    assert [await theirs.receive() for _ in range(2)] == [b"EHLO\r\n", b"NOOP\r\n"]


async def test_a_round_trip_is_a_change_of_turns(
    pair: tuple[MemoryByteStream, MemoryByteStream],
) -> None:
    ours, theirs = pair
    tap, steps = Tap(ours), list[Step]()
    watch = Stopwatch(steps, tap)
    for piece in (b"2", b"20\r\n"):
        await theirs.send(piece)
        await tap.receive()
    watch.mark("greeting")
    await tap.send(b"NOOP\r\n")
    await theirs.send(b"250\r\n")
    await tap.receive()
    watch.mark("NOOP")
    watch.mark("nothing")
    assert [(step.name, step.round_trips) for step in steps] == [
        ("greeting", 1),
        ("NOOP", 1),
        ("nothing", 0),
    ]


async def test_what_is_kept_is_bounded(pair: tuple[MemoryByteStream, MemoryByteStream]) -> None:
    ours, theirs = pair
    tap = Tap(ours)
    for _ in range(3):
        await theirs.send(b"x" * 1000)
        await tap.receive()
    assert len(tap.head) == 2048


async def test_it_ends_as_the_stream_does_and_has_its_attributes(
    pair: tuple[MemoryByteStream, MemoryByteStream],
) -> None:
    ours, theirs = pair
    tap = Tap(ours)
    assert tap.extra(SocketAttribute.remote_address, None) is None
    await tap.send_eof()
    with pytest.raises(EndOfStream):
        await theirs.receive()
    await tap.aclose()
    with pytest.raises(ClosedResourceError):
        await ours.receive()
