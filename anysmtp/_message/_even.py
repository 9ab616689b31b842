"""Lines of one length, such as base64 has: what has to be known of them is known in bulk.

To find all line ends takes a search for each line. Where lines are of one length, the places of
their ends are read, and written over, with one stride; and that there is no other line end is one
search, which finds nothing and is as fast as memory.
"""

from __future__ import annotations

from typing import AnyStr

# Lines that are looked at in one go: more would cost memory, and fewer time.
_GO = 1024
# With lines that are shorter, strides gain nothing.
_LEAST = 16


def missing_crs(octets: bytes) -> int | None:
    """How many LFs have no CR in front, if that is all or none of them; None: it is not seen."""
    first = octets.find(b"\n")
    distance = octets.find(b"\n", first + 1) - first
    if first < 1 or distance < _LEAST:
        return None
    rest = bytearray(octets)
    lfs = _take_out(b"\n", rest, slice(first, None, distance))
    crs = _take_out(b"\r", rest, slice(first - 1, None, distance))
    if b"\n" in rest or b"\r" in rest or crs not in (0, lfs):
        return None
    return lfs - crs


def even_beginning(text: AnyStr, lf: AnyStr, most: int) -> int:
    """Up to where all lines are certainly as long as the first, which has ``most`` at the most."""
    distance = text.find(lf, 0, most) + 1
    if distance < _LEAST:
        return 0
    start, step, ends = 0, distance * _GO, lf * _GO
    while text[start + distance - 1 : start + step : distance] == ends:
        start += step
    return start


def _take_out(octet: bytes, octets: bytearray, places: slice) -> int:
    """How many there are of an octet, which is in all of these places, and then no more; or 0."""
    found = bytes(octets[places])
    if found != octet * len(found):
        return 0
    octets[places] = bytes(len(found))
    return len(found)
