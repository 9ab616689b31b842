"""A `Retry` where no connection is to be had: doors are tried once per pause, and not per message.

In virtual time, on both backends.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
import pytest

from anysmtp import SMTP, Delivery, Limits, Retry, SMTPAuthenticationError, SMTPException
from anysmtp.testing import DROP, Act, Answer, ScriptedServer
from support.clients import deliver, on_memory
from support.many import mail, send_all
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

LATER = "454 4.7.0 Temporary authentication failure"
# Pauses of 50 to 100 seconds, then of 200 to 400.
RETRY = Retry(3, base=100, max_delay=400)
USER = {"username": "ann", "password": "secret", "allow_plaintext_auth": True}

Use: TypeAlias = Callable[[SMTP], Coroutine[Any, Any, object]]


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def stream(smtp: SMTP) -> None:
    with suppress(SMTPException):
        await send_all(smtp, map(mail, range(30)))


async def tasks(smtp: SMTP) -> None:
    async def one() -> None:
        with suppress(SMTPException):
            await deliver(smtp)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)


async def both(smtp: SMTP) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(stream, smtp)
        group.start_soon(tasks, smtp)


class Door:
    """A server that writes down when it was asked at one point."""

    def __init__(self, point: str, answer: Answer, times: int = 10**6) -> None:
        self.server = ScriptedServer(users={"ann": "secret"}, script=self._answer)
        self.times: list[float] = []
        self._point, self._rule, self._left = point, answer, times

    def _answer(self, line: str) -> Answer | None:
        if not line.startswith(self._point):
            return None
        self.times.append(anyio.current_time())
        self._left -= 1
        return self._rule if self._left >= 0 else None

    async def tries_within(self, seconds: float, smtp: SMTP, use: Use) -> int:
        with anyio.move_on_after(seconds):
            await use(smtp)
        return len(self.times)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("answer", [DROP, Act(b"", late=0.01, then="close")], ids=["now", "soon"])
async def test_a_stream_tries_a_closed_door_once_per_connection_and_pause(
    connections: int, answer: Answer
) -> None:
    door = Door("GREETING", answer)
    limits = Limits(max_connections=connections)
    async with door.server, on_memory(door.server, retry=RETRY, limits=limits) as smtp:
        assert await door.tries_within(45, smtp, stream) <= connections


@pytest.mark.parametrize("connections", [1, 3])
async def test_a_stream_tries_a_login_once_per_pause(connections: int) -> None:
    door = Door("AUTH", LATER)
    limits = Limits(max_connections=connections)
    async with door.server, on_memory(door.server, retry=RETRY, limits=limits, **USER) as smtp:
        with pytest.raises(SMTPAuthenticationError, match="454"):
            await send_all(smtp, map(mail, range(30)))
        assert len(door.times) == 3
    first, second, third = door.times
    assert second - first >= 50
    assert third - second >= 200


@pytest.mark.parametrize("use", [tasks, both])
@pytest.mark.parametrize("connections", [1, 3])
async def test_so_do_tasks_that_wait_for_it(connections: int, use: Use) -> None:
    """A login that one of them tries while others pause is theirs too."""
    door = Door("AUTH", LATER)
    limits = Limits(max_connections=connections)
    async with door.server, on_memory(door.server, retry=RETRY, limits=limits, **USER) as smtp:
        assert await door.tries_within(45, smtp, use) == 1
    door = Door("AUTH", LATER)
    async with door.server, on_memory(door.server, retry=RETRY, limits=limits, **USER) as smtp:
        assert await door.tries_within(10_000, smtp, use) == 3


async def test_a_login_that_works_after_a_pause_is_everybody_s() -> None:
    door = Door("AUTH", LATER, times=1)
    async with door.server, on_memory(door.server, retry=RETRY, **USER) as smtp:
        assert await door.tries_within(10_000, smtp, tasks) == 2
    assert len(door.server.messages) == 20


async def test_a_message_that_comes_later_or_is_sent_again_tries_for_itself() -> None:
    door = Door("AUTH", LATER)
    async with door.server, on_memory(door.server, **USER) as smtp:
        delivery: Delivery[None] = Delivery()
        for count in range(1, 4):
            with pytest.raises(SMTPAuthenticationError):
                await deliver(smtp, delivery=delivery)
            assert len(door.times) == 2 * count - 1
            with pytest.raises(SMTPAuthenticationError):
                await deliver(smtp)
            assert len(door.times) == 2 * count
