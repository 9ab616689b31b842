"""Every mail of a stream is counted and told of as one that is sent by itself is.

Also one that cannot be serialised, and one that was never begun. In virtual time, on both backends.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from email.message import EmailMessage
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Limits,
    Retry,
    SMTPConnectError,
    SMTPServerDisconnected,
    sasl,
)
from anysmtp.events import Event, MessageEvent, RetryEvent
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, STALL, ScriptedServer
from support.clients import Script, deliver, email, on_memory
from support.leaks import no_leaks
from support.many import mail, outcomes, send_all
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def told(events: list[Event]) -> list[tuple[Delivery[Any], BaseException | None]]:
    return [(event.delivery, event.error) for event in events if isinstance(event, MessageEvent)]


def unwritable() -> EmailMessage:
    message = email(Message_ID="<x@x.test>")
    no_payload: Any = object()
    message.set_payload(no_payload)
    return message


async def test_one_that_cannot_be_serialised() -> None:
    events: list[Event] = []
    async with ScriptedServer() as server, on_memory(server, observer=events.append) as smtp:
        with pytest.raises(ValueError, match="cannot be serialised"):
            await smtp.send_message(unwritable())
        assert smtp.statistics().messages_not_sent == len(events) == 1
        [delivery] = await send_all(smtp, [unwritable()])
        assert smtp.statistics().messages_not_sent == 2
    assert told(events)[1:] == [(delivery, delivery.exception())]


async def test_those_in_line_when_no_connection_can_be_had() -> None:
    events: list[Event] = []
    async with (
        no_leaks(),
        ScriptedServer(script={"CONNECT": DROP}) as server,
        on_memory(server, observer=events.append) as smtp,
    ):
        with pytest.raises(SMTPConnectError):
            await send_all(smtp, map(mail, range(20)))
        assert smtp.statistics().messages_not_sent == 20
    found = told(events)
    assert {delivery.key for delivery, _ in found} == set(range(20))
    for delivery, error in found:
        assert isinstance(error, SMTPConnectError)
        assert error.delivery is delivery
        assert delivery.may_retry


async def test_those_in_line_when_an_exception_of_the_caller_s_ends_it() -> None:
    """One that cannot be copied."""

    class NoToken(Exception):
        def __init__(self, *, why: str) -> None:
            super().__init__(why)

    async def token() -> str:
        await anyio.sleep(1)
        raise NoToken(why="mine")

    def login(_: object) -> Any:
        yield b""

    auth = sasl.XOAuth2("ann", token)
    server = ScriptedServer(mechanisms={"XOAUTH2": login})
    options: dict[str, Any] = {"auth": auth, "allow_plaintext_auth": True, "limits": Limits()}
    async with no_leaks(), server, on_memory(server, **options) as smtp:
        with pytest.raises(NoToken):
            await send_all(smtp, map(mail, range(20)))
        assert smtp.statistics().messages_not_sent == 20


@pytest.mark.parametrize("retry", [None, Retry(2, base=100)], ids=["in line", "asleep"])
async def test_those_whom_nobody_takes_when_the_stream_is_left(retry: Retry | None) -> None:
    events: list[Event] = []
    script: Script = {"RCPT TO:<0@": "450 4.2.1 Later", "RCPT TO:<5@": STALL}
    async with (
        no_leaks(),
        ScriptedServer(script=script) as server,
        on_memory(server, observer=events.append, retry=retry) as smtp,
    ):
        async with smtp.send_many(map(mail, range(20))):
            await anyio.sleep(1)
        now = smtp.statistics()
    assert (now.messages_accepted, now.messages_refused, now.messages_not_sent) == (4, 1, 15)
    assert len(told(events)) == 20
    assert all(delivery.phase == "done" for delivery, _ in told(events))


# A client that is closed


async def alone(smtp: SMTP) -> None:
    await deliver(smtp)


async def in_a_stream(smtp: SMTP) -> None:
    await send_all(smtp, map(mail, range(3)))


@pytest.mark.parametrize("use", [alone, in_a_stream])
@pytest.mark.parametrize("point", ["GREETING", "MAIL"])
async def test_what_a_client_s_end_interrupts_is_not_told_as_tried_again(
    point: str, use: Any
) -> None:
    events: list[Event] = []

    async def send() -> None:
        with suppress(SMTPServerDisconnected):
            await use(smtp)

    server = ScriptedServer(script={point: STALL})
    smtp = on_memory(server, retry=Retry(3, base=5), observer=events.append)
    async with no_leaks(), server, anyio.create_task_group() as group:
        group.start_soon(send)
        await anyio.sleep(1)
        with suppress(ZeroDivisionError):
            async with smtp:
                raise ZeroDivisionError
    assert smtp.statistics().retries == 0
    assert not any(isinstance(event, RetryEvent) for event in events)
    assert {str(error).partition(": ")[2] for _, error in told(events)} == {"the client was closed"}


# The log


async def test_why_a_message_goes_over_another_connection_has_no_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Behind one whose reply did not come."""
    caplog.set_level(logging.INFO, "anysmtp")
    async with (
        ScriptedServer(
            keywords=[*DEFAULT_KEYWORDS, "CHUNKING"], script={"MAIL": [STALL]}
        ) as server,
        on_memory(server, timeout=10, pipelining="eager") as smtp,
    ):
        # The second one is too long to leave at once.
        deliveries = await send_all(smtp, [mail("first"), mail("second", 50_000)])
    assert outcomes(deliveries) == {"first": "in_doubt", "second": "accepted"}
    said = [record.getMessage() for record in caplog.records]
    assert any("with another message" in line for line in said)
    assert not [line for line in said if "@" in line]
