"""The life of a client: entering, using, leaving; its connection kept, looked at, replaced."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest

import anysmtp
from anysmtp import SMTP, Delivery, SMTPConnectError, SMTPException, SMTPServerDisconnected
from anysmtp.testing import DROP, STALL, Act, ScriptedServer
from support.bench import RECIPIENTS, Bench, message, send
from support.cancel import How, cancel_at
from support.clients import Script, Through, Wrapped, deliver, on_memory
from support.leaks import no_leaks
from support.slow import SlowMessage
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio


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
        with pytest.raises(RuntimeError, match="the client is entered already"):
            await smtp.__aenter__()
    with pytest.raises(RuntimeError, match="the client is closed: make a new one"):
        await smtp.__aenter__()


async def borrow(smtp: SMTP) -> None:
    async with smtp.connection():
        pass


@pytest.mark.parametrize("use", [deliver, SMTP.connect, borrow])
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


async def test_leaving_waits_for_a_message_that_is_still_being_serialised() -> None:
    async with ScriptedServer() as server:
        smtp = on_memory(server)
        with SlowMessage() as slow:
            async with anyio.create_task_group() as group:
                group.start_soon(smtp.send_message, slow.message)
                await slow.wait_started()
                group.start_soon(smtp.aclose)
                await anyio.wait_all_tasks_blocked()
                slow.go_on()
    assert len(server.messages) == 1
    assert server.connection.end == "quit"


async def test_leaving_by_an_exception_aborts_what_is_in_flight_and_waits() -> None:
    errors: list[SMTPException] = []
    deliveries = [Delivery[str](key="in doubt"), Delivery[str](key="waiting")]

    async def in_flight(smtp: SMTP, delivery: Delivery[str]) -> None:
        with pytest.raises(SMTPServerDisconnected, match="the client was closed") as caught:
            await deliver(smtp, delivery=delivery)
        errors.append(caught.value)

    async def leave() -> None:
        async with on_memory(server) as smtp:
            for delivery in deliveries:
                group.start_soon(in_flight, smtp, delivery)
                await anyio.wait_all_tasks_blocked()
            raise ZeroDivisionError

    server = ScriptedServer(script={".": STALL})
    async with no_leaks(), server, anyio.create_task_group() as group:
        with pytest.raises(ZeroDivisionError):
            await leave()
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
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.connection(),
    ):
        with pytest.raises(RuntimeError, match="inside its own connection"):
            await smtp.aclose()


def test_another_event_loop_is_an_error(certificates: Certificates) -> None:
    async def first() -> SMTP:
        async with Bench("plain", certificates) as bench:
            smtp = bench.client()
            await send(smtp, "one")
            await smtp._abort()
            smtp._life.state = "new"
        return smtp

    smtp = anyio.run(first)
    for use in (deliver, SMTP.aclose, SMTP.__aenter__):
        with pytest.raises(RuntimeError, match="another event loop"):
            anyio.run(use, smtp)


# Connecting


async def test_connect_opens_and_checks_a_connection_now_and_only_once() -> None:
    async with ScriptedServer(keywords=["SIZE 1000"]) as server, on_memory(server) as smtp:
        extensions = await smtp.connect()
        assert extensions.size == 1000
        assert await smtp.connect() is extensions
        await deliver(smtp)
    assert server.connection.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]


async def test_connect_raises_what_is_wrong_and_the_client_can_be_used_again() -> None:
    script: Script = {"GREETING": ["554 5.3.2 Not yet"]}
    async with no_leaks(), ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPConnectError, match="Not yet") as caught:
            await smtp.connect()
        assert caught.value.connection_closed
        assert await smtp.connect()
    assert [record.end for record in server.connections] == ["eof", "quit"]


@in_virtual_time
async def test_connect_that_is_cancelled_leaves_nothing_open() -> None:
    server = ScriptedServer(script={"EHLO": [STALL]})
    async with no_leaks(), server, on_memory(server) as smtp:
        with anyio.move_on_after(0.05):
            await smtp.connect()
        assert repr(smtp) == "<SMTP mail.example.test:25 0/1 idle 0 waiting 0>"
        await server.wait_closed()
        await deliver(smtp)


async def test_a_url_makes_a_client() -> None:
    smtp = SMTP.from_url("smtps://ann:p%40ss@mail.example.test?timeout=5")
    assert repr(smtp) == "<SMTP mail.example.test:465 0/3 idle 0 waiting 0>"
    server = ScriptedServer()
    async with server, SMTP.from_url("smtp://x.test", connectable=server.connectable) as smtp:
        await deliver(smtp)
    assert len(server.messages) == 1
    with pytest.raises(ValueError, match="the URL says it already: timeout"):
        SMTP.from_url("smtp://x.test?timeout=5", timeout=10)


# Several tasks


async def test_several_tasks_share_the_connection_and_none_gets_anothers_reply() -> None:
    def answer(line: str) -> str | None:
        return f"250 {server.received[-1].sender}" if line == "." else None

    async def one(sender: str) -> None:
        for _ in range(5):
            receipt = await smtp.sendmail(sender, RECIPIENTS, message("hello"))
            assert receipt.reply.text == sender

    async with (
        ScriptedServer(script=answer) as server,
        on_memory(server) as smtp,
        anyio.create_task_group() as group,
    ):
        for number in range(8):
            group.start_soon(one, f"{number}@x.test")
    assert len(server.messages) == 40
    assert len(server.connections) == 1


async def test_a_task_that_stops_waiting_for_the_connection_holds_up_nobody() -> None:
    answer = anyio.Event()
    delivery: Delivery[None] = Delivery()
    async with (
        ScriptedServer(script={".": [Act(late=answer)]}) as server,
        on_memory(server) as smtp,
        anyio.create_task_group() as group,
    ):
        group.start_soon(deliver, smtp)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as stopped:

            async def waiting() -> None:
                await deliver(smtp, delivery=delivery)

            stopped.start_soon(waiting)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(deliver, smtp)
            await anyio.wait_all_tasks_blocked()
            assert repr(smtp) == "<SMTP mail.example.test:25 1/1 idle 0 waiting 2>"
            assert delivery.phase == "waiting"
            stopped.cancel_scope.cancel()
        answer.set()
    assert len(server.messages) == 2
    assert delivery.outcome == "not_sent"
    assert len(server.connections) == 1


@in_virtual_time
async def test_waiting_for_the_connection_is_not_timed() -> None:
    async with (
        ScriptedServer() as server,
        on_memory(server, timeout=0.05) as smtp,
        anyio.create_task_group() as group,
        smtp.connection(),
    ):
        group.start_soon(deliver, smtp)
        await anyio.sleep(0.15)
    assert len(server.messages) == 1


# Leaving, again


async def test_an_exception_of_the_block_leaves_it_as_it_is() -> None:
    error = ZeroDivisionError()

    async def leave() -> None:
        async with on_memory(server) as smtp:
            await deliver(smtp)
            raise error

    async with no_leaks(), ScriptedServer() as server:
        with pytest.raises(ZeroDivisionError) as caught:
            await leave()
        await server.wait_closed()
    assert caught.value is error
    assert caught.value.__context__ is None
    assert server.connection.end == "eof"


async def test_several_tasks_may_close_the_client() -> None:
    answer = anyio.Event()
    async with ScriptedServer(script={".": Act(late=answer)}) as server:
        smtp = on_memory(server)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(deliver, smtp)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(smtp.aclose)
                group.start_soon(smtp.aclose)
                await anyio.wait_all_tasks_blocked()
                answer.set()
    assert len(server.messages) == 1
    assert server.connection.end == "quit"


async def test_leaving_waits_for_a_connection_that_somebody_has() -> None:
    async with ScriptedServer() as server:
        smtp = on_memory(server)
        async with anyio.create_task_group() as group, smtp.connection() as conn:
            group.start_soon(smtp.aclose)
            await anyio.wait_all_tasks_blocked()
            await deliver(conn)
    assert len(server.messages) == 1
    assert server.connection.end == "quit"


async def test_leaving_by_an_exception_closes_a_connection_that_somebody_has() -> None:
    async with no_leaks(), ScriptedServer() as server:
        smtp = on_memory(server)
        async with smtp.connection() as conn:
            await smtp.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
            with pytest.raises(SMTPServerDisconnected, match="the client was closed"):
                await conn.noop()
        await server.wait_closed()


async def test_a_connection_that_is_ready_when_the_client_is_gone_is_closed() -> None:
    class Late(Wrapped):
        """Its last reply comes in the moment in which the client is left by an exception."""

        async def receive(self, max_bytes: int = 65536) -> bytes:
            data = await super().receive(max_bytes)
            if data.startswith(b"250"):
                await smtp.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
            return data

    async with no_leaks(), ScriptedServer() as server:
        for use in (SMTP.connect, deliver):
            smtp = SMTP("mail.example.test", connectable=Through(server, Late), tls="off")
            with suppress(SMTPServerDisconnected):
                await use(smtp)
            assert repr(smtp) == "<SMTP mail.example.test:25 0/3 idle 0 waiting 0 closed>"
        await server.wait_closed()
    assert not server.received


async def test_a_goodbye_that_fails_is_nobodys_error() -> None:
    server = ScriptedServer(script={"QUIT": DROP})
    async with no_leaks(), server, on_memory(server) as smtp:
        await deliver(smtp)
    assert len(server.messages) == 1


# Stopping it anywhere


@pytest.mark.parametrize("use", [SMTP.connect, borrow])
@pytest.mark.parametrize("warm", [True, False], ids=["kept", "fresh"])
async def test_stopping_the_way_to_a_connection_at_any_await_leaves_nothing_open(
    use: Callable[[SMTP], Coroutine[Any, Any, object]],
    warm: bool,
    cancel_how: How,
    certificates: Certificates,
) -> None:
    server = ScriptedServer(starttls=certificates.server)
    options = {"tls": "starttls", "tls_context": certificates.client}
    async with no_leaks(), server:
        for k in range(1, 200):
            async with on_memory(server, **options) as smtp:
                if warm:
                    await smtp.connect()

                async def stopped() -> None:
                    await use(smtp)

                ended = await cancel_at(k, cancel_how, stopped)
                ended.unwrap()
                assert " 0/1 " in repr(smtp)
                assert " waiting 0" in repr(smtp)
                await deliver(smtp)
            if not ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await server.wait_closed()
