"""A stream of messages on its connections: how it is written, shared, limited and interrupted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, TypeAlias

import anyio
import pytest

from anysmtp import (
    Delivery,
    Limits,
    Mail,
    Retry,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPServerDisconnected,
)
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, RESET, Act, ScriptedServer
from support.clients import Script, deliver, email, on_memory, on_tcp
from support.leaks import no_leaks
from support.many import Source, keys, mail, outcomes, send_all, subjects
from support.quick import every, sampled

pytestmark = pytest.mark.anyio

CHUNKS = [*DEFAULT_KEYWORDS, "CHUNKING"]


# Flights


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_with_pipelining_a_message_costs_one_round_trip(count: int) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await send_all(smtp, map(mail, range(count)))
    hello, *writes, good_bye = server.connection.writes
    assert hello.startswith(b"EHLO")
    assert good_bye == b"QUIT\r\n"
    assert len(writes) == count + 1
    assert writes[0].startswith(b"MAIL FROM:")
    for number, write in enumerate(writes[1:]):
        body, end, behind = write.partition(b"\r\n.\r\n")
        assert body.startswith(b"Subject: %d\r\n" % number)
        assert end
        assert (behind[:10] == b"MAIL FROM:") or behind[:6] == b"RSET\r\n" or number == count - 1
        assert behind[-6:] == (b"DATA\r\n" if number < count - 1 else b"")


async def test_message_objects_cost_one_round_trip_too() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await send_all(smtp, [email(Subject=str(n)) for n in range(20)])
    assert len(server.connection.writes) == 1 + 21 + 1


async def test_each_of_several_connections_costs_one_write_more() -> None:
    async with (
        ScriptedServer() as server,
        on_memory(server, limits=Limits(max_connections=3)) as smtp,
    ):
        await send_all(smtp, map(mail, range(60)))
    assert len(server.connections) == 3
    for record in server.connections:
        assert len(record.writes) == 1 + (len(record.messages) + 1) + 1
    assert sorted(map(int, subjects(server.messages))) == list(range(60))


async def test_a_refused_message_costs_no_more_than_a_good_one() -> None:
    async with (
        ScriptedServer(script={"RCPT TO:<3@": "550 5.1.1 no"}) as server,
        on_memory(server) as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(10)))
    assert outcomes(deliveries)[3] == "refused"
    # Without a recipient there is no body whose end could take the next one along.
    assert len(server.connection.writes) <= 1 + 11 + 1 + 1


async def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    async with ScriptedServer(keywords=["8BITMIME"]) as server, on_memory(server) as smtp:
        await send_all(smtp, map(mail, range(5)))
    assert len(server.connection.writes) == 1 + 5 * 4 + 1


async def test_an_eager_stream_costs_well_under_one_round_trip_a_message() -> None:
    async with (
        ScriptedServer(keywords=CHUNKS) as server,
        on_memory(server, pipelining="eager") as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(100)))
    assert outcomes(deliveries) == dict.fromkeys(range(100), "accepted")
    assert subjects(server.messages) == [str(n) for n in range(100)]
    assert len(server.connection.writes) <= 30


async def test_no_envelope_is_written_for_what_read_ahead_does_not_let_in() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await send_all(smtp, map(mail, range(5)), read_ahead=1)
    assert len(server.connection.writes) == 1 + 5 * 2 + 1


async def test_a_slow_source_does_not_hold_up_a_message_that_is_ready() -> None:
    more = anyio.Event()

    async def items() -> AsyncGenerator[Mail[int]]:
        yield mail(0)
        await more.wait()
        yield mail(1)

    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many(items()) as deliveries,
    ):
        assert (await deliveries.__anext__()).key == 0
        more.set()
        assert (await deliveries.__anext__()).key == 1
    assert len(server.connections) == 1


# With others on the same client


async def test_another_task_is_served_in_its_turn() -> None:
    """It does not wait until the stream has ended, on the only connection."""
    source = Source(200)
    async with ScriptedServer() as server, on_memory(server) as smtp:

        async def three() -> None:
            for _ in range(3):
                before = len(server.received)
                await deliver(smtp)
                assert "hello" in subjects(server.received[before : before + 4])

        async with smtp.send_many(source.items()) as deliveries, anyio.create_task_group() as group:
            async for delivery in deliveries:
                if delivery.key == 20:
                    group.start_soon(three)
                await anyio.lowlevel.checkpoint()
    found = subjects(server.messages)
    assert found.count("hello") == 3
    assert max(n for n, subject in enumerate(found) if subject == "hello") < 190
    assert len(found) == 203
    assert len(server.connections) == 1


@pytest.mark.parametrize("connections", [1, 3])
async def test_many_tasks_and_a_stream_each_have_their_turn(connections: int) -> None:
    found: list[Delivery[Any]] = []
    limits = Limits(max_connections=connections)
    async with (
        ScriptedServer() as server,
        on_memory(server, limits=limits) as smtp,
        anyio.create_task_group() as group,
    ):
        for _ in range(20):
            group.start_soon(deliver, smtp)
        await send_all(smtp, map(mail, range(20)), found)
    assert set(outcomes(found).values()) == {"accepted"}
    sent = subjects(server.messages)
    assert sorted(sent) == sorted(["hello"] * 20 + [str(n) for n in range(20)])
    assert len(server.connections) <= connections


@pytest.mark.parametrize("connections", [1, 2, 3])
async def test_two_streams_at_once_on_one_client(connections: int) -> None:
    found: dict[str, list[Delivery[Any]]] = {}
    limits = Limits(max_connections=connections)
    async with ScriptedServer() as server, on_memory(server, limits=limits) as smtp:

        async def stream(name: str) -> None:
            mails = (mail(f"{name}{n}") for n in range(30))
            found[name] = await send_all(smtp, mails, read_ahead=5)

        async with anyio.create_task_group() as group:
            group.start_soon(stream, "a")
            group.start_soon(stream, "b")
    for name, deliveries in found.items():
        assert outcomes(deliveries) == {f"{name}{n}": "accepted" for n in range(30)}
    sent = subjects(server.messages)
    assert len(sent) == len(set(sent)) == 60
    assert len(server.connections) <= connections
    # Neither waits for the other to end.
    assert {subject[0] for subject in sent[:20]} == {"a", "b"}


async def test_two_streams_in_one_task() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        one, two = Source(10), Source(10, lambda n: mail(100 + n))
        async with smtp.send_many(one.items()) as first, smtp.send_many(two.items()) as second:
            for number in range(10):
                assert (await first.__anext__()).key == number
                assert (await second.__anext__()).key == 100 + number
    assert len(server.messages) == 20
    assert len(server.connections) == 1


async def test_the_body_can_send_with_the_same_client() -> None:
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many(Source(5).items(), read_ahead=2) as deliveries,
    ):
        async for _ in deliveries:
            await deliver(smtp)
            async with smtp.connection() as conn:
                await conn.noop()
    assert len(server.messages) == 10
    assert len(server.connections) == 1


async def test_a_task_that_has_the_last_connection_is_told_so() -> None:
    """As it is told by any other call of the client that would wait for it."""
    async with ScriptedServer() as server, on_memory(server) as smtp, smtp.connection():
        with anyio.fail_after(5), pytest.raises(RuntimeError, match="holds the last connection"):
            await send_all(smtp, [mail(0)])


# The life of the client


async def test_each_is_entered_once() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        many = smtp.send_many([mail(0)])
        async with many as deliveries:
            with pytest.raises(RuntimeError, match="entered once"):
                await many.__aenter__()
            assert [d.key async for d in deliveries] == [0]
        with pytest.raises(RuntimeError, match="entered once"):
            await many.__aenter__()


async def test_one_that_is_never_entered_does_nothing() -> None:
    source = Source()
    async with no_leaks(), ScriptedServer() as server:
        async with on_memory(server) as smtp:
            smtp.send_many(source.items())
        assert not source.pulled
        assert not server.connections


async def test_a_closed_client_takes_no_stream() -> None:
    async with ScriptedServer() as server:
        async with on_memory(server) as smtp:
            many = smtp.send_many([mail(0)])
        with pytest.raises(RuntimeError, match="the client is closed"):
            await many.__aenter__()
        with pytest.raises(RuntimeError, match="the client is closed"):
            smtp.send_many([mail(0)])


async def test_a_client_that_was_not_entered_takes_a_stream() -> None:
    async with ScriptedServer() as server:
        smtp = on_memory(server)
        assert keys(await send_all(smtp, [mail(0)])) == [0]
        await smtp.aclose()
    assert server.connection.end == "quit"


async def test_closing_the_client_waits_for_the_stream_and_refuses_others() -> None:
    source = Source(20)
    found: list[Delivery[Any]] = []
    async with ScriptedServer() as server:
        smtp = on_memory(server)
        async with (
            anyio.create_task_group() as group,
            smtp.send_many(source.items(), read_ahead=2) as deliveries,
        ):
            found.append(await deliveries.__anext__())
            group.start_soon(smtp.aclose)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="the client is closed"):
                smtp.send_many([])
            found.extend([d async for d in deliveries])
    assert outcomes(found) == dict.fromkeys(range(20), "accepted")
    assert server.connection.end == "quit"


async def test_closing_the_client_inside_the_block_is_an_error() -> None:
    """It would wait for its own end."""
    async with ScriptedServer() as server:
        smtp = on_memory(server)
        with anyio.fail_after(5):
            async with smtp.send_many([mail(0)]) as deliveries:
                assert [d.key async for d in deliveries] == [0]
                with pytest.raises(RuntimeError, match="closing the client inside"):
                    await smtp.aclose()
        await smtp.aclose()


# Limits


async def test_there_are_no_more_connections_than_messages() -> None:
    async with (
        ScriptedServer() as server,
        on_memory(server, limits=Limits(max_connections=3)) as smtp,
    ):
        await send_all(smtp, map(mail, range(2)))
    assert len(server.connections) <= 2


@pytest.mark.parametrize("limits", [Limits(max_connections=1), Limits(max_connections=3)])
async def test_connections_are_renewed_after_so_many_messages(limits: Limits) -> None:
    limits = Limits(max_connections=limits.max_connections, max_messages_per_connection=3)
    async with ScriptedServer() as server, on_memory(server, limits=limits) as smtp:
        deliveries = await send_all(smtp, map(mail, range(20)))
    assert set(outcomes(deliveries).values()) == {"accepted"}
    assert sorted(map(int, subjects(server.messages))) == list(range(20))
    assert max(record.verbs.count("MAIL") for record in server.connections) == 3
    assert len(server.connections) <= 7 + limits.max_connections


async def test_a_server_that_limits_messages_by_itself() -> None:
    keywords = [*DEFAULT_KEYWORDS, "LIMITS MAILMAX=4"]
    async with ScriptedServer(keywords=keywords) as server, on_memory(server) as smtp:
        await send_all(smtp, map(mail, range(10)))
    assert [len(record.messages) for record in server.connections] == [4, 4, 2]


async def test_a_server_that_lets_in_fewer_connections_than_are_allowed() -> None:
    async with (
        ScriptedServer(max_connections=3) as server,
        on_memory(server, limits=Limits(max_connections=10)) as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(100)))
    assert outcomes(deliveries) == dict.fromkeys(range(100), "accepted")
    assert len(server.messages) == 100
    assert server.refused <= 10


async def test_more_recipients_than_the_server_takes_at_once() -> None:
    """The rest of a message goes in a next transaction, and it has one Receipt."""
    recipients = [f"{n}@x.test" for n in range(5)]
    message = email()
    del message["To"]
    message["To"] = ", ".join(recipients)
    keywords = [*DEFAULT_KEYWORDS, "LIMITS RCPTMAX=2"]
    async with ScriptedServer(keywords=keywords) as server, on_memory(server) as smtp:
        deliveries = await send_all(smtp, [mail("a"), message, mail("b")])
    assert sorted(map(str, keys(deliveries))) == ["None", "a", "b"]
    [several] = [d for d in deliveries if d.key is None]
    assert list(several.result().accepted) == recipients
    assert len(several.result().replies) == 3
    assert len(server.messages) == 5


async def test_what_is_refused_each_time_is_given_up_in_its_delivery() -> None:
    script: Script = {"RCPT TO:<1@": "450 4.2.0 later"}
    retry = Retry(3, base=0.001)
    async with ScriptedServer(script=script) as server, on_memory(server, retry=retry) as smtp:
        deliveries = await send_all(smtp, map(mail, range(3)), ordered=True)
    assert keys(deliveries) == [0, 1, 2]
    assert deliveries[1].outcome == "refused"
    assert [c for c in server.commands if c.startswith(b"RCPT TO:<1@")] == [
        b"RCPT TO:<1@x.test>\r\n"
    ] * 3


async def test_what_is_in_doubt_is_never_sent_again() -> None:
    retry = Retry(5, base=0.001)
    async with (
        ScriptedServer(script={".": ["250 ok", DROP]}) as server,
        on_memory(server, retry=retry) as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(4)))
    assert outcomes(deliveries) == {0: "accepted", 1: "in_doubt", 2: "accepted", 3: "accepted"}
    assert subjects(server.received) == ["0", "1", "2", "3"]


# Interrupted


POINTS = ["MAIL", "RCPT", "DATA", "BODY", "."]


@sampled(4)
@pytest.mark.parametrize("how", [DROP, RESET, Act("421 4.3.2 closing", then="close")])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("pipelining", ["auto", "off"])
async def test_a_connection_that_dies_costs_nothing_but_doubt(
    point: str, how: Act, pipelining: str
) -> None:
    """At the third message; the others go over another connection."""
    script: Script = {point: [Act(), Act(), how]}
    async with (
        no_leaks(),
        ScriptedServer(script=script) as server,
        on_memory(server, pipelining=pipelining) as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(6)))
    expected = dict.fromkeys(range(6), "accepted")
    is_told = how.reply != b""
    if point == "." and not is_told:
        expected[2] = "in_doubt"
    elif point in (".", "BODY") and is_told:
        # The server's word on the message itself.
        expected[2] = "refused"
    elif point == "BODY":
        # All of it had left, end included.
        expected[2] = "in_doubt"
    assert outcomes(deliveries) == expected
    accepted = [key for key, outcome in expected.items() if outcome == "accepted"]
    assert sorted(map(int, subjects(server.messages))) in (accepted, sorted({*accepted, 2}))
    assert len(server.connections) == 2


Pipelining: TypeAlias = Literal["auto", "eager", "off"]


@pytest.mark.parametrize("pipelining", ["auto", "eager", "off"])
async def test_a_connection_cut_after_each_octet_of_its_replies(pipelining: Pipelining) -> None:
    async with no_leaks():
        for count in range(1, await cut_after(None, pipelining), every(7)):
            await cut_after(count, pipelining)


async def cut_after(count: int | None, pipelining: Pipelining) -> int:
    """The server's log says what was certainly taken, and what may have been."""
    found: list[Delivery[Any]] = []
    error: SMTPException | None = None
    async with ScriptedServer(keywords=CHUNKS) as server:
        server.cut_after(count, connections=1)
        async with on_memory(server, pipelining=pipelining) as smtp:
            try:
                await send_all(smtp, map(mail, range(4)), found)
            except SMTPException as caught:
                error = caught
    received = subjects(server.received)
    assert len(received) == len(set(received)), "sent twice"
    if error is not None:
        # There was no session: the client could not work.
        assert not found
        assert not received
        assert error.outcome == "not_sent"
    else:
        assert sorted(keys(found)) == list(range(4))
        told = b"".join(server.connections[0].replies)[:count]
        judge(server, found, told, is_eager=pipelining == "eager")
    return server.connections[0].sent


def judge(
    server: ScriptedServer, found: list[Delivery[Any]], told: bytes, *, is_eager: bool
) -> None:
    first = subjects(server.connections[0].received)
    done = told.count(b"queued\r\n")
    # Without eagerness messages leave one after the other, each for a whole 354.
    left = len(first) if is_eager else told.count(b"<CR><LF>.<CR><LF>\r\n")
    for delivery in found:
        key = str(delivery.key)
        if delivery.key in range(done, left):
            assert delivery.outcome == "in_doubt"
            assert isinstance(delivery.exception(), SMTPServerDisconnected)
        elif delivery.outcome == "in_doubt":
            # What the server has not read may be on its way to it all the same.
            assert is_eager
            assert key not in subjects(server.received)
        elif delivery.outcome == "not_sent":
            # The first on a connection that had served nobody is not sent again.
            assert delivery.key == 0
            assert delivery.may_retry
            assert key not in subjects(server.received)
        else:
            assert delivery.outcome == "accepted"
            assert key in subjects(server.received)


async def test_a_connection_that_dies_again_and_again_ends_each_message_once() -> None:
    """Every second end of data is the last word of its connection."""
    script: Script = {".": [answer for _ in range(10) for answer in ("250 2.0.0 ok", DROP)]}
    async with no_leaks(), ScriptedServer(script=script) as server, on_memory(server) as smtp:
        deliveries = await send_all(smtp, map(mail, range(20)), ordered=True)
    assert [d.outcome for d in deliveries] == ["accepted", "in_doubt"] * 10
    assert subjects(server.received) == [str(n) for n in range(20)]


async def test_an_idle_connection_that_the_server_closed_is_replaced_unseen() -> None:
    async with ScriptedServer() as server, await on_tcp(server) as smtp:
        await deliver(smtp)
        await server.hang_up()
        deliveries = await send_all(smtp, map(mail, range(3)))
    assert set(outcomes(deliveries).values()) == {"accepted"}
    assert len(server.connections) == 2


async def test_a_server_that_goes_away_for_good_ends_the_stream() -> None:
    """What was handed over is in doubt, what was not begun is not reported at all."""
    script: Script = {"CONNECT": [Act(), *[DROP] * 200], ".": ["250 ok"] * 5 + [RESET]}
    source, found = Source(), list[Delivery[Any]]()
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPConnectError) as caught:
            await send_all(smtp, source.items(), found, read_ahead=10)
    assert outcomes(found) == {**dict.fromkeys(range(5), "accepted"), 5: "in_doubt"}
    assert caught.value.outcome == "not_sent"
    assert source.pulled <= 16
    assert subjects(server.received) == [str(n) for n in range(6)]


async def test_one_server_error_at_a_time_is_one_refused_message() -> None:
    """421 to the message itself is its refusal; the next ones take another connection."""
    script: Script = {".": ["250 ok", Act("421 4.3.0 disk full", then="close")]}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        deliveries = await send_all(smtp, map(mail, range(4)), ordered=True)
    assert [d.outcome for d in deliveries] == ["accepted", "refused", "accepted", "accepted"]
    assert isinstance(deliveries[1].exception(), SMTPDataError)
    assert deliveries[1].may_retry
