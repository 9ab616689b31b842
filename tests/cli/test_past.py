"""What another run does with a message, by what is known of it."""

from __future__ import annotations

import pytest

from anysmtp import Reply
from anysmtp.cli._past import Fact, Past, State, Todo, Wanted

ACCEPTED = Fact("accepted", Reply(250, "ok"))
LATER = Fact("refused", Reply(450, "later"))
NEVER = Fact("refused", Reply(550, "never"))
NOT_SENT = Fact("not_sent")
IN_DOUBT = Fact("in_doubt")


def past(*facts: Fact, under_way: bool = False) -> Past:
    named = {f"{number}@x.test": fact for number, fact in enumerate(facts)}
    return Past("key", "name", b"digest", under_way, named)


def asked(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number}@x.test" for number in numbers)


# What is known, and what is done by itself, with --resend-in-doubt and with --retry-refused.
What = State | tuple[str, ...] | None
CASES: dict[str, tuple[Past | None, What, What, What]] = {
    "new": (None, None, None, None),
    "accepted": (past(ACCEPTED), "accepted", "accepted", "accepted"),
    "not sent": (past(NOT_SENT), asked(0), asked(0), asked(0)),
    "refused for now": (past(LATER), asked(0), asked(0), asked(0)),
    "refused for good": (past(NEVER), "refused", "refused", asked(0)),
    "in doubt": (past(IN_DOUBT), "in_doubt", asked(0), "in_doubt"),
    "killed": (past(under_way=True), "in_doubt", None, "in_doubt"),
    "killed in a later run": (
        past(ACCEPTED, IN_DOUBT, under_way=True),
        "in_doubt",
        asked(1),
        "in_doubt",
    ),
    "of each": (
        past(ACCEPTED, LATER, NEVER, NOT_SENT, IN_DOUBT),
        asked(1, 3),
        asked(1, 3, 4),
        asked(1, 2, 3),
    ),
}


def done(wanted: Wanted, known: Past | None, digest: bytes = b"digest") -> What:
    found = wanted.left_to_do(known, digest)
    return found.recipients if isinstance(found, Todo) else found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_left_to_do(case: tuple[Past | None, What, What, What]) -> None:
    known, by_itself, in_doubt, refused = case
    assert done(Wanted(), known) == by_itself
    assert done(Wanted(in_doubt=True), known) == in_doubt
    assert done(Wanted(refused=True), known) == refused


EDITED: dict[str, tuple[Past, What, What]] = {
    "accepted": (past(ACCEPTED), "changed", "changed"),
    "accepted for one": (past(ACCEPTED, LATER), "changed", "changed"),
    "accepted for one, in doubt for another": (past(ACCEPTED, IN_DOUBT), "in_doubt", "in_doubt"),
    "refused for good": (past(NEVER), None, None),
    "not sent": (past(NOT_SENT), None, None),
    "in doubt": (past(IN_DOUBT), "in_doubt", None),
    "killed": (past(under_way=True), "in_doubt", None),
}


@pytest.mark.parametrize("case", EDITED.values(), ids=EDITED)
def test_what_is_left_to_do_if_it_was_edited(case: tuple[Past, What, What]) -> None:
    known, by_itself, in_doubt = case
    assert done(Wanted(), known, b"other") == by_itself
    assert done(Wanted(in_doubt=True), known, b"other") == in_doubt


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (past(ACCEPTED), "accepted"),
        (past(ACCEPTED, NOT_SENT), "not_sent"),
        (past(ACCEPTED, NOT_SENT, LATER), "refused"),
        (past(ACCEPTED, LATER, IN_DOUBT), "in_doubt"),
        (past(ACCEPTED, under_way=True), "in_doubt"),
        (past(), "not_sent"),
    ],
)
def test_the_worst_of_it_is_its_state(known: Past, state: State) -> None:
    assert known.state == state
