from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anysmtp.testing._memory import memory_pair
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio


async def test_each_send_arrives_as_one_chunk() -> None:
    here, there = memory_pair()
    async with here, there:
        await here.send(b"one")
        await here.send(b"two")
        assert [await there.receive(), await there.receive()] == [b"one", b"two"]
        assert not there.continues


async def test_a_chunk_larger_than_asked_for_goes_on() -> None:
    here, there = memory_pair()
    async with here, there:
        await here.send(b"abcd")
        assert (await there.receive(3), there.continues) == (b"abc", False)
        assert (await there.receive(3), there.continues) == (b"d", True)


async def test_a_send_waits_while_the_pipe_is_full() -> None:
    here, there = memory_pair(capacity=3)
    received: list[tuple[bytes, bool]] = []

    async def read() -> None:
        received.extend([(chunk, there.continues) async for chunk in there])

    async with there, anyio.create_task_group() as group:
        group.start_soon(read)
        async with here:
            await here.send(b"abcdefgh")
            await here.send(b"i")
    assert b"".join(chunk for chunk, _ in received) == b"abcdefghi"
    assert [chunk for chunk, continues in received if not continues] == [b"abc", b"i"]


@in_virtual_time
async def test_a_cancelled_send_leaves_a_part_behind() -> None:
    here, there = memory_pair(capacity=3)
    async with here, there:
        with anyio.move_on_after(0.01):
            await here.send(b"abcdef")
        assert await there.receive() == b"abc"


async def test_a_receive_in_a_cancelled_scope_loses_nothing() -> None:
    here, there = memory_pair()
    async with here, there:
        await here.send(b"abc")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await there.receive()
        assert await there.receive() == b"abc"


async def test_the_end_of_file_comes_after_what_was_sent() -> None:
    here, there = memory_pair()
    async with here, there:
        await here.send(b"abc")
        await here.send_eof()
        assert await there.receive() == b"abc"
        with pytest.raises(anyio.EndOfStream):
            await there.receive()
        await there.send(b"still open this way")
        with pytest.raises(anyio.ClosedResourceError):
            await here.send(b"closed that way")


async def test_closing_ends_the_others_reading_and_breaks_its_writing() -> None:
    here, there = memory_pair()
    await here.aclose()
    async with there:
        with pytest.raises(anyio.EndOfStream):
            await there.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await there.send(b"abc")
    with pytest.raises(anyio.ClosedResourceError):
        await here.receive()
    with pytest.raises(anyio.ClosedResourceError):
        await here.send(b"abc")


async def test_a_reset_breaks_both_ways_after_what_was_sent() -> None:
    here, there = memory_pair()
    await here.send(b"abc")
    here.reset()
    async with there:
        assert await there.receive() == b"abc"
        with pytest.raises(anyio.BrokenResourceError):
            await there.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await there.send(b"abc")


@pytest.mark.parametrize("call", ["send", "receive"])
async def test_two_tasks_may_not_do_the_same_at_once(call: str) -> None:
    here, there = memory_pair(capacity=1)

    async def use() -> None:
        await (here.send(b"abc") if call == "send" else here.receive())

    async with here, there, anyio.create_task_group() as group:
        group.start_soon(use)
        await checkpoint()
        await checkpoint()
        with pytest.raises(anyio.BusyResourceError):
            await use()
        group.cancel_scope.cancel()


async def test_closing_wakes_its_own_receiver() -> None:
    here, there = memory_pair()

    async def read() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await here.receive()

    async with there, anyio.create_task_group() as group:
        group.start_soon(read)
        await checkpoint()
        await checkpoint()
        await here.aclose()


def test_a_stream_that_nobody_closed_is_a_resource_warning() -> None:
    with pytest.warns(ResourceWarning, match=r"unclosed <anysmtp\.testing"):
        memory_pair()[0].close()
