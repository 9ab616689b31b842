"""Dot-stuffing: nothing in a message ends it, and the server gets back what was sent."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._protocol._body import END, DotStuffer


def stuffed(*chunks: bytes) -> bytes:
    return b"".join(map(DotStuffer().stuff, chunks))


def as_a_server_reads(wire: bytes) -> bytes:
    """RFC 5321 section 4.5.2: lines up to a lone dot, each without its first dot."""
    lines: list[bytes] = []
    for line in wire.split(b"\r\n"):
        if line == b".":
            break
        lines.append(line.removeprefix(b"."))
    rest = wire.split(b"\r\n")[len(lines) :]
    assert rest == [b".", b""]
    return b"".join(line + b"\r\n" for line in lines)


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"", b""),
        (b"a\r\n", b"a\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"..\r\n", b"...\r\n"),
        (b".a\r\n.b\r\n", b"..a\r\n..b\r\n"),
        (b"a.\r\n.\r\nb\r\n", b"a.\r\n..\r\nb\r\n"),
        (b"\r\n.\r\n.\r\n", b"\r\n..\r\n..\r\n"),
        (b"a\n.b\r.c\r\n", b"a\n.b\r.c\r\n"),
    ],
)
def test_a_dot_that_starts_a_line_is_doubled(message: bytes, wire: bytes) -> None:
    assert stuffed(message) == wire
    for cuts in itertools.product([False, True], repeat=max(len(message) - 1, 0)):
        chunks = [message[:1]]
        for byte, cut in zip(message[1:], cuts, strict=True):
            chunks += [bytes([byte])] if cut else [chunks.pop() + bytes([byte])]
        assert stuffed(*chunks) == wire


def test_a_clean_chunk_is_not_copied() -> None:
    chunk = b"a\r\n" * 1000
    assert DotStuffer().stuff(chunk) is chunk


# Few different octets, so that those which matter meet.
MESSAGES = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\r", b"\n"]), max_size=30).map(b"".join)
EDGES = st.lists(st.integers(0, 40), max_size=10).map(sorted)


@given(MESSAGES, EDGES)
def test_any_chunking_gives_the_same(message: bytes, cuts: list[int]) -> None:
    edges = [0, *cuts, len(message)]
    chunks = [message[start:end] for start, end in itertools.pairwise(edges)]
    assert stuffed(*chunks) == stuffed(message)


@given(MESSAGES | st.binary(max_size=40), EDGES)
def test_a_server_reads_back_what_was_sent(message: bytes, cuts: list[int]) -> None:
    message = message and message + b"\r\n"
    edges = [0, *cuts, len(message)]
    chunks = [message[start:end] for start, end in itertools.pairwise(edges)]
    assert as_a_server_reads(stuffed(*chunks) + END) == message
