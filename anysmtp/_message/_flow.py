"""A raw message that comes piece by piece, made fit for the wire as it comes.

What `RawContent` does with a message that is in memory, `Flow` does without having it: line ends
become CRLF wherever the pieces were cut, and what SMTP has to know is known as soon as it can be.
Of the header section so much is kept as a Message-ID is looked for in; all of it, however long, is
looked at, for what is not ASCII there needs SMTPUTF8.
"""

from __future__ import annotations

import re

from ._content import FIELDS, header_section_of, with_crlf
from ._lines import MAX_LINE, has_long_line_of_octets

# Octets of a header section that are kept.
_MAX_HEADER = 256 * 1024
# The beginning of a line that may become a header field, if no colon has come yet.
_NAME = re.compile(rb"[!-9;-~]+[ \t]*")


class Flow:
    """Pieces in, CRLF lines out; and what is known of all that came so far."""

    __slots__ = ("_head", "_held", "_line", "has_long_lines", "is_8bit", "size")

    def __init__(self) -> None:
        self.size = 0
        """Octets that have come out."""
        self.is_8bit = False
        self.has_long_lines = False
        self._head = _Head()
        self._held = b""  # a CR, of which it is not known yet whether a LF follows
        self._line = 0  # octets of the last line, which has no end yet

    @property
    def is_utf8(self) -> bool:
        """Whether the header section is not ASCII, as far as it has come."""
        return not self._head.is_ascii

    @property
    def is_in_body(self) -> bool:
        """Whether the header section has come as a whole."""
        return self._head.is_over

    @property
    def header(self) -> bytes:
        """The header section, as far as it has come and is kept."""
        return self._head.section()

    def feed(self, piece: bytes) -> bytes:
        """The piece in CRLF lines, as far as they can be told."""
        data = self._held + piece
        self._held = b"\r" if data.endswith(b"\r") else b""
        return self._out(with_crlf(data[: len(data) - len(self._held)]))

    def finish(self) -> bytes:
        """What is left, and the last line's end if it had none."""
        rest = self._out(b"\r\n") if self._held or self._line else b""
        self._held = b""
        return rest

    def _out(self, clean: bytes) -> bytes:
        self.size += len(clean)
        self.is_8bit = self.is_8bit or not clean.isascii()
        self._measure(clean)
        if clean and not self._head.is_over:
            self._head.feed(clean)
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


class _Head:
    """The header section in CRLF lines, as it comes; each octet is looked at once."""

    __slots__ = ("_begun", "_kept", "is_ascii", "is_over")

    def __init__(self) -> None:
        self.is_ascii = True
        self.is_over = False
        """Whether a line has come that is none of its fields."""
        self._kept = bytearray()
        self._begun = b""  # the last line, as far as it matters what it began with

    def feed(self, clean: bytes) -> None:
        if len(self._kept) < _MAX_HEADER:
            self._kept += clean
        data = self._begun + clean
        fields = FIELDS.match(data)
        assert fields is not None  # it matches nothing, too
        end = fields.end()
        self.is_ascii = self.is_ascii and data[:end].isascii()
        if end == len(data):
            # In the middle of a field, what follows is as behind the blank of a folded one.
            self._begun = b"" if data.endswith(b"\n") else b" "
        else:
            self.is_over = _NAME.fullmatch(data, end) is None
            # A longer name is as good as its beginning.
            self._begun = data[end : end + MAX_LINE]

    def section(self) -> bytes:
        return header_section_of(bytes(self._kept))
