"""LMTP: a reply for each recipient, and what that means for Receipts, doubt and cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from anysmtp import (
    LMTP,
    Delivery,
    Limits,
    Mail,
    Receipt,
    Reply,
    Retry,
    SMTPDataError,
    SMTPHeloError,
    SMTPProtocolError,
    SMTPRecipientsRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    Timeouts,
)
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, STALL, Act, Answer, ScriptedServer
from support.bench import LARGE, message
from support.cancel import Ended, How, cancel_at, cancel_in_turn
from support.clients import ONE, RAW, email
from support.fixtures import Tally
from support.leaks import no_leaks

pytestmark = pytest.mark.anyio

A, B, C = "a@x.test", "b@x.test", "c@x.test"
ALL = (A, B, C)
CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")
FULL = "552 5.2.2 mailbox full"
LATER = "452 4.2.2 over quota"
BOUND = 300


def served(script: Any = None, **options: Any) -> ScriptedServer:
    return ScriptedServer(lmtp=True, script=script, **options)


def client(server: ScriptedServer, **options: Any) -> LMTP:
    settings: dict[str, Any] = {"tls": "off", "limits": ONE, **options}
    return LMTP("mail.example.test", connectable=server.connectable, **settings)


async def send(lmtp: LMTP, raw: bytes = RAW, **options: Any) -> Receipt:
    return await lmtp.sendmail("s@x.test", ALL, raw, **options)


def codes(refused: Mapping[str, Reply]) -> dict[str, int]:
    return {key: reply.code for key, reply in refused.items()}


# How a message is carried: in one command, in pieces, with the envelope, one command at a time.
WAYS: dict[str, tuple[dict[str, Any], int]] = {
    "data": ({}, 200),
    "in pieces": ({}, LARGE),
    "eager": ({"pipelining": "eager"}, 200),
    "in a chunk": ({"chunking": "always"}, 200),
    "in a chunk and pieces": ({"chunking": "always"}, LARGE),
    "one by one": ({"pipelining": "off"}, 200),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[dict[str, Any], int]:
    chosen: tuple[dict[str, Any], int] = WAYS[request.param]
    return chosen


# What each recipient is told


async def test_the_greeting_is_lhlo() -> None:
    async with served() as server, client(server) as lmtp:
        extensions = await lmtp.connect()
    assert extensions.pipelining
    assert server.connection.verbs[0] == "LHLO"


async def test_there_is_no_other_greeting_to_fall_back_to() -> None:
    server = served({"LHLO": "500 5.5.1 what"}, strict=False)
    async with server, client(server) as lmtp:
        with pytest.raises(SMTPHeloError, match=r"LHLO .*: 500 5\.5\.1 what"):
            await lmtp.connect()
    assert "HELO" not in server.connection.verbs


async def test_all_stored(way: tuple[dict[str, Any], int]) -> None:
    options, size = way
    script = {f". <{key}>": f"250 2.0.0 stored for {key}" for key in ALL}
    async with served(script, keywords=CHUNKING) as server, client(server, **options) as lmtp:
        for number in range(3):
            receipt = await send(lmtp, message(f"message {number}", size))
            assert {k: r.text for k, r in receipt.accepted.items()} == {
                key: f"2.0.0 stored for {key}" for key in ALL
            }
            assert [reply.text[-8:] for reply in receipt.replies] == list(ALL)
            assert receipt.reply == receipt.replies[-1]
            assert receipt.refused == {}
    sent = [message(f"message {n}", size) for n in range(3)]
    assert [each.raw for each in server.messages] == sent
    assert len(server.connections) == 1


async def test_some_stored_is_a_receipt(way: tuple[dict[str, Any], int]) -> None:
    options, size = way
    script = {f". <{A}>": FULL, f". <{C}>": LATER}
    async with served(script, keywords=CHUNKING) as server, client(server, **options) as lmtp:
        for _ in range(2):
            delivery = Delivery()
            receipt = await send(lmtp, message("some", size), delivery=delivery)
            assert [*receipt.accepted] == [B]
            assert codes(receipt.refused) == {A: 552, C: 452}
            assert receipt.retry_recipients == (C,)
            assert receipt.reply.code == 250
            assert [reply.code for reply in receipt.replies] == [552, 250, 452]
            assert delivery.outcome == "refused"
            with pytest.raises(SMTPRecipientsRefused):
                receipt.raise_for_refused()
    assert len(server.connections) == 1


async def test_none_stored_is_an_exception(way: tuple[dict[str, Any], int]) -> None:
    options, size = way
    script = {f". <{key}>": FULL for key in ALL}
    async with served(script, keywords=CHUNKING) as server, client(server, **options) as lmtp:
        for _ in range(2):
            with pytest.raises(SMTPRecipientsRefused, match="end of data: 3 recipients") as caught:
                await send(lmtp, message("none", size))
            assert codes(caught.value.refused) == dict.fromkeys(ALL, 552)
            assert caught.value.outcome == "refused"
            assert not caught.value.may_retry
            assert not caught.value.connection_closed
    assert len(server.connections) == 1


async def test_refused_before_and_after_the_message(way: tuple[dict[str, Any], int]) -> None:
    options, size = way
    script: dict[str, Answer] = {f"RCPT TO:<{A}>": "550 5.1.1 no such user", f". <{C}>": LATER}
    async with served(script, keywords=CHUNKING) as server, client(server, **options) as lmtp:
        receipt = await send(lmtp, message("both", size))
        assert [*receipt.accepted] == [B]
        assert codes(receipt.refused) == {A: 550, C: 452}
        assert len(receipt.replies) == 2
        server.script[f". <{B}>"] = FULL
        with pytest.raises(SMTPRecipientsRefused) as caught:
            await send(lmtp, message("both", size))
        assert codes(caught.value.refused) == {
            A: 550,
            B: 552,
            C: 452,
        }
        del server.script[f". <{B}>"]
        await send(lmtp, message("both", size))
    assert len(server.connections) == 1


async def test_nobody_accepted_has_one_reply(way: tuple[dict[str, Any], int]) -> None:
    options, size = way
    server = served({"RCPT": ["550 no"] * 3}, keywords=CHUNKING)
    async with server, client(server, **options) as lmtp:
        with pytest.raises(SMTPRecipientsRefused):
            await send(lmtp, message("nobody", size))
        receipt = await send(lmtp, message("again", size))
    assert [*receipt.accepted] == [*ALL]
    assert len(server.connections) == 1


async def test_a_354_without_recipients_ends_the_connection() -> None:
    server = served({"RCPT": ["550 no"] * 3, "DATA": ["354 go on"]})
    async with server, client(server) as lmtp:
        with pytest.raises(SMTPRecipientsRefused):
            await send(lmtp)
        await send(lmtp)
    assert len(server.connections) == 2
    assert len(server.messages) == 1


async def test_a_message_refused_before_its_end_is_refused_once() -> None:
    server = served({"BODY": Act("552 5.3.4 too big", then="stall")}, capacity=100)
    async with server, client(server) as lmtp:
        with pytest.raises(SMTPDataError, match="too big"):
            await send(lmtp, message("early", LARGE))
        del server.script["BODY"]
        await send(lmtp)


async def test_require_all_holds_for_the_envelope() -> None:
    script: dict[str, Answer] = {f". <{A}>": FULL}
    async with served(script) as server, client(server) as lmtp:
        receipt = await send(lmtp, require_all=True)
        assert [*receipt.refused] == [A]
        server.script["RCPT TO:<b"] = "550 no"
        with pytest.raises(SMTPRecipientsRefused):
            await send(lmtp, require_all=True)
    assert len(server.messages) == 1


async def test_too_many_recipients_go_in_a_next_transaction() -> None:
    script: dict[str, Any] = {
        f"RCPT TO:<{C}>": ["452 4.5.3 too many recipients"],
        f". <{A}>": FULL,
        f". <{B}>": FULL,
    }
    async with served(script) as server, client(server) as lmtp:
        receipt = await send(lmtp)
    assert [*receipt.accepted] == [C]
    assert [*receipt.refused] == [A, B]
    assert [reply.code for reply in receipt.replies] == [552, 552, 250]


async def test_those_refused_for_now_are_tried_again() -> None:
    script = {f". <{B}>": [LATER, LATER]}
    async with served(script) as server, client(server, retry=Retry(3, base=0)) as lmtp:
        receipt = await send(lmtp)
    assert [*receipt.accepted] == [*ALL]
    assert [each.recipients for each in server.received] == [[*ALL], [B], [B]]


# Many


async def test_a_stream_of_messages_is_sent_without_waits(way: tuple[dict[str, Any], int]) -> None:
    options, _ = way
    script = {f". <{B}>": FULL}
    mails = [Mail(email(To=", ".join(ALL), Subject=f"{n}"), key=n) for n in range(20)]
    async with (
        served(script, keywords=CHUNKING) as server,
        client(server, **options) as lmtp,
        lmtp.send_many(mails, ordered=True) as deliveries,
    ):
        found = [delivery async for delivery in deliveries]
    assert [delivery.key for delivery in found] == list(range(20))
    assert {(*delivery.accepted, "|", *delivery.refused) for delivery in found} == {(A, C, "|", B)}
    assert len(server.received) == 20
    if options == {}:
        # LHLO, an envelope, each end of a message with the next envelope behind it, QUIT.
        assert len(server.connection.writes) == 23


async def test_tasks_share_connections() -> None:
    async with served(keywords=CHUNKING) as server:
        lmtp = client(server, limits=Limits(max_connections=2), pipelining="eager")
        async with lmtp, anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(send, lmtp, message(f"{number}"))
    assert len({each.raw for each in server.messages}) == 30


# Doubt and cancellation


async def test_a_connection_that_dies_between_the_replies_leaves_the_others_in_doubt(
    way: tuple[dict[str, Any], int],
) -> None:
    options, size = way
    delivery = Delivery()
    async with (
        served({f". <{B}>": DROP}, keywords=CHUNKING, strict=False) as server,
        client(server, **options) as lmtp,
    ):
        with pytest.raises(SMTPServerDisconnected) as caught:
            await send(lmtp, message("half", size), delivery=delivery)
    assert [*delivery.accepted] == [A]
    assert delivery.in_doubt == (B, C)
    assert caught.value.in_doubt
    assert not delivery.may_retry
    assert len(server.received) == 1


async def test_a_421_between_the_replies_is_for_one_and_the_end() -> None:
    script: dict[str, Answer] = {f". <{B}>": Act("421 4.3.2 going down", then="close")}
    async with served(script, strict=False) as server, client(server) as lmtp:
        delivery = Delivery()
        with pytest.raises(SMTPServerDisconnected):
            await send(lmtp, delivery=delivery)
    assert [*delivery.accepted] == [A]
    assert delivery.refused[B].code == 421
    assert delivery.in_doubt == (C,)


async def test_a_reply_that_is_none_between_the_others_breaks_the_connection() -> None:
    async with served({f". <{B}>": "354 go on"}, strict=False) as server, client(server) as lmtp:
        delivery = Delivery()
        with pytest.raises(SMTPProtocolError, match="not a reply to end of data"):
            await send(lmtp, delivery=delivery)
    assert [*delivery.accepted] == [A]
    assert delivery.in_doubt == (B, C)


async def test_a_reply_too_many_breaks_the_connection() -> None:
    async with served({f". <{C}>": b"250 one\r\n250 two\r\n"}) as server, client(server) as lmtp:
        await send(lmtp)
        await send(lmtp)
    assert len(server.connections) == 2
    assert len(server.messages) == 2


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with served(keywords=CHUNKING, strict=False) as server:
        yield server


async def test_who_is_cancelled_between_the_replies_learns_the_rest_from_those_behind(
    server: ScriptedServer,
) -> None:
    """The connection goes on, and replies are paired with their own."""
    between = anyio.Event()
    server.script.update({f". <{B}>": [Act(late=between)], f". <{C}>": [FULL]})
    mine, other = Delivery(), Delivery()
    async with client(server) as lmtp:
        await lmtp.connect()
        async with lmtp.connection() as conn, anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def stopped() -> None:
                with scope:
                    await conn.sendmail("s@x.test", ALL, message("mine"), delivery=mine)

            group.start_soon(stopped)
            await anyio.wait_all_tasks_blocked()
            assert [*mine.accepted] == [A]

            async def behind() -> None:
                await conn.sendmail("s@x.test", [A, B], message("other"), delivery=other)

            group.start_soon(behind)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert mine.in_doubt == (B, C)
            between.set()
    assert [*mine.accepted] == [A, B]
    assert mine.refused[C].code == 552
    assert [*other.accepted] == [A, B]
    assert len(server.connections) == 1


async def judge(server: ScriptedServer, delivery: Delivery[Any], subject: str) -> None:
    """What a Delivery says of each recipient must be what the server did."""
    got = [each for each in server.received if subject.encode() in each.raw]
    stored = [key for each in got for key in each.accepted_for]
    assert len(got) <= 1
    assert len(stored) == len(set(stored))
    assert set(delivery.accepted) <= set(stored)
    assert not set(delivery.not_sent) & set(stored)
    assert not set(delivery.refused) & set(stored)


async def test_stopping_at_any_await_harms_nobody(
    way: tuple[dict[str, Any], int],
    cancel_how: How,
    tally: Tally,
) -> None:
    options, size = way
    outcomes = set[Any]()
    server = served(
        {f". <{B}>": FULL},
        keywords=CHUNKING,
        strict=False,
        capacity=20_000 if size == LARGE else 100,
        split=7,
    )
    async with server, no_leaks():
        for k in range(1, BOUND):
            delivery = Delivery()
            async with client(server, **options) as lmtp:
                await lmtp.connect()

                async def stopped() -> None:
                    await send(lmtp, message(f"<{k}>", size), delivery=delivery)  # noqa: B023

                ended = await cancel_at(k, cancel_how, stopped)
                ended.unwrap()
                receipt = await send(lmtp, message(f"after {k}"))
                assert [*receipt.accepted] == [A, C]
            outcomes.add(delivery.outcome)
            await judge(server, delivery, f"<{k}>")
            if not ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
    assert "refused" in outcomes
    # Where it goes out in pieces, a task of its own waits for the replies.
    assert "in_doubt" in outcomes or size == LARGE
    tally("awaits at which a delivery by LMTP was stopped", k)


async def test_stopping_one_of_several_in_any_turn_leaves_the_others_their_replies(
    cancel_how: How, tally: Tally
) -> None:
    server = served({f". <{B}>": FULL}, keywords=CHUNKING, strict=False, split=7)
    ended = list[Ended[None]]()
    async with server, no_leaks():
        for k in range(1, BOUND, 3):
            mine = Delivery()
            others = [Delivery(key=f"other {k} {n}") for n in range(2)]
            async with client(server, pipelining="eager") as lmtp:
                await lmtp.connect()
                async with anyio.create_task_group() as group:
                    for other in others:
                        group.start_soon(
                            lambda d: send(lmtp, message(d.key), delivery=d),
                            other,
                        )

                    async def stopped() -> None:
                        await send(lmtp, message(f"<{k}>"), delivery=mine)  # noqa: B023

                    ended.append(await cancel_in_turn(k, cancel_how, stopped))
                    ended[-1].unwrap()
            for other in others:
                assert [*other.accepted] == [A, C]
                assert [*other.refused] == [B]
            await judge(server, mine, f"<{k}>")
            if not ended[-1].stopped:
                break
        else:
            pytest.fail("the scenario has no end")
    tally("turns in which a delivery by LMTP was stopped", k)


async def test_a_server_that_is_silent_between_the_replies_is_timed_out(
    server: ScriptedServer,
) -> None:
    server.script[f". <{C}>"] = STALL
    async with client(server, timeout=Timeouts(final=0.05)) as lmtp:
        delivery = Delivery()
        with pytest.raises(SMTPTimeoutError, match="end of data"):
            await send(lmtp, delivery=delivery)
    assert [*delivery.accepted] == [A, B]
    assert delivery.in_doubt == (C,)


# Arguments and the command layer


async def test_over_a_unix_socket_and_tcp(tmp_path: Path) -> None:
    async with served() as server:
        path = tmp_path / "lmtp"
        await server.listen_unix(path)
        port = await server.listen()
        for lmtp in (
            LMTP(connectable=path),
            LMTP.from_url(f"lmtp+unix://{path}"),
            LMTP("127.0.0.1", port),
            LMTP.from_url(f"lmtp://127.0.0.1:{port}"),
        ):
            async with lmtp:
                await send(lmtp)
    assert len(server.messages) == 4
    assert repr(lmtp).startswith(f"<LMTP 127.0.0.1:{port} ")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("smtp://h.example:24", "the scheme is one of lmtp, lmtp"),
        ("lmtp://h.example", "LMTP has no port of its own"),
        ("lmtp://h.example:25", "port 25 is SMTP's"),
    ],
)
def test_what_is_no_address_of_a_server_is_an_error(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LMTP.from_url(url)


def test_a_port_is_required() -> None:
    with pytest.raises(ValueError, match="LMTP has no port of its own"):
        LMTP("h.example")


async def test_the_command_layer(server: ScriptedServer) -> None:
    async with client(server) as lmtp, lmtp.connection() as conn:
        assert (await conn.ehlo("me.example")).code == 250
        await conn.mail("s@x.test")
        await conn.rcpt(A)
        with pytest.raises(RuntimeError, match=r"use sendmail\(\)"):
            await conn.data(RAW)
        await conn.rset()
        receipt = await conn.sendmail("s@x.test", ALL, RAW)
        assert len(receipt.replies) == 3
    assert server.connection.hello == "me.example"
