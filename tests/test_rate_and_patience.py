"""A rate that has messages wait for longer than the server does, on streams without a socket.

Nothing can be seen of their end before they are written to. In virtual time, on both backends.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, Delivery, Limits, SMTPServerDisconnected
from anysmtp.testing import DEFAULT_KEYWORDS, ScriptedServer
from support.clients import SENDER, on_memory
from support.leaks import no_leaks
from support.many import mail, outcomes, send_all
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

COUNT = 5


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def tasks(smtp: SMTP) -> None:
    async with anyio.create_task_group() as group:
        for number in range(COUNT):
            group.start_soon(smtp.sendmail, SENDER, f"{number}@x.test", b"x")


async def stream(smtp: SMTP) -> None:
    deliveries = await send_all(smtp, map(mail, range(COUNT)))
    assert outcomes(deliveries) == dict.fromkeys(range(COUNT), "accepted")


@pytest.mark.parametrize("use", [tasks, stream])
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("pipelining", ["auto", "eager", "off"])
async def test_a_message_that_waited_for_the_rate_goes_over_a_fresh_connection_at_once(
    pipelining: str, connections: int, use: Callable[[SMTP], Coroutine[Any, Any, None]]
) -> None:
    server = ScriptedServer(keywords=[*DEFAULT_KEYWORDS, "CHUNKING"])

    async def hang_up_when_it_is_quiet() -> None:
        while True:
            await anyio.sleep(31)
            await server.hang_up()

    limits = Limits(max_connections=connections, rate=(1, 60))
    start = seconds = anyio.current_time()
    async with no_leaks(), server, anyio.create_task_group() as group:
        group.start_soon(hang_up_when_it_is_quiet)
        async with on_memory(server, limits=limits, pipelining=pipelining) as smtp:
            await use(smtp)
        seconds = anyio.current_time() - start
        group.cancel_scope.cancel()
    assert len(server.messages) == COUNT
    # One for each minute, and the first one at once.
    assert seconds == pytest.approx(60 * (COUNT - 1), abs=3)


async def test_a_connection_that_ends_while_a_message_waits_for_the_rate_gives_it_no_turn() -> None:
    server = ScriptedServer(keywords=[*DEFAULT_KEYWORDS, "CHUNKING"])
    ends: dict[int, tuple[str, int]] = {}

    async def send(smtp: SMTP, number: int) -> None:
        delivery = Delivery()
        with suppress(SMTPServerDisconnected):
            await smtp.sendmail(SENDER, f"{number}@x.test", b"x", delivery=delivery)
        ends[number] = delivery.outcome or "", round(anyio.current_time() - start)

    limits = Limits(max_connections=1, rate=(1, 60))
    async with server, on_memory(server, limits=limits, pipelining="eager") as smtp:
        await smtp.connect()
        start = anyio.current_time()
        server.hold()
        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(send, smtp, number)
                await anyio.sleep(10)
            # The second one waits on the connection that the first one is lost with.
            await server.hang_up()
            await server.release()
            # It waits on, on another one, which is lost too.
            await anyio.sleep(20)
            assert len(server.connections) == 2
            await server.hang_up()
    assert ends == {0: ("in_doubt", 20), 1: ("accepted", 60)}
