"""One connection more than a server serves, refused in whatever words, while others work.

Whoever is turned away waits for those that there are. In virtual time, on both backends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Limits,
    Mail,
    Retry,
    SMTPConnectError,
    SMTPSenderRefused,
    SMTPTLSError,
)
from anysmtp.testing import Act, Answer, ScriptedServer
from support.clients import RAW, deliver, on_memory
from support.leaks import no_leaks
from support.many import mail, outcomes, send_all
from support.tls import Certificates
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

FOR_EVER = "554 5.7.1 too many connections from you"
NO = Act(FOR_EVER, then="close")
RETRY = Retry(3, base=100)


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class OneOnly:
    """A server that works for one connection, and answers all others so at one of the points."""

    def __init__(self, answer: Answer = NO, points: tuple[str, ...] = ("GREETING",)) -> None:
        self._no, self._points = answer, points
        self.server = ScriptedServer(script=self._answer)

    def _answer(self, line: str) -> Answer | None:
        if line.startswith(self._points) and len(self.server.connections) > 1:
            return self._no
        return Act(late=0.1) if line.startswith("MAIL") else None


async def slowly(count: int) -> AsyncGenerator[Mail[int]]:
    """Now and then there are mails for two connections, and then for none."""
    for number in range(count):
        yield mail(number)
        await anyio.sleep(0.05 if number < count // 2 else 1)


@pytest.mark.parametrize("retry", [None, RETRY], ids=["once", "again"])
@pytest.mark.parametrize("points", [("GREETING",), ("EHLO", "HELO")], ids=" ".join)
async def test_a_stream_goes_on_over_the_connection_that_there_is(
    points: tuple[str, ...], retry: Retry | None
) -> None:
    only = OneOnly(points=points)
    limits = Limits(max_connections=2)
    start = anyio.current_time()
    async with no_leaks(), only.server, on_memory(only.server, limits=limits, retry=retry) as smtp:
        deliveries = await send_all(smtp, slowly(20))
        assert smtp.statistics().retries == 0
    assert outcomes(deliveries) == dict.fromkeys(range(20), "accepted")
    assert anyio.current_time() - start < 20


async def test_so_does_a_task_that_sends() -> None:
    only = OneOnly()
    async with no_leaks(), only.server, on_memory(only.server, limits=Limits()) as smtp:
        await smtp.connect()
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(deliver, smtp)
        now = smtp.statistics()
    assert (now.messages_accepted, now.allowed_connections) == (10, 1)


async def test_where_no_connection_is_open_it_is_an_error_at_once() -> None:
    async with (
        ScriptedServer(script={"GREETING": NO}) as server,
        on_memory(server, limits=Limits()) as smtp,
    ):
        with pytest.raises(SMTPConnectError, match="554"):
            await deliver(smtp)
    assert len(server.connections) == 1


async def test_tls_that_is_refused_for_ever_is_an_error_at_once(certificates: Certificates) -> None:
    """It may be an attack, and is no matter of how many there are."""
    server = ScriptedServer(
        script={"STARTTLS": [Act(), "554 5.7.3 no TLS here"]}, starttls=certificates.server
    )
    async with (
        server,
        on_memory(server, tls="starttls", tls_context=certificates.client, limits=Limits()) as smtp,
        smtp.connection() as conn,
    ):
        with pytest.raises(SMTPTLSError, match="554"):
            await deliver(smtp)
        await conn.noop()


async def test_while_a_connection_that_could_not_be_had_is_paused_for_others_are_used() -> None:
    """What is no SMTP is not waited for, but the message's own failure, and another try of it."""
    only = OneOnly("this is no SMTP")
    limits = Limits(max_connections=2, keepalive_expiry=None)
    start, found = anyio.current_time(), dict[Any, float]()
    async with (
        no_leaks(),
        only.server,
        on_memory(only.server, limits=limits, retry=RETRY) as smtp,
        smtp.send_many(slowly(20)) as deliveries,
    ):
        async for delivery in deliveries:
            assert delivery.outcome == "accepted"
            found[delivery.key] = anyio.current_time() - start
        retries = smtp.statistics().retries
    assert len(found) == 20
    assert sum(seconds > 20 for seconds in found.values()) <= retries <= 2


# Said in reply to MAIL


REFUSED = "450 4.7.1 Error: too many connections from 127.0.0.1"


def open_on(server: ScriptedServer) -> int:
    return sum(record.end is None for record in server.connections)


def count_of(server: ScriptedServer, command: bytes) -> int:
    return sum(line.startswith(command) for line in server.commands)


async def warm_up(smtp: SMTP, count: int) -> None:
    """Open so many connections; each message takes a while."""
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(deliver, smtp)
    assert smtp.statistics().idle_connections == count


async def test_of_those_that_are_refused_together_none_is_lost() -> None:
    """Also not the last one, who is alone when it is told."""
    is_crowded = False

    def answer(line: str) -> Answer | None:
        if not line.startswith("MAIL"):
            return None
        return Act(REFUSED if is_crowded and open_on(server) > 1 else None, late=1)

    server = ScriptedServer(script=answer)
    async with no_leaks(), server, on_memory(server, limits=Limits(max_connections=3)) as smtp:
        await warm_up(smtp, 3)
        is_crowded = True
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(deliver, smtp)
        assert smtp.statistics().allowed_connections == 1
    assert len(server.messages) == 6
    assert count_of(server, b"MAIL") == 3 + 2 * 3


async def test_who_is_turned_away_each_time_is_believed_where_others_are_turned_away_too() -> None:
    """Where one more asks than there is room for, it may always be the same one."""
    others = iter([REFUSED])

    def answer(line: str) -> Answer | None:
        if line.startswith("MAIL FROM:<unlucky@"):
            return REFUSED if open_on(server) > 2 else None
        if line.startswith("MAIL") and len(server.messages) >= 6:
            return next(others, None)
        return Act(late=1) if line == "." else None

    async def keep_busy() -> None:
        for _ in range(6):
            await deliver(smtp)

    server = ScriptedServer(script=answer)
    async with no_leaks(), server, on_memory(server, limits=Limits(max_connections=6)) as smtp:
        await warm_up(smtp, 6)
        async with anyio.create_task_group() as group:
            for _ in range(9):
                group.start_soon(keep_busy)
            await anyio.sleep(0.5)
            await smtp.sendmail("unlucky@x.test", "b@x.test", RAW)
            assert smtp.statistics().allowed_connections == 2
    assert count_of(server, b"MAIL FROM:<unlucky@") == 4
    assert len(server.messages) == 6 + 9 * 6 + 1


@pytest.mark.parametrize(
    "reply",
    [
        "451 4.3.0 the connection to the policy server failed",
        "451 4.3.0 too many errors, closing this connection",
        "452 4.3.1 too many messages on this connection",
        "450 4.7.1 no connections to the database",
    ],
)
async def test_what_only_speaks_of_a_connection_does_not_mean_that_there_are_too_many(
    reply: str,
) -> None:
    server = ScriptedServer(script={"MAIL FROM:<bad@": reply})
    async with server, on_memory(server, limits=Limits(max_connections=2)) as smtp:
        async with smtp.connection():
            await smtp.connect()
        with pytest.raises(SMTPSenderRefused):
            await smtp.sendmail("bad@x.test", "b@x.test", RAW)
        assert smtp.statistics().allowed_connections == 2
    assert count_of(server, b"MAIL") == 1


@pytest.mark.parametrize(
    "reply",
    [
        "421 4.3.2 The maximum number of concurrent server connections has exceeded a limit",
        "432 4.3.2 Concurrent connections limit exceeded",
        "450 4.7.1 Error: too many connections from 127.0.0.1",
        "450 4.7.0 connection limit reached",
        "451 4.7.0 simultaneous connections: 3 of 3",
        "452 4.3.2 connections from your host exceed our limit",
    ],
)
@pytest.mark.parametrize("is_stream", [False, True], ids=["task", "stream"])
async def test_a_message_lowers_the_number_of_connections_once(reply: str, is_stream: bool) -> None:
    """Where it is the message that is unwelcome, in whatever words, the others go on."""
    server = ScriptedServer(script={"MAIL FROM:<bad@": reply, "MAIL FROM:<a@x.test>": Act(late=1)})
    async with server, on_memory(server, limits=Limits(max_connections=8)) as smtp:
        await warm_up(smtp, 8)
        if is_stream:
            [delivery] = await send_all(smtp, [mail(0, sender="bad@x.test")])
            assert not delivery.accepted
        else:
            with pytest.raises(SMTPSenderRefused if reply[0:3] != "421" else ConnectionError):
                await smtp.sendmail("bad@x.test", "b@x.test", RAW)
        assert smtp.statistics().allowed_connections == 7
    assert count_of(server, b"MAIL FROM:<bad@") <= 5
