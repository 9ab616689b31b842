"""Octets that are ready to be sent: CRLF lines with a final one, and what a server must offer.

RFC 5321 section 2.3.8 allows CRLF alone, and a CR or LF that stands by itself is how messages are
smuggled past a server that reads line ends differently from the next one. So every CR, LF and
CRLF becomes a CRLF here, in bulk, in pieces of 128 KiB that are made when they are sent: a large
message is never there twice. What is known at once is its size, for which the same pieces are made
and thrown away, which is faster than to count; but for lines of one length, whose ends are where
they are expected. Dots are stuffed later, when it is known that DATA carries the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import AnyStr

from ._even import missing_crs
from ._lines import has_long_line_of_octets

# What is not larger is made at once, for it leaves in one write.
WHOLE = 64 * 1024
# The pieces of what is larger. Each costs a turn of the event loop, and has to be on its way before
# the client's patience ends.
CHUNK = 128 * 1024
# For fewer octets it does not pay to look whether they are in lines of one length.
_SHORT = 4096

# RFC 5322 section 2.2: the header section is fields and their continuation lines. The first line
# that is neither ends it, which is the blank line or, as servers read it, a body without one.
FIELDS = re.compile(rb"(?:(?:[!-9;-~]+[ \t]*:|[ \t])[^\r\n]*(?:\r\n?|\n|\Z))*")
_USUAL_ID = re.compile(rb"Message-ID: (<[!-;=?-~]+>)\r\n(?![ \t])")
_MESSAGE_ID = re.compile(rb"message-id[ \t]*:((?:[^\n]|\n[ \t])*)", re.IGNORECASE)


class EmptyMessage(ValueError):
    """A message without an octet: nobody means to send that."""

    def __init__(self) -> None:
        super().__init__(
            "the message is empty; a file is sent from where it stands, and what was read once "
            "has nothing left"
        )


class RawContent:
    """A message that is one piece of bytes; a `Content`.

    Text is encoded as UTF-8; ValueError for lone surrogates, which have none.
    """

    __slots__ = (
        "_data",
        "_end",
        "_is_clean",
        "_is_whole",
        "has_long_lines",
        "is_8bit",
        "is_utf8",
        "size",
    )

    def __init__(self, message: bytes | bytearray | memoryview | str) -> None:
        data = message if isinstance(message, bytes) else octets_of(message)
        self._is_whole = len(data) <= WHOLE
        if self._is_whole:
            data = _with_final_crlf(with_crlf(data))
            self._end, self._is_clean, self.size = b"", True, len(data)
        else:
            # A final line end that is missing goes out with the last chunk: no copy of it all.
            self._end = b"" if data[-1:] in (b"\n", b"\r") else b"\r\n"
            length = sum(map(_clean_size, _slices(data, b"\n")))
            self._is_clean = length == len(data)
            self.size = length + len(self._end)
        self._data = data
        self.is_8bit = not data.isascii()
        self.is_utf8 = self.is_8bit and not self.header_section().isascii()
        self.has_long_lines = has_long_line_of_octets(data)

    def chunks(self) -> Iterator[bytes]:
        if self._is_whole:
            if self._data:
                yield self._data
            return
        end = len(self._data)
        for chunk in _slices(self._data, b"\n"):
            end -= len(chunk)
            clean = chunk if self._is_clean else with_crlf(chunk)
            yield clean if end else clean + self._end

    def header_section(self) -> bytes:
        """The header fields, with the blank line if there is one."""
        header = header_section_of(self._data)
        # In one piece it has its line ends already.
        return header if self._is_whole else _with_final_crlf(with_crlf(header))

    def message_id(self) -> str | None:
        """The Message-ID, if there is one."""
        data = self._data
        # So nearly everybody writes it.
        start = data.find(b"\r\nMessage-ID: <", 0, CHUNK) + 2
        if start >= 2 and (found := _USUAL_ID.match(data, start)) is not None:
            before = data[:start]
            if FIELDS.fullmatch(before) and b"message-id" not in before.lower():
                return found[1].decode()
        return message_id_of(self.header_section())

    def whole(self) -> bytes | None:
        """All of it, where that is one piece."""
        return self._data if self._is_whole else None


class WrittenContent:
    """A message object as it was written, in pieces; a `Content`.

    A piece is text in ASCII with surrogate escapes for other octets, as the email package stores
    payloads. They are shared with the message, and encoded when they are sent.
    """

    __slots__ = ("_pieces", "_small", "has_long_lines", "is_8bit", "is_utf8", "size")

    def __init__(self, pieces: Sequence[str], *, has_long_lines: bool = False) -> None:
        """The header section, in CRLF lines and with its blank one, and what follows.

        UnicodeEncodeError for text that is neither ASCII nor surrogate escapes.
        """
        self._pieces = pieces
        self.has_long_lines = has_long_lines
        self._small: bytes | None = None
        if sum(map(len, pieces)) <= WHOLE:
            body = with_crlf(_encoded("".join(pieces[1:])))
            self._small = _encoded(pieces[0]) + _with_final_crlf(body)
            self.size = len(self._small)
        else:
            last = next(piece[-1] for piece in reversed(pieces) if piece)
            self._pieces = pieces if last in "\r\n" else [*pieces, "\r\n"]
            self.size = sum(map(_clean_size, self._encoded_slices()))
        self.is_8bit = not all(map(str.isascii, pieces))
        self.is_utf8 = self.is_8bit and not self.header_section().isascii()

    def whole(self) -> bytes | None:
        """All of it, where that is one piece."""
        return self._small

    def chunks(self) -> Iterator[bytes]:
        return self._chunks() if self._small is None else iter((self._small,))

    def header_section(self) -> bytes:
        """The header fields, with the blank line."""
        return header_section_of(_encoded(self._pieces[0]))

    def _chunks(self) -> Iterator[bytes]:
        """What is small is put together."""
        waiting: list[bytes] = []
        length = 0
        for octets in self._encoded_slices():
            chunk = with_crlf(octets)
            waiting.append(chunk)
            length += len(chunk)
            if length >= CHUNK:
                yield b"".join(waiting)
                waiting.clear()
                length = 0
        if waiting:
            yield b"".join(waiting)

    def _encoded_slices(self) -> Iterator[bytes]:
        return (_encoded(each) for piece in self._pieces for each in _slices(piece, "\n"))


class PlainContent:
    """A message in ASCII that is small, in one piece; a `Content`."""

    __slots__ = ("_data", "size")

    is_8bit = False
    is_utf8 = False

    def __init__(self, head: str, payload: str) -> None:
        """The header section, in CRLF lines and with its blank one, and the body."""
        body = with_crlf(payload.encode("ascii"))
        self._data = head.encode("ascii") + _with_final_crlf(body)
        self.size = len(self._data)

    def whole(self) -> bytes:
        return self._data

    def chunks(self) -> Iterator[bytes]:
        return iter((self._data,))


def message_id_of(header: bytes) -> str | None:
    """The Message-ID in a header section."""
    # To look for the name in any case is slow, so it is looked for in one.
    start = (b"\n" + header.lower()).find(b"\nmessage-id")
    found = _MESSAGE_ID.match(header, start) if start >= 0 else None
    return (found and " ".join(found[1].decode("utf-8", "replace").split())) or None


def with_crlf(data: bytes) -> bytes:
    """The same lines, each ended by CRLF; the same object if they are."""
    if b"\r" not in data:
        return data.replace(b"\n", b"\r\n")
    if len(data) > _SHORT and missing_crs(data) == 0:
        return data
    # Two single octets are replaced in a fraction of the time that it takes to find a pair.
    if data == (fixed := data.replace(b"\r", b"").replace(b"\n", b"\r\n")):
        return data
    if data.count(b"\r") == data.count(b"\r\n"):
        return fixed
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def text_with_crlf(text: str) -> str:
    """The same of text, when it is short."""
    return with_crlf(_encoded(text)).decode("ascii", "surrogateescape")


def _with_final_crlf(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\r\n"


def _clean_size(octets: bytes) -> int:
    """How many octets `with_crlf` gives: more than before, unless it has nothing to do."""
    missing = missing_crs(octets)
    return len(with_crlf(octets)) if missing is None else len(octets) + missing


def _slices(data: AnyStr, lf: AnyStr) -> Iterator[AnyStr]:
    """Pieces between which no CRLF is torn."""
    start = 0
    while start < len(data):
        end = start + CHUNK
        end += data.startswith(lf, end)
        yield data[start:end]
        start = end


def _encoded(text: str) -> bytes:
    return text.encode("ascii", "surrogateescape")


def octets_of(message: bytes | bytearray | memoryview | str) -> bytes:
    if isinstance(message, bytes):
        return message
    if isinstance(message, str):
        try:
            return message.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the message has no encoding in UTF-8: {error}") from error
    return memoryview(message).tobytes()


def header_section_of(data: bytes) -> bytes:
    found = FIELDS.match(data)
    assert found is not None  # it matches nothing, too
    end = found.end()
    for blank in (b"\r\n", b"\r", b"\n"):
        if data.startswith(blank, end):
            return data[: end + len(blank)]
    return data[:end]
