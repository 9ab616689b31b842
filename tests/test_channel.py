"""What one channel promises to those who use it; how tasks share it is in test_sharing.py."""

from __future__ import annotations

import anyio
import pytest

from anysmtp._channel import Channel
from anysmtp._clock import Clock, Timeouts
from anysmtp._connect import Link
from anysmtp._dialogue import greet
from anysmtp._monitor import Monitor
from anysmtp._protocol._commands import NOOP
from anysmtp.testing import Act, ScriptedServer

pytestmark = pytest.mark.anyio


async def test_who_has_no_clock_waits_for_his_turn_and_for_his_reply_as_long_as_it_takes() -> None:
    hold = anyio.Event()
    async with ScriptedServer(script={"NOOP": [Act(late=hold)]}) as server:
        link = Link(await server.connect(), "x.test", "x.test:25")
        channel = Channel(link, Timeouts(1e-9), Monitor("x.test:25"))
        codes: list[int] = []

        async def ask() -> None:
            async with channel.turn() as turn:
                awaited = channel.post([(NOOP, None)], turn)
                await channel.write(NOOP.line)
                await channel.wait(awaited, turn)
                assert awaited.reply is not None
                codes.append(awaited.reply.code)

        async with channel.turn():
            with Clock("x.test:25") as clock:
                await greet(channel, clock)
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            hold.set()
        await channel.close("done")
    assert codes == [250, 250]


async def test_a_socket_that_was_closed_meanwhile_is_asked_for_nothing() -> None:
    async with ScriptedServer() as server:
        stream = await anyio.connect_tcp("127.0.0.1", await server.listen())
        link = Link(stream, "x.test", "x.test:25")
        link.acknowledge_at_once()
        await stream.aclose()
        link.acknowledge_at_once()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
