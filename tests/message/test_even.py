"""Lines of one length: what is seen of them in bulk is what a look at each line says."""

from __future__ import annotations

from base64 import encodebytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._message._content import with_crlf
from anysmtp._message._even import even_beginning, missing_crs

WIDTH = 16
LINES = st.lists(st.sampled_from(["x" * (WIDTH - 1), "x" * WIDTH, "x" * 40, "x", ""]), max_size=9)


@given(LINES, st.lists(st.sampled_from(["\n", "\r\n", "\r", "x\n"]), min_size=9), st.booleans())
def test_what_is_said_to_be_missing_is_what_is_put_in(
    lines: list[str], ends: list[str], is_same: bool
) -> None:
    ends = ends[:1] * 9 if is_same else ends
    octets = "".join(map("".join, zip(lines, ends, strict=False))).encode()
    missing = missing_crs(octets)
    assert missing is None or len(octets) + missing == len(with_crlf(octets))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [0, 1, 20, 75])
def test_of_base64_it_is_seen_wherever_it_is_cut(end: bytes, start: int) -> None:
    octets = encodebytes(bytes(57 * 50)).replace(b"\n", end)[start:]
    assert missing_crs(octets) == (50 if end == b"\n" else 0)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"x" * 100,
        b"x" * 100 + b"\n",
        b"\n" * 100,
        b"short\n" * 100,
        (b"x" * 30 + b"\n") * 9 + b"x\n",
        (b"x" * 30 + b"\n") * 9 + b"x\r",
        (b"x" * 30 + b"\r\n") * 9 + b"x" * 30 + b"\r",
        (b"x" * 30 + b"\n") * 9 + b"x" * 29 + b"\r\n",
        b"\n" + (b"x" * 30 + b"\n") * 9,
    ],
)
def test_it_is_not_seen_of_other_lines(octets: bytes) -> None:
    assert missing_crs(octets) is None


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("odd", ["", "x", "x" * 40 + "\n", "x" * 2000])
def test_the_beginning_ends_before_a_line_that_is_another(end: str, odd: str) -> None:
    line = "x" * 30 + end
    text = line * 2500 + odd
    assert even_beginning(text, "\n", 998) == 2048 * len(line)
    assert even_beginning(text.encode(), b"\n", 998) == 2048 * len(line)


@pytest.mark.parametrize("line", ["\n", "x\n", "x" * 998 + "\n", "x" * 5000 + "\n", "x"])
def test_there_is_no_beginning_of_lines_that_are_short_or_too_long(line: str) -> None:
    assert even_beginning(line * (100_000 // len(line)), "\n", 998) == 0
