"""A raw message that comes piece by piece, made fit for the wire as it comes.

What `RawContent` does with a message that is in memory, `Flow` does without having it: line ends
become CRLF wherever the pieces were cut, and what SMTP has to know is known as soon as it can be.
"""

from __future__ import annotations

from ._content import header_section_of, with_crlf
from ._lines import MAX_LINE, has_long_line_of_octets

# Octets within which a header section is looked for.
_MAX_HEADER = 256 * 1024


class Flow:
    """Pieces in, CRLF lines out; and what is known of all that came so far."""

    __slots__ = ("_head", "_held", "_line", "has_long_lines", "header", "is_8bit", "size")

    def __init__(self) -> None:
        self.size = 0
        """Octets that have come out."""
        self.is_8bit = False
        self.has_long_lines = False
        self.header: bytes | None = None
        """The header section, once it has come as a whole."""
        self._head = b""
        self._held = b""  # a CR, of which it is not known yet whether a LF follows
        self._line = 0  # octets of the last line, which has no end yet

    @property
    def is_utf8(self) -> bool:
        """Whether the header section is not ASCII, as far as it has come."""
        return self.is_8bit and not (self._head if self.header is None else self.header).isascii()

    def feed(self, piece: bytes) -> bytes:
        """The piece in CRLF lines, as far as they can be told."""
        data = self._held + piece
        self._held = b"\r" if data.endswith(b"\r") else b""
        return self._out(with_crlf(data[: len(data) - len(self._held)]))

    def finish(self) -> bytes:
        """What is left, and the last line's end if it had none."""
        rest = self._out(b"\r\n") if self._held or self._line else b""
        self._held = b""
        self._take_header(is_whole=True)
        return rest

    def _out(self, clean: bytes) -> bytes:
        self.size += len(clean)
        self.is_8bit = self.is_8bit or not clean.isascii()
        self._measure(clean)
        if self.header is None:
            self._head += clean
            self._take_header(is_whole=len(self._head) > _MAX_HEADER)
        return clean

    def _measure(self, clean: bytes) -> None:
        """Look for a line that is too long, also one that began in an earlier piece."""
        first = clean.find(b"\r\n")
        if first < 0:
            self._line += len(clean)
            self.has_long_lines = self.has_long_lines or self._line > MAX_LINE
            return
        is_long = self._line + first > MAX_LINE or has_long_line_of_octets(clean)
        self.has_long_lines = self.has_long_lines or is_long
        self._line = len(clean) - clean.rfind(b"\n") - 1

    def _take_header(self, *, is_whole: bool) -> None:
        if self.header is None and (is_whole or b"\r\n\r\n" in self._head):
            self.header = header_section_of(self._head)
            self._head = b""
