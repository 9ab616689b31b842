"""The rate: never more than so many in any span of so many seconds, and no later than needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._rate import Rate


def begin(rate: Rate, *times: float) -> None:
    for time in times:
        rate.begin(time)


def test_as_many_as_are_allowed_begin_at_once() -> None:
    rate = Rate(3, 60)
    for _ in range(3):
        assert rate.delay(100) == 0
        rate.begin(100)
    assert rate.delay(100) == 60


@pytest.mark.parametrize(("now", "delay"), [(100, 5), (101, 4), (104.5, 0.5), (105, 0), (1000, 0)])
def test_the_next_one_waits_until_the_first_one_is_out_of_the_window(
    now: float, delay: float
) -> None:
    rate = Rate(2, 10)
    begin(rate, 95, 100)
    assert rate.delay(now) == delay


def test_the_window_slides() -> None:
    rate = Rate(2, 10)
    begin(rate, 0, 9, 10)
    assert rate.delay(10) == 9
    begin(rate, 19)
    assert rate.delay(19) == 1


def test_to_ask_is_not_to_begin() -> None:
    rate = Rate(1, 10)
    assert [rate.delay(0) for _ in range(3)] == [0, 0, 0]


@given(
    count=st.integers(1, 5),
    seconds=st.integers(1, 20),
    pauses=st.lists(st.integers(0, 30), max_size=40),
)
def test_no_window_has_more_than_are_allowed(count: int, seconds: int, pauses: list[int]) -> None:
    """Whenever they come, if each one waits as long as it is told."""
    rate, now = Rate(count, seconds), 0.0
    begun: list[float] = []
    for pause in pauses:
        now += pause
        delay = rate.delay(now)
        # Nobody waits for nothing: there would be too many.
        assert not delay or sum(time > now - seconds for time in begun) == count
        now += delay
        rate.begin(now)
        begun.append(now)
    for start in begun:
        assert sum(start <= time < start + seconds for time in begun) <= count
