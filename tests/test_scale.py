"""Many messages from many tasks over many connections, and what is left of it: the mail.

The server is a `Sink`; each message must be there once. What else there was (memory, files, tasks)
is gone again.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter

import anyio
import pytest

from anysmtp import SMTP, Limits
from support.clients import email
from support.fixtures import Tally
from support.leaks import no_leaks
from support.quick import every
from support.sink import HOST, Sink

pytestmark = pytest.mark.anyio

TASKS = 1000 // every(10)
EACH = 10
CONNECTIONS = 50
# Tasks of the client before the one that is measured, with which all is made that is made once.
WARMING_UP = 100
# Pieces of memory that may be left, whatever the number of messages.
FEW = 300


async def send_from_many_tasks(smtp: SMTP, tasks: int, each: int) -> None:
    async def send(task: int) -> None:
        for number in range(each):
            receipt = await smtp.send_message(email(Subject=f"{task}/{number}"))
            assert receipt.accepted

    async with anyio.create_task_group() as group:
        for task in range(tasks):
            group.start_soon(send, task)


def once_each(tasks: int, each: int) -> Counter[str]:
    return Counter(f"{task}/{number}" for task in range(tasks) for number in range(each))


def memory_blocks() -> int:
    """How many pieces of memory Python's objects take: a number that does not depend on chance."""
    gc.collect()
    return sys.getallocatedblocks()


async def seconds_of(sink: Sink, tasks: int) -> float:
    """How long a client of its own takes for so many tasks; of which nothing is left."""
    async with no_leaks():
        start = anyio.current_time()
        async with SMTP(HOST, sink.port, limits=Limits(max_connections=CONNECTIONS)) as smtp:
            await send_from_many_tasks(smtp, tasks, EACH)
            seconds = anyio.current_time() - start
            assert smtp.statistics().open_connections <= CONNECTIONS
        await sink.wait_quiet()
    assert sink.stored == once_each(tasks, EACH)
    assert sink.most == CONNECTIONS
    sink.stored.clear()
    return seconds


async def test_ten_messages_from_each_of_many_tasks_arrive_once_and_leave_nothing(
    anyio_backend_name: str, tally: Tally
) -> None:
    with Sink() as sink:
        # What is made once, in the client and under it, is made here.
        await seconds_of(sink, WARMING_UP)
        blocks = memory_blocks()
        seconds = await seconds_of(sink, TASKS)
        left = memory_blocks() - blocks
    assert left < FEW
    tally(f"messages on {anyio_backend_name} in {seconds:.1f} s", TASKS * EACH)


@pytest.mark.parametrize("most", [1, 3])
async def test_a_server_that_takes_few_connections_gets_everything_without_a_storm(
    most: int, tally: Tally
) -> None:
    tasks = TASKS // 5
    with Sink(max_connections=most) as sink:
        async with SMTP(HOST, sink.port, limits=Limits(max_connections=20)) as smtp:
            await send_from_many_tasks(smtp, tasks, 5)
        await sink.wait_quiet()
    assert sink.stored == once_each(tasks, 5)
    # Five are opened at once, and of them few more than those that it takes again.
    assert sink.refused <= 10
    tally("connections refused by servers that take few", sink.refused)
