"""The client's own timeouts: their values, and that they are told apart from the caller's."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from anysmtp._clock import Clock, Timeouts, seconds_for, timeouts_of
from anysmtp.errors import SMTPServerDisconnected, SMTPTimeoutError

SOON = 1e-9
"""Seconds that are over before anything else has been done."""


def values(timeouts: Timeouts) -> tuple[float | None, ...]:
    return (
        *(timeouts.default, timeouts.connect),
        *(timeouts.command, timeouts.data, timeouts.final),
    )


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [
        (Timeouts(), (60, 30, 60, 60, 600)),
        (Timeouts(5), (5, 30, 5, 5, 600)),
        (Timeouts(None), (None, 30, None, None, 600)),
        (Timeouts(5, connect=1, command=2, data=3, final=4), (5, 1, 2, 3, 4)),
        (Timeouts(connect=None, command=None, data=None, final=None), (60, *[None] * 4)),
        (Timeouts.RFC5321, (300, 300, 300, 180, 600)),
        (timeouts_of(5), (5, 5, 5, 5, 600)),
        (timeouts_of(0.5), (0.5, 0.5, 0.5, 0.5, 600)),
        (timeouts_of(1000), (1000, 1000, 1000, 1000, 1000)),
        (timeouts_of(math.inf), (math.inf,) * 5),
        (timeouts_of(None), (None,) * 5),
        (timeouts_of(Timeouts.RFC5321), (300, 300, 300, 180, 600)),
    ],
)
def test_timeouts_have_values(timeouts: Timeouts, seconds: tuple[float | None, ...]) -> None:
    assert values(timeouts) == seconds


@pytest.mark.parametrize("seconds", [0, -1, -0.5, math.nan, -math.inf])
@pytest.mark.parametrize("name", ["default", "connect", "command", "data", "final"])
def test_a_timeout_is_above_zero(name: str, seconds: float) -> None:
    wrong: dict[str, Any] = {name: seconds}
    with pytest.raises(ValueError, match=f"{name} must be above 0 seconds"):
        Timeouts(**wrong)


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan])
def test_a_bare_number_is_above_zero(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout must be above 0 seconds"):
        timeouts_of(seconds)


@pytest.mark.parametrize("seconds", ["60", True, [60], 1j])
def test_a_timeout_is_a_number(seconds: Any) -> None:
    with pytest.raises(TypeError, match="timeout is a number of seconds or None"):
        timeouts_of(seconds)
    with pytest.raises(TypeError, match="final is a number of seconds or None"):
        Timeouts(final=seconds)


@pytest.mark.parametrize(
    ("verb", "seconds"),
    [("greeting", 1), ("DATA", 3), (".", 4), ("MAIL", 2), ("NOOP", 2), ("*", 2), ("XFOO", 2)],
)
def test_each_reply_has_its_timeout(verb: str, seconds: float) -> None:
    timeouts = Timeouts(9, connect=1, command=2, data=3, final=4)
    assert seconds_for(timeouts, verb) == seconds


async def flights(clock: Clock, *waits: tuple[float | None, str, float]) -> None:
    """A call: for each flight the seconds that it may take, what it is, and how long it takes."""
    with clock:
        for seconds, command, duration in waits:
            clock.start(seconds, command)
            await anyio.sleep(duration)


@pytest.mark.anyio
class TestOnBothBackends:
    async def test_its_own_expiry_is_an_error_of_ours(self) -> None:
        clock = Clock("h:25")
        clock.hint = " (try again)"
        with pytest.raises(SMTPTimeoutError) as caught:
            await flights(clock, (SOON, "NOOP", math.inf))
        assert str(caught.value) == "h:25 NOOP: nothing came within 1e-09 seconds (try again)"
        assert (caught.value.server, caught.value.command) == ("h:25", "NOOP")
        assert caught.value.connection_closed

    @pytest.mark.parametrize(("callers", "ours"), [(SOON, 60), (0, SOON)])
    async def test_the_callers_expiry_is_a_plain_one_and_wins(
        self, callers: float, ours: float
    ) -> None:
        async def call() -> None:
            with anyio.fail_after(callers):
                await flights(Clock("h:25"), (ours, "NOOP", math.inf))

        with pytest.raises(TimeoutError) as caught:
            await call()
        assert type(caught.value) is TimeoutError

    async def test_the_callers_cancellation_passes_through(self) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await flights(Clock("h:25"), (60, "NOOP", math.inf))
        assert scope.cancelled_caught

    async def test_another_error_passes_through(self) -> None:
        with pytest.raises(KeyError), Clock("h:25"):
            raise KeyError

    async def test_an_end_in_time_is_no_error(self) -> None:
        await flights(Clock("h:25"), (60, "NOOP", 0))

    async def test_an_abort_ends_what_waits(self) -> None:
        clock = Clock("h:25")

        async def close() -> None:
            clock.abort("the client was closed")

        async with anyio.create_task_group() as group:
            group.start_soon(close)
            with pytest.raises(SMTPServerDisconnected) as caught:
                await flights(clock, (60, "NOOP", math.inf))
            assert str(caught.value) == "h:25: the client was closed"
            assert caught.value.connection_closed

    async def test_an_abort_of_what_does_not_wait_changes_nothing(self) -> None:
        with Clock("h:25") as clock:
            clock.abort("the client was closed")

    @pytest.mark.parametrize("seconds", [None, 60])
    async def test_an_expiry_may_be_felt_after_the_clock_was_moved(
        self, seconds: float | None
    ) -> None:
        """The deadline passes while the task is already due to go on, and it goes on first."""
        event = anyio.Event()

        async def set_event() -> None:
            event.set()

        async def call() -> None:
            with Clock("h:25") as clock:
                clock.start(SOON, "NOOP")
                await event.wait()
                clock.start(seconds, "QUIT")
                await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(set_event)
            with pytest.raises(SMTPTimeoutError, match="nothing came within"):
                await call()


@pytest.mark.anyio
class TestInVirtualTime:
    @pytest.fixture
    def anyio_backend(self) -> object:
        testing = pytest.importorskip("trio.testing")
        return "trio", {"clock": testing.MockClock(autojump_threshold=0)}

    async def test_each_flight_has_its_own_time(self) -> None:
        in_time = (60, "NOOP", 59)
        with pytest.raises(SMTPTimeoutError, match="QUIT: nothing came within 5 seconds"):
            await flights(Clock("h"), in_time, in_time, in_time, (5, "QUIT", 6))
        assert anyio.current_time() == pytest.approx(3 * 59 + 5)

    async def test_pieces_that_follow_at_once_share_a_deadline_that_is_hardly_early(self) -> None:
        pieces = [(60, "the message", 0.01)] * 1000
        with pytest.raises(SMTPTimeoutError, match="nothing came within 60 seconds"):
            await flights(Clock("h"), *pieces, (60, "the message", math.inf))
        assert 69.93 <= anyio.current_time() <= 70.01

    @pytest.mark.parametrize(("pause", "end"), [(0.05, 60), (0.07, 60.07)])
    async def test_flights_at_once_have_the_time_of_the_first_one_but_for_a_thousandth(
        self, pause: float, end: float
    ) -> None:
        with pytest.raises(SMTPTimeoutError, match="NOOP: nothing came within 60 seconds"):
            await flights(Clock("h"), (60, "RSET", pause), (60, "NOOP", 70))
        assert anyio.current_time() == pytest.approx(end, abs=1e-3)

    async def test_a_flight_without_limit_takes_as_long_as_it_takes(self) -> None:
        await flights(Clock("h"), (None, "NOOP", 10_000), (60, "NOOP", 59), (None, "NOOP", 10_000))

    async def test_what_is_not_timed_does_not_expire(self) -> None:
        with Clock("h") as clock:
            await anyio.sleep(10_000)
            clock.start(60, "NOOP")
            clock.stop()
            await anyio.sleep(10_000)
            clock.stop()
            await anyio.sleep(10_000)

    async def test_a_held_clock_is_one_for_all(self) -> None:
        clock = Clock("h")
        clock.hold(30, "the connection")
        clock.stop()
        with pytest.raises(SMTPTimeoutError, match="EHLO: nothing came within 30 seconds"):
            await flights(clock, (60, "greeting", 20), (None, "EHLO", 20))
        assert anyio.current_time() == pytest.approx(30)

    async def test_a_held_clock_without_limit_has_none(self) -> None:
        clock = Clock("h")
        clock.hold(None, "the connection")
        await flights(clock, (60, "greeting", 10_000))

    async def test_a_released_clock_is_stopped_and_can_be_started(self) -> None:
        clock = Clock("h")
        clock.hold(30, "the connection")
        await anyio.sleep(29)
        clock.release()
        await anyio.sleep(10_000)
        with pytest.raises(SMTPTimeoutError, match="NOOP: nothing came within 60 seconds"):
            await flights(clock, (60, "NOOP", 61))

    async def test_the_callers_time_counts_through_all_flights(self) -> None:
        with anyio.move_on_after(100) as scope:
            await flights(Clock("h"), *[(60, "NOOP", 40)] * 3)
        assert scope.cancelled_caught
        assert anyio.current_time() == pytest.approx(100)
