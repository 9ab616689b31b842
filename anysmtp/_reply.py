"""One reply of a server: a code, its lines of text, and what they say.

A reply is what the server said, whole: nothing is taken out of the text, not even the
enhanced status code that opens it. Text that is not UTF-8 survives as surrogate escapes, so
``reply.text.encode("utf-8", "surrogateescape")`` is what came over the wire; ``str(reply)``
is for people and terminals, and shows such bytes and control characters as escapes.

The first digit decides (RFC 5321 section 4.2.1); the exact code matters only where an RFC
gives it a meaning of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ._status import meaning_of

# RFC 2034 section 4: the text of a 2yz, 4yz or 5yz reply may start with
#     status-code ::= class "." subject "." detail
# with the class equal to the first digit. Some servers write it twice, or on the first line
# of a multi-line reply only: the first one counts.
_ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?![\w.])")
# An undecodable byte stands as a surrogate, whose low eight bits it is.
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


_set = object.__setattr__


@dataclass(frozen=True, slots=True, init=False)
class Reply:
    """A server's reply to one command (RFC 5321 section 4.2).

    ``text`` is one string, whose lines become the reply's lines, or a sequence of lines.
    Equal replies have equal code and lines. ValueError for a code outside 200 to 599.
    """

    code: int
    """The reply code, 200 to 599."""
    lines: tuple[str, ...]
    """The text of each line, without the code and the line end. Never empty."""

    def __init__(self, code: int, text: str | Sequence[str] = "") -> None:
        if not 200 <= code <= 599:
            raise ValueError(f"a reply code has 200 to 599, not {code!r}")
        lines = text.split("\n") if isinstance(text, str) else text
        _set(self, "code", code)
        _set(self, "lines", tuple(lines) or ("",))

    @property
    def text(self) -> str:
        """The lines, joined by a line feed."""
        return "\n".join(self.lines)

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463), as ``"5.1.1"``, where the text opens with one."""
        found = _ENHANCED.match(self.lines[0])
        if found and found[1] == str(self.code)[0]:
            return found[0]
        return None

    @property
    def meaning(self) -> str | None:
        """What the registry of RFC 5248 says of the enhanced status code, as ``"Mailbox full"``.

        None without a code, and for one whose subject is not registered."""
        enhanced = self.enhanced
        return None if enhanced is None else meaning_of(enhanced)

    @property
    def is_positive(self) -> bool:
        """2yz: the server did it."""
        return self.code < 300

    @property
    def is_intermediate(self) -> bool:
        """3yz: the server waits for more."""
        return 300 <= self.code < 400

    @property
    def is_transient(self) -> bool:
        """4yz: no, but it may work later."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: no, and the same command will not work later."""
        return self.code >= 500

    def written(self) -> list[str]:
        """Its lines as they came, but safe to print."""
        last = len(self.lines) - 1
        return [
            f"{self.code}{' ' if number == last else '-'}{printable(line)}"
            for number, line in enumerate(self.lines)
        ]

    def __str__(self) -> str:
        return f"{self.code} {printable(self.text)}".rstrip()


def printable(text: str) -> str:
    """Text of a server, safe to print: control characters and undecodable bytes as escapes."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)
