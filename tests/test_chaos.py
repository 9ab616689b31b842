"""Whole clients against a server with which everything goes wrong.

Hypothesis makes the plans; see `support.chaos` for what may be in one, and for `judge`, the oracle:
each recipient of each message has it exactly once, or its Delivery says that he was refused, not
sent to, or is in doubt; and the server's log agrees. A plan that fails is printed, as it is to be
pasted into `ONCE_WRONG`, and it is the same one in the next run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from anysmtp import SMTP
from support.chaos import POINTS, ChaosServer, Fault, Letter, Plan, Report, Stream, carry_out, judge
from support.fixtures import Tally
from support.quick import every
from support.virtual_time import virtual_time

pytestmark = [
    pytest.mark.anyio,
    # A plan that fails is made smaller before it is printed, and that takes minutes.
    pytest.mark.timeout(900),
]

T = TypeVar("T")
PLANS = 120 // every(8)
# What takes the client's timeout, or a part of it.
TAKES_TIME = {"stalls", "is deaf", "is late", "is too late"}

TURNS = st.integers(0, 120)
SIZES = st.sampled_from([0, 0, 0, 1000, 20_000, 40_000, 100_000])


def plans(count: int) -> Callable[[Any], Any]:
    """So many of them; the tally, and the event loop, are those of all."""
    return settings(
        max_examples=count,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def some(items: SearchStrategy[T], most: int) -> SearchStrategy[tuple[T, ...]]:
    """None, most, or any number of them as likely: lists by themselves are short."""
    return st.integers(0, most).flatmap(
        lambda count: st.lists(items, min_size=count, max_size=count).map(tuple)
    )


def numbered(plan: Plan) -> Plan:
    """The same plan, in which no two letters have the same number."""
    numbers = itertools.count()

    def number(letters: tuple[Letter, ...]) -> tuple[Letter, ...]:
        return tuple(replace(letter, number=next(numbers)) for letter in letters)

    return replace(
        plan,
        letters=number(plan.letters),
        streams=tuple(replace(stream, letters=number(stream.letters)) for stream in plan.streams),
    )


# Some points are met only a few times in a run.
OFTEN_EARLY = st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 7, 10, 15])
A_FAULT = st.sampled_from(
    [(point, act) for point, acts in POINTS.items() for act in acts],
).flatmap(lambda fault: st.builds(Fault, st.just(fault[0]), OFTEN_EARLY, st.just(fault[1])))
A_LETTER = st.builds(
    Letter,
    st.just(0),
    recipients=st.integers(1, 4),
    size=SIZES,
    by=st.sampled_from(["client", "client", "client", "connection"]),
    starts_after=st.just(0) | TURNS,
    cancelled_after=st.none() | st.none() | TURNS,
    resumes=st.booleans(),
)
A_STREAM = st.builds(
    Stream,
    some(st.builds(Letter, st.just(0), recipients=st.integers(1, 4), size=SIZES), 20),
    ordered=st.booleans(),
    read_ahead=st.integers(1, 30),
    leaves_after=st.none() | st.none() | st.integers(0, 20),
    cancelled_after=st.none() | st.none() | TURNS,
)
A_PLAN = st.builds(
    Plan,
    letters=some(A_LETTER, 20),
    streams=some(A_STREAM, 2),
    faults=some(A_FAULT, 30),
    connections=st.integers(1, 5),
    pipelining=st.sampled_from(["auto", "eager", "auto", "eager", "off"]),
    attempts=st.sampled_from([1, 1, 3]),
    max_messages=st.sampled_from([None, None, None, 1, 3]),
    require_all=st.sampled_from([False, False, False, True]),
    ends=st.sampled_from(["when all is done", "when all is done", "cleanly", "aborted"]),
    ends_after=TURNS,
    offers=st.sampled_from(
        [
            ("PIPELINING", "CHUNKING"),
            ("PIPELINING", "CHUNKING"),
            ("PIPELINING",),
            (),
            ("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=4 MAILMAX=4"),
        ]
    ),
    takes_connections=st.sampled_from([None, None, None, 1, 2]),
    split=st.sampled_from([None, None, 1, 7]),
).map(numbered)


def in_no_time(plan: Plan) -> Plan:
    """The same plan without what has to be waited for."""
    faults = tuple(fault for fault in plan.faults if fault.act not in TAKES_TIME)
    return replace(plan, faults=faults)


def kindly(plan: Plan) -> Plan:
    """The same plan, in which nothing goes wrong but that sends are cancelled."""
    return replace(plan, faults=(), ends="when all is done", takes_connections=None)


def count(report: Report, tally: Tally) -> None:
    tally("messages in chaos", len(report.sends))
    tally("things that went wrong", report.server.faults.total())


class TestInVirtualTime:
    """On memory streams, where to wait for a timeout costs nothing."""

    @pytest.fixture(params=virtual_time())
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        return request.param

    @plans(PLANS)
    @given(plan=A_PLAN)
    async def test_each_message_is_delivered_once_or_the_client_says_why_not(
        self, plan: Plan, tally: Tally
    ) -> None:
        report = await carry_out(plan)
        judge(report)
        count(report, tally)

    @plans(PLANS // 3)
    @given(plan=A_PLAN.map(kindly))
    async def test_a_send_that_is_cancelled_harms_no_other(self, plan: Plan, tally: Tally) -> None:
        report = await carry_out(plan)
        assert plan.is_kind
        judge(report)
        count(report, tally)


class TestTheJudge:
    """He must see what he is there to see."""

    @pytest.fixture(params=virtual_time())
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        return request.param

    async def test_sees_a_message_that_is_stored_twice(self) -> None:
        report = await carry_out(Plan(letters=(Letter(0), Letter(1))))
        judge(report)
        (record,) = report.server.connections
        record.received.append(record.received[0])
        with pytest.raises(AssertionError, match="accepted, and stored 2 times"):
            judge(report)

    async def test_sees_a_message_that_is_not_there(self) -> None:
        report = await carry_out(Plan(streams=(Stream((Letter(0), Letter(1))),)))
        report.server.connections[0].received.pop()
        with pytest.raises(AssertionError, match="accepted, and stored 0 times"):
            judge(report)

    async def test_sees_one_that_is_there_and_was_refused(self) -> None:
        report = await carry_out(Plan(letters=(Letter(0),), faults=(Fault(".", 0, "5yz"),)))
        judge(report)
        (message,) = report.server.received
        message.accepted_for.extend(message.recipients)
        with pytest.raises(AssertionError, match="refused, and stored 1 times"):
            judge(report)

    async def test_sees_the_reply_to_another_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def name_another(*_: object) -> str:
            return "s1@x.test"

        monkeypatch.setattr(ChaosServer, "_whom", name_another)
        report = await carry_out(Plan(letters=(Letter(0), Letter(1))))
        with pytest.raises(AssertionError, match="belongs to another"):
            judge(report)

    async def test_sees_a_send_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def hang(*_: object) -> None:
            await anyio.sleep_forever()

        monkeypatch.setattr(SMTP, "_deliver", hang)
        with pytest.raises(TimeoutError):
            await carry_out(Plan(letters=(Letter(0),)))


@plans(PLANS // 5)
@given(plan=A_PLAN.map(in_no_time))
async def test_over_tcp_too(plan: Plan, tally: Tally) -> None:
    report = await carry_out(plan, over_tcp=True)
    judge(report)
    count(report, tally)


TWO_FOR_ONE = (Stream((Letter(0, recipients=2),)),)
ONCE_WRONG = {
    "one that waits for room, behind one that is cancelled, waits for ever": Plan(
        letters=(
            Letter(0, size=30_000, cancelled_after=40),
            Letter(1, size=40_000, starts_after=20),
        ),
        pipelining="eager",
        faults=(Fault("BDAT", 0, "stalls"),),
    ),
    "one that rode along with an end that was answered 421 sends on": Plan(
        letters=(Letter(0), Letter(1)),
        require_all=True,
        faults=(Fault(".", 0, "421, and stays"),),
    ),
    "what came of a stream's message is not told where the rest has no connection": Plan(
        streams=TWO_FOR_ONE,
        max_messages=1,
        faults=(Fault("RCPT", 1, "too many"), Fault("GREETING", 1, "554, and closes")),
    ),
    "those that are early in an ordered stream are not told when it cannot go on": Plan(
        streams=(Stream((Letter(0, size=40_000), Letter(1, size=100_000), Letter(2)), True),),
        connections=4,
        max_messages=1,
        takes_connections=1,
    ),
}


class TestPlansThatOnceWentWrong:
    """Found by the tests above, and made smaller."""

    @pytest.fixture(params=virtual_time())
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        return request.param

    @pytest.mark.parametrize("plan", ONCE_WRONG.values(), ids=ONCE_WRONG)
    async def test_they_do_not_any_more(self, plan: Plan) -> None:
        judge(await carry_out(plan))

    @pytest.mark.parametrize("pipelining", ["auto", "eager"])
    async def test_a_long_body_that_is_cancelled_anywhere_harms_none_that_rode_along(
        self, pipelining: Literal["auto", "eager"]
    ) -> None:
        for turns in range(0, 60, every(7)):
            long = Letter(1, size=100_000, cancelled_after=turns)
            letters = (Letter(0), long, Letter(2), Letter(3))
            judge(await carry_out(Plan(letters=letters, pipelining=pipelining)))
