"""`Outbox.send_many` is verified: the same streams, through it and through a client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import pytest

from anysmtp import (
    Envelope,
    Mail,
    Retry,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
)
from anysmtp.testing import DROP, Outbox, ScriptedServer
from support.clients import RAW, on_memory
from support.twins import (
    LATER,
    A,
    B,
    Behind,
    C,
    Faults,
    compare,
    known,
    letter,
    told,
)

pytestmark = pytest.mark.anyio


async def one_by_one(mails: list[Any]) -> AsyncGenerator[Any, None]:
    for mail in mails:
        await anyio.lowlevel.checkpoint()
        yield mail


class Iterator:
    """A source that is no generator."""

    def __init__(self, mails: list[Any]) -> None:
        self._mails = iter(mails)

    def __aiter__(self) -> Iterator:
        return self

    async def __anext__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        for mail in self._mails:
            return mail
        raise StopAsyncIteration


def and_then_fail(mails: list[Any]) -> Generator[Any, None, None]:
    yield from mails
    raise LookupError("there are no more")


def mail(key: int, recipient: str = B, raw: Any = RAW) -> Mail[int]:
    return Mail(raw, Envelope(sender=A, recipients=recipient), key=key)


MAILS: list[Any] = [
    mail(1),
    Mail(letter(), Envelope(sender=A), key=2),
    mail(3, "no address"),
    mail(4, C),
    Mail(RAW, key=5),
    "no mail",
    letter(),
    mail(8, raw="x\ud800"),
]


async def take_all(mailer: Any, source: Any, **options: Any) -> list[object]:
    """The deliveries of a stream, and what ended it."""
    facts: list[object] = []
    try:
        async with mailer.send_many(source, ordered=True, **options) as deliveries:
            async for delivery in deliveries:
                facts.append(known(delivery))  # noqa: PERF401 - those before an error count
    except Exception as error:  # noqa: BLE001 - it is looked at by the test
        facts.append(told(error))
    return facts


@pytest.mark.parametrize("make", [list[Any], one_by_one, Iterator, and_then_fail])
@pytest.mark.parametrize("read_ahead", [1, 100])
async def test_a_stream_of_messages_is_sent(make: Any, read_ahead: int) -> None:
    async def program(mailer: Any, faults: Faults) -> object:
        faults.refuse(C, "450 4.2.1 later")
        return await take_all(mailer, make(MAILS), read_ahead=read_ahead)

    sent = await compare(program)
    assert [one.recipients for one in sent] == [[B], [B], [B]]


async def test_who_leaves_a_stream_takes_no_more_of_the_source() -> None:
    async def program(mailer: Any, _: Faults) -> object:
        source = one_by_one([mail(n) for n in range(1000)])
        async with mailer.send_many(source, read_ahead=1) as deliveries:
            first = await anext(deliveries)
        with pytest.raises(StopAsyncIteration):
            await anext(deliveries)
        with pytest.raises(StopAsyncIteration):
            await anext(source)
        return first.key, first.outcome

    outbox = Outbox()
    assert await program(outbox, outbox) == (0, "accepted")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        assert await program(smtp, Behind(server)) == (0, "accepted")


async def test_what_the_body_of_a_stream_raises_leaves_it_as_it_is() -> None:
    outbox = Outbox()
    with pytest.raises(LookupError, match="mine"):
        async with outbox.send_many([letter()]):
            raise LookupError("mine")


async def test_a_source_that_fails_when_it_is_left_is_heard() -> None:
    async def source() -> AsyncGenerator[Any, None]:
        try:
            yield mail(1)
            await anyio.sleep_forever()
        finally:
            raise LookupError("mine")

    async def program(mailer: Any, _: Faults) -> object:
        with pytest.raises(LookupError, match="mine"):
            async with mailer.send_many(source()) as deliveries:
                await anext(deliveries)
        return None

    await compare(program)


async def test_a_client_that_cannot_connect_ends_the_stream() -> None:
    async def program(mailer: Any, faults: Faults) -> list[Any]:
        if isinstance(faults, Outbox):
            faults.fail_next(SMTPConnectError("nothing listens"))
        return await take_all(mailer, [mail(1), mail(2)])

    outbox = Outbox()
    (said,) = await program(outbox, outbox)
    async with ScriptedServer(script={"CONNECT": DROP}) as server, on_memory(server) as smtp:
        (expected,) = await program(smtp, Behind(server))
    assert said[0] == expected[0] == SMTPConnectError
    assert said[-2:] == expected[-2:] == ("not_sent", True)
    assert len(outbox) == 0


async def test_a_stream_that_lost_its_login_on_the_way_tells_who_has_the_message() -> None:
    outbox = Outbox(retry=Retry(2, base=0))
    outbox.refuse(C)
    outbox.fail_next(SMTPDataError(LATER))
    outbox.fail_next(SMTPAuthenticationError("no more"))
    (facts,) = await take_all(outbox, [letter()])
    assert len(outbox) == 0
    assert isinstance(facts, tuple)
    assert facts[2] == "not_sent"
