"""A message whose attachments are raw octets, for BINARYMIME (RFC 3030 section 3).

What is in base64, and is not text, is written as what it stands for. The header sections, and every
part that is text, are in CRLF lines as always. Signed parts and attached messages are not touched.
The frame is the email package's work: it writes a token in place of each part's octets, which are
put in afterwards.
"""

from __future__ import annotations

import os
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from email.message import Message
from typing import cast

from ._by_package import CTE, encoding_of, is_signed, rewrite_payload, written_by_package
from ._content import CHUNK, RawContent, header_section_of, message_id_of, octets_of
from ._snapshot import payload_of, snapshot


class BinaryContent:
    """Octets as they are; a `Content`."""

    __slots__ = ("_header", "_pieces", "size")

    is_8bit = False  # that is said of lines

    def __init__(self, header: bytes, pieces: list[bytes]) -> None:
        """The header section, in CRLF lines, and what follows, the same octets included."""
        self._header = header
        self._pieces = pieces
        self.size = sum(map(len, pieces))

    @property
    def is_utf8(self) -> bool:
        return not self._header.isascii()

    def whole(self) -> None:
        """It is in pieces."""

    def chunks(self) -> Iterator[bytes]:
        for piece in self._pieces:
            for start in range(0, len(piece), CHUNK):
                yield piece[start : start + CHUNK]

    def header_section(self) -> bytes:
        return self._header

    def message_id(self) -> str | None:
        """The Message-ID, if there is one."""
        return message_id_of(self._header)


def raw_binary(message: bytes | bytearray | memoryview | str) -> BinaryContent:
    """A raw message as it is, but for the line ends of its header section."""
    data = octets_of(message)
    given = header_section_of(data)
    header = RawContent(given).header_section()
    return BinaryContent(header, [header, data[len(given) :]])


def written_binary(message: Message, *, utf8: bool) -> BinaryContent:
    """A message object with its attachments in raw octets."""
    copied = snapshot(message)
    boundaries = [part.get_boundary() for part in copied.walk() if part.is_multipart()]
    raw: dict[bytes, bytes] = {}
    if not is_signed(copied):
        _replace(copied, [f"--{given}".encode("utf-8", "replace") for given in boundaries], raw)
    content = written_by_package(copied, seven_bit=False, utf8=utf8, binary=True)
    rest, pieces = b"".join(content.chunks()), list[bytes]()
    for token, data in raw.items():
        head, _, rest = rest.partition(token)
        pieces += head, data
    return BinaryContent(content.header_section(), [*pieces, rest])


def _replace(part: Message, boundaries: list[bytes], raw: dict[bytes, bytes]) -> bool:
    """Put tokens in place of what can be raw octets; whether there is any in this part."""
    payload = payload_of(part)
    if isinstance(payload, list):
        if part.get_content_maintype() != "multipart" or is_signed(part):
            return False
        found = [_replace(child, boundaries, raw) for child in cast("list[Message]", payload)]
        # RFC 2045 section 6.4: a multipart declares the widest of what is in it.
        return any(found) and _declare_binary(part)
    data = _octets_of(part, payload)
    # A boundary that is chosen later is random: nobody has written it into an attachment.
    if data is None or any(boundary in data for boundary in boundaries):
        rewrite_payload(part, seven_bit=False)
        return False
    token = os.urandom(16).hex()
    part.set_payload(token)
    raw[token.encode()] = data
    return _declare_binary(part)


def _octets_of(part: Message, payload: object) -> bytes | None:
    """What base64 stands for; None for text, whose lines end in CRLF, and for what is no base64."""
    if encoding_of(part) == "binary":
        return str(payload).encode("ascii", "surrogateescape")
    if part.get_content_maintype() == "text" or encoding_of(part) != "base64":
        return None
    try:
        return b64decode("".join(str(payload).split()), validate=True)
    except (Error, ValueError):
        return None


def _declare_binary(part: Message) -> bool:
    del part[CTE]
    part[CTE] = "binary"
    return True
