"""A message that was sent is gone when nobody holds it: nothing is left for the garbage collector.

What is left for it stays until it comes by, which for objects that have lived a while is seldom: a
long stream of messages would take memory with each.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator

import anyio
import pytest

from anysmtp import SMTP, Envelope, Mail
from anysmtp._delivery import Ledger
from anysmtp.testing import Answer, ScriptedServer
from support.bench import RECIPIENTS
from support.clients import RAW, SENDER, deliver, email, on_memory

pytestmark = pytest.mark.anyio

COUNT = 12
ENVELOPE = Envelope(sender=SENDER, recipients=RECIPIENTS)


@pytest.fixture
def _uncollected() -> Generator[None, None, None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def ledgers() -> int:
    """How many books of sends there are, of which each send has one."""
    return sum(type(each) is Ledger for each in gc.get_objects())


async def one_by_one(smtp: SMTP) -> None:
    for _ in range(COUNT):
        await deliver(smtp)


async def objects(smtp: SMTP) -> None:
    for _ in range(COUNT):
        await smtp.send_message(email())


async def from_tasks(smtp: SMTP) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(COUNT):
            group.start_soon(deliver, smtp)


async def as_a_stream(smtp: SMTP) -> None:
    def mails() -> Iterator[Mail[None]]:
        return (Mail(RAW, ENVELOPE) for _ in range(COUNT))

    async with smtp.send_many(mails()) as deliveries:
        async for delivery in deliveries:
            assert delivery.accepted


async def as_a_stream_of_streams(smtp: SMTP) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield RAW

    async with smtp.send_many(Mail(pieces(), ENVELOPE) for _ in range(COUNT)) as deliveries:
        async for delivery in deliveries:
            assert delivery.accepted


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("pipelining", ["auto", "eager", "off"])
@pytest.mark.parametrize(
    "send_all", [one_by_one, objects, from_tasks, as_a_stream, as_a_stream_of_streams]
)
@pytest.mark.parametrize("first", ["250 2.1.5 Ok", "550 5.1.1 nobody"], ids=["taken", "refused"])
async def test_a_message_that_was_sent_leaves_nothing_behind(
    send_all: Callable[[SMTP], Awaitable[None]], pipelining: str, first: str
) -> None:
    script: dict[str, Answer] = {f"RCPT TO:<{RECIPIENTS[0]}": first}
    if send_all is objects:
        script = {}
    async with (
        ScriptedServer(keywords=["PIPELINING", "CHUNKING"], script=script) as server,
        on_memory(server, pipelining=pipelining) as smtp,
    ):
        await deliver(smtp)
        before = ledgers()
        await send_all(smtp)
        # What the event loop itself keeps of the last steps.
        assert ledgers() - before <= 2
