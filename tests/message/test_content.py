from __future__ import annotations

import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._envelope import Content
from anysmtp._message import RawContent, message_id_of, raw_binary
from anysmtp._message import _content as module
from anysmtp._message._content import WrittenContent

OCTETS = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b":", b" ", b".", b"\xc3\xbc", b"To: x"]),
    max_size=30,
).map(b"".join)


def whole(content: Content) -> bytes:
    return b"".join(content.chunks())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\rb", b"a\r\nb\r\n"),
        (b"a\r\r\nb\n\r", b"a\r\n\r\nb\r\n\r\n"),
        (b"a\n.\nb", b"a\r\n.\r\nb\r\n"),
        (b"a\n.\r\nb\r.\rc", b"a\r\n.\r\nb\r\n.\r\nc\r\n"),
        (b"\x0b\x0c\x85\x00", b"\x0b\x0c\x85\x00\r\n"),
        (b"\n", b"\r\n"),
    ],
)
def test_every_line_ends_in_crlf_and_dots_are_left(message: bytes, expected: bytes) -> None:
    assert whole(RawContent(message)) == expected


@given(OCTETS)
def test_normalising_gives_the_same_lines(message: bytes) -> None:
    octets = whole(RawContent(message))
    lines = re.split(rb"\r\n|\r|\n", message)
    assert octets.split(b"\r\n") == (lines if not lines[-1] else [*lines, b""])
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", octets)
    assert RawContent(message).size == len(octets)


@given(OCTETS)
def test_normalising_is_idempotent(message: bytes) -> None:
    once = RawContent(message)
    twice = RawContent(whole(once))
    assert whole(twice) == whole(once)
    assert (twice.size, twice.is_8bit, twice.is_utf8) == (once.size, once.is_8bit, once.is_utf8)


@given(OCTETS, st.integers(1, 7))
def test_it_does_not_matter_where_chunks_end(message: bytes, size: int) -> None:
    small = RawContent(message)
    expected = (whole(small), small.size, small.is_8bit, small.is_utf8, small.header_section())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WHOLE", size)
        patch.setattr(module, "CHUNK", size)
        large = RawContent(message)
        assert expected == (
            *(whole(large), large.size, large.is_8bit, large.is_utf8, large.header_section()),
        )


@given(OCTETS, st.sampled_from(["A: b", "A: \udcfc"]), st.sampled_from([1, 2, 3, 5, 1000]))
def test_what_was_written_is_the_same_in_pieces(body: bytes, field: str, size: int) -> None:
    pieces = [f"{field}\r\n\r\n", body.decode("ascii", "surrogateescape"), "", "\r\n", "x"]
    expected = RawContent("".join(pieces).encode("ascii", "surrogateescape"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WHOLE", size)
        patch.setattr(module, "CHUNK", size)
        written = WrittenContent(pieces)
        chunks = list(written.chunks())
    assert b"".join(chunks) == whole(expected)
    assert written.size == expected.size
    assert (written.is_8bit, written.is_utf8) == (expected.is_8bit, expected.is_utf8)
    assert written.header_section() == f"{field}\r\n\r\n".encode("ascii", "surrogateescape")
    assert all(len(chunk) >= size for chunk in chunks[:-1])


@pytest.mark.parametrize("text", ["é", "\ud800", "x" * 100_000 + "é"])
def test_text_that_is_neither_ascii_nor_octets_cannot_be_written(text: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        WrittenContent(["\r\n", text])


def test_what_was_written_goes_out_in_chunks_of_128_kib() -> None:
    pieces = ["A: b\r\n\r\n", *(["x" * 1000 + "\n", "--b\r\n"] * 200), "y" * 1_000_000, "z\n"]
    chunks = list(WrittenContent(pieces).chunks())
    assert b"".join(chunks) == "".join(pieces).encode().replace(b"\r\n", b"\n").replace(
        b"\n", b"\r\n"
    )
    assert all(module.CHUNK <= len(chunk) <= 2 * module.CHUNK for chunk in chunks[:-1])


@given(st.integers(0, 5), st.integers(-3, 3), st.sampled_from([b"", b"\r\n", b"\n"]))
def test_chunks_join_to_the_whole_and_none_is_large(count: int, extra: int, end: bytes) -> None:
    message = b"x" * max(0, count * module.CHUNK + extra) + end
    content = RawContent(message)
    chunks = list(content.chunks())
    assert b"".join(chunks) == message.replace(b"\n", b"").replace(b"\r", b"") + b"\r\n" * bool(
        message
    )
    assert all(0 < len(chunk) <= module.CHUNK + 2 for chunk in chunks)
    assert content.size == sum(map(len, chunks))
    assert list(content.chunks()) == chunks


def test_clean_octets_are_not_copied() -> None:
    message = b"To: x\r\n\r\ntext\r\n"
    assert next(RawContent(message).chunks()) is message


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b""])
def test_memory_does_not_grow_with_a_raw_message(end: bytes) -> None:
    message = (b"x" * 70 + (end or b"\r\n")) * 100_000 + (b"x" if not end else b"")
    tracemalloc.start()
    content = RawContent(message)
    octets = sum(map(len, content.chunks()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert octets == content.size
    assert peak < 1024 * 1024 < len(message)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_buffers_are_copied(kind: Any) -> None:
    buffer = bytearray(b"a\r\n")
    content = RawContent(kind(buffer))
    buffer[0] = 0
    assert whole(content) == b"a\r\n"


def test_a_slice_of_a_buffer_is_taken_as_it_is_seen() -> None:
    assert whole(RawContent(memoryview(b"a.b.")[::2])) == b"ab\r\n"


def test_text_is_encoded_as_utf_8() -> None:
    content = RawContent("Subject: a\n\nGrüße\n")
    assert whole(content) == "Subject: a\r\n\r\nGrüße\r\n".encode()
    assert content.is_8bit


def test_line_separators_of_unicode_are_text() -> None:
    assert whole(RawContent("a\u2028b\x85")) == "a\u2028b\x85\r\n".encode()


@pytest.mark.parametrize("text", ["\ud800", "a\udcfc"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no encoding in UTF-8"):
        RawContent(text)


@pytest.mark.parametrize("message", [None, 3, ["a"]])
def test_other_types_are_refused(message: Any) -> None:
    with pytest.raises(TypeError):
        RawContent(message)


@pytest.mark.parametrize(
    ("message", "is_8bit", "is_utf8"),
    [
        ("", False, False),
        ("Subject: a\n\ntext", False, False),
        ("Subject: a\n\nGrüße", True, False),
        ("Subject: Grüße\n\ntext", True, True),
        ("Subject: a\n Grüße\n\ntext", True, True),
        ("Subject: a\n\nX: ü\n\n", True, False),
        ("\nX: ü\n", True, False),
        ("Subject: a\nno field: ü\n", True, False),
        ("Grüße ohne Kopf\n", True, False),
        ("Subject: ü", True, True),
        ("Subject : ü", True, True),
    ],
)
def test_what_a_server_must_offer(message: str, is_8bit: bool, is_utf8: bool) -> None:
    content = RawContent(message)
    assert (content.is_8bit, content.is_utf8) == (is_8bit, is_utf8)


@pytest.mark.parametrize(
    ("message", "section"),
    [
        (b"A: b\nC: d\n\nE: f\n", b"A: b\r\nC: d\r\n\r\n"),
        (b"A: b\n\tc\nD e: f\n", b"A: b\r\n\tc\r\n"),
        (b"\nA: b\n", b"\r\n"),
        (b"A: b", b"A: b\r\n"),
        (b"A: b\n", b"A: b\r\n"),
        (b"", b""),
    ],
)
def test_the_header_section_ends_where_no_field_is(message: bytes, section: bytes) -> None:
    assert RawContent(message).header_section() == section


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"Message-ID: <a@x>\r\n\r\n", "<a@x>"),
        (b"A: b\nmessage-id:<a@x>\nC: d\n", "<a@x>"),
        (b"Message-ID:\n <a@x>\nC: d\n", "<a@x>"),
        (b"MESSAGE-ID: \r\n\t<a@x> \r\n", "<a@x>"),
        ("Message-Id: <ü@x>\n".encode(), "<ü@x>"),
        (b"Message-Id: <\xff@x>\n", "<\ufffd@x>"),
        (b"Message-ID: <a@x>\nMessage-ID: <b@x>\n", "<a@x>"),
        (b"Message-ID:\nC: d\n", None),
        (b"X-Message-ID: <a@x>\n", None),
        (b"Subject: a\n Message-ID: <a@x>\n", None),
        (b"Subject: a\n\nMessage-ID: <a@x>\n", None),
        (b"", None),
        (b"A: b\r\nMessage-ID: <a@x>\r\n\r\nc", "<a@x>"),
        (b"A: b\r\nMessage-ID: <a@x>", "<a@x>"),
        (b"A: b\r\nMessage-ID: <a@x>\r\n c\r\n", "<a@x> c"),
        (b"A: b\r\nMessage-ID: <a b@x>\r\n", "<a b@x>"),
        (b"message-id: <a@x>\r\nMessage-ID: <b@x>\r\n", "<a@x>"),
        (b"A: b\r\nno field\r\nMessage-ID: <a@x>\r\n", None),
        (b"A: b\r\n\r\nMessage-ID: <a@x>\r\n", None),
    ],
)
def test_the_message_id_of_a_raw_message(message: bytes, expected: str | None) -> None:
    content = RawContent(message)
    assert content.message_id() == expected
    assert message_id_of(content.header_section()) == expected
    assert raw_binary(message).message_id() == expected
