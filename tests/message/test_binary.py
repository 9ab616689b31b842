"""Attachments as raw octets."""

from __future__ import annotations

import os
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._message import BinaryContent, raw_binary, serialise


def letter(*attachments: bytes, text: str = "hello\n") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@x.example", "b@x.example", "Grüße"
    message.set_content(text)
    for number, data in enumerate(attachments):
        message.add_attachment(data, "application", "octet-stream", filename=f"{number}.bin")
    return message


def written(message: EmailMessage) -> bytes:
    content = serialise(message, binary=True)
    octets = b"".join(content.chunks())
    assert isinstance(content, BinaryContent)
    assert content.size == len(octets)
    assert not content.is_8bit
    assert not content.is_utf8
    assert octets.startswith(content.header_section())
    return octets


def bodies(octets: bytes) -> list[bytes]:
    """The bodies of the attachments, found by the boundary, as BINARYMIME means them."""
    boundary = message_from_bytes(octets, policy=policy.default).get_boundary()
    assert boundary is not None
    _, _, *attachments, _ = octets.split(f"--{boundary}".encode())
    return [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in attachments]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_each_attachment_is_there_octet_by_octet(attachments: list[bytes]) -> None:
    octets = written(letter(*attachments))
    assert bodies(octets) == attachments
    assert octets.count(b"Content-Transfer-Encoding: binary") == len(attachments) + 1


def test_a_part_that_is_binary_already_stays_so() -> None:
    message = letter(b"")
    attachment = next(message.iter_attachments())
    attachment.replace_header("Content-Transfer-Encoding", "binary")
    attachment.set_payload("a\nb\rc\udcff")
    assert bodies(written(message)) == [b"a\nb\rc\xff"]
    message.set_boundary("bound")
    attachment.set_payload("--bound--\n")
    assert b"\r\nLS1ib3VuZC0tCg==\r\n" in written(message)


def test_the_message_itself_is_not_touched() -> None:
    message = letter(os.urandom(100))
    before = message.as_bytes()
    written(message)
    assert message.as_bytes() == before


def test_text_stays_in_lines() -> None:
    message = letter(b"\0", text="Grüße\n" * 100)
    message.add_attachment("Text\n" * 100, filename="a.txt", cte="base64")
    octets = written(message)
    assert octets.count(b"Content-Transfer-Encoding: base64") == 1
    assert b"\n" not in octets.replace(b"\r\n", b"")


def test_one_with_nothing_that_could_be_raw_is_as_always() -> None:
    message = letter()
    assert written(message) == b"".join(serialise(message).chunks())


@pytest.mark.parametrize("kind", ["multipart/signed", "dkim", "attached", "boundary", "no base64"])
def test_what_must_not_be_touched_stays_in_base64(kind: str) -> None:
    data = b"--bound\r\nX: y\r\n\r\n" if kind == "boundary" else b"\0\1\2"
    message = letter(data)
    if kind == "multipart/signed":
        message.replace_header("Content-Type", "multipart/signed; boundary=b")
    elif kind == "dkim":
        message["DKIM-Signature"] = "v=1"
    elif kind == "boundary":
        message.set_boundary("bound")
    elif kind == "no base64":
        next(message.iter_attachments()).set_payload("A")
    else:
        inner, message = message, letter()
        message.add_attachment(inner)
    octets = written(message)
    assert data not in octets
    assert b"Content-Transfer-Encoding: base64" in octets


def test_a_raw_message_keeps_its_body_as_it_is() -> None:
    content = raw_binary(b"A: b\nC: d\n\na\rb\n\0")
    assert b"".join(content.chunks()) == b"A: b\r\nC: d\r\n\r\na\rb\n\0"
    assert content.header_section() == b"A: b\r\nC: d\r\n\r\n"
    assert content.size == 19
    assert raw_binary("Ä: b\n\n").is_utf8 is False
    assert raw_binary("A: ü\n\n").is_utf8
