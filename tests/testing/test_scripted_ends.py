"""How connections to a scripted server end, and how the server itself does."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from anysmtp.testing import Act, ScriptedServer
from anysmtp.testing._wire import Close
from support.bare import HELLO, BareClient
from support.leaks import no_leaks
from support.quick import sampled
from support.tls import Certificates

pytestmark = pytest.mark.anyio

ENDS: list[tuple[str, Close, type[Exception]]] = [
    ("memory", "close", anyio.EndOfStream),
    ("tcp", "close", anyio.EndOfStream),
    ("memory tls", "close", anyio.EndOfStream),
    ("tcp tls", "close", anyio.EndOfStream),
    # That is what tells a TLS stream that is cut off from one that is closed.
    ("memory tls", "truncate", anyio.BrokenResourceError),
    ("tcp tls", "truncate", anyio.BrokenResourceError),
    ("memory", "reset", anyio.BrokenResourceError),
    ("tcp", "reset", anyio.BrokenResourceError),
    ("memory tls", "reset", anyio.BrokenResourceError),
    ("tcp tls", "reset", anyio.BrokenResourceError),
]


async def connect(
    server: ScriptedServer, kind: str, certificates: Certificates
) -> tuple[ByteStream, ByteStream]:
    """A stream, and the raw one below it."""
    raw: ByteStream
    if kind.startswith("memory"):
        raw = await server.connectable.connect()
    else:
        raw = await anyio.connect_tcp("127.0.0.1", await server.listen())
    if not kind.endswith("tls"):
        return raw, raw
    tls = await TLSStream.wrap(raw, hostname="localhost", ssl_context=certificates.client)
    return tls, raw


async def read_to_the_end(stream: ByteStream) -> tuple[bytes, Exception]:
    received = b""
    try:
        while True:
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError) as exc:
        return received, exc


@sampled(3)
@pytest.mark.parametrize("by", ["cut", "script", "hang_up"])
@pytest.mark.parametrize(("kind", "how", "error"), ENDS)
async def test_a_connection_ends_as_told(
    kind: str,
    how: Close,
    error: type[Exception],
    by: Literal["cut", "script", "hang_up"],
    certificates: Certificates,
) -> None:
    tls = certificates.server if kind.endswith("tls") else None
    greeting = Act(b"220 hi", then=how if by == "script" else None)
    async with (
        no_leaks(),
        ScriptedServer(implicit_tls=tls, script={"GREETING": greeting}) as server,
    ):
        if by == "cut":
            server.cut_after(4, how)
        stream, raw = await connect(server, kind, certificates)
        async with raw:
            received = await stream.receive()
            if by == "hang_up":
                await server.hang_up(how)
            rest, exc = await read_to_the_end(stream)
        assert received + rest == (b"220 " if by == "cut" else b"220 hi")
        assert isinstance(exc, error)
        await server.wait_closed()
        assert server.connection.end == "script"


async def hello_and_quit(server: ScriptedServer) -> bytes:
    """A client that takes what it gets; returns all that it got."""
    async with await server.connectable.connect() as stream:
        received = b""
        try:
            for command, last_line in ((b"", b"220 "), (HELLO, b"250 "), (b"QUIT\r\n", b"221 ")):
                await stream.send(command)
                while last_line not in received or not received.endswith(b"\r\n"):
                    received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        else:
            rest, _ = await read_to_the_end(stream)
            received += rest
    await server.wait_closed()
    return received


async def test_a_cut_can_be_anywhere_in_the_replies() -> None:
    async with ScriptedServer() as server:
        whole = await hello_and_quit(server)
        assert server.connection.sent == len(whole)
        for count in range(len(whole) + 1):
            server.cut_after(count)
            assert await hello_and_quit(server) == whole[:count]
        server.cut_after(None)
        assert await hello_and_quit(server) == whole


async def test_a_cut_can_be_in_the_handshake(certificates: Certificates) -> None:
    async with ScriptedServer(implicit_tls=certificates.server) as server:
        for count in (0, 1, 100, 500):
            server.cut_after(count, unit="wire", connections=1)
            async with await server.connectable.connect() as raw:
                with pytest.raises(anyio.BrokenResourceError):
                    await TLSStream.wrap(raw, hostname="localhost", ssl_context=certificates.client)
            await server.wait_closed()
            assert server.connections[-1].sent_on_wire == count
        async with await server.connectable.connect() as raw:
            await TLSStream.wrap(raw, hostname="localhost", ssl_context=certificates.client)


async def test_leaving_it_ends_what_is_open() -> None:
    async with no_leaks():
        async with ScriptedServer() as server:
            await server.listen()
            stream = await anyio.connect_tcp("127.0.0.1", server.port)
            await stream.receive()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        await stream.aclose()


async def fail_inside(server: ScriptedServer) -> None:
    async with server, await BareClient.hello(server) as client:
        await client.stream.send(b"NOOP\n")
        raise ValueError("its own")


async def test_the_blocks_own_error_leaves_it_unwrapped() -> None:
    with pytest.raises(ValueError, match="its own"):
        await fail_inside(ScriptedServer())


async def test_a_cancelled_block_is_cancelled() -> None:
    with anyio.move_on_after(0.02) as scope:
        async with ScriptedServer() as server:
            await server.listen()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_its_own_crash_is_raised() -> None:
    def rule(line: str) -> str | None:
        if line == "GREETING":
            raise RuntimeError("no answer")
        return None

    with pytest.raises(RuntimeError, match="no answer"):
        await fail_inside(ScriptedServer(script=rule))


@pytest.mark.parametrize("answer", [220, [220]])
async def test_a_script_with_something_else_than_answers_is_told(answer: Any) -> None:
    with pytest.raises(TypeError, match="an answer of a script is a str, bytes or an Act, not "):
        await fail_inside(ScriptedServer(script={"GREETING": answer}))
