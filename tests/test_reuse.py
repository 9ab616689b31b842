"""A kept connection is looked at before it is used again, and replaced when it is dead or worn out.

What is found only when it is used: the message is sent once more, on a fresh connection, if it
certainly was not handed over; in doubt never.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

from anysmtp import (
    SMTP,
    Delivery,
    Limits,
    SMTPDataError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from anysmtp.testing import DROP, RESET, STALL, Act, Answer, ScriptedServer
from anysmtp.testing._wire import Close
from support.bench import LARGE, RECIPIENTS, message
from support.clients import SENDER, Script, Through, Wrapped, deliver, on_memory, on_tcp
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

Road: TypeAlias = Literal["tcp", "unix", "tls", "starttls"]
ROADS: tuple[Road, ...] = ("tcp", "unix", "tls", "starttls")


@pytest.fixture
def roads(certificates: Certificates, tmp_path: Path) -> Callable[..., Any]:
    """A server and a client for it, whose connection has a socket that can be looked at."""

    @asynccontextmanager
    async def go(road: Road, **options: Any) -> AsyncGenerator[tuple[ScriptedServer, SMTP], None]:
        context = certificates.server
        server = ScriptedServer(
            implicit_tls=context if road == "tls" else None,
            starttls=context if road == "starttls" else None,
            **options,
        )
        settings: dict[str, Any] = {"tls": "off"}
        if road in ("tls", "starttls"):
            tls = "implicit" if road == "tls" else "starttls"
            settings = {"tls": tls, "tls_context": certificates.client}
        async with no_leaks(), server:
            if road == "unix":
                await server.listen_unix(tmp_path / "socket")
                client = SMTP(connectable=tmp_path / "socket", **settings)
            else:
                client = SMTP("127.0.0.1", await server.listen(), **settings)
            async with client as smtp:
                yield server, smtp
            await server.wait_closed()

    return go


# The look


@pytest.mark.parametrize("road", ROADS)
async def test_a_connection_that_is_as_it_was_left_is_used_again(
    road: Road, roads: Callable[..., Any]
) -> None:
    async with roads(road) as (server, smtp):
        for _ in range(3):
            await deliver(smtp)
    assert len(server.connections) == 1
    assert "NOOP" not in server.connection.verbs


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("how", ["close", "truncate", "reset"])
async def test_a_connection_that_the_server_has_ended_is_replaced_before_it_is_used(
    road: Road, how: Close, roads: Callable[..., Any]
) -> None:
    async with roads(road) as (server, smtp):
        await deliver(smtp)
        written = len(server.connections[0].writes)
        await server.hang_up(how)
        await deliver(smtp)
        assert len(server.connections[0].writes) == written
    assert len(server.connections) == 2
    assert len(server.messages) == 2


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("late", ["421 4.4.2 Idle for too long", "250 What?", b"2"])
async def test_a_connection_on_which_something_came_unasked_is_replaced_before_it_is_used(
    road: Road, late: str | bytes, roads: Callable[..., Any]
) -> None:
    async with roads(road) as (server, smtp):
        await deliver(smtp)
        written = len(server.connections[0].writes)
        await server.push(late)
        await deliver(smtp)
        assert len(server.connections[0].writes) == written
    assert len(server.connections) == 2
    assert len(server.messages) == 2


@pytest.mark.parametrize("road", ["tls", "starttls"])
@pytest.mark.parametrize("what", ["reply", "end", "garbage"])
async def test_a_tls_record_that_waits_inside_the_tls_object_is_seen(
    road: Road, what: str, roads: Callable[..., Any]
) -> None:
    """Poll on the socket does not see it."""
    async with roads(road) as (server, smtp):
        async with smtp.connection() as conn:
            stream = conn._channel.link.stream
            assert isinstance(stream, TLSStream)
            if what == "reply":
                await server.push("421 4.4.2 Idle for too long")
            elif what == "end":
                await server.hang_up("close")
            record = b"garbage" if what == "garbage" else await stream.transport_stream.receive()
            stream._read_bio.write(record)
        await deliver(smtp)
    assert len(server.connections) == 2


async def test_connect_looks_too(roads: Callable[..., Any]) -> None:
    async with roads("tcp") as (server, smtp):
        await smtp.connect()
        await smtp.connect()
        await server.hang_up()
        await smtp.connect()
        async with smtp.connection() as conn:
            await conn.noop()
        await server.hang_up()
        async with smtp.connection() as conn:
            await conn.noop()
    assert len(server.connections) == 3


async def test_a_connection_whose_socket_was_closed_is_replaced(roads: Callable[..., Any]) -> None:
    async with roads("tcp") as (server, smtp):
        async with smtp.connection() as conn:
            await conn.noop()
            stream = conn._channel.link.stream
        await stream.aclose()
        await deliver(smtp)
    assert len(server.connections) == 2


async def test_where_there_is_no_poll_a_connection_is_trusted(
    roads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "poll")
    async with roads("tcp") as (server, smtp):
        await deliver(smtp)
        await server.hang_up()
        await deliver(smtp)
    assert len(server.connections) == 2
    assert len(server.messages) == 2


async def test_the_look_does_not_mind_how_many_files_are_open(roads: Callable[..., Any]) -> None:
    """select(2) fails from file 1024 on."""
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1200:
        pytest.skip("not enough files allowed")
    sockets = [socket.socket() for _ in range(1100)]
    try:
        async with roads("tcp") as (server, smtp):
            async with smtp.connection() as conn:
                await conn.noop()
                raw = conn._channel.link.stream.extra(SocketAttribute.raw_socket)
                assert raw.fileno() > 1024
            await deliver(smtp)
    finally:
        for each in sockets:
            each.close()
    assert len(server.connections) == 1


# What only its use shows


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
async def test_a_dead_connection_that_cannot_be_looked_at_is_replaced_by_its_use(
    how: Close, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anysmtp")
    delivery: Delivery[None] = Delivery()
    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
        await server.hang_up(how)
        await deliver(smtp, message("again", size), delivery=delivery)
    assert len(server.connections) == 2
    assert len(server.messages) == 2
    assert delivery.outcome == "accepted"
    assert "the connection was worn out, taking a new one" in caplog.text


GOODBYES: dict[str, tuple[str, Act]] = {
    "421 to MAIL": ("MAIL", Act("421 4.7.0 Enough", then="close")),
    "554 to MAIL": ("MAIL", Act("554 5.7.1 Too many nonmail commands")),
    "421 to RCPT": ("RCPT", Act("421 4.7.0 Enough", then="close")),
    "421 to DATA": ("DATA", Act("421 4.7.0 Enough", then="close")),
    "421 and on": ("MAIL", Act("421 4.7.0 Enough")),
    "end at MAIL": ("MAIL", DROP),
    "end at RCPT": ("RCPT", DROP),
    "end at DATA": ("DATA", DROP),
    "reset at MAIL": ("MAIL", RESET),
}


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("goodbye", GOODBYES.values(), ids=GOODBYES)
async def test_a_connection_that_turns_out_to_be_worn_out_is_replaced_and_the_message_sent_once(
    goodbye: tuple[str, Act], pipelining: bool
) -> None:
    point, act = goodbye
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(keywords=["PIPELINING"] if pipelining else [])
    async with server, on_memory(server) as smtp:
        await deliver(smtp)
        server.script[point] = [act]
        receipt = await deliver(smtp, delivery=delivery)
        assert list(receipt.accepted) == list(RECIPIENTS)
        assert not receipt.refused
    assert len(server.connections) == 2
    assert len(server.received) == 2
    assert delivery.result() is receipt


@pytest.mark.parametrize("reply", ["421 4.7.0 Enough", "554 5.7.1 Too many nonmail commands"])
async def test_a_goodbye_in_answer_to_rset_is_not_the_messages_refusal(reply: str) -> None:
    script: Script = {".": ["550 5.6.0 Not this"], "RSET": [reply]}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError):
            await deliver(smtp)
        await deliver(smtp)
    assert len(server.connections) == 2
    # One was refused; and the server did not get an empty one.
    assert len(server.received) == 2
    assert len(server.messages) == 1


async def test_a_connection_on_which_a_transaction_cannot_be_ended_takes_no_other_message() -> None:
    script: Script = {"DATA": ["451 4.3.0 Later"], "RSET": "502 5.5.1 Not implemented"}
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, pipelining="off") as smtp,
    ):
        with pytest.raises(SMTPDataError):
            await deliver(smtp)
        for _ in range(2):
            await deliver(smtp)
    assert len(server.connections) == 2
    assert len(server.messages) == 2


async def test_a_message_of_which_a_part_had_left_is_sent_again_as_a_whole() -> None:
    raw = message("cut off", LARGE)
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(capacity=1000) as server, on_memory(server) as smtp:
        await deliver(smtp)
        server.script["BODY"] = [DROP]
        await deliver(smtp, raw, delivery=delivery)
    assert [received.raw for received in server.received][1:] == [raw]
    assert delivery.bytes_sent == delivery.bytes_total == len(raw)


@pytest.mark.parametrize("goodbye", GOODBYES.values(), ids=GOODBYES)
async def test_it_is_sent_again_once_and_what_the_fresh_connection_says_is_believed(
    goodbye: tuple[str, Act],
) -> None:
    point, act = goodbye
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
        server.script[point] = act
        with pytest.raises(SMTPException) as caught:
            await deliver(smtp, delivery=delivery)
        assert caught.value.delivery is delivery
        # Nothing of the connection before it.
        assert caught.value.__context__ in (None, caught.value.__cause__)
    assert len(server.connections) == 2
    assert len(server.received) == 1
    expected = SMTPSenderRefused if "554" in str(act.reply) else SMTPServerDisconnected
    assert type(caught.value) is expected
    assert delivery.outcome in ("refused", "not_sent")
    assert delivery.may_retry == (expected is SMTPServerDisconnected)


@pytest.mark.parametrize("goodbye", GOODBYES.values(), ids=GOODBYES)
async def test_what_a_fresh_connection_says_is_reported_and_nothing_is_sent_again(
    goodbye: tuple[str, Act],
) -> None:
    point, act = goodbye
    server = ScriptedServer(script={point: act})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPException):
            await deliver(smtp)
    assert len(server.connections) == 1


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("act", [DROP, RESET])
async def test_in_doubt_is_reported_and_never_sent_again(size: int, act: Act) -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
        server.script["."] = act
        with pytest.raises(SMTPServerDisconnected) as caught:
            await deliver(smtp, message("in doubt", size), delivery=delivery)
    assert caught.value.in_doubt
    assert delivery.outcome == "in_doubt"
    assert not delivery.may_retry
    assert len(server.received) == 2
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"MAIL": "550 5.7.1 Not you"}, SMTPSenderRefused),
        ({"RCPT": "554 5.7.1 Nobody"}, SMTPRecipientsRefused),
        ({"DATA": "554 5.7.1 Nothing"}, SMTPDataError),
        ({".": "421 4.3.0 Crashed"}, SMTPDataError),
        ({".": "554 5.6.0 Spam"}, SMTPDataError),
    ],
)
async def test_a_refusal_of_the_message_is_believed_on_a_used_connection_too(
    script: dict[str, Answer], error: type[SMTPException]
) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
        server.script.update(script)
        with pytest.raises(error):
            await deliver(smtp)
    assert len(server.connections) == 1


async def test_the_second_connection_may_fail_too() -> None:
    delivery: Delivery[None] = Delivery()
    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
        await server.hang_up()
        server.script["CONNECT"] = RESET
        with pytest.raises(SMTPException, match="the script refuses the connection") as caught:
            await deliver(smtp, delivery=delivery)
    assert caught.value.delivery is delivery
    assert delivery.outcome == "not_sent"
    assert delivery.may_retry


@in_virtual_time
async def test_a_used_connection_that_stalls_is_a_timeout_and_nothing_is_sent_again() -> None:
    async with ScriptedServer() as server, on_memory(server, timeout=0.05) as smtp:
        await deliver(smtp)
        server.script["MAIL"] = [STALL]
        with pytest.raises(TimeoutError):
            await deliver(smtp)
        await deliver(smtp)
    assert len(server.received) == 2


async def test_those_who_were_refused_before_the_connection_ended_are_asked_again() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
        server.script[f"RCPT TO:<{RECIPIENTS[0]}>"] = ["550 5.1.1 No"]
        server.script["DATA"] = [DROP]
        receipt = await deliver(smtp, delivery=delivery)
    assert list(receipt.accepted) == list(RECIPIENTS)
    assert not delivery.refused


async def test_a_task_that_waits_gets_the_connection_that_another_one_has_replaced() -> None:
    async with no_leaks(), ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
        await server.hang_up()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(deliver, smtp)
    assert len(server.messages) == 6
    assert len(server.connections) <= 3


# Loose ends


async def test_a_write_that_fails_after_the_final_reply_closes_the_connection() -> None:
    class Breaking(Wrapped):
        """Its last piece arrives, and is said to have failed."""

        async def send(self, item: bytes) -> None:
            await super().send(item)
            if item.endswith(b"\r\n.\r\n"):
                raise anyio.BrokenResourceError

    async with ScriptedServer() as server:
        settings: dict[str, Any] = {"connectable": Through(server, Breaking), "tls": "off"}
        async with SMTP("mail.example.test", **settings) as smtp:
            receipt = await deliver(smtp, message("broken", LARGE))
            assert repr(smtp).endswith("0/3 idle 0 waiting 0>")
            with pytest.raises(SMTPServerDisconnected) as caught:
                await deliver(smtp)
    assert list(receipt.accepted) == list(RECIPIENTS)
    assert caught.value.outcome == "in_doubt"


async def test_a_message_on_tcp_after_the_server_went_away_is_sent_on_a_fresh_connection() -> None:
    async with ScriptedServer() as server, await on_tcp(server) as smtp:
        await smtp.sendmail(SENDER, RECIPIENTS, b"one\r\n")
        await server.push("421 4.3.2 Shutting down")
        await server.hang_up()
        await smtp.sendmail(SENDER, RECIPIENTS, b"two\r\n")
    assert [received.raw for received in server.messages] == [b"one\r\n", b"two\r\n"]


async def test_a_connection_that_ends_while_the_rate_is_waited_for_costs_no_message() -> None:
    async with no_leaks(), ScriptedServer() as server:
        limits = Limits(max_connections=1, rate=(1, 0.2))
        async with await on_tcp(server, limits=limits) as smtp:
            await deliver(smtp)
            async with anyio.create_task_group() as group:
                group.start_soon(deliver, smtp)
                await anyio.wait_all_tasks_blocked()
                await server.hang_up()
        assert len(server.messages) == 2
        assert len(server.connections) == 2
