"""Who boards a write, and is cancelled before he has come to know it, is like any who goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, ByteStreamConnectable

from anysmtp import Delivery, SMTPTimeoutError, Timeouts
from anysmtp.testing import STALL, Act, ScriptedServer
from support.clients import RAW, on_memory
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=virtual_time()[:1])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """On trio a task that was woken feels a cancellation where it has waited."""
    return request.param


class Watched(ByteStream):
    """A stream that tells what it has read."""

    def __init__(self, stream: ByteStream, tell: Any) -> None:
        self._stream = stream
        self._tell = tell

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive(max_bytes)
        self._tell(data)
        return data

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Watching(ByteStreamConnectable):
    def __init__(self, server: ScriptedServer, tell: Any) -> None:
        self._server = server
        self._tell = tell

    async def connect(self) -> Watched:
        return Watched(await self._server.connectable.connect(), self._tell)


async def test_those_behind_him_have_their_own_time() -> None:
    scopes = [anyio.CancelScope() for _ in range(3)]
    deliveries: list[Delivery[None]] = [Delivery() for _ in scopes]
    failures: list[SMTPTimeoutError] = []

    def stop_the_second(data: bytes) -> None:
        # As soon as the task that has read this has written, with the others aboard.
        if b"CHUNKING" in data:
            asyncio.get_running_loop().call_soon(scopes[1].cancel)

    server = ScriptedServer(
        script={"RSET": STALL, "CONNECT": Act(late=1)}, keywords=["PIPELINING", "CHUNKING"]
    )
    smtp = on_memory(
        server,
        connectable=Watching(server, stop_the_second),
        pipelining="eager",
        timeout=Timeouts(5, final=5),
    )

    async def send(number: int) -> None:
        with scopes[number]:
            try:
                await smtp.sendmail("a@x.test", "b@x.test", RAW, delivery=deliveries[number])
            except SMTPTimeoutError as error:
                failures.append(error)

    async with server, smtp:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(len(scopes)):
                    group.start_soon(send, number)
    assert scopes[1].cancelled_caught
    assert [delivery.outcome for delivery in deliveries] == ["accepted", "in_doubt", "in_doubt"]
    assert len(failures) == 1
