"""A connection of a client for oneself: what of the client's rules holds on it.

And `SMTP.connect`, while somebody uses the connection that there is. In virtual time, on both
backends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from anysmtp import (
    SMTP,
    Limits,
    Retry,
    SMTPConnection,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from anysmtp.testing import ScriptedServer
from support.clients import RAW, SENDER, deliver, on_memory
from support.leaks import no_leaks
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def by_command(conn: SMTPConnection) -> None:
    await conn.mail(SENDER)
    await conn.rcpt("b@x.test")
    await conn.data(RAW)


ways = pytest.mark.parametrize("send", [deliver, by_command])
Send = Callable[[SMTPConnection], Awaitable[object]]


@ways
async def test_its_messages_wait_for_the_rate_with_all_others(send: Send) -> None:
    server, start = ScriptedServer(), anyio.current_time()
    limits = Limits(max_connections=1, rate=(1, 60))
    async with no_leaks(), server, on_memory(server, limits=limits, timeout=5) as smtp:
        async with smtp.connection() as conn:
            for number in range(3):
                await send(conn)
                assert anyio.current_time() - start == pytest.approx(60 * number, abs=1)
        await deliver(smtp)
        assert anyio.current_time() - start == pytest.approx(180, abs=1)


class Enough(Exception):
    pass


async def close(conn: SMTPConnection) -> None:
    await conn.aclose()


async def leave_the_client(conn: SMTPConnection) -> None:
    raise Enough


@ways
@pytest.mark.parametrize("end", [close, leave_the_client])
async def test_one_that_waits_for_the_rate_ends_with_its_connection(send: Send, end: Send) -> None:
    server, limits = ScriptedServer(), Limits(max_connections=1, rate=(2, 60))
    errors: list[SMTPServerDisconnected] = []
    start = anyio.current_time()

    async def wait(conn: SMTPConnection) -> None:
        with pytest.raises(SMTPServerDisconnected) as caught:
            await send(conn)
        assert anyio.current_time() - start == pytest.approx(5, abs=1)
        errors.append(caught.value)

    async with no_leaks(), server, anyio.create_task_group() as group:
        with suppress(Enough):
            async with on_memory(server, limits=limits) as smtp, smtp.connection() as conn:
                await deliver(conn)
                await deliver(conn)
                # One waits for the rate, and one behind it for its turn.
                group.start_soon(wait, conn)
                group.start_soon(wait, conn)
                await anyio.sleep(5)
                await end(conn)
    assert len(errors) == 2
    assert all(error.connection_closed for error in errors)
    assert server.connection.verbs.count("MAIL") == 2


@ways
async def test_one_that_stops_waiting_for_the_rate_leaves_the_connection_as_it_was(
    send: Send,
) -> None:
    limits = Limits(max_connections=1, rate=(1, 60))
    async with (
        no_leaks(),
        ScriptedServer() as server,
        on_memory(server, limits=limits) as smtp,
        smtp.connection() as conn,
    ):
        await deliver(conn)
        with anyio.move_on_after(5) as scope:
            await send(conn)
        assert scope.cancelled_caught
        await deliver(conn)
    assert server.connection.verbs.count("MAIL") == 2


@ways
async def test_it_is_replaced_after_so_many_messages_once_it_is_given_back(send: Send) -> None:
    limits = Limits(max_connections=1, max_messages_per_connection=2)
    async with no_leaks(), ScriptedServer() as server, on_memory(server, limits=limits) as smtp:
        for _ in range(2):
            async with smtp.connection() as conn:
                await send(conn)
        assert len(server.connections) == 1
        async with smtp.connection() as conn:
            for _ in range(3):
                await send(conn)
        await deliver(smtp)
        assert len(server.connections) == 3


async def test_a_retry_is_not_applied_on_it() -> None:
    server = ScriptedServer(script={"MAIL": ["450 4.2.1 Later"]})
    async with server, on_memory(server, retry=Retry(3)) as smtp, smtp.connection() as conn:
        with pytest.raises(SMTPSenderRefused):
            await deliver(conn)


async def test_two_tasks_that_enter_it_at_once_hold_one_connection() -> None:
    errors: list[RuntimeError] = []
    async with no_leaks(), ScriptedServer() as server, on_memory(server, limits=Limits()) as smtp:
        borrowed = smtp.connection()

        async def enter() -> None:
            try:
                await borrowed.__aenter__()
            except RuntimeError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            group.start_soon(enter)
        assert [str(error) for error in errors] == ["each `connection()` is entered once"]
        assert smtp.statistics().sending == 1
        await borrowed.__aexit__(None, None, None)
        assert smtp.statistics().sending == 0


# Connecting


async def connect_and_look(smtp: SMTP, server: ScriptedServer) -> None:
    with anyio.fail_after(1):
        assert "PIPELINING" in await smtp.connect()
    assert len(server.connections) == 1


@pytest.mark.parametrize("connections", [1, 2])
async def test_to_connect_is_nothing_where_one_is_open_and_in_use(connections: int) -> None:
    limits = Limits(max_connections=connections)
    async with no_leaks(), ScriptedServer() as server, on_memory(server, limits=limits) as smtp:
        async with smtp.connection():
            await connect_and_look(smtp, server)
        await connect_and_look(smtp, server)


async def test_to_connect_opens_one_where_that_in_use_is_closed() -> None:
    limits = Limits(max_connections=2)
    async with no_leaks(), ScriptedServer() as server, on_memory(server, limits=limits) as smtp:
        async with smtp.connection() as conn:
            await conn.quit()
            await smtp.connect()
        assert len(server.connections) == 2
