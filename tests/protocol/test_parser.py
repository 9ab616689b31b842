"""The reply parser: the same replies, or the same error, however the bytes are cut up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._protocol._parser import MAX_LINE, MAX_LINES, MAX_REPLY, ReplyParser
from anysmtp._reply import Reply
from anysmtp.errors import SMTPProtocolError

Cut = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def with_bytes_to_spare(data: bytes) -> list[bytes]:
    return [data + b"250-to", b" spare"]


each_cut = pytest.mark.parametrize("cut", [whole, byte_by_byte, with_bytes_to_spare])


def parse(pieces: list[bytes]) -> list[Reply | str]:
    """The replies in the pieces, and the error that ended them if one did."""
    parser = ReplyParser()
    found: list[Reply | str] = []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (reply := parser.next_reply()) is not None:
                found.append(reply)
        except SMTPProtocolError as error:
            return [*found, str(error)]
    return found


@each_cut
@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (b"", []),
        (b"250 ok\r\n", [Reply(250, "ok")]),
        (b"250\r\n", [Reply(250)]),
        (b"250 \r\n", [Reply(250)]),
        (b"250-one\r\n250 two\r\n", [Reply(250, "one\ntwo")]),
        (b"250-\r\n250-two\r\n250\r\n", [Reply(250, "\ntwo\n")]),
        (b"250- 17 byte chunk\r\n250 OK\r\n", [Reply(250, " 17 byte chunk\nOK")]),
        (b"250  two blanks\r\n", [Reply(250, " two blanks")]),
        (b"250 one\r\n550 5.1.1 two\r\n", [Reply(250, "one"), Reply(550, "5.1.1 two")]),
        (b"200 a\r\n599 b\r\n", [Reply(200, "a"), Reply(599, "b")]),
        (b"250 bare\n250 line feeds\n", [Reply(250, "bare"), Reply(250, "line feeds")]),
        (b"250 a\rb\r\r\n", [Reply(250, "a\rb\r")]),
        (b"250 \x00\x7f\t\r\n", [Reply(250, "\x00\x7f\t")]),
        ("250 grüße\r\n".encode(), [Reply(250, "grüße")]),
        (b"250 gr\xfc\xdfe\r\n", [Reply(250, "gr\udcfc\udcdfe")]),
        (b"250 " + b"x" * (MAX_LINE - 6) + b"\r\n", [Reply(250, "x" * (MAX_LINE - 6))]),
    ],
    ids=repr,
)
def test_replies_are_read(data: bytes, replies: list[Reply], cut: Cut) -> None:
    assert parse(cut(data)) == replies


@each_cut
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\r\n", "no reply code in ''"),
        (b"\n", "no reply code in ''"),
        (b"hello\r\n", "no reply code in 'hello'"),
        (b"25\r\n", "no reply code in '25'"),
        (b"2500 ok\r\n", "no reply code in '2500 ok'"),
        (b"250ok\r\n", "no reply code in '250ok'"),
        (b"250\tok\r\n", "no reply code in '250\\x09ok'"),
        (b" 250 ok\r\n", "no reply code in ' 250 ok'"),
        (b"150 early\r\n", "no reply code in '150 early'"),
        (b"600 late\r\n", "no reply code in '600 late'"),
        (b"2\xb2\xb2 ok\r\n", "no reply code in '2\\xb2\\xb2 ok'"),
        (b"\x16\x03\x01\x02\x00\n", "no reply code in '\\x16\\x03\\x01\\x02\\x00'"),
        (b"y" * 81 + b"\r\n", "no reply code in '" + "y" * 80 + "'..."),
        (b"250-one\r\n251 two\r\n", "a reply starts with 250 and goes on with 251"),
        (b"220-one\r\n250-two\r\n", "a reply starts with 220 and goes on with 250"),
        (b"250-one\r\ntwo\r\n", "no reply code in 'two'"),
        (b"250 " + b"x" * (MAX_LINE - 5) + b"\r\n", f"longer than {MAX_LINE} octets"),
        (b"x" * MAX_LINE, f"longer than {MAX_LINE} octets"),
        (b"250-x\r\n" * (MAX_LINES + 1), f"larger than {MAX_LINES} lines"),
        (b"250-" + b"x" * 8000 + b"\r\n", None),
        ((b"250-" + b"x" * 8000 + b"\r\n") * 9, f"or {MAX_REPLY} octets"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_breach_is_an_error(data: bytes, error: str | None, cut: Cut) -> None:
    found = parse(cut(data))
    if error is None:
        assert found == []
    else:
        assert len(found) == 1
        assert error in str(found[0])


@each_cut
def test_a_breach_does_not_swallow_the_replies_before_it(cut: Cut) -> None:
    assert parse(cut(b"250 one\r\n250 two\r\noops\r\n")) == [
        Reply(250, "one"),
        Reply(250, "two"),
        "no reply code in 'oops'",
    ]


@pytest.mark.parametrize("line", [b"250-" + b"x" * 100 + b"\r\n", b"250-\n", b"x" * 100])
def test_a_reply_without_end_does_not_fill_the_memory(line: bytes) -> None:
    parser = ReplyParser()
    allowed = (MAX_REPLY + MAX_LINE) // len(line) + MAX_LINES

    def read_on() -> Iterator[int]:
        for count in itertools.count(1):
            parser.feed(line)
            assert parser.next_reply() is None
            yield count

    with pytest.raises(SMTPProtocolError):
        all(count < allowed for count in read_on())


@each_cut
def test_the_limits_are_those_of_each_reply(cut: Cut) -> None:
    reply = b"250-" + b"x" * 8000 + b"\r\n250 ok\r\n"
    assert len(parse(cut(reply * 10))) == 10
    assert len(parse(cut(b"250-\r\n250\r\n" * MAX_LINES))) == MAX_LINES


def test_it_is_empty_between_replies() -> None:
    parser = ReplyParser()
    assert parser.is_empty
    for piece in (b"250", b"-one\r\n", b"250 two"):
        parser.feed(piece)
        assert parser.next_reply() is None
        assert not parser.is_empty
    parser.feed(b"\r\n2")
    assert parser.next_reply() == Reply(250, "one\ntwo")
    assert not parser.is_empty


LINES = st.builds(
    bytes.__add__,
    st.sampled_from([b"250 ", b"250-", b"250", b"354 ", b"421-", b"", b"1", b"999 "]),
    st.binary(max_size=6) | st.sampled_from([b"\r", b"\n", b"x" * MAX_LINE]),
)
STREAMS = st.lists(LINES, max_size=8).map(b"\r\n".join) | st.binary(max_size=40)


@given(STREAMS, st.lists(st.integers(0, 60), max_size=8))
def test_any_chunking_gives_the_same(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert parse(pieces) == parse([data])


@given(st.lists(st.text("ab \x00ä\udcff", max_size=5), min_size=1, max_size=5), st.booleans())
def test_what_was_said_is_what_is_read(lines: list[str], crlf: bool) -> None:
    last = len(lines) - 1
    text = "\n".join(f"250{'- '[index == last]}{line}" for index, line in enumerate([*lines]))
    data = f"{text}\n".replace("\n", "\r\n" if crlf else "\n").encode("utf-8", "surrogateescape")
    assert parse([data]) == [Reply(250, lines)]


@pytest.mark.parametrize(
    ("data", "count", "success", "code"),
    [
        (b"250 a\r\n250 b\r\n354 c\r\n", 3, 3, 354),
        (b"250 a\r\n", 1, 2, 250),
        (b"250 a\r\n250 b\r\n", 3, 3, None),
        (b"250 a\r\n250 b\r\n354 c", 3, 3, None),
        (b"250 a\r\n250 b\r\n354 c\r\n421 d\r\n", 3, 3, None),
        (b"250 a\r\n550 b\r\n354 c\r\n", 3, 3, None),
        (b"250 a\r\n250 b\r\n250 c\r\n", 3, 3, None),
        (b"250 a\r\n421 b\r\n", 1, 2, None),
        (b"250-a\r\n250 b\r\n", 1, 2, None),
        (b"550 a\r\n", 1, 2, None),
        (b"what\r\n", 1, 2, None),
        (b"", 1, 2, None),
    ],
)
def test_data_that_is_nothing_but_yes_is_known_as_that_and_not_taken(
    data: bytes, count: int, success: int, code: int | None
) -> None:
    parser = ReplyParser()
    for _ in range(2):
        reply = parser.only_yes(data, count, success)
        assert (reply and reply.code) == code
        assert parser.is_empty
    parser.feed(b"220 hi\r\n")
    assert parser.next_reply() == Reply(220, "hi")


def test_what_was_yes_to_one_flight_is_not_yes_to_another() -> None:
    parser = ReplyParser()
    for number in range(20):
        data = b"250 a\r\n" * number + b"354 b\r\n"
        assert parser.only_yes(data, number + 1, 3) == Reply(354, "b")
        assert parser.only_yes(data, number + 2, 3) is None
        assert parser.only_yes(data, number + 1, 2) is None
