"""What is known of each, whether it is the same of all or not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anysmtp._facts import Facts

KEYS = ["a", "b", "c"]
NOTES = st.lists(st.tuples(st.lists(st.sampled_from(KEYS), unique=True), st.integers()))


def facts_of(keys: list[str]) -> Facts[int]:
    facts = Facts(0)
    facts.keys = tuple(keys)
    return facts


@given(st.lists(st.sampled_from(KEYS), unique=True), NOTES)
def test_each_key_has_what_was_last_noted_of_it(
    keys: list[str], notes: list[tuple[list[str], int]]
) -> None:
    facts, expected = facts_of(keys), dict.fromkeys(keys, 0)
    for named, fact in notes:
        known = [key for key in named if key in expected]
        facts.note(known, fact)
        expected.update(dict.fromkeys(known, fact))
        assert [*facts.all().items()] == [*expected.items()]
        assert {key: facts.of(key) for key in keys} == expected
        assert facts.common is None or {*expected.values()} <= {facts.common}


def test_what_is_the_same_of_all_is_there_once() -> None:
    facts = facts_of(KEYS)
    found = [facts.common]
    for named in (["b"], ["c", "b", "a"]):
        facts.note(named, len(named))
        found.append(facts.common)
    assert found == [0, None, 3]
