"""A source that takes its time: what it gave is on its way, and the server is heard."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anysmtp import (
    LMTP,
    Delivery,
    Mail,
    SMTPDataError,
    SMTPServerDisconnected,
)
from anysmtp.testing import DROP, Act, Answer, ScriptedServer
from support.bench import RECIPIENTS
from support.clients import ONE, RAW, deliver, on_memory
from support.virtual_time import in_virtual_time
from test_sources import CHUNKING, ENVELOPE, LONG, Broken, pieces_of

pytestmark = [pytest.mark.anyio, in_virtual_time]

LINE = b"x" * 70 + b"\r\n"
each_way = pytest.mark.parametrize("chunking", ["off", "always"])


def arrived(server: ScriptedServer) -> int:
    return sum(write.count(LINE) for write in server.writes)


@each_way
async def test_what_a_source_gave_leaves_although_it_gives_no_more(chunking: str) -> None:
    seen: list[int] = []

    async def source() -> AsyncIterator[bytes]:
        for _ in range(3):
            for _ in range(10):
                yield LINE
            await anyio.sleep(2)
            seen.append(arrived(server))

    async with (
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, chunking=chunking) as smtp,
    ):
        await deliver(smtp, source())
    assert seen == [10, 20, 30]
    assert server.messages[0].raw == LINE * 30


@each_way
async def test_small_pieces_leave_together(chunking: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(20_000):
            await checkpoint()
            yield LINE

    async with (
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, chunking=chunking) as smtp,
    ):
        await deliver(smtp, source())
    assert server.messages[0].raw == LINE * 20_000
    assert len(server.writes) < 40
    assert server.connection.verbs.count("BDAT") == (3 if chunking == "always" else 0)


GOODBYE = Act("421 4.3.2 shutting down", then="close")


@each_way
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Act("552 5.3.4 too big"), SMTPDataError),
        (GOODBYE, SMTPDataError),
        (Act(b"", then="close"), SMTPServerDisconnected),
    ],
    ids=["refusal", "421", "close"],
)
async def test_a_server_that_ends_it_is_heard_while_the_source_pauses(
    chunking: str, answer: Answer, error: type[Exception]
) -> None:
    delivery = Delivery()
    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": [answer], "BODY": [answer]}) as server,
        on_memory(server, chunking=chunking) as smtp,
    ):
        start = anyio.current_time()
        with pytest.raises(error):
            await deliver(smtp, pauses(), delivery=delivery)
        assert anyio.current_time() - start < 5
        assert delivery.outcome == ("refused" if error is SMTPDataError else "not_sent")
        await deliver(smtp)
    assert [message.raw for message in server.messages] == [RAW]


async def pauses() -> AsyncIterator[bytes]:
    yield LINE
    await anyio.sleep(1000)
    raise AssertionError("the source was left alone")


@pytest.mark.parametrize("answer", [GOODBYE, Act(b"", then="close")])
async def test_the_end_of_a_connection_is_noticed_between_two_chunks(answer: Act) -> None:
    delivery = Delivery()
    async with (
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, chunking="always") as smtp,
        anyio.create_task_group() as group,
    ):

        async def end() -> None:
            await anyio.sleep(100)
            if answer.reply:
                assert isinstance(answer.reply, str)
                await server.push(answer.reply)
            await server.hang_up()

        group.start_soon(end)
        start = anyio.current_time()
        with pytest.raises(SMTPServerDisconnected) as caught:
            await deliver(smtp, pauses(), delivery=delivery)
        assert anyio.current_time() - start < 1000
        assert (caught.value.reply is not None) == (answer is GOODBYE)
    assert delivery.outcome == "not_sent"
    assert server.connection.verbs.count("BDAT") == 1


async def test_whoever_is_cancelled_between_two_chunks_ends_the_connection() -> None:
    delivery = Delivery()
    async with (
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, chunking="always") as smtp,
    ):
        with anyio.move_on_after(100) as scope:
            await deliver(smtp, pauses(), delivery=delivery)
        assert scope.cancelled_caught
        assert delivery.outcome == "not_sent"
        await deliver(smtp)
    assert len(server.connections) == 2
    assert len(server.messages) == 1


async def test_whoever_is_cancelled_behind_the_last_chunk_is_in_doubt() -> None:
    delivery = Delivery()
    async with (
        ScriptedServer(keywords=CHUNKING, script={".": Act(late=1000)}) as server,
        on_memory(server, chunking="always") as smtp,
    ):
        with anyio.move_on_after(100):
            await deliver(smtp, pieces_of(LONG), delivery=delivery)
    assert delivery.outcome == "in_doubt"


async def test_a_source_that_fails_behind_a_chunk_waits_for_its_reply() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield LONG
        await anyio.sleep(10)
        raise Broken

    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": [Act(late=30)]}) as server,
        on_memory(server, chunking="always") as smtp,
    ):
        with pytest.raises(Broken):
            await deliver(smtp, source())
        assert server.connection.verbs[-2:] == ["BDAT", "RSET"]
        await deliver(smtp)
    assert len(server.connections) == 1
    assert len(server.messages) == 1


async def test_the_time_of_a_source_is_not_the_servers() -> None:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield LINE
            await anyio.sleep(500)

    for chunking in ("off", "always"):
        async with (
            ScriptedServer(keywords=CHUNKING) as server,
            on_memory(server, chunking=chunking, timeout=5) as smtp,
        ):
            await deliver(smtp, source())
        assert server.messages[0].raw == LINE * 3


def at_the_end(data: bytes) -> Iterator[bytes]:
    try:
        yield from pieces_of(data)
    finally:
        raise Broken


async def at_the_end_in_time(data: bytes) -> AsyncIterator[bytes]:
    try:
        for piece in pieces_of(data):
            yield piece
    finally:
        raise Broken


async def when_it_is_cut_off(data: bytes) -> AsyncIterator[bytes]:
    yield data[: len(LINE)]
    try:
        await anyio.sleep(1000)
    finally:
        raise Broken


@each_way
@pytest.mark.parametrize("source", [at_the_end, at_the_end_in_time, when_it_is_cut_off])
async def test_what_a_source_says_to_being_cut_off_does_not_hide_the_refusal(
    source: Callable[[bytes], Any], chunking: str, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Delivery()
    answers = [Act("552 5.3.4 too big")]
    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": answers, "BODY": answers}) as server,
        on_memory(server, chunking=chunking) as smtp,
    ):
        with caplog.at_level(logging.WARNING), pytest.raises(SMTPDataError, match="552"):
            await deliver(smtp, source(LONG), delivery=delivery)
        await deliver(smtp)
    assert delivery.outcome == "refused"
    [record] = [record for record in caplog.records if record.name == "anysmtp"]
    assert record.exc_info is not None
    assert record.exc_info[0] is Broken


@each_way
async def test_nor_in_a_stream_of_mails_which_goes_on(chunking: str) -> None:
    answers = [Act("552 5.3.4 too big")]
    mails = [Mail(at_the_end(LONG), ENVELOPE, key=1), Mail(RAW, ENVELOPE, key=2)]
    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": answers, "BODY": answers}) as server,
        on_memory(server, chunking=chunking) as smtp,
        smtp.send_many(mails, ordered=True) as deliveries,
    ):
        first, second = [delivery async for delivery in deliveries]
    assert isinstance(first.exception(), SMTPDataError)
    assert (first.outcome, second.outcome) == ("refused", "accepted")


@each_way
@pytest.mark.parametrize("first", ["250 2.0.0 stored", "550 5.1.1 no such user"])
@pytest.mark.parametrize("raw", [LINE, LONG], ids=["short", "long"])
async def test_a_connection_that_ends_between_the_replies_to_the_last_chunk_leaves_doubt(
    raw: bytes, first: str, chunking: Any
) -> None:
    """LMTP (RFC 2033 section 4.2): the first recipient's reply is not yet the message's."""
    one, other = RECIPIENTS
    script: dict[str, Any] = {f". <{one}>": [first, first], f". <{other}>": [DROP, DROP]}
    async with (
        ScriptedServer(lmtp=True, keywords=CHUNKING, script=script, one_by_one=True) as server,
        LMTP("x", connectable=server.connectable, tls="off", limits=ONE, chunking=chunking) as lmtp,
    ):
        alone = Delivery()
        with pytest.raises(SMTPServerDisconnected):
            await deliver(lmtp, pieces_of(raw), delivery=alone)
        mails = [Mail(pieces_of(raw), ENVELOPE), Mail(RAW, ENVELOPE)]
        async with lmtp.send_many(mails, ordered=True) as deliveries:
            in_stream, behind = [delivery async for delivery in deliveries]
    assert isinstance(in_stream.exception(), SMTPServerDisconnected)
    for delivery in (alone, in_stream):
        assert [*delivery.accepted, *delivery.refused] == [one]
        assert (one in delivery.accepted) == first.startswith("250")
        assert delivery.in_doubt == (other,)
    assert behind.outcome == "accepted"
