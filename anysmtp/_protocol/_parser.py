"""Bytes in, one `Reply` or None out.

Bytes are collected as they come; `next_reply` takes one whole reply off the front each time it
is called, so what is read never depends on how the network cut it up. A breach of the grammar
is raised when the reply that contains it is asked for, not before the good ones in front of it.
After that the parser is of no further use: there is no telling where the next reply starts.

RFC 5321 section 4.2::

    Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
    Reply-code = %x32-35 %x30-35 %x30-39

Where reality differs: the second digit may be any; a line may end in a bare LF; text may be of any
octets; it may start with a space (Exim, ``250- 17 byte chunk``).
"""

from __future__ import annotations

import re

from .._reply import Reply, printable
from ..errors import SMTPProtocolError

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)

# What most replies are, in a length that nobody has to check.
_ONE_LINE = re.compile(rb"([2-5][0-9][0-9]) ([^\r\n]{0,512})\r\n")

# RFC 5321 section 4.5.3.1.5 allows 512 octets a line; servers that put a policy's whole URL into
# their refusal exceed it. RFC 4954 section 4 has challenges of 12288 octets behind their code.
MAX_LINE = 12294
# An EHLO reply has some twenty lines, HELP a hundred.
MAX_LINES = 1000
_TOO_LONG = f"a line of a reply is longer than {MAX_LINE} octets"
# What one reply may hold in memory.
MAX_REPLY = 65536
# How many replies of one line are kept, to be handed out again: a server has a few for the most
# part of what it says, and they are in the first message.
_KNOWN = 64
# The same of what answers a whole flight: it differs by the number of recipients.
_KNOWN_FLIGHTS = 8


class ReplyParser:
    """Collects bytes and hands out replies; every size is bounded."""

    __slots__ = ("_buffer", "_code", "_known", "_lines", "_position", "_size", "_yes", "_yeses")

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0  # what is in front of it was handed out
        self._code = 0
        self._lines: list[str] = []
        self._size = 0
        self._known: dict[bytes, Reply] = {}
        self._yes: set[bytes] = set()
        self._yeses: dict[bytes, tuple[int, int, Reply]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was received beyond the replies that were handed out."""
        return self._position == len(self._buffer) and not self._lines

    def feed(self, data: bytes) -> None:
        rest = self._buffer[self._position :]
        self._buffer = rest + data if rest else data
        self._position = 0

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None until more bytes have come.

        SMTPProtocolError if the bytes are no reply, or a larger one than is acceptable.
        """
        start = self._position
        end = self._buffer.find(b"\n", start) + 1
        while end:
            line = self._buffer[start:end]
            self._position = end
            if not self._lines and (reply := self._known.get(line) or self._one_line(line)):
                return reply
            if len(line) > MAX_LINE:
                raise SMTPProtocolError(_TOO_LONG)
            if self._take_line(line[:-1].removesuffix(b"\r")):
                reply = Reply(self._code, self._lines)
                self._lines, self._size = [], 0
                return reply
            start = end
            end = self._buffer.find(b"\n", start) + 1
        if len(self._buffer) - start >= MAX_LINE:
            raise SMTPProtocolError(_TOO_LONG)
        return None

    def next_yes(self, count: int, success: int) -> Reply | None:
        """So many replies at once, if all are there, of one line each, and say yes: the last one.

        Its first digit is ``success`` then, and the others' is 2. None takes nothing.
        """
        if self._lines:
            return None
        lines = self._buffer[self._position :].split(b"\n", count)
        if len(lines) <= count:
            return None
        rest, last = len(lines.pop()), lines.pop() + b"\n"
        if not self._yes.issuperset(lines) and not all(map(self._is_yes, lines)):
            return None
        reply = self._known.get(last) or self._one_line(last)
        if reply is None or reply.code // 100 != success:
            return None
        self._position = len(self._buffer) - rest
        return reply

    def only_yes(self, data: bytes, count: int, success: int) -> Reply | None:
        """What `next_yes` would say of data that is just so many replies, which is not taken."""
        if (known := self._yeses.get(data)) is not None and known[:2] == (count, success):
            return known[2]
        if count == 1:
            reply = self._known.get(data) or self._one_line(data)
            return reply if reply is not None and reply.code // 100 == success else None
        assert self.is_empty
        self.feed(data)
        reply = self.next_yes(count, success)
        is_all = self.is_empty
        self._buffer, self._position = b"", 0
        if reply is None or not is_all:
            return None
        if len(self._yeses) < _KNOWN_FLIGHTS:
            self._yeses[data] = (count, success, reply)
        return reply

    def _is_yes(self, line: bytes) -> bool:
        """Whether a line, without its LF, is a whole reply that says yes."""
        is_yes = line.startswith(b"2") and _ONE_LINE.fullmatch(line + b"\n") is not None
        if is_yes and len(self._yes) < _KNOWN:
            self._yes.add(line)
        return is_yes

    def _one_line(self, line: bytes) -> Reply | None:
        """What most replies are."""
        found = _ONE_LINE.fullmatch(line)
        if found is None:
            return None
        code, text = found.groups()
        reply = Reply(int(code), (text.decode("utf-8", "surrogateescape"),))
        if len(self._known) < _KNOWN:
            self._known[line] = reply
        return reply

    def _take_line(self, line: bytes) -> bool:
        """Add a line to the reply in progress; True if it is the last one."""
        found = _LINE.fullmatch(line)
        if not found:
            raise SMTPProtocolError(f"no reply code in {_shown(line)}")
        code, separator, text = int(found[1]), found[2], found[3] or b""
        if self._lines and code != self._code:
            raise SMTPProtocolError(f"a reply starts with {self._code} and goes on with {code}")
        self._code = code
        self._lines.append(text.decode("utf-8", "surrogateescape"))
        self._size += len(line)
        if len(self._lines) > MAX_LINES or self._size > MAX_REPLY:
            raise SMTPProtocolError(
                f"a reply is larger than {MAX_LINES} lines or {MAX_REPLY} octets"
            )
        return separator != b"-"


def _shown(line: bytes) -> str:
    """A line for an error message, in a bounded length."""
    text = printable(line[:80].decode("utf-8", "surrogateescape"))
    return f"'{text}'" + ("..." if len(line) > 80 else "")
