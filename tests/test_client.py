"""The life of a client: entering, using, leaving; its connection kept, looked at, replaced."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from support.bench import RECIPIENTS, Bench, message, send
from support.leaks import no_leaks
from support.script import STALL, Act
from support.scripted import ScriptedServer
from support.tls import Certificates

import anysmtp
from anysmtp import SMTP, Delivery, SMTPException, SMTPServerDisconnected

pytestmark = pytest.mark.anyio


def on_memory(server: ScriptedServer, **options: Any) -> SMTP:
    return SMTP("mail.example.test", connectable=server.connectable, tls="off", **options)


async def deliver(smtp: SMTP, **options: Any) -> anysmtp.Receipt:
    return await smtp.sendmail("a@x.test", RECIPIENTS, message("hello"), **options)


# Entering and leaving


async def test_entering_opens_nothing_and_the_first_send_does() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        assert not server.connections
        await deliver(smtp)
        await deliver(smtp)
    assert server.connection.verbs.count("EHLO") == 1
    assert server.connection.end == "quit"


async def test_it_can_be_used_without_entering_and_is_closed_by_aclose() -> None:
    async with ScriptedServer() as server:
        smtp = on_memory(server)
        await deliver(smtp)
        await smtp.aclose()
        await smtp.aclose()
    assert server.connection.end == "quit"


async def test_entering_twice_and_after_the_end_is_an_error() -> None:
    smtp = SMTP("mail.example.test")
    async with smtp:
        with pytest.raises(RuntimeError, match="entering a client that is open"):
            await smtp.__aenter__()
    with pytest.raises(RuntimeError, match="entering a client that is closed"):
        await smtp.__aenter__()


@pytest.mark.parametrize(
    "use",
    [deliver, SMTP.connect, lambda smtp: smtp.connection().__aenter__()],
    ids=["send", "connect", "connection"],
)
async def test_using_it_after_the_end_is_an_error(use: Callable[[SMTP], Any]) -> None:
    async with SMTP("mail.example.test") as smtp:
        pass
    with pytest.raises(RuntimeError, match="the client is closed"):
        await use(smtp)


async def test_leaving_lets_sends_in_flight_finish_and_refuses_new_ones() -> None:
    answer = anyio.Event()
    receipts: list[anysmtp.Receipt] = []
    async with ScriptedServer(script={".": [Act(late=answer)]}) as server:
        smtp = on_memory(server)

        async def in_flight() -> None:
            receipts.append(await deliver(smtp))

        async with anyio.create_task_group() as group:
            group.start_soon(in_flight)
            group.start_soon(in_flight)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(smtp.aclose)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="the client is closed"):
                await deliver(smtp)
            answer.set()
    assert len(receipts) == len(server.messages) == 2
    assert server.connection.end == "quit"


async def test_leaving_by_an_exception_aborts_what_is_in_flight_and_waits() -> None:
    errors: list[SMTPException] = []
    deliveries = [Delivery[str](key="in doubt"), Delivery[str](key="waiting")]
    async with no_leaks(), ScriptedServer(script={".": STALL}) as server:

        async def in_flight(delivery: Delivery[str]) -> None:
            with pytest.raises(SMTPServerDisconnected, match="the client was closed") as caught:
                await deliver(smtp, delivery=delivery)
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            with pytest.raises(ZeroDivisionError):
                async with on_memory(server) as smtp:
                    for delivery in deliveries:
                        group.start_soon(in_flight, delivery)
                        await anyio.wait_all_tasks_blocked()
                    raise ZeroDivisionError
    assert sorted(str(error.outcome) for error in errors) == ["in_doubt", "not_sent"]
    assert [delivery.outcome for delivery in deliveries] == ["in_doubt", "not_sent"]
    assert server.connection.end != "quit"


async def test_a_connection_that_is_stuck_holds_up_the_exit_for_two_seconds_at_most() -> None:
    async with no_leaks(), ScriptedServer(script={"QUIT": STALL}) as server:
        with anyio.fail_after(4):
            async with on_memory(server) as smtp:
                await deliver(smtp)
    assert server.messages


async def test_an_exit_that_is_cancelled_closes_at_once() -> None:
    async with no_leaks(), ScriptedServer(script={"QUIT": STALL}) as server:
        with anyio.move_on_after(5) as scope:
            async with on_memory(server) as smtp:
                await deliver(smtp)
                scope.cancel()
        assert scope.cancelled_caught
    assert "QUIT" not in server.connection.verbs


async def test_closing_the_client_inside_its_own_connection_is_an_error() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        async with smtp.connection():
            with pytest.raises(RuntimeError, match="inside its own connection"):
                await smtp.aclose()


def test_another_event_loop_is_an_error(certificates: Certificates) -> None:
    async def first() -> SMTP:
        async with Bench("plain", certificates) as bench:
            smtp = bench.client()
            await send(smtp, "one")
            await smtp._abort()
            smtp._state = "new"
        return smtp

    smtp = anyio.run(first)
    for use in (deliver, SMTP.aclose, SMTP.__aenter__):
        with pytest.raises(RuntimeError, match="another event loop"):
            anyio.run(use, smtp)
