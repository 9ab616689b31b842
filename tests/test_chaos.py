"""Whole clients against a server with which everything goes wrong.

Hypothesis makes the plans; see `support.chaos` for what may be in one, and for `judge`, the oracle:
each recipient of each message has it exactly once, or its Delivery says that he was refused, not
sent to, or is in doubt; and the server's log agrees. A plan that fails is printed, and is the same
one in the next run.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.chaos import POINTS, Fault, Letter, Plan, Stream, carry_out, judge
from support.fixtures import Tally
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

RUNS = 30 if os.environ.get("ANYSMTP_QUICK") else 200

chaotic = settings(
    max_examples=RUNS,
    # The tally is the whole run's, and the event loop that of all examples.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


turns = st.integers(0, 120)
faults = st.sampled_from([(point, act) for point, acts in POINTS.items() for act in acts]).flatmap(
    lambda fault: st.builds(
        Fault, st.just(fault[0]), st.integers(0, 20), st.just(fault[1])
    )
)
letters = st.builds(
    Letter,
    st.just(0),
    recipients=st.integers(1, 4),
    size=st.sampled_from([0, 0, 0, 1000, 20_000, 40_000, 100_000]),
    by=st.sampled_from(["client", "client", "client", "connection"]),
    starts_after=st.one_of(st.just(0), turns),
    cancelled_after=st.one_of(st.none(), st.none(), turns),
    resumes=st.booleans(),
)
in_streams = st.builds(
    Letter,
    st.just(0),
    recipients=st.integers(1, 4),
    size=st.sampled_from([0, 0, 0, 1000, 20_000, 40_000, 100_000]),
)
streams = st.builds(
    Stream,
    st.lists(in_streams, min_size=1, max_size=25).map(tuple),
    ordered=st.booleans(),
    read_ahead=st.integers(1, 30),
    leaves_after=st.one_of(st.none(), st.none(), st.integers(0, 20)),
    cancelled_after=st.one_of(st.none(), st.none(), turns),
)


def numbered(plan: Plan) -> Plan:
    """The same plan with a number for each letter."""
    numbers = itertools.count()

    def number(of: tuple[Letter, ...]) -> tuple[Letter, ...]:
        return tuple(replace(letter, number=next(numbers)) for letter in of)

    return replace(
        plan,
        letters=number(plan.letters),
        streams=tuple(replace(stream, letters=number(stream.letters)) for stream in plan.streams),
    )


plans = st.builds(
    Plan,
    letters=st.lists(letters, max_size=20).map(tuple),
    streams=st.lists(streams, max_size=2).map(tuple),
    faults=st.lists(faults, max_size=25).map(tuple),
    connections=st.integers(1, 5),
    pipelining=st.sampled_from(["auto", "eager", "auto", "eager", "off"]),
    attempts=st.sampled_from([1, 1, 3]),
    max_messages=st.sampled_from([None, None, None, 1, 3]),
    require_all=st.sampled_from([False, False, False, True]),
    ends=st.sampled_from(["when all is done", "when all is done", "cleanly", "aborted"]),
    ends_after=turns,
    offers=st.sampled_from(
        [
            ("PIPELINING", "CHUNKING"),
            ("PIPELINING", "CHUNKING"),
            ("PIPELINING",),
            (),
            ("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=4 MAILMAX=4"),
        ]
    ),
    takes_connections=st.sampled_from([None, None, 1, 2]),
    split=st.sampled_from([None, None, 1, 7]),
).map(numbered)


@chaotic
@given(plan=plans)
async def test_each_message_is_delivered_once_or_the_client_says_why_not(
    plan: Plan, tally: Tally
) -> None:
    report = await carry_out(plan)
    judge(report)
    tally("messages in chaos", len(report.sends))
    tally("things that went wrong", report.server.faults.total())


def peaceful(plan: Plan) -> Plan:
    return replace(plan, faults=(), ends="when all is done")


@chaotic
@given(plan=plans.map(peaceful))
async def test_cancelled_neighbours_and_limits_harm_no_message(plan: Plan, tally: Tally) -> None:
    report = await carry_out(plan)
    judge(report)
    tally("messages beside cancelled ones", len(report.sends))
