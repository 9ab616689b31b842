"""What leaves in one write, and what waits for a reply: each write that waits is a round trip."""

from __future__ import annotations

from base64 import b64encode

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anysmtp import (
    Delivery,
    SMTPDataError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    Timeouts,
)
from anysmtp._message._content import CHUNK
from anysmtp.testing import DEAF, DROP, STALL, Act, ScriptedServer
from support.bench import LARGE, RECIPIENTS, message
from support.clients import RAW, SENDER, Script, connection_to, deliver, on_memory, on_tcp
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

B, C = RECIPIENTS
PIPELINING = ["PIPELINING"]
ENVELOPE = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nRCPT TO:<c@x.test>\r\n"
BODY = RAW + b".\r\n"
QUIT = b"QUIT\r\n"
HELLO = b"EHLO [127.0.0.1]\r\n"


def recipients(count: int) -> list[str]:
    return [f"r{number}@x.test" for number in range(count)]


def writes(server: ScriptedServer) -> list[bytes]:
    """What the client wrote on the only connection, without EHLO and QUIT."""
    assert server.connection.writes[0].startswith(b"EHLO")
    return [write for write in server.connection.writes[1:] if write != QUIT]


# With PIPELINING, and without


async def test_with_pipelining_a_message_is_two_writes() -> None:
    server = ScriptedServer(keywords=PIPELINING)
    async with server, on_memory(server, local_hostname="[127.0.0.1]") as smtp:
        await deliver(smtp)
    assert server.connection.writes == [HELLO, ENVELOPE + b"DATA\r\n", BODY, QUIT]


@pytest.mark.parametrize("offered", [True, False])
async def test_without_pipelining_each_command_waits_for_the_reply_before_it(
    offered: bool,
) -> None:
    server = ScriptedServer(keywords=PIPELINING if offered else [])
    async with server, on_memory(server, pipelining="off" if offered else "auto") as smtp:
        await deliver(smtp)
        await deliver(smtp)
    lines = [*ENVELOPE.splitlines(keepends=True), b"DATA\r\n"]
    assert writes(server) == [*lines, BODY, *lines, BODY]


async def test_what_was_offered_before_tls_counts_for_nothing_after_it() -> None:
    """RFC 3207 section 4.2: here PIPELINING is in the clear reply only."""
    # Without TLS the same is seen with a second EHLO.
    server = ScriptedServer(script={"EHLO": ["250-x\n250 PIPELINING", "250 x"]})
    async with server, await connection_to(server) as conn:
        await conn.ehlo()
        await conn.ehlo()
        await deliver(conn)
    assert len(server.connection.writes) == 2 + 3 + 2


async def test_messages_back_to_back_cost_two_writes_each_and_no_noop() -> None:
    async with ScriptedServer(keywords=PIPELINING) as server, on_memory(server) as smtp:
        for _ in range(3):
            await deliver(smtp)
    assert writes(server) == [ENVELOPE + b"DATA\r\n", BODY] * 3


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("split", [None, 1, 7])
async def test_replies_are_paired_however_they_come(
    pipelining: bool, one_by_one: bool, split: int | None
) -> None:
    server = ScriptedServer(
        keywords=PIPELINING if pipelining else [],
        script={"RCPT TO:<b": ["450-4.2.1 Not\n450 4.2.1 now"], ".": ["250-Fine\n250  thanks"]},
        one_by_one=one_by_one,
        split=split,
    )
    async with server, on_memory(server) as smtp:
        first = await deliver(smtp)
        second = await deliver(smtp)
    assert list(first.accepted) == [C]
    assert first.refused[B].lines == ("4.2.1 Not", "4.2.1 now")
    assert first.reply.lines == ("Fine", " thanks")
    assert list(second.accepted) == [B, C]
    assert second.reply.text == "2.0.0 Ok: queued"


@pytest.mark.parametrize("size", [65536 - 20, 65536 - 19])
async def test_a_message_up_to_a_size_leaves_in_one_write(size: int) -> None:
    raw = b"Subject: one write\r\n".ljust(size, b"x")
    server = ScriptedServer(capacity=1 << 20)
    async with server, on_memory(server) as smtp:
        await deliver(smtp, raw, allow_long_lines=True)
    assert len(writes(server)) == 2
    assert writes(server)[1].endswith(b"x\r\n.\r\n")


async def test_the_last_piece_of_a_large_message_leaves_with_its_end() -> None:
    raw = message("pieces", LARGE)
    server = ScriptedServer(capacity=1 << 20)
    async with server, on_memory(server) as smtp:
        await deliver(smtp, raw)
    pieces = writes(server)[1:]
    assert len(pieces) == -(-len(raw) // CHUNK)
    assert pieces[-1].endswith(b"x\r\n.\r\n")
    assert server.messages[0].raw == raw


# Many recipients


@pytest.mark.parametrize("count", [126, 127, 300])
async def test_a_long_list_of_recipients_is_read_as_it_goes(count: int) -> None:
    server = ScriptedServer(keywords=PIPELINING)
    async with server, on_memory(server) as smtp:
        receipt = await smtp.sendmail(SENDER, recipients(count), RAW)
    commands = [write.count(b"\r\n") for write in writes(server)[:-1]]
    assert sum(commands) == count + 2
    # Unread replies of 512 octets fit into the 64 KiB that a socket takes.
    assert max(commands) == 128
    assert len(commands) == -(-(count + 2) // 128)
    assert list(receipt.accepted) == server.messages[0].recipients == recipients(count)


@pytest.mark.parametrize("count", [126, 127, 128, 300])
async def test_a_long_list_of_which_nobody_is_taken(count: int) -> None:
    server = ScriptedServer(keywords=PIPELINING, script={"RCPT": "550 5.1.1 No"})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPRecipientsRefused) as caught:
            await smtp.sendmail(SENDER, recipients(count), RAW)
    assert list(caught.value.refused) == recipients(count)
    assert not server.received


async def test_what_the_server_does_not_take_for_now_can_be_sent_in_another_transaction() -> None:
    def answer(line: str) -> str | None:
        is_more = line.startswith("RCPT") and len(server.commands) - start > 4
        return "452 4.5.3 Too many recipients" if is_more else None

    server = ScriptedServer(keywords=[], script=answer)
    delivery: Delivery[None] = Delivery()
    start = transactions = 0
    async with server, on_memory(server) as smtp:
        await smtp.connect()
        while delivery.outcome is None or delivery.may_retry:
            start = len(server.commands)
            transactions += 1
            await smtp.sendmail(SENDER, recipients(7), RAW, delivery=delivery)
    assert transactions == 3
    sent_to = [recipient for received in server.messages for recipient in received.recipients]
    assert sent_to == recipients(7)
    assert delivery.outcome == "accepted"


# Refusals


async def test_the_message_goes_to_those_that_the_server_takes() -> None:
    server = ScriptedServer(script={f"RCPT TO:<{B}>": "550 5.1.1 No such user"})
    async with server, on_memory(server) as smtp:
        receipt = await deliver(smtp)
    assert server.messages[0].recipients == [C]
    assert receipt.refused[B].enhanced == "5.1.1"
    assert list(receipt.accepted) == [C]


@pytest.mark.parametrize("refused", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("pipelining", [True, False])
async def test_after_a_refusal_rset_rides_in_front_of_the_next_mail(
    refused: str, pipelining: bool
) -> None:
    refusals = ["550 5.0.0 No"] * (2 if refused == "RCPT" else 1)
    server = ScriptedServer(keywords=PIPELINING if pipelining else [], script={refused: refusals})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPException) as caught:
            await deliver(smtp)
        assert not caught.value.connection_closed
        await deliver(smtp)
    assert len(server.messages) == 1
    rset = b"RSET\r\n" + ENVELOPE + b"DATA\r\n" if pipelining else b"RSET\r\n"
    assert [write for write in writes(server) if b"RSET" in write] == [rset]


async def test_rset_costs_no_write_of_its_own_and_is_not_said_without_need() -> None:
    server = ScriptedServer(keywords=PIPELINING, script={".": ["554 5.6.0 Not this"]})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError):
            await deliver(smtp)
        await deliver(smtp)
        await deliver(smtp)
    envelope = ENVELOPE + b"DATA\r\n"
    assert writes(server) == [envelope, BODY, b"RSET\r\n" + envelope, BODY, envelope, BODY]


async def test_a_refused_rset_is_nobodys_error() -> None:
    script: Script = {".": ["554 5.6.0 Not this"], "RSET": "500 5.5.1 What?"}
    # The server has kept the transaction: it would not take a MAIL.
    script["MAIL"] = ["250 Ok", "250 Ok"]
    server = ScriptedServer(keywords=PIPELINING, script=script)
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError):
            await deliver(smtp)
        await deliver(smtp)
    assert len(server.messages) == 1


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_refused_sender_is_the_error_whatever_is_said_behind_it(pipelining: bool) -> None:
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(
        keywords=PIPELINING if pipelining else [], script={"MAIL": ["450 4.7.1 Later"]}
    )
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPSenderRefused) as caught:
            await deliver(smtp, delivery=delivery)
        await deliver(smtp, delivery=delivery)
    assert str(caught.value) == "mail.example.test:25 MAIL FROM:<a@x.test>: 450 4.7.1 Later"
    assert caught.value.delivery is delivery
    assert len(server.messages) == 1


async def test_data_that_is_refused_says_so_for_those_that_were_taken() -> None:
    delivery: Delivery[None] = Delivery()
    script: Script = {f"RCPT TO:<{B}>": "550 5.1.1 No", "DATA": "451 4.3.0 Disk full"}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError, match="DATA: 451") as caught:
            await deliver(smtp, delivery=delivery)
    assert delivery.refused[B].code == 550
    assert delivery.refused[C].code == 451
    assert delivery.retry_recipients == (C,)
    assert caught.value.may_retry


async def test_a_354_with_nobody_left_is_ended_by_a_lone_dot_and_is_a_refusal() -> None:
    script: Script = {"RCPT": ["550 5.1.1 No", "450 4.2.1 No"], "DATA": ["354 Go on"]}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPRecipientsRefused) as caught:
            await deliver(smtp)
        assert list(caught.value.refused) == [B, C]
        assert caught.value.outcome == "refused"
        await deliver(smtp)
    assert writes(server)[1] == b".\r\n"
    assert [received.recipients for received in server.received] == [[], [B, C]]


@pytest.mark.parametrize(
    ("point", "refusal"),
    [("MAIL", "550 5.7.1 Not you"), (f"RCPT TO:<{C}>", "421 4.7.0 Enough")],
)
async def test_a_server_with_recipients_is_not_sent_an_empty_message(
    point: str, refusal: str
) -> None:
    """It has taken some, asks for the message, and is not to have it."""
    script: Script = {
        "MAIL": ["250 Ok"],
        "RCPT": ["250 Ok", "250 Ok"],
        "DATA": ["354 Go on"],
        point: [refusal],
    }
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPException) as caught:
            await deliver(smtp, delivery=delivery)
        assert caught.value.connection_closed
        assert str(caught.value.reply) == refusal
        await deliver(smtp)
    assert len(server.received) == 1
    assert len(server.connections) == 2
    assert delivery.outcome in ("refused", "not_sent")


@in_virtual_time
@pytest.mark.parametrize("end", [DROP, STALL, Act("250 Ok\n250 Ok"), Act(b"?\r\n")])
async def test_what_becomes_of_a_lone_dot_does_not_change_the_refusal(end: Act) -> None:
    script: Script = {"RCPT": ["550 5.1.1 No"] * 2, "DATA": ["354 Go on"], ".": [end]}
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script=script) as server:
        async with on_memory(server, timeout=Timeouts(final=0.05)) as smtp:
            expected = SMTPTimeoutError if end is STALL else SMTPRecipientsRefused
            with pytest.raises(expected):
                await deliver(smtp, delivery=delivery)
            await deliver(smtp)
        await server.wait_closed()
    assert delivery.outcome == "refused"
    assert list(delivery.refused) == [B, C]


async def test_data_no_longer_rides_after_three_transactions_that_took_nobody() -> None:
    refusals = ["550 5.1.1 No"] * 2 * 4
    server = ScriptedServer(keywords=PIPELINING, script={"RCPT": refusals})
    async with server, on_memory(server) as smtp:
        for _ in range(4):
            with pytest.raises(SMTPRecipientsRefused):
                await deliver(smtp)
        await deliver(smtp)
        await deliver(smtp)
    envelope, data = ENVELOPE, b"DATA\r\n"
    assert writes(server) == [
        envelope + data,
        b"RSET\r\n" + envelope + data,
        b"RSET\r\n" + envelope + data,
        # Now it waits, until a recipient was taken.
        b"RSET\r\n" + envelope,
        b"RSET\r\n" + envelope,
        data,
        BODY,
        envelope + data,
        BODY,
    ]


# require_all


async def test_require_all_waits_for_the_envelopes_replies() -> None:
    server = ScriptedServer(keywords=PIPELINING)
    async with server, on_memory(server, require_all=True) as smtp:
        await deliver(smtp)
    assert writes(server) == [ENVELOPE, b"DATA\r\n", BODY]


async def test_require_all_sends_to_nobody_where_one_is_refused() -> None:
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(script={f"RCPT TO:<{C}>": ["450 4.2.1 Not now"]})
    async with server, on_memory(server, require_all=True) as smtp:
        with pytest.raises(SMTPRecipientsRefused) as caught:
            await deliver(smtp, delivery=delivery)
        assert caught.value.refused == {C: delivery.refused[C]}
        assert delivery.not_sent == (B,)
        assert delivery.retry_recipients == (B, C)
        assert delivery.outcome == "not_sent"
        assert not server.received
        await deliver(smtp, delivery=delivery)
    assert server.messages[0].recipients == [B, C]
    assert b"".join(writes(server)).count(b"DATA") == 1


# Large messages


async def test_a_refusal_in_the_middle_of_a_large_message_is_the_error() -> None:
    delivery: Delivery[None] = Delivery()
    refusal = Act("552 5.3.4 Too much", then="deaf")
    server = ScriptedServer(script={"BODY": [refusal]}, capacity=1000)
    async with no_leaks(), server, on_memory(server) as smtp:
        with anyio.fail_after(5):
            with pytest.raises(SMTPDataError, match="Too much") as caught:
                await deliver(smtp, message("large", LARGE), delivery=delivery)
        await deliver(smtp)
    assert caught.value.connection_closed
    assert caught.value.outcome == delivery.outcome == "refused"
    assert len(server.connections) == 2
    assert len(server.messages) == 1


@in_virtual_time
async def test_a_refusal_while_the_last_piece_is_on_its_way_is_the_error() -> None:
    """The server reads no further, and what is left is more than a socket takes."""
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(script={"BODY": DEAF}, capacity=65536)

    async def refuse() -> None:
        while delivery.phase != "reply":
            await checkpoint()
        await server.push("552 5.3.4 Too much")

    timeouts = Timeouts(final=5)
    async with (
        server,
        on_memory(server, timeout=timeouts) as smtp,
        anyio.create_task_group() as group,
    ):
        group.start_soon(refuse)
        raw = b"longer\r\n" * 8192 + b".\r\n" * 21000
        with pytest.raises(SMTPDataError, match="Too much") as caught:
            await deliver(smtp, raw, delivery=delivery)
        assert caught.value.connection_closed
    assert delivery.outcome == "refused"


@pytest.mark.parametrize("reply", [b"250 2.0.0 Ok\r\n", b"?\r\n"])
async def test_a_reply_in_the_middle_of_a_message_that_is_no_refusal_closes(reply: bytes) -> None:
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(script={"BODY": Act(reply, then="deaf")}, capacity=1000)
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPException) as caught:
            await deliver(smtp, message("large", LARGE), delivery=delivery)
    assert caught.value.connection_closed
    assert delivery.outcome == "not_sent"


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("more", [b"250 More\r\n", b"250 Mo", b"?\r\n", b"421 Bye\r\n"])
async def test_what_comes_behind_the_final_reply_does_not_change_it(size: int, more: bytes) -> None:
    server = ScriptedServer(script={".": [b"250 2.0.0 Ok\r\n" + more]})
    async with server, on_memory(server) as smtp:
        receipt = await deliver(smtp, message("settled", size))
        assert receipt.reply.text == "2.0.0 Ok"
        await deliver(smtp)
    assert len(server.messages) == 2
    assert len(server.connections) == 2


async def test_a_message_that_is_refused_at_its_end_leaves_the_connection_as_it_is() -> None:
    server = ScriptedServer(script={".": ["554 5.6.0 Not this"]})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError) as caught:
            await deliver(smtp, message("large", LARGE))
        await deliver(smtp)
    assert not caught.value.connection_closed
    assert len(server.connections) == 1


@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA"])
async def test_a_421_in_the_envelope_of_a_fresh_connection_is_reported(point: str) -> None:
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(script={point: Act("421 4.7.0 Enough", then="close")})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPServerDisconnected) as caught:
            await deliver(smtp, delivery=delivery)
    assert caught.value.reply is not None
    assert caught.value.reply.code == 421
    assert caught.value.connection_closed
    assert delivery.outcome in ("not_sent", "refused")
    assert delivery.may_retry
    assert not server.received


async def test_from_nothing_to_a_message_accepted_it_takes_the_flights_that_the_rfcs_want(
    certificates: Certificates,
) -> None:
    server = ScriptedServer(
        keywords=[*PIPELINING, "AUTH PLAIN"], starttls=certificates.server, users={"u": "p"}
    )
    login = b"AUTH PLAIN " + b64encode(b"\0u\0p") + b"\r\n"
    async with server:
        client = await on_tcp(
            server,
            tls="starttls",
            tls_context=certificates.client,
            username="u",
            password="p",
            local_hostname="[127.0.0.1]",
        )
        async with client as smtp:
            await deliver(smtp)
    flights = [HELLO, b"STARTTLS\r\n", HELLO, login, ENVELOPE + b"DATA\r\n", BODY, QUIT]
    assert server.connection.writes == flights
