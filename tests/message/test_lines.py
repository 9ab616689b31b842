"""Lines that are too long: found wherever they are, and written otherwise where possible."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from email.policy import Policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._message import LongLine, RawContent, serialise
from anysmtp._message._by_hand import written_by_hand
from anysmtp._message._by_package import written_by_package
from anysmtp._message._lines import MAX_LINE, has_long_line, has_long_line_of_octets

END = st.sampled_from(["\n", "\r\n", "\r"])
LINE = st.sampled_from([0, 1, 70, 500, 996, 997, 998, 999, 1000, 1001, 1999, 2100]).map("x".__mul__)


@given(st.lists(st.tuples(LINE, END), max_size=12), LINE)
def test_a_line_is_measured_without_its_end(lines: list[tuple[str, str]], last: str) -> None:
    text = "".join(line + end for line, end in lines) + last
    expected = any(len(line) > MAX_LINE for line in [*(line for line, _ in lines), last])
    assert has_long_line(text) is expected
    assert has_long_line_of_octets(text.encode()) is expected
    assert RawContent(text).has_long_lines is expected


def message_of(
    payload: str, by: Policy = policy.SMTP, encoding: str | None = None, **fields: str
) -> Message:
    message = Message(policy=by)
    message["From"], message["To"] = "a@x.example", "b@x.example"
    message["Content-Type"] = "text/plain; charset=utf-8"
    if encoding is not None:
        message["Content-Transfer-Encoding"] = encoding
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    message.set_payload(payload)
    return message


def octets(message: Message, **options: bool) -> bytes:
    """What is written, by hand, and by the package the same."""
    found = b"".join(written_by_hand(message, seven_bit=False, utf8=False).chunks())
    assert found == b"".join(written_by_package(message, seven_bit=False, utf8=False).chunks())
    assert found == b"".join(serialise(message, **options).chunks())
    return found


@pytest.mark.parametrize(
    ("payload", "encoding", "expected"),
    [
        ("short\n", None, b"short\r\n"),
        ("x" * 999 + "\n", None, b"x" * 999 + b"\r\n"),
        ("x" * 999 + "\n", "8bit", b"x" * 999 + b"\r\n"),
        ("x" * 5000 + "\nlast\n", "7bit", b"x" * 5000 + b"\r\nlast\r\n"),
        ("=C3=BC" * 500, "quoted-printable", "ü".encode() * 500),
        ("QUJD" * 500, "base64", b"ABC" * 500),
    ],
)
def test_a_part_with_a_long_line_goes_in_base64(
    payload: str, encoding: str | None, expected: bytes
) -> None:
    written = octets(message_of(payload, encoding=encoding))
    assert not RawContent(written).has_long_lines
    assert message_from_bytes(written).get_payload(decode=True) == expected


def test_base64_that_cannot_be_decoded_gets_other_lines_all_the_same() -> None:
    written = octets(message_of("QUJD=" * 500, encoding="base64"))
    assert b"".join(written.partition(b"\r\n\r\n")[2].split()) == b"QUJD=" * 500
    assert not RawContent(written).has_long_lines


@pytest.mark.parametrize(
    "message",
    [
        message_of("short", policy.compat32, X_Long="x" * 1000),
        message_of("x" * 1000, encoding="x-uuencode"),
        message_of("x" * 1000, DKIM_Signature="v=1"),
    ],
    ids=["header", "unknown encoding", "signed"],
)
def test_what_cannot_be_shortened_is_an_error_or_sent_as_it_is(message: Message) -> None:
    with pytest.raises(LongLine, match="allow_long_lines=True"):
        serialise(message)
    content = serialise(message, allow_long_lines=True)
    assert RawContent(b"".join(content.chunks())).has_long_lines


@pytest.mark.parametrize("place", ["preamble", "epilogue", "signed part"])
def test_what_is_around_and_in_a_signed_part_is_looked_at(place: str) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "a@x.example", "b@x.example"
    message.set_content("hello\n")
    message.add_attachment(b"signature", "application", "pgp-signature")
    message.set_boundary("b")
    if place == "signed part":
        message.replace_header("Content-Type", "multipart/signed; boundary=b")
        next(message.iter_parts()).set_payload("x" * 1000)
    else:
        setattr(message, place, "x" * 1000)
    with pytest.raises(LongLine):
        serialise(message)
    octets(message, allow_long_lines=True)


@pytest.mark.parametrize("seven_bit", [False, True])
def test_a_signed_part_is_written_as_it_is(seven_bit: bool) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "a@x.example", "b@x.example"
    message.set_content("Grüße\n", cte="8bit")
    message.add_attachment(b"signature", "application", "pgp-signature")
    message.replace_header("Content-Type", "multipart/signed; boundary=b")
    by_hand = written_by_hand(message, seven_bit=seven_bit, utf8=False)
    by_package = written_by_package(message, seven_bit=seven_bit, utf8=False)
    written = b"".join(by_hand.chunks())
    assert written == b"".join(by_package.chunks())
    assert "Grüße\r\n".encode() in written
    assert by_hand.is_8bit
    assert by_package.is_8bit


def test_what_is_beside_a_signed_part_is_converted() -> None:
    inner = EmailMessage()
    inner.set_content("signed\n")
    inner.add_attachment(b"signature", "application", "pgp-signature")
    inner.replace_header("Content-Type", "multipart/signed; boundary=b")
    message = EmailMessage()
    message["From"], message["To"] = "a@x.example", "b@x.example"
    message.set_content("Grüße\n", cte="8bit")
    message.make_mixed()
    message.attach(inner)
    content = serialise(message, seven_bit=True)
    assert not content.is_8bit
    assert b"\r\nsigned\r\n" in b"".join(content.chunks())
