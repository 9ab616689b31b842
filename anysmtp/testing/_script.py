"""What a scripted server does at one point of the conversation, as data.

A script maps *points* to *answers*. A point is the beginning of a command line, upper or lower
case, of which the longest that fits counts: ``"RCPT"``, ``"RCPT TO:<b@x>"``, ``"EHLO"``. Beside the
commands there are some points that are not command lines:

- ``"GREETING"``, before anything was said;
- ``"RESPONSE"``, each line of the client in answer to a 334;
- ``"BODY"``, when the first bytes after a 354 arrive (an early refusal);
- ``"."``, the end of the message; of LMTP also ``". <b@x>"``, for one recipient;
- ``"CONNECT"``, on memory streams only: before there is a connection (see `ScriptedServer`).

A BDAT is a command line like others, ``"BDAT 86 LAST"``. The last one is the end of a message too:
where the script has nothing for its line, and the server would take it, ``"."`` counts.

An answer is a reply (``"550 5.1.1 no such user"``; its lines are sent as they stand, each with a
CRLF; bytes without any change), or an `Act` where more is to happen. A list is answers for the
first times that the point is met; after them, and where no point fits, the server does what a
server does.

A refusal has the effect that it has on a server: a refused RCPT adds no recipient, DATA answered
354 is followed by a message, whatever the server itself would have said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from anyio import Event

from .. import Reply
from ._wire import Close


@dataclass(frozen=True, slots=True)
class Act:
    """What happens at a point: the reply after `late`, and what follows it in `then`."""

    reply: str | bytes | None = None
    """What is said; None is the server's own reply, empty bytes nothing at all."""
    late: float | Event = 0
    """Seconds to wait, or what to wait for, before the reply leaves."""
    then: Close | Literal["stall", "deaf"] | None = None
    """How the connection ends after it; ``"stall"`` reads on and never answers again, ``"deaf"``
    does not even read, so that a client that writes much is blocked."""
    reads_chunk: bool = True
    """Whether the octets behind a BDAT are read as what they are; False is Exim's way with a
    chunk that is too large, of which it reads every line as a command."""

    @property
    def says_nothing(self) -> bool:
        return self == Act()


STALL = Act(b"", then="stall")
DEAF = Act(b"", then="deaf")
DROP = Act(b"", then="close")
RESET = Act(b"", then="reset")
MISREAD = Act("552 5.3.4 Message size exceeds the limit", reads_chunk=False)

Answer: TypeAlias = "str | bytes | Act"
Table: TypeAlias = "Mapping[str, Answer | Sequence[Answer]]"
Rule: TypeAlias = "Callable[[str], Answer | None]"


class Script:
    """A table, or a function of the command line, with how often each point was met."""

    def __init__(self, answers: Table | Rule) -> None:
        self._rule = answers if callable(answers) else None
        self.table: MutableMapping[str, Answer | Sequence[Answer]]
        self.table = {} if callable(answers) else dict(answers)
        self._met: Counter[str] = Counter()

    def act(self, line: str) -> Act:
        """What happens at this point; an `Act` without a reply if the script says nothing."""
        answer = self._look_up(line)
        if answer is None:
            return Act()
        if not isinstance(answer, (str, bytes, Act)):
            raise TypeError(f"an answer of a script is a str, bytes or an Act, not {answer!r}")
        return answer if isinstance(answer, Act) else Act(answer)

    def _look_up(self, line: str) -> object:
        """What stands in the script, whatever it is."""
        if self._rule is not None:
            return self._rule(line)
        points = [point for point in self.table if line.upper().startswith(point.upper())]
        if not points:
            return None
        point = max(points, key=len)
        answer = self.table[point]
        if isinstance(answer, (str, bytes, Act)) or not isinstance(answer, Sequence):
            return answer
        self._met[point] += 1
        times = self._met[point]
        return answer[times - 1] if times <= len(answer) else None


def encode(reply: str | bytes) -> bytes:
    """The bytes of a reply: each line of a str with a CRLF, bytes as they are."""
    if isinstance(reply, bytes):
        return reply
    return reply.replace("\n", "\r\n").encode() + b"\r\n"


def lines(code: int, texts: Sequence[str]) -> str:
    """A reply of several lines, ``250-`` on all but the last (RFC 5321 section 4.2)."""
    return "\n".join([*(f"{code}-{text}" for text in texts[:-1]), f"{code} {texts[-1]}"])


def reply_of(text: str) -> Reply:
    """A reply as it is written in a script, as a value. ValueError for what is none."""
    written = text.split("\n")
    if not all(re.match(r"[2-5][0-9]{2}([ -]|$)", line) for line in written):
        raise ValueError(f"a reply starts with its code, not {text!r}")
    return Reply(int(text[:3]), [line[4:] for line in written])
