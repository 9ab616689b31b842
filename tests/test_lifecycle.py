"""The end of a client that has many connections and many tasks: clean, aborted, cancelled.

What one connection shows is in `test_client`. In virtual time, on both backends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, Delivery, Limits, SMTPException, SMTPServerDisconnected
from anysmtp.testing import STALL, Act, Answer, ScriptedServer
from support.bench import message
from support.clients import SENDER, deliver, on_memory
from support.leaks import no_leaks
from test_limits import House, client, crowd, in_virtual_time, mails, send_all, stream_all, taking

pytestmark = pytest.mark.anyio

CLOSED = "<SMTP mail.example.test:25 0/{} idle 0 waiting 0 closed>"


@pytest.fixture
def anyio_backend(anyio_backend: object) -> object:
    return in_virtual_time(anyio_backend)


def stuck_at(*lines: str) -> Callable[[str], Answer | None]:
    """A server that takes a second for each message, and does not answer these at all."""
    return lambda line: STALL if line in lines else taking(1)(line)


class Sends:
    """Sends in tasks of their own, and what became of each."""

    def __init__(self, smtp: SMTP) -> None:
        self._smtp = smtp
        self.deliveries: list[Delivery[int]] = []
        self.errors: list[SMTPException] = []

    async def one(self, number: int) -> None:
        delivery: Delivery[int] = Delivery(key=number)
        self.deliveries.append(delivery)
        try:
            await self._smtp.sendmail(SENDER, "b@x.test", message(str(number)), delivery=delivery)
        except SMTPException as error:
            self.errors.append(error)

    @property
    def outcomes(self) -> Counter[Any]:
        return Counter(delivery.outcome for delivery in self.deliveries)


async def fail(smtp: SMTP) -> None:
    """Leave the client as a block does that has raised."""
    await smtp.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)


# A clean end


async def test_leaving_lets_everybody_finish_who_sends_or_waits() -> None:
    async with no_leaks(), House(answers=taking(1)) as house:
        smtp = client(house, 5)
        sends = Sends(smtp)
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(sends.one, number)
            await anyio.wait_all_tasks_blocked()
            await smtp.aclose()
            assert all(delivery.phase == "done" for delivery in sends.deliveries)
        await house.server.wait_closed()
        assert repr(smtp) == CLOSED.format(5)
    assert sends.outcomes == {"accepted": 40}
    assert [record.end for record in house.server.connections] == ["quit"] * 5


async def test_leaving_waits_for_a_connection_that_is_being_opened() -> None:
    def answers(line: str) -> Answer | None:
        return Act(late=3) if line == "GREETING" else None

    async with no_leaks(), House(answers=answers) as house:
        smtp = client(house, 3)
        async with anyio.create_task_group() as group:
            group.start_soon(smtp.connect)
            group.start_soon(deliver, smtp)
            await anyio.wait_all_tasks_blocked()
            await smtp.aclose()
        await house.server.wait_closed()
    assert [record.end for record in house.server.connections] == ["quit", "quit"]
    assert len(house.server.messages) == 1


async def test_leaving_waits_for_those_who_keep_to_a_rate() -> None:
    async with no_leaks(), House() as house:
        smtp = client(house, 3, rate=(1, 10))
        async with anyio.create_task_group() as group:
            group.start_soon(send_all, smtp, range(4))
            await anyio.sleep(1)
            await smtp.aclose()
            assert house.seconds >= 30
    assert len(house.subjects) == 4


async def test_leaving_waits_for_a_stream_of_messages() -> None:
    async with no_leaks(), House(answers=taking(1)) as house:
        smtp = client(house, 3)
        async with anyio.create_task_group() as group:
            group.start_soon(stream_all, smtp, range(30))
            await anyio.sleep(1.5)
            await smtp.aclose()
        await house.server.wait_closed()
    assert sorted(house.subjects, key=int) == [str(number) for number in range(30)]


async def test_nothing_new_is_let_in_while_it_ends() -> None:
    async with no_leaks(), House(answers=taking(5)) as house:
        smtp = client(house, 3)
        async with anyio.create_task_group() as group:
            group.start_soon(deliver, smtp)
            await anyio.sleep(1)
            group.start_soon(smtp.aclose)
            await anyio.sleep(1)
            for use in (deliver, SMTP.connect, borrow, SMTP.__aenter__):
                with pytest.raises(RuntimeError, match="the client is closed"):
                    await use(smtp)
            with pytest.raises(RuntimeError, match="the client is closed"):
                smtp.send_many(mails(range(3)))
    assert len(house.server.messages) == 1


async def borrow(smtp: SMTP) -> None:
    async with smtp.connection():
        pass


async def test_connections_that_do_not_answer_to_quit_cost_two_seconds_in_all() -> None:
    async with no_leaks(), House(answers=stuck_at("QUIT")) as house:
        async with client(house, 30) as smtp:
            await crowd(smtp, 60, 1)
            assert house.served == 30
            start = house.seconds
        assert 1.9 < house.seconds - start < 2.1
        assert repr(smtp) == CLOSED.format(30)
        await house.server.wait_closed()


async def test_several_tasks_may_end_it_and_those_who_stop_waiting_abort_it() -> None:
    async with no_leaks(), House(answers=stuck_at(".")) as house:
        smtp = client(house, 3)
        sends = Sends(smtp)
        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(sends.one, number)
            await anyio.sleep(1)
            group.start_soon(smtp.aclose)
            await anyio.sleep(1)
            with anyio.move_on_after(1):
                await smtp.aclose()
        await house.server.wait_closed()
    # Three had left; six had not.
    assert sends.outcomes == {"in_doubt": 3, "not_sent": 6}


# Cancelled


@pytest.mark.parametrize("seconds", [0, 0.5, 1.9])
async def test_an_exit_that_is_cancelled_while_it_says_goodbye_closes_at_once(
    seconds: float,
) -> None:
    async with no_leaks(), House(answers=stuck_at("QUIT")) as house:
        smtp = client(house, 10)
        await crowd(smtp, 20, 1)
        start = house.seconds
        with anyio.move_on_after(seconds) as scope:
            await smtp.aclose()
        assert scope.cancelled_caught
        assert house.seconds - start <= seconds + 0.01
        assert repr(smtp) == CLOSED.format(10)
        await house.server.wait_closed()
        await smtp.aclose()


async def test_an_exit_that_is_cancelled_aborts_what_it_has_waited_for() -> None:
    async with no_leaks(), House(answers=stuck_at(".")) as house:
        smtp = client(house, 3)
        sends = Sends(smtp)
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(sends.one, number)
            await anyio.sleep(1)
            with anyio.move_on_after(5) as scope:
                await smtp.aclose()
            assert scope.cancelled_caught
        assert house.seconds == pytest.approx(6, abs=0.5)
        await house.server.wait_closed()
    assert sends.outcomes == {"in_doubt": 3, "not_sent": 7}
    assert all("the client was closed" in str(error) for error in sends.errors)
    assert "QUIT" not in [verb for record in house.server.connections for verb in record.verbs]


async def test_a_block_that_is_cancelled_leaves_nothing_open() -> None:
    async with no_leaks(), House(answers=stuck_at(".", "QUIT")) as house:
        with anyio.move_on_after(3):
            async with client(house, 5) as smtp:
                await crowd(smtp, 20, 1)
        assert house.seconds == pytest.approx(3, abs=0.1)
        await house.server.wait_closed()
        assert not house.served


# Aborted


@pytest.mark.parametrize("point", ["GREETING", "MAIL", "."])
@pytest.mark.parametrize("pipelining", ["auto", "off", "eager"])
async def test_an_abort_ends_everybody_at_once(pipelining: str, point: str) -> None:
    def answers(line: str) -> Answer | None:
        return STALL if line.startswith(point) else None

    keywords = ["PIPELINING", "CHUNKING"]
    house = House(answers=answers, keywords=keywords)
    async with no_leaks(), house:
        smtp = on_memory(house.server, limits=Limits(), pipelining=pipelining, timeout=None)
        sends = Sends(smtp)
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(sends.one, number)
            await anyio.sleep(100)
            assert all(delivery.phase != "done" for delivery in sends.deliveries[1:]) or (
                pipelining == "eager"
            )
            await fail(smtp)
        assert house.seconds < 100.5
        await house.server.wait_closed()
        assert repr(smtp) == CLOSED.format(3)
    assert all(isinstance(error, SMTPServerDisconnected) for error in sends.errors)
    received = len(house.server.received)
    assert sends.outcomes["accepted"] + sends.outcomes["in_doubt"] >= received
    assert sum(sends.outcomes.values()) == 20


async def test_an_abort_ends_those_who_keep_to_a_rate() -> None:
    async with no_leaks(), House() as house:
        smtp = client(house, 3, rate=(1, 1000))
        sends = Sends(smtp)
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(sends.one, number)
            await anyio.sleep(10)
            await fail(smtp)
        assert house.seconds < 20
    assert sends.outcomes == {"accepted": 1, "not_sent": 4}
    assert all("the client was closed" in str(error) for error in sends.errors)


@pytest.mark.parametrize("rate", [None, (1, 1000)])
async def test_an_abort_ends_a_stream_of_messages(rate: tuple[int, float] | None) -> None:
    house = House(answers=taking(1) if rate else stuck_at("."))
    outcomes: list[Any] = []

    async def stream() -> None:
        try:
            async with smtp.send_many(mails(range(10))) as deliveries:
                outcomes.extend([delivery.outcome async for delivery in deliveries])
        except SMTPException as error:
            outcomes.append(str(error))

    async with no_leaks(), house:
        smtp = client(house, 3, rate=rate)
        async with anyio.create_task_group() as group:
            group.start_soon(stream)
            await anyio.sleep(10)
            await fail(smtp)
        assert house.seconds < 15
        await house.server.wait_closed()
    # In their deliveries, or where the next delivery would have come from.
    assert outcomes


async def test_an_abort_leaves_a_borrowed_connection_closed_and_its_holder_told() -> None:
    async with no_leaks(), House() as house:
        smtp = client(house, 3)
        async with smtp.connection() as one, smtp.connection() as another:
            await fail(smtp)
            for conn in (one, another):
                assert conn.is_closed
                with pytest.raises(SMTPServerDisconnected, match="the client was closed"):
                    await deliver(conn)
        await house.server.wait_closed()
        assert repr(smtp) == CLOSED.format(3)


# Inside one's own connection


async def test_one_who_has_the_last_connection_and_asks_for_another_is_told_so() -> None:
    uses: list[Callable[[SMTP], Coroutine[Any, Any, object]]] = [deliver, borrow]
    async with no_leaks(), House() as house, client(house, 2) as smtp:
        async with smtp.connection() as conn, smtp.connection():
            for use in uses:
                with anyio.fail_after(5), pytest.raises(RuntimeError, match="the last connection"):
                    await use(smtp)
            # One is open: there is nothing to wait for.
            await smtp.connect()
            await deliver(conn)
        await deliver(smtp)
    assert len(house.server.messages) == 2
    assert house.attempts == 2


async def test_one_who_has_a_connection_may_wait_for_another_that_somebody_else_has() -> None:
    async def other() -> None:
        async with smtp.connection():
            await anyio.sleep(5)

    async with House() as house, client(house, 2) as smtp, anyio.create_task_group() as group:
        group.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        async with smtp.connection():
            await deliver(smtp)
    assert len(house.server.messages) == 1


# One client after another


async def test_a_client_that_was_left_harms_no_other_one() -> None:
    server = ScriptedServer()
    async with no_leaks(), server:
        one, another = on_memory(server), on_memory(server)
        await deliver(one)
        await deliver(another)
        await fail(one)
        await deliver(another)
        await another.aclose()
        await server.wait_closed()
    assert [record.end for record in server.connections] == ["eof", "quit"]
