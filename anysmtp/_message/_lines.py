"""Lines that are too long for SMTP.

RFC 5321 section 4.5.3.1.6: a line has 1000 octets at the most, its CRLF included. Some servers
refuse a longer one, and some cut it in two, which breaks whatever it was part of.

Nearly all lines are far shorter. So the search leaps: from the start of a line a thousand octets
ahead, and back to the last line end before that, which is seldom far. Lines of one length are
passed over before.
"""

from __future__ import annotations

import re
from typing import AnyStr

from ._even import even_beginning

MAX_LINE = 998
# Octets that are many lines.
_MANY = 64 * 1024
_ENDS = re.compile(r"[\r\n]")
_ENDS_OF_OCTETS = re.compile(rb"[\r\n]")


class LongLine(ValueError):
    """A message has a line that is too long, and cannot be written with shorter ones."""

    def __init__(self) -> None:
        super().__init__(
            f"the message has a line of more than {MAX_LINE} octets (RFC 5321 section 4.5.3.1.6); "
            "allow_long_lines=True sends it all the same"
        )


def has_long_line(text: str) -> bool:
    """Whether text, with one character for an octet, has a line of more than `MAX_LINE`."""
    start = _leap(text, "\n", "\r")
    return start is not None and max(map(len, _ENDS.split(text[start:]))) > MAX_LINE


def has_long_line_of_octets(data: bytes) -> bool:
    start = _leap(data, b"\n", b"\r")
    return start is not None and max(map(len, _ENDS_OF_OCTETS.split(data[start:]))) > MAX_LINE


def _leap(data: AnyStr, lf: AnyStr, cr: AnyStr) -> int | None:
    """Where a line starts that is too long unless it ends in CR alone; None: there is none."""
    start, end, rfind = 0, len(data), data.rfind
    if end > _MANY:
        start = even_beginning(data, lf, MAX_LINE)
    while end - start > MAX_LINE:
        found = rfind(lf, start, start + MAX_LINE + 2)
        if found - start > MAX_LINE:
            if data[found - 1 : found] != cr:
                return start
        elif found < 0:
            return start
        start = found + 1
    return None
