"""A send that reads its message meanwhile is stopped anywhere, in all the tasks that it takes.

And a source may be cut short by the cancellation of another task, which it awaits: that is an
exception of this source, and no cancellation of those who read from it. There is no such thing on
trio, where nobody awaits a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anysmtp import Delivery, Mail
from anysmtp.testing import DEFAULT_KEYWORDS, STALL, ScriptedServer
from support.bench import LARGE, RECIPIENTS, Bench, message, send
from support.cancel import How, cancel_in_turn
from support.clients import RAW, SENDER, deliver, on_memory
from support.fixtures import Tally
from support.leaks import no_leaks
from support.quick import every
from support.tls import Certificates
from support.virtual_time import virtual_time
from test_sources import ENVELOPE

pytestmark = pytest.mark.anyio

# More turns than it takes, and every turn, or fewer.
BOUND = 3000
EACH = every(5)
CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
each_way = pytest.mark.parametrize("chunking", ["off", "always"])


async def pieces(raw: bytes) -> AsyncIterator[bytes]:
    """Several to a write, and several writes."""
    for start in range(0, len(raw), 30_000):
        await checkpoint()
        yield raw[start : start + 30_000]


@pytest.mark.parametrize("transport", ["plain", "starttls"])
@each_way
async def test_stopping_a_send_of_a_source_in_any_turn_harms_nobody(
    transport: Any, chunking: str, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    deliveries: dict[str, Delivery[None]] = {}
    async with Bench(transport, certificates, keywords=CHUNKING) as bench, no_leaks():
        for k in range(1, BOUND, EACH):
            subject = f"stopped at {k}"
            delivery = deliveries[subject] = Delivery()
            async with bench.client(chunking=chunking) as smtp:

                async def stopped() -> None:
                    source = pieces(message(subject, 700_000))  # noqa: B023 - called at once
                    await smtp.sendmail(SENDER, RECIPIENTS, source, delivery=delivery)  # noqa: B023

                with anyio.fail_after(30):
                    ended = await cancel_in_turn(k, cancel_how, stopped)
                    ended.unwrap()
                    await send(smtp, f"after {k}")
            if not ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    outcomes = bench.judge_all(deliveries)
    tally("turns in which a send of a source was stopped", len(outcomes))
    assert "not_sent" in outcomes
    assert outcomes[-1] == "accepted"


async def another_one_cancelled(words: str | None = None) -> None:
    """Await a task that somebody else has cancelled; perhaps in words that AnyIO knows it by."""
    task = asyncio.ensure_future(asyncio.sleep(10))
    task.cancel(words)
    await task


async def at_once() -> AsyncIterator[bytes]:
    await another_one_cancelled()
    yield b""


async def behind_a_piece() -> AsyncIterator[bytes]:
    yield RAW
    await another_one_cancelled()


async def behind_many() -> AsyncIterator[bytes]:
    async for piece in pieces(message("long", LARGE)):
        yield piece
    await another_one_cancelled("Cancelled via cancel scope 1")


async def when_it_is_closed() -> AsyncIterator[bytes]:
    """The first piece is wrong, and so the last one that it is asked for."""
    try:
        yield b"x" * 2000 + b"\r\n"
    finally:
        await another_one_cancelled()


each_source = pytest.mark.parametrize(
    "source", [at_once, behind_a_piece, behind_many, when_it_is_closed]
)


@on_asyncio
@each_source
@each_way
async def test_what_another_task_cancelled_leaves_a_send_as_it_is(
    chunking: str, source: Callable[[], Any]
) -> None:
    delivery = Delivery()
    async with (
        no_leaks(),
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, chunking=chunking) as smtp,
    ):
        with pytest.raises(asyncio.CancelledError):
            await deliver(smtp, source(), delivery=delivery)
        assert delivery.outcome == "not_sent"
        await deliver(smtp)
    assert [each.raw for each in server.messages] == [RAW]


def unchanged(raw: bytes) -> bytes:
    return raw


each_reading = pytest.mark.parametrize(
    "options",
    [{"chunking": "off"}, {"chunking": "always"}, {"sign": unchanged}],
    ids=["data", "chunks", "signed"],
)


@on_asyncio
@each_source
@each_reading
async def test_what_another_task_cancelled_ends_one_mail_of_a_stream(
    options: dict[str, Any], source: Callable[[], Any]
) -> None:
    mails = [Mail(source() if key == 1 else RAW, ENVELOPE, key=key) for key in range(4)]
    async with (
        no_leaks(),
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, **options) as smtp,
        smtp.send_many(mails, ordered=True) as deliveries,
    ):
        found = [delivery async for delivery in deliveries]
    outcomes = ["accepted", "not_sent", "accepted", "accepted"]
    assert [delivery.outcome for delivery in found] == outcomes
    assert isinstance(found[1].exception(), Exception)
    assert [each.raw for each in server.messages] == [RAW] * 3


@each_reading
async def test_a_scope_around_a_stream_is_no_exception_of_a_message(
    options: dict[str, Any],
) -> None:
    found: list[Delivery[Any]] = []
    scope = anyio.CancelScope()

    async def source() -> AsyncIterator[bytes]:
        yield RAW
        scope.cancel()
        await anyio.sleep_forever()

    async with (
        no_leaks(),
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, **options) as smtp,
    ):
        with scope:
            async with smtp.send_many([Mail(source(), ENVELOPE)]) as deliveries:
                found += [delivery async for delivery in deliveries]
        assert scope.cancelled_caught
        await deliver(smtp)
    assert found == []
    assert len(server.messages) == 1


async def cancelled_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await anyio.sleep_forever()


@pytest.mark.parametrize("anyio_backend", virtual_time()[:1])
@pytest.mark.parametrize("cancelled", [another_one_cancelled, cancelled_itself])
@each_way
async def test_no_cancellation_waits_for_a_server_that_is_silent(
    chunking: str, cancelled: Callable[[], Any]
) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield RAW
        # The piece is on its way, and its reply is awaited.
        await anyio.sleep(5)
        await cancelled()

    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": STALL}) as server,
        on_memory(server, chunking=chunking) as smtp,
    ):
        start = anyio.current_time()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(deliver(smtp, source()))
        assert anyio.current_time() - start < 6
    assert server.messages == []
