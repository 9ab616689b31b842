"""The tables, every cell of them walked through a real session."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from anysmtp._protocol._commands import Command
from anysmtp._protocol._session import Session
from anysmtp._protocol._states import (
    ALWAYS_REACHED,
    ASKS_FOR_MORE,
    CHALLENGED,
    CHUNKS,
    DEFAULT_SUCCESS,
    ENDS_TRANSACTION,
    MAY_BE_FOLLOWED,
    NEXT,
    OPENS_TRANSACTION,
    READS_CHUNKS_AS_COMMANDS,
    SUCCESS,
    VERBS,
    Phase,
)

PHASES: tuple[Phase, ...] = get_args(Phase)
CELLS = list(itertools.product(PHASES, sorted(VERBS)))

# How a session gets into each phase: what is sent, and what the server says.
WAYS: dict[Phase, list[tuple[str, str]]] = {
    "connected": [("", "554 go away")],
    "greeted": [("", "220 hello")],
    "ready": [("", "220 hello"), ("EHLO", "250 hello")],
    "mail": [("", "220 hello"), ("EHLO", "250 hello"), ("MAIL", "250 ok")],
    "rcpt": [("", "220 hello"), ("HELO", "250 hello"), ("MAIL", "250 ok"), ("RCPT", "251 ok")],
    "body": [
        *(("", "220 hello"), ("EHLO", "250 hello"), ("MAIL", "250 ok"), ("RCPT", "250 ok")),
        ("DATA", "354 go"),
    ],
    "chunks": [
        *(("", "220 hello"), ("EHLO", "250 hello"), ("MAIL", "250 ok"), ("RCPT", "250 ok")),
        ("BDAT", "250 ok"),
    ],
    "auth": [("", "220 hello"), ("EHLO", "250 hello"), ("AUTH", "334 ")],
    "closed": [("", "220 hello"), ("QUIT", "221 bye")],
}


def phase_of(verb: str) -> Phase:
    """The first phase in which a verb can be sent."""
    return next(phase for phase in PHASES if verb in NEXT[phase])


def command(verb: str) -> Command:
    return Command("XFOO") if verb == "other" else Command(verb, verb=verb)


def answer(session: Session, reply: str) -> None:
    session.receive(reply.encode() + b"\r\n")
    assert session.next_reply() is not None


def session_in(phase: Phase) -> Session:
    session = Session()
    for verb, reply in WAYS[phase]:
        if verb:
            session.send(command(verb))
        answer(session, reply)
    assert session.phase == phase
    assert session.head is None
    return session


def yes(verb: str) -> str:
    return f"{SUCCESS.get(verb, DEFAULT_SUCCESS)}50 yes"


@pytest.mark.parametrize(("phase", "verb"), CELLS)
def test_a_cell_allows_its_verb_and_says_where_it_leads(phase: Phase, verb: str) -> None:
    session = session_in(phase)
    if verb in NEXT[phase]:
        awaited = session.send(command(verb))
        assert session.head is awaited
        assert session.phase == phase
        answer(session, yes(verb))
        assert awaited.succeeded
        assert session.phase == NEXT[phase][verb]
    else:
        with pytest.raises(RuntimeError, match=f"session is in '{phase}'"):
            session.send(command(verb))
        assert (session.phase, session.head) == (phase, None)


@pytest.mark.parametrize(("phase", "verb"), [cell for cell in CELLS if cell[1] in NEXT[cell[0]]])
@pytest.mark.parametrize("code", [450, 550])
def test_a_refusal_leaves_the_phase(phase: Phase, verb: str, code: int) -> None:
    session = session_in(phase)
    awaited = session.send(command(verb))
    answer(session, f"{code} no")
    assert not awaited.succeeded
    assert session.phase == ("ready" if phase in ("body", "auth") else phase)


@pytest.mark.parametrize("verb", sorted(CHALLENGED))
def test_a_challenge_leads_to_auth(verb: str) -> None:
    session = session_in("ready" if verb == "AUTH" else "auth")
    awaited = session.send(command(verb))
    answer(session, "334 ")
    assert session.phase == "auth"
    assert not awaited.succeeded


@pytest.mark.parametrize(("last", "verb"), list(itertools.product(sorted(VERBS), repeat=2)))
def test_only_some_verbs_may_be_followed_in_a_flight(last: str, verb: str) -> None:
    phase = phase_of(last)
    session = session_in(phase)
    session.send(command(last))
    if last in MAY_BE_FOLLOWED and verb in NEXT[NEXT[phase][last]]:
        session.send(command(verb))
        answer(session, yes(last))
        answer(session, yes(verb))
        assert session.phase == NEXT[NEXT[phase][last]][verb]
    else:
        with pytest.raises(RuntimeError, match=r"not possible now|before the reply to"):
            session.send(command(verb))
        answer(session, yes(last))
        assert session.head is None


def test_nothing_is_sent_before_the_greeting() -> None:
    for verb in sorted(VERBS):
        with pytest.raises(RuntimeError, match="before the reply to greeting"):
            Session().send(command(verb))


def test_the_tables_speak_of_the_same_things() -> None:
    assert set(NEXT) == set(PHASES)
    assert {phase for row in NEXT.values() for phase in row.values()} <= set(PHASES)
    mentioned = {*SUCCESS, *ALWAYS_REACHED, *CHALLENGED, *MAY_BE_FOLLOWED, *ASKS_FOR_MORE, *CHUNKS}
    assert mentioned | OPENS_TRANSACTION | ENDS_TRANSACTION <= VERBS
    assert set(ALWAYS_REACHED.values()) <= set(PHASES)


def test_what_asks_for_more_is_the_last_of_its_flight() -> None:
    assert ASKS_FOR_MORE.isdisjoint(MAY_BE_FOLLOWED)
    assert CHALLENGED <= ASKS_FOR_MORE


def test_chunks_may_be_followed_and_only_refusals_may_have_been_read_as_commands() -> None:
    assert CHUNKS <= MAY_BE_FOLLOWED
    assert all(500 <= code < 600 for code in READS_CHUNKS_AS_COMMANDS)


@pytest.mark.parametrize("verb", sorted(ALWAYS_REACHED))
def test_where_a_yes_always_leads_it_leads_from_where_the_table_has_it(verb: str) -> None:
    assert {row[verb] for row in NEXT.values() if verb in row} == {ALWAYS_REACHED[verb]}


def test_every_phase_can_be_reached() -> None:
    reached: set[Phase] = {"connected"}
    for _ in PHASES:
        reached |= {phase for start in reached for phase in NEXT[start].values()}
    assert reached == set(PHASES) - {"auth"}
    assert all("AUTH" in NEXT[phase] for phase in PHASES if phase == "ready")


@pytest.mark.parametrize(
    ("phase", "verbs"),
    [
        # RFC 5321 section 4.1.4: what is allowed at any time, and what has an order.
        ("greeted", {"EHLO", "HELO", "NOOP", "HELP", "VRFY", "EXPN", "RSET", "QUIT"}),
        ("mail", {"EHLO", "NOOP", "RSET", "QUIT", "RCPT"}),
        ("rcpt", {"EHLO", "NOOP", "RSET", "QUIT", "RCPT", "DATA"}),
        # RFC 3030 section 2: one chunk or several, and RSET gives them up.
        ("rcpt", {"BDAT", "BDAT LAST"}),
        ("chunks", {"BDAT", "BDAT LAST", "RSET", "EHLO", "NOOP", "QUIT"}),
    ],
)
def test_the_standards_order_is_possible(phase: Phase, verbs: set[str]) -> None:
    assert verbs <= NEXT[phase].keys()


@pytest.mark.parametrize(
    ("phase", "verb"),
    [
        ("greeted", "MAIL"),  # RFC 5321 section 3.2: EHLO first
        ("mail", "MAIL"),  # section 3.3: no nested MAIL
        ("mail", "DATA"),  # section 3.3: no DATA without a recipient
        ("ready", "RCPT"),
        ("mail", "AUTH"),  # RFC 4954 section 4: not during a transaction
        ("rcpt", "AUTH"),
        ("mail", "STARTTLS"),
        ("mail", "BDAT LAST"),  # RFC 3030 section 2: no chunk without a recipient
        ("chunks", "DATA"),  # and not DATA and BDAT in one transaction
        ("chunks", "RCPT"),
        ("chunks", "MAIL"),
        ("chunks", "STARTTLS"),
        ("body", "BDAT"),
        ("body", "QUIT"),
        ("auth", "NOOP"),
    ],
)
def test_the_standards_prohibitions_are_in_the_tables(phase: Phase, verb: str) -> None:
    assert verb not in NEXT[phase]
