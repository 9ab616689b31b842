"""The delay relay on sockets and in real time: what is too fast is an error, what is slow is not.

What it costs to the round trip is in ``test_relay_in_virtual_time``.
"""

from __future__ import annotations

import smtplib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.abc import SocketAttribute, SocketStream

from anysmtp.testing import ScriptedServer
from anysmtp.testing._wire import arm_reset
from support.bare import HELLO, BareClient
from support.leaks import no_leaks
from support.relay import HOST, DelayRelay, ThreadedRelay

pytestmark = pytest.mark.anyio

DELAY = 0.01
ROUND_TRIP = 2 * DELAY


async def connect(relay: DelayRelay) -> SocketStream:
    return await anyio.connect_tcp(HOST, await relay.listen())


class Listening:
    """``async with Listening(handler) as port``: a server that handles its one connection so."""

    def __init__(self, handler: Callable[[SocketStream], Awaitable[Any]]) -> None:
        self._handler = handler

    async def __aenter__(self) -> int:
        listener = await anyio.create_tcp_listener(local_host=HOST, local_port=0)
        self._listener = listener
        self._group = anyio.create_task_group()
        group = await self._group.__aenter__()
        group.start_soon(listener.serve, self._handle)
        port: int = listener.extra(SocketAttribute.local_port)
        return port

    async def _handle(self, stream: SocketStream) -> None:
        async with stream:
            await self._handler(stream)

    async def __aexit__(self, *exc_info: Any) -> None:
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(*exc_info)
        await self._listener.aclose()


async def test_each_question_takes_a_round_trip_and_many_together_take_one() -> None:
    async with no_leaks(), ScriptedServer() as server:
        async with (
            DelayRelay(await server.listen(), DELAY) as relay,
            BareClient(await connect(relay)) as client,
        ):
            await client.ask()
            await client.ask(HELLO)
            start = anyio.current_time()
            for _ in range(10):
                await client.ask(b"NOOP\r\n")
            one_by_one = anyio.current_time() - start
            start = anyio.current_time()
            assert await client.ask_all(b"RSET\r\n" * 1000, 1000) == [250] * 1000
            together = anyio.current_time() - start
        await server.wait_closed()
    assert one_by_one >= 10 * ROUND_TRIP
    assert ROUND_TRIP <= together < 100 * ROUND_TRIP
    assert b"".join(server.connection.writes) == HELLO + b"NOOP\r\n" * 10 + b"RSET\r\n" * 1000


async def test_a_large_body_arrives_whole_in_far_less_than_a_delay_for_each_buffer() -> None:
    data = bytes(range(256)) * (1 << 15)
    received = bytearray()

    async def read(stream: SocketStream) -> None:
        async for chunk in stream:
            received.extend(chunk)
        await stream.send(b"all of it")

    async with (
        Listening(read) as port,
        DelayRelay(port, 0.5) as relay,
        await connect(relay) as client,
    ):
        start = anyio.current_time()
        await client.send(data)
        await client.send_eof()
        assert await client.receive() == b"all of it"
        elapsed = anyio.current_time() - start
    assert received == data
    # 128 times 64 KiB, the largest piece that is read: a delay for each would be a minute.
    assert 1 <= elapsed < 20


async def test_a_reset_is_handed_on() -> None:
    async def reset(stream: SocketStream) -> None:
        await stream.receive()
        arm_reset(stream)

    async with (
        Listening(reset) as port,
        DelayRelay(port, DELAY) as relay,
        await connect(relay) as client,
    ):
        await client.send(b"hello")
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()


async def test_a_server_that_is_not_there_is_a_reset() -> None:
    async with Listening(lambda stream: stream.aclose()) as port:
        pass
    async with DelayRelay(port, DELAY) as relay, await connect(relay) as client:
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()


async def test_the_blocks_own_exception_leaves_it_by_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with (
            ScriptedServer() as server,
            DelayRelay(await server.listen(), DELAY) as relay,
            await connect(relay),
        ):
            raise ZeroDivisionError


async def test_a_relay_in_a_thread_serves_clients_that_block() -> None:
    def send(port: int) -> None:
        with ThreadedRelay(port, DELAY) as relayed, smtplib.SMTP(HOST, relayed) as smtp:
            smtp.sendmail("a@x.test", ["b@x.test"], b"Subject: hello\r\n\r\nhello\r\n")

    async with ScriptedServer() as server:
        start = anyio.current_time()
        await to_thread.run_sync(send, await server.listen())
        assert anyio.current_time() - start >= 6 * ROUND_TRIP
        await server.wait_closed()
    assert len(server.messages) == 1
