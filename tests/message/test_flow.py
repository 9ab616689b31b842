"""A raw message piece by piece comes to the same as in one piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._message import Flow, RawContent

_PARTS = st.sampled_from([b"a", b"\xe4", b".", b"\r", b"\n", b"\r\n", b": ", b" ", b"x" * 998])


def flowed(pieces: list[bytes]) -> tuple[bytes, Flow]:
    flow = Flow()
    return b"".join([*map(flow.feed, pieces), flow.finish()]), flow


@given(st.lists(st.lists(_PARTS).map(b"".join)))
def test_it_does_not_matter_how_a_message_is_cut(pieces: list[bytes]) -> None:
    out, flow = flowed(pieces)
    whole = RawContent(b"".join(pieces))
    assert out == b"".join(whole.chunks())
    assert flow.size == whole.size == len(out)
    assert flow.is_8bit == whole.is_8bit
    assert flow.is_utf8 == whole.is_utf8
    assert flow.has_long_lines == whole.has_long_lines
    assert flow.header == whole.header_section()


@pytest.mark.parametrize("length", [998, 999])
@pytest.mark.parametrize("cut", [1, 500, 997, 998])
def test_a_line_is_measured_across_pieces(length: int, cut: int) -> None:
    line = b"y" * length + b"\r\n"
    _, flow = flowed([b"a: b\r\n\r\n" + line[:cut], line[cut:]])
    assert flow.has_long_lines is (length > 998)


FIELD = b"a: " + b"b" * 60 + b"\r\n" + b" c\r\n" * 1000


def test_of_a_header_section_without_an_end_so_much_is_kept() -> None:
    _, flow = flowed([FIELD] * 100)
    assert 200_000 < len(flow.header) < 300_000


@pytest.mark.parametrize("end", [b"a: \xc3\xa4\r\n", b"\xc3: \xa4\r\n", b"\r\n\xc3\xa4"])
@pytest.mark.parametrize("cut", range(1, 5))
def test_all_of_a_long_header_section_is_looked_at(end: bytes, cut: int) -> None:
    _, flow = flowed([*[FIELD] * 100, end[:cut], end[cut:]])
    assert flow.is_utf8 is end.startswith(b"a")
    assert flow.is_in_body is not flow.is_utf8


@pytest.mark.parametrize("name", [b"a", b"a" * 5000])
def test_a_long_header_section_may_come_octet_by_octet(name: bytes) -> None:
    field = name + b" : " + b"b" * 100_000
    octets = [b"%c" % octet for octet in field + b"\r\n\r\nbody"]
    _, flow = flowed(octets)
    assert flow.header == field + b"\r\n\r\n"
