"""Octets that are ready to be sent: CRLF lines with a final one, and what a server must offer.

RFC 5321 section 2.3.8 allows CRLF alone, and a CR or LF that stands by itself is how messages are
smuggled past a server that reads line ends differently from the next one. So every CR, LF and
CRLF becomes a CRLF here, once, in bulk; what is clean already is not rewritten. Dots are
stuffed later, when it is known that DATA carries the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# What a socket's send buffer takes at once on most systems, more or less.
_CHUNK = 64 * 1024

# RFC 5322 section 2.2: the header section is fields and their continuation lines. The first line
# that is neither ends it, which is the blank line or, as servers read it, a body without one.
_NO_FIELD = re.compile(rb"^(?![!-9;-~]+[ \t]*:|[ \t])", re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:((?:[^\n]|\n[ \t])*)", re.MULTILINE | re.IGNORECASE)


class RawContent:
    """A message that is one piece of bytes; a `Content`.

    Text is encoded as UTF-8; ValueError for lone surrogates, which have none.
    """

    __slots__ = ("_data", "_end", "is_8bit", "is_utf8", "size")

    def __init__(self, message: bytes | bytearray | memoryview | str) -> None:
        data = with_crlf(_octets(message))
        self._data = data
        # A final line end that is missing goes out with the last chunk: no copy of it all.
        self._end = b"" if not data or data.endswith(b"\r\n") else b"\r\n"
        self.size = len(data) + len(self._end)
        self.is_8bit = not data.isascii()
        self.is_utf8 = self.is_8bit and not self.header_section().isascii()

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), _CHUNK):
            end = start + _CHUNK
            chunk = self._data[start:end]
            yield chunk if end < len(self._data) else chunk + self._end

    def header_section(self) -> bytes:
        """The header fields, with the blank line if there is one."""
        return _header_section(self._data)


def message_id_of(raw: RawContent | bytes) -> str | None:
    """The Message-ID in the header section of a message or of its first chunk."""
    header = raw.header_section() if isinstance(raw, RawContent) else _header_section(raw)
    found = _MESSAGE_ID.search(header)
    return (found and " ".join(found[1].decode("utf-8", "replace").split())) or None


def with_crlf(data: bytes) -> bytes:
    """The same lines, each ended by CRLF; the same object if they are."""
    pairs = data.count(b"\r\n")
    if pairs == data.count(b"\n") == data.count(b"\r"):
        return data
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _octets(message: bytes | bytearray | memoryview | str) -> bytes:
    if isinstance(message, bytes):
        return message
    if isinstance(message, str):
        try:
            return message.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the message has no encoding in UTF-8: {error}") from error
    return memoryview(message).tobytes()


def _header_section(data: bytes) -> bytes:
    found = _NO_FIELD.search(data)
    end = found.start() if found else len(data)
    return data[: end + 2] if data.startswith(b"\r\n", end) else data[:end]
