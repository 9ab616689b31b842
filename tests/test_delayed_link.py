"""What a message costs over a long link: round trips, and nothing else.

The link is a `DelayRelay` of 50 ms there and back, which adds no turns of its own. In virtual time
what has passed, in units of a round trip, is a number; on sockets the server's turns are counted,
which a busy machine cannot change, and the time is reported. All of a connection is in the numbers:
the greeting, EHLO, the first envelope, QUIT.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import anyio
import pytest
from anyio.abc import ByteStreamConnectable

from anysmtp import SMTP, Limits, Mailer
from anysmtp.testing import DEFAULT_KEYWORDS, ScriptedServer
from support.clients import email
from support.fixtures import Tally
from support.quick import every
from support.relay import HOST, DelayRelay
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

Pipelining: TypeAlias = Literal["auto", "eager"]
Way: TypeAlias = Callable[[SMTP, int], Awaitable[None]]

DELAY = 0.025
ROUND_TRIP = 2 * DELAY
COUNT = 100
# Greeting, EHLO and QUIT.
AROUND = 3
# Round trips' time in which a busy machine may do something else: two seconds.
BUSY = 2 / ROUND_TRIP


async def as_a_stream(smtp: SMTP, count: int) -> None:
    async with smtp.send_many(email(Subject=str(n)) for n in range(count)) as deliveries:
        assert [delivery.outcome async for delivery in deliveries] == ["accepted"] * count


async def by_tasks(mailer: Mailer, count: int) -> None:
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(mailer.send_message, email(Subject=str(number)))


async def by_tasks_on_a_connection(smtp: SMTP, count: int) -> None:
    async with smtp.connection() as connection:
        await by_tasks(connection, count)


async def one_at_a_time(smtp: SMTP, count: int) -> None:
    for number in range(count):
        await smtp.send_message(email(Subject=str(number)))


WAYS = [
    pytest.param(as_a_stream, id="stream"),
    pytest.param(by_tasks, id="tasks"),
    pytest.param(by_tasks_on_a_connection, id="tasks on a connection"),
]
# Round trips for each message.
AT_MOST = [pytest.param("auto", 1.1, id="auto"), pytest.param("eager", 0.3, id="eager")]


def server_for(pipelining: Pipelining) -> ScriptedServer:
    """Eager mode needs CHUNKING; without it there is PIPELINING alone."""
    more = ["CHUNKING"] if pipelining == "eager" else []
    return ScriptedServer(keywords=[*DEFAULT_KEYWORDS, *more])


def client(pipelining: Pipelining, connectable: ByteStreamConnectable) -> SMTP:
    return SMTP(
        connectable=connectable,
        tls="off",
        limits=Limits(max_connections=1),
        pipelining=pipelining,
    )


class TestInVirtualTime:
    """Where a round trip is a number."""

    @pytest.fixture(params=virtual_time())
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        return request.param

    async def round_trips(self, way: Way, pipelining: Pipelining) -> float:
        """How many it takes for all the messages, with all that is around them."""
        async with (
            server_for(pipelining) as server,
            DelayRelay(server.connectable, DELAY) as relay,
        ):
            start = anyio.current_time()
            async with client(pipelining, relay.connectable) as smtp:
                await way(smtp, COUNT)
            trips = (anyio.current_time() - start) / ROUND_TRIP
            assert len(server.messages) == COUNT
            assert len(server.connections) == 1
            # The server is asked as often as the client waits; its greeting is not asked for.
            assert len(server.writes) + 1 == round(trips)
            return round(trips, 6)

    @pytest.mark.parametrize(("pipelining", "most"), AT_MOST)
    @pytest.mark.parametrize("way", WAYS)
    async def test_messages_that_wait_for_each_other_share_round_trips(
        self, way: Way, pipelining: Pipelining, most: float
    ) -> None:
        trips = await self.round_trips(way, pipelining)
        assert trips <= most * COUNT

    @pytest.mark.parametrize(("pipelining", "each"), [("auto", 2), ("eager", 1)])
    async def test_a_message_alone_has_its_own(self, pipelining: Pipelining, each: int) -> None:
        assert await self.round_trips(one_at_a_time, pipelining) == each * COUNT + AROUND


@pytest.mark.parametrize(("pipelining", "most"), AT_MOST)
async def test_on_sockets_the_server_is_asked_as_seldom(
    pipelining: Pipelining, most: float, anyio_backend_name: str, tally: Tally
) -> None:
    count = COUNT // every(2)
    async with (
        server_for(pipelining) as server,
        DelayRelay(await server.listen(), DELAY) as relay,
    ):
        port = await relay.listen()
        start = anyio.current_time()
        async with client(pipelining, anyio.TCPConnectable(HOST, port)) as smtp:
            await as_a_stream(smtp, count)
        trips = (anyio.current_time() - start) / ROUND_TRIP
    assert len(server.messages) == count
    turns = len(server.connection.writes) + 1
    assert turns <= most * count
    # Each turn is a round trip; what else it takes is the machine's. To wait 40 ms at each, as for
    # two small writes in a row, would be 0.8 more.
    assert turns - 1 <= trips <= 1.4 * turns + BUSY
    tally(f"messages in {trips / count:.2f} round trips each ({anyio_backend_name})", count)
