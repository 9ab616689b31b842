"""The message as DATA carries it: dot-stuffed, and ended by a line with a lone dot.

RFC 5321 section 4.5.2: a dot is put in front of each line that starts with one. Content comes in
CRLF lines (`Content`), so a line starts at the beginning and behind each CRLF, and all that has
to be known from one chunk to the next is the last two octets: chunks may end between CR and LF
too. There is a copy only where a dot is found.
"""

from __future__ import annotations

END = b".\r\n"


def stuffed(message: bytes) -> bytes:
    """The whole of a message with dots stuffed."""
    if b"." in message:
        message = message.replace(b"\r\n.", b"\r\n..")
    return b"." + message if message.startswith(b".") else message


class DotStuffer:
    """Stuffs the chunks of one message, in their order."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def stuff(self, chunk: bytes) -> bytes:
        """The chunk with dots stuffed."""
        # To look for one octet is a fraction of the work, and what is in base64 has no dot.
        stuffed = chunk.replace(b"\r\n.", b"\r\n..") if b"." in chunk else chunk
        # The line end, or its first half, may be in front of this chunk.
        if self._tail == b"\r\n" and chunk[:1] == b".":
            stuffed = b"." + stuffed
        elif self._tail[-1:] == b"\r" and chunk[:2] == b"\n.":
            stuffed = b"\n." + stuffed[1:]
        self._tail = (self._tail + chunk[-2:])[-2:]
        return stuffed
