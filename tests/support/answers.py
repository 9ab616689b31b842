"""What a server may answer to a flight, and how the network may cut it up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from hypothesis import strategies as st

YES = st.sampled_from(["250 ok", "250 2.1.5 Ok", "251 will forward", "250 " + "x" * 600])
ODD = st.sampled_from(
    [
        *("250-two\r\n250 lines", "250", "450 4.2.1 later", "550 5.1.1 nobody", "452 4.5.3 enough"),
        *("354 go on", "421 4.3.2 bye", "554 5.5.0 no", "not a reply", "250\tok", "200 \xff"),
    ]
)
REPLIES = st.lists(st.one_of(YES, YES, YES, ODD), min_size=60, max_size=60)
CUTS = st.lists(st.integers(0, 5000), max_size=6)


def octets_of(replies: Sequence[str]) -> bytes:
    return "\r\n".join([*replies, ""]).encode("latin-1")


def pieces_of(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """The same octets, cut in these places or somewhere else."""
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return (data[start:end] for start, end in pairwise(places))
