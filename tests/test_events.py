"""What an observer is told, what the counts say, and that looking on changes nothing."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from anysmtp import Delivery, Limits, Retry, SMTPException, Statistics
from anysmtp.events import (
    CloseEvent,
    ConnectEvent,
    Event,
    LoginEvent,
    MessageEvent,
    RetryEvent,
    TLSEvent,
)
from anysmtp.testing import DROP, STALL, ScriptedServer
from support.bench import RECIPIENTS
from support.clients import connection_to, deliver, on_memory
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


async def test_everything_is_told_in_the_order_of_its_end(certificates: Certificates) -> None:
    events: list[Event] = []
    delivery = Delivery(key="letter")
    options: dict[str, Any] = {
        "tls": "starttls",
        "tls_context": certificates.client,
        "username": "ann",
        "password": "secret",
    }
    server = ScriptedServer(starttls=certificates.server, users={"ann": "secret"})
    async with server, on_memory(server, observer=events.append, **options) as smtp:
        await deliver(smtp, delivery=delivery)
    assert kinds(events) == [TLSEvent, LoginEvent, ConnectEvent, MessageEvent, CloseEvent]
    tls, login, connect, message, close = events
    assert isinstance(tls, TLSEvent)
    assert tls.version == "TLSv1.3"
    assert tls.cipher is not None
    assert isinstance(message, MessageEvent)
    assert message.delivery is delivery
    assert (message.outcome, message.accepted, message.refused) == ("accepted", 2, 0)
    assert message.octets == 25
    assert isinstance(close, CloseEvent)
    assert (close.reason, close.is_lost, close.messages) == (
        "the session was ended with QUIT",
        False,
        1,
    )
    assert {event.server for event in events} == {"mail.example.test:587"}
    assert all(event.error is None and event.seconds >= 0 for event in events)
    # The parts of a connection are inside it, and a message is around the connection that it made.
    assert connect.started <= tls.started <= login.started
    assert message.started <= connect.started
    assert message.seconds >= connect.seconds >= tls.seconds


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"GREETING": "554 no"}, [ConnectEvent, MessageEvent]),
        ({"EHLO": DROP}, [ConnectEvent, MessageEvent]),
        ({"MAIL": "550 no"}, [ConnectEvent, MessageEvent, CloseEvent]),
        ({".": DROP}, [ConnectEvent, CloseEvent, MessageEvent]),
    ],
)
async def test_what_failed_has_its_error(script: Any, expected: list[type[Event]]) -> None:
    events: list[Event] = []
    server = ScriptedServer(script=script)
    async with server, on_memory(server, observer=events.append) as smtp:
        with pytest.raises(SMTPException) as caught:
            await deliver(smtp)
    assert kinds(events) == expected
    [message] = [event for event in events if isinstance(event, MessageEvent)]
    assert message.error is caught.value
    assert message.outcome == caught.value.outcome
    if isinstance(events[0], ConnectEvent) and len(expected) == 2:
        assert events[0].error is not None


async def test_a_handshake_that_fails_is_told(certificates: Certificates) -> None:
    events: list[Event] = []
    server = ScriptedServer(starttls=certificates.server)
    options: dict[str, Any] = {"tls": "starttls", "observer": events.append}
    async with server, on_memory(server, **options) as smtp:
        with pytest.raises(SMTPException) as caught:
            await smtp.connect()
    assert kinds(events) == [TLSEvent, ConnectEvent]
    assert [event.error for event in events] == [caught.value, caught.value]


@in_virtual_time
async def test_what_was_cancelled_is_told(certificates: Certificates) -> None:
    events: list[Event] = []
    script: Any = {"AUTH": STALL}
    server = ScriptedServer(starttls=certificates.server, script=script, users={"ann": "secret"})
    options: dict[str, Any] = {
        "tls": "starttls",
        "tls_context": certificates.client,
        "username": "ann",
        "password": "secret",
    }
    async with server, on_memory(server, observer=events.append, **options) as smtp:
        with anyio.move_on_after(0.2):
            await smtp.connect()
    assert kinds(events) == [TLSEvent, LoginEvent, ConnectEvent]
    cancelled = anyio.get_cancelled_exc_class()
    assert isinstance(events[1].error, cancelled)
    assert isinstance(events[2].error, cancelled)


async def test_another_attempt_is_told_before_its_pause() -> None:
    events: list[Event] = []
    server = ScriptedServer(script={"MAIL": ["451 later", "250 ok"]})
    retry = Retry(2, base=0.01)
    async with server, on_memory(server, retry=retry, observer=events.append) as smtp:
        await deliver(smtp)
        assert smtp.statistics().retries == 1
    assert kinds(events) == [ConnectEvent, RetryEvent, MessageEvent, CloseEvent]
    again = events[1]
    assert isinstance(again, RetryEvent)
    assert again.attempt == 1
    assert 0.005 <= again.seconds <= 0.01
    assert isinstance(again.error, SMTPException)


async def test_a_lost_connection_is_told_with_a_reason_without_addresses() -> None:
    events: list[Event] = []
    server = ScriptedServer(script={"RCPT": DROP})
    async with server, on_memory(server, observer=events.append) as smtp:
        with pytest.raises(SMTPException):
            await deliver(smtp)
        assert smtp.statistics().connections_lost == 1
    [close] = [event for event in events if isinstance(event, CloseEvent)]
    assert close.is_lost
    assert close.reason == "the connection was lost"


async def test_an_observer_that_raises_is_logged_and_costs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def observer(event: Event) -> None:
        raise ZeroDivisionError(type(event).__name__)

    async with ScriptedServer() as server, on_memory(server, observer=observer) as smtp:
        receipt = await deliver(smtp)
    assert len(receipt.accepted) == 2
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in failures] == ["the observer failed"] * 3
    assert all(record.exc_info for record in failures)


async def test_an_observer_is_called_in_the_task_of_what_happened() -> None:
    tasks: list[int] = []

    def observer(event: Event) -> None:
        tasks.append(anyio.get_current_task().id)

    async with ScriptedServer() as server, on_memory(server, observer=observer) as smtp:
        await deliver(smtp)
    assert set(tasks[:2]) == {anyio.get_current_task().id}


async def test_the_counts_follow_what_happens() -> None:
    script: Any = {
        "MAIL": ["250 ok", "250 ok", "550 no", "250 ok"],
        f"RCPT TO:<{RECIPIENTS[1]}>": ["250 ok", "550 no", "250 ok"],
        ".": ["250 ok", "250 ok", DROP],
    }
    limits = Limits(max_connections=2)
    server = ScriptedServer(script=script)
    async with server, on_memory(server, limits=limits) as smtp:
        assert smtp.statistics() == Statistics(
            max_connections=2,
            allowed_connections=2,
            open_connections=0,
            idle_connections=0,
            sending=0,
            waiting=0,
            connections_opened=0,
            connections_failed=0,
            connections_lost=0,
            messages_accepted=0,
            messages_refused=0,
            messages_not_sent=0,
            messages_in_doubt=0,
            retries=0,
        )
        await deliver(smtp)
        await deliver(smtp)
        for _ in range(2):
            with pytest.raises(SMTPException):
                await deliver(smtp)
        async with smtp.connection():
            now = smtp.statistics()
        assert (now.open_connections, now.idle_connections, now.sending) == (1, 0, 1)
        assert (now.connections_opened, now.connections_lost) == (2, 1)
        assert now.messages_accepted == 1
        # One of two recipients, and then the sender.
        assert now.messages_refused == 2
        assert now.messages_in_doubt == 1


async def test_a_connection_of_ones_own_is_logged_like_a_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "anysmtp")
    server = ScriptedServer(script={"NOOP": DROP})
    async with server, await connection_to(server) as conn:
        await deliver(conn)
        with pytest.raises(SMTPException):
            await conn.noop()
    assert [record.getMessage() for record in caplog.records] == [
        "mail.example.test accepted 25 octets for 2",
        "connection to mail.example.test ended: the connection was lost",
    ]
