"""The tables: which verb in which phase, which may share a flight, what each reply means.

Theory of operation. A session is in one *phase*, which follows what the server has said yes to.
A command may be sent in the phase in which the commands before it would leave the session if
all of them succeed; so a flight of pipelined commands is checked as a whole before it is
answered. When an answer is no, the phase stays (a refused MAIL leaves no transaction), and
the answers to the commands behind it will be no as well.

    phase      after
    ---------  ---------------------------------------------------------------
    connected  the connection is there, the greeting is awaited
    greeted    the greeting came (RFC 5321 section 3.1), or TLS was just put on
    ready      EHLO or HELO was accepted
    mail       MAIL was accepted (section 3.3)
    rcpt       RCPT was accepted at least once
    body       DATA was answered with 354: what is written now is the message
    chunks     a BDAT that is not the last one was accepted (RFC 3030 section 2)
    auth       AUTH was answered with 334: what is written now answers a challenge (RFC 4954)
    closed     QUIT was accepted

A 421 ends a session in any phase: see `Session.goodbye`.

A missing cell is an error: `NEXT[phase]` has no entry for a verb that cannot be sent in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal[
    "connected", "greeted", "ready", "mail", "rcpt", "body", "chunks", "auth", "closed"
]

# RFC 5321 section 4.1.4: NOOP, HELP, EXPN, VRFY, RSET and QUIT at any time, EHLO again too. A verb
# that is not in the tables (an extension's, sent by `command`) counts as "other".
_ANY_TIME: dict[str, Phase] = {"EHLO": "ready", "HELO": "ready", "QUIT": "closed"}
_STAYS = ("NOOP", "HELP", "VRFY", "EXPN", "other")


# A chunk's octets follow its command line, whatever the reply will be; the last one ends the
# message.
_CHUNKS: dict[str, Phase] = {"BDAT": "chunks", "BDAT LAST": "ready"}
CHUNKS = frozenset(_CHUNKS)


def _row(phase: Phase, **more: Phase) -> Mapping[str, Phase]:
    stays: dict[str, Phase] = dict.fromkeys(_STAYS, phase)
    reset: Phase = "greeted" if phase == "greeted" else "ready"
    return {**_ANY_TIME, **stays, "RSET": reset, **more}


# What a verb leads to when it succeeds.
NEXT: Mapping[Phase, Mapping[str, Phase]] = {
    "connected": {"greeting": "greeted"},
    "greeted": _row("greeted", STARTTLS="greeted"),
    "ready": _row("ready", STARTTLS="greeted", AUTH="ready", MAIL="mail"),
    "mail": _row("mail", RCPT="rcpt"),
    "rcpt": _row("rcpt", RCPT="rcpt", DATA="body", **_CHUNKS),
    "body": {".": "ready"},
    "chunks": _row("chunks", **_CHUNKS),
    "auth": {"*": "ready"},
    "closed": {},
}

# Which first digit is the verb's success; 4 and 5 are a refusal, any other a breach. A 3yz to AUTH
# or to a response is a challenge.
SUCCESS: Mapping[str, int] = {"DATA": 3}
DEFAULT_SUCCESS = 2
CHALLENGED = frozenset({"AUTH", "*"})

# A yes to a pipelined DATA means that the server reads a message, whatever it refused before; a yes
# to the last chunk, that it has one.
ALWAYS_REACHED: Mapping[str, Phase] = {"DATA": "body", "BDAT LAST": "ready"}

# RFC 2920 section 3.1, and for BDAT RFC 3030 section 2: these may be followed by more in the same
# flight, as the end of the data may; every other verb is the last of its flight, because its answer
# decides what the next octets mean or whether there are any.
MAY_BE_FOLLOWED = frozenset({"RSET", "MAIL", "RCPT", ".", "BDAT", "BDAT LAST"})

# After a yes to these, what is written next is no command, or nothing can be.
ASKS_FOR_MORE = frozenset({"DATA", "AUTH", "*", "STARTTLS", "QUIT"})

# After these, from the moment that they are sent, a transaction may be open on the server until
# one of the others is answered with yes. A refusal does not end it for certain: Postfix keeps one
# open after a refused end of data, and remembers the SIZE of a refused MAIL.
OPENS_TRANSACTION = frozenset({"MAIL"})
ENDS_TRANSACTION = frozenset({"RSET", "EHLO", "HELO", ".", "BDAT LAST", "STARTTLS"})

# After a refusal with one of these to a chunk that it could have taken, a server may read the chunk
# itself as commands (Exim, 552 for its size; 50y from those who never knew BDAT): what it says
# behind that answers something else.
READS_CHUNKS_AS_COMMANDS = frozenset({500, 501, 502, 503, 504, 552})


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """What the tables say of one verb, together: it is asked for with each command and reply."""

    name: str
    success: int
    may_be_followed: bool
    asks_for_more: bool
    is_challenged: bool
    is_chunk: bool
    opens: bool
    ends: bool
    always_reached: Phase | None
    changes_extensions: bool


def _of(name: str) -> Row:
    return Row(
        name=name,
        success=SUCCESS.get(name, DEFAULT_SUCCESS),
        may_be_followed=name in MAY_BE_FOLLOWED,
        asks_for_more=name in ASKS_FOR_MORE,
        is_challenged=name in CHALLENGED,
        is_chunk=name in CHUNKS,
        opens=name in OPENS_TRANSACTION,
        ends=name in ENDS_TRANSACTION,
        always_reached=ALWAYS_REACHED.get(name),
        changes_extensions=name in ("EHLO", "HELO"),
    )


VERBS = frozenset(verb for row in NEXT.values() for verb in row)
ROWS: Mapping[str, Row] = {verb: _of(verb) for verb in VERBS}
