from __future__ import annotations

import socket

import anyio
import pytest

from anysmtp.testing._memory import memory_pair
from support.leaks import no_leaks

pytestmark = pytest.mark.anyio


async def test_nothing_left_is_nothing_said() -> None:
    async with no_leaks():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        with socket.socket():
            pass


async def test_a_task_that_ends_soon_is_no_leak() -> None:
    async with anyio.create_task_group() as group, no_leaks():
        group.start_soon(anyio.sleep, 0.05)


async def test_a_task_left_running_is_found() -> None:
    async with anyio.create_task_group() as group:
        with pytest.raises(AssertionError, match="left behind: task"):
            async with no_leaks(patience=0.02):
                group.start_soon(anyio.sleep_forever, name="the task")
        group.cancel_scope.cancel()


async def test_an_open_socket_is_found() -> None:
    with socket.socket() as left:
        left.close()
        with pytest.raises(AssertionError, match=r"left behind: file .* socket:"):
            async with no_leaks(patience=0.02):
                left = socket.socket()
        left.close()


async def test_an_unclosed_resource_is_found() -> None:
    with pytest.raises(AssertionError, match=r"unclosed <anysmtp\.testing"):
        async with no_leaks(patience=0.02):
            memory_pair()[0].close()


async def test_the_blocks_own_error_comes_first() -> None:
    with pytest.raises(ValueError, match="its own"):
        async with no_leaks():
            raise ValueError("its own")
