"""A stream of messages and time: its rate, its retries, its timeouts, in virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anysmtp import (
    Delivery,
    Limits,
    Retry,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPTimeoutError,
)
from anysmtp.testing import DROP, STALL, Act, ScriptedServer
from anysmtp.testing._script import Script as Answers
from support.clients import Script, on_memory
from support.many import Source, keys, mail, outcomes, send_all, subjects
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class Timed:
    """A scripted server that writes down when each transaction began."""

    def __init__(self, script: Script | None = None) -> None:
        self.times: list[float] = []
        self._script = Answers(script or {})
        self.server = ScriptedServer(script=self._answer)

    def _answer(self, line: str) -> Act | None:
        if line.startswith("MAIL"):
            self.times.append(anyio.current_time())
        act = self._script.act(line)
        return None if act.says_nothing else act


def most_within(seconds: float, times: list[float]) -> int:
    return max(sum(start <= time < start + seconds for time in times) for start in times)


@pytest.mark.parametrize("connections", [1, 3])
async def test_no_more_messages_begin_than_the_rate_allows(connections: int) -> None:
    timed = Timed()
    limits = Limits(max_connections=connections, rate=(5, 60))
    start = anyio.current_time()
    async with timed.server, on_memory(timed.server, limits=limits) as smtp:
        deliveries = await send_all(smtp, map(mail, range(17)))
    assert set(outcomes(deliveries).values()) == {"accepted"}
    assert most_within(60, timed.times) == 5
    assert anyio.current_time() - start == pytest.approx(180, abs=1)


async def test_retries_are_messages_that_begin_too() -> None:
    script: Script = {"RCPT TO:<0@": ["450 4.2.0 later"] * 4}
    timed = Timed(script)
    limits = Limits(max_connections=1, rate=(1, 60))
    retry = Retry(6, base=0.001, max_delay=0.001)
    async with timed.server, on_memory(timed.server, limits=limits, retry=retry) as smtp:
        deliveries = await send_all(smtp, map(mail, range(4)))
    assert set(outcomes(deliveries).values()) == {"accepted"}
    assert most_within(59, timed.times) == 1


async def test_what_was_refused_for_now_is_sent_later_and_holds_up_nobody() -> None:
    script: Script = {"RCPT TO:<1@": ["450 4.2.0 later"] * 2}
    retry = Retry(3, base=60)
    async with ScriptedServer(script=script) as server, on_memory(server, retry=retry) as smtp:
        deliveries = await send_all(smtp, map(mail, range(4)))
    assert keys(deliveries) == [0, 2, 3, 1]
    assert set(outcomes(deliveries).values()) == {"accepted"}
    assert subjects(server.messages) == ["0", "2", "3", "1"]


async def test_a_pause_before_another_try_holds_up_nobody() -> None:
    script: Script = {"RCPT TO:<1@": ["450 4.2.0 later"] * 2}
    retry = Retry(3, base=60, factor=4)
    start, ends = anyio.current_time(), dict[Any, float]()
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, retry=retry) as smtp,
        smtp.send_many(Source(30).items(), read_ahead=5) as deliveries,
    ):
        async for delivery in deliveries:
            assert delivery.outcome == "accepted"
            ends[delivery.key] = anyio.current_time() - start
    assert 150 <= ends.pop(1) <= 300
    assert max(ends.values()) < 1


async def test_our_timeout_at_the_end_of_a_message_leaves_it_in_doubt() -> None:
    """The next one, whose envelope was on its way with it, goes over a fresh connection."""
    async with (
        ScriptedServer(script={".": ["250 ok", STALL]}) as server,
        on_memory(server, timeout=30) as smtp,
    ):
        start = anyio.current_time()
        deliveries = await send_all(smtp, map(mail, range(5)), ordered=True)
    assert [d.outcome for d in deliveries] == ["accepted", "in_doubt", *["accepted"] * 3]
    error = deliveries[1].exception()
    assert isinstance(error, SMTPTimeoutError)
    assert error.delivery is deliveries[1]
    assert subjects(server.received) == list("01234")
    assert len(server.connections) == 2
    assert anyio.current_time() - start == pytest.approx(600, abs=1)


@pytest.mark.parametrize("point", ["RSET", "MAIL", "RCPT", "DATA"])
async def test_our_timeout_in_an_envelope_is_that_message_not_sent(point: str) -> None:
    script: Script = {point: [Act(), Act(), STALL]}
    async with ScriptedServer(script=script) as server, on_memory(server, timeout=30) as smtp:
        deliveries = await send_all(smtp, map(mail, range(6)), ordered=True)
    # Before the first one there is no RSET.
    number = 3 if point == "RSET" else 2
    expected: dict[int, Any] = dict.fromkeys(range(6), "accepted")
    assert outcomes(deliveries) == {**expected, number: "not_sent"}
    failed = deliveries[number]
    assert isinstance(failed.exception(), SMTPTimeoutError)
    assert failed.may_retry
    assert len(server.connections) == 2
    assert len(server.received) == 5


async def test_our_timeout_may_be_followed_by_another_try() -> None:
    script: Script = {"DATA": ["354 go", STALL]}
    retry = Retry(2, base=1)
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, timeout=30, retry=retry) as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(3)))
    assert sorted(keys(deliveries)) == [0, 1, 2]
    assert set(outcomes(deliveries).values()) == {"accepted"}
    assert len(server.received) == 3


@pytest.mark.parametrize("connections", [1, 3])
async def test_a_server_that_never_answers_ends_the_stream_after_one_timeout(
    connections: int,
) -> None:
    source, limits = Source(), Limits(max_connections=connections)
    start = anyio.current_time()
    async with (
        ScriptedServer(script={"GREETING": STALL}) as server,
        on_memory(server, limits=limits) as smtp,
    ):
        with pytest.raises(SMTPException):
            await send_all(smtp, source.items())
    assert anyio.current_time() - start == pytest.approx(30, abs=1)
    assert source.pulled <= 100


async def test_the_same_where_there_is_a_login() -> None:
    """Connections are opened one after the other then: the first that fails is enough."""
    source, limits = Source(), Limits(max_connections=3)
    start = anyio.current_time()
    async with ScriptedServer(script={"GREETING": STALL}, users={"ann": "right"}) as server:
        smtp = on_memory(
            server, limits=limits, username="ann", password="right", allow_plaintext_auth=True
        )
        async with smtp:
            with pytest.raises(SMTPException):
                await send_all(smtp, source.items())
    assert anyio.current_time() - start == pytest.approx(30, abs=1)


async def test_with_retries_a_closed_door_is_tried_as_often_as_one_message_would() -> None:
    """Not as often as there are messages in line."""
    connects: list[str] = []

    def refuse(point: str) -> Act:
        connects.append(point)
        return DROP

    async with (
        ScriptedServer(script=refuse) as server,
        on_memory(server, retry=Retry(3, base=10)) as smtp,
    ):
        with pytest.raises(SMTPConnectError):
            await send_all(smtp, Source().items())
    assert set(connects) == {"CONNECT"}
    assert len(connects) <= 9


async def test_with_retries_a_login_is_tried_as_often_as_one_message_would() -> None:
    """454 (RFC 4954 section 6) is for now only; but each try may count against the account."""
    script: Script = {"AUTH": "454 4.7.0 temporary authentication failure"}
    async with ScriptedServer(users={"ann": "right"}, script=script) as server:
        smtp = on_memory(
            server,
            username="ann",
            password="right",
            allow_plaintext_auth=True,
            retry=Retry(3, base=10),
        )
        async with smtp:
            with pytest.raises(SMTPAuthenticationError):
                await send_all(smtp, Source().items())
    assert sum(record.verbs.count("AUTH") for record in server.connections) <= 9


async def test_a_door_that_opens_again_lets_all_of_them_in() -> None:
    script: Script = {"CONNECT": [DROP] * 2}
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, retry=Retry(3, base=10)) as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(20)))
    assert sorted(keys(deliveries)) == list(range(20))
    assert set(outcomes(deliveries).values()) == {"accepted"}


async def test_what_waits_for_another_try_is_reported_when_nothing_works_any_more() -> None:
    """It was begun: the server has refused it for now."""
    found: list[Delivery[Any]] = []
    script: Script = {
        "AUTH": [Act(), "535 5.7.8 not any more"],
        "RCPT TO:<0@": "450 4.2.0 later",
        ".": ["250 ok", DROP],
    }
    async with ScriptedServer(users={"ann": "right"}, script=script) as server:
        smtp = on_memory(
            server,
            username="ann",
            password="right",
            allow_plaintext_auth=True,
            retry=Retry(2, base=100),
        )
        async with smtp:
            with pytest.raises(SMTPAuthenticationError):
                await send_all(smtp, map(mail, range(5)), found)
    assert outcomes(found) == {0: "refused", 1: "accepted", 2: "in_doubt"}
