"""What became of a message, for each of its recipients: and what a retry loop makes of it."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Receipt,
    Reply,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPProtocolError,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    SMTPTLSError,
    Timeouts,
)
from anysmtp.testing import DROP, RESET, STALL, Act, ScriptedServer
from support.bench import LARGE, RECIPIENTS, message
from support.clients import RAW, SENDER, Script, deliver, email, on_memory
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

B, C = RECIPIENTS


# Partial refusal


async def test_a_receipt_says_who_was_refused_and_can_be_asked_to_raise() -> None:
    script: Script = {f"RCPT TO:<{B}>": "450 4.2.1 Not now"}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        receipt = await smtp.sendmail(SENDER, [f"Bob <{B}>", C], RAW)
    assert dict(receipt.accepted) == {C: Reply(250, "2.0.0 Ok: queued")}
    assert dict(receipt.refused) == {f"Bob <{B}>": Reply(450, "4.2.1 Not now")}
    assert receipt.retry_recipients == (f"Bob <{B}>",)
    assert receipt.reply.code == 250
    assert receipt.replies == (receipt.reply,)
    assert receipt.server == "mail.example.test:25"
    with pytest.raises(SMTPRecipientsRefused) as caught:
        receipt.raise_for_refused()
    assert caught.value.refused == dict(receipt.refused)
    assert caught.value.may_retry


async def test_a_receipt_of_a_message_that_all_have_is_returned() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await deliver(smtp)
    assert receipt.raise_for_refused() is receipt
    assert receipt.refused == {}
    assert receipt.retry_recipients == ()


async def test_a_delivery_knows_more_than_one_word() -> None:
    script: Script = {f"RCPT TO:<{B}>": "550 5.1.1 No", ".": DROP}
    delivery = Delivery(key="mixed")
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPServerDisconnected) as caught:
            await deliver(smtp, delivery=delivery)
    assert dict(delivery.refused) == {B: Reply(550, "5.1.1 No")}
    assert delivery.in_doubt == (C,)
    assert delivery.accepted == {}
    assert delivery.not_sent == ()
    assert delivery.retry_recipients == ()
    assert delivery.outcome == caught.value.outcome == "in_doubt"
    assert caught.value.in_doubt


@pytest.mark.parametrize("code", [451, 550])
@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
async def test_a_message_that_is_refused_at_its_end_is_refused_for_those_who_were_taken(
    code: int, size: int
) -> None:
    script: Script = {f"RCPT TO:<{B}>": "550 5.1.1 No", ".": f"{code} 5.6.0 Not this"}
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError) as caught:
            await deliver(smtp, message("no", size), delivery=delivery)
    assert {key: reply.code for key, reply in delivery.refused.items()} == {B: 550, C: code}
    assert delivery.outcome == caught.value.outcome == "refused"
    assert delivery.may_retry == caught.value.may_retry == (code == 451)


# Resuming


async def test_a_delivery_resumes_with_those_who_are_left_and_the_same_message_id() -> None:
    script: Script = {
        f"RCPT TO:<{B}>": ["450 4.2.1 Not now", "450 4.2.1 Not now"],
        f"RCPT TO:<{C}>": ["550 5.1.1 Never"],
    }
    delivery: Delivery[None] = Delivery()
    letter = email(Cc=f"{C}, d@x.test")
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        first = await smtp.send_message(letter, delivery=delivery)
        assert delivery.outcome == "refused"
        assert delivery.retry_recipients == (B,)
        with pytest.raises(SMTPRecipientsRefused) as caught:
            await smtp.send_message(letter, delivery=delivery)
        assert list(caught.value.refused) == [B]
        assert caught.value.may_retry
        second = await smtp.send_message(letter, delivery=delivery)
    assert [received.recipients for received in server.messages] == [["d@x.test"], [B]]
    assert first.message_id == second.message_id == delivery.message_id
    for received in server.messages:
        assert f"\r\nMessage-ID: {delivery.message_id}\r\n".encode() in received.raw
    assert list(delivery.accepted) == [B, "d@x.test"]
    assert dict(delivery.refused) == {C: Reply(550, "5.1.1 Never")}
    assert not delivery.may_retry
    assert delivery.result() is second


async def test_resuming_works_across_clients_and_with_send() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script={"MAIL": ["451 4.3.0 No"]}) as server:
        async with on_memory(server) as smtp:
            with pytest.raises(SMTPSenderRefused):
                await deliver(smtp, delivery=delivery)
        async with on_memory(server) as smtp:
            await deliver(smtp, delivery=delivery)
    assert delivery.outcome == "accepted"
    assert len(server.connections) == 2


async def test_nobody_is_sent_to_again_who_may_have_it() -> None:
    script: Script = {f"RCPT TO:<{B}>": ["450 4.2.1 Not now"], ".": [DROP]}
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPServerDisconnected):
            await deliver(smtp, delivery=delivery)
        assert delivery.in_doubt == (C,)
        assert delivery.retry_recipients == (B,)
        await deliver(smtp, delivery=delivery)
    assert [received.recipients for received in server.received] == [[C], [B]]
    assert delivery.outcome == "in_doubt"
    assert list(delivery.accepted) == [B]
    assert not delivery.may_retry


# A retry loop


async def send_persistently(smtp: SMTP, delivery: Delivery[Any], attempts: int = 20) -> None:
    """All that an application needs."""
    for _ in range(attempts):
        with suppress(SMTPException):
            await deliver(smtp, delivery=delivery)
        if not delivery.may_retry:
            return
    raise AssertionError("it goes on for ever")


TROUBLES: dict[str, tuple[Script, str]] = {
    "none": ({}, "accepted"),
    "busy": ({"MAIL": ["450 4.0.0 Later"] * 3}, "accepted"),
    "no connection": ({"CONNECT": [RESET, RESET]}, "accepted"),
    "no greeting": ({"GREETING": [DROP, "554 5.3.2 No", "421 4.3.2 No"]}, "accepted"),
    "no EHLO": ({"EHLO": [DROP, DROP]}, "accepted"),
    "one by one": ({"RCPT": ["250 Ok", "450 4.2.1 No", "450 4.2.1 No"]}, "accepted"),
    "lost in the envelope": ({"MAIL": [DROP], "RCPT": [DROP], "DATA": [DROP]}, "accepted"),
    "421 everywhere": (
        {"MAIL": ["421 4.0.0 No"], "RCPT": ["421 4.0.0 No"], "DATA": ["421 4.0.0 No"]},
        "accepted",
    ),
    "refused at the end": ({".": ["451 4.3.0 Later", "421 4.3.0 Later"]}, "accepted"),
    "refused for good": ({"RCPT": ["450 4.2.1 No", "550 5.1.1 No", "550 5.1.1 No"]}, "refused"),
    "refused early": ({"BODY": [Act("450 4.3.0 Full", then="close")]}, "accepted"),
    "lost at the end": ({"MAIL": ["450 4.0.0 Later"], ".": [DROP]}, "in_doubt"),
    "garbage": ({"MAIL": [b"what?\r\n"], "DATA": ["250 Ok"]}, "accepted"),
    "some now, some later": (
        {f"RCPT TO:<{B}>": ["450 4.2.1 No"] * 3, "DATA": ["451 4.3.0 No"], ".": ["452 4.3.1 No"]},
        "accepted",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "lock-step"])
async def test_a_retry_loop_of_ten_lines_never_sends_twice(
    trouble: tuple[Script, str], pipelining: bool
) -> None:
    script, outcome = copy.deepcopy(trouble)
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(keywords=["PIPELINING"] if pipelining else [], script=script)
    async with server, on_memory(server) as smtp:
        await send_persistently(smtp, delivery)
    assert delivery.outcome == outcome
    had = [recipient for received in server.messages for recipient in received.recipients]
    assert len(had) == len(set(had)), "sent twice"
    assert set(delivery.accepted) <= set(had)
    assert not set(had) & {*delivery.not_sent, *delivery.refused}


@in_virtual_time
async def test_a_retry_loop_survives_timeouts_of_its_own() -> None:
    script: Script = {"MAIL": [STALL], "DATA": [STALL]}
    delivery: Delivery[None] = Delivery()
    async with no_leaks(), ScriptedServer(script=script) as server, on_memory(server) as smtp:
        while delivery.outcome is None or delivery.may_retry:
            with anyio.move_on_after(0.05):
                await deliver(smtp, delivery=delivery)
    assert delivery.outcome == "accepted"
    assert len(server.received) == 1


# Exceptions carry the delivery, and pickle


ENDS: dict[str, tuple[Script, type[SMTPException], dict[str, Any]]] = {
    "connect": ({"CONNECT": RESET}, SMTPConnectError, {}),
    "greeting": ({"GREETING": "554 5.3.2 No"}, SMTPConnectError, {}),
    "gone": ({"MAIL": DROP}, SMTPServerDisconnected, {}),
    "timeout": ({"MAIL": STALL}, SMTPTimeoutError, {"timeout": 0.05}),
    "final timeout": ({".": STALL}, SMTPTimeoutError, {"timeout": Timeouts(final=0.05)}),
    "tls": ({"STARTTLS": "454 4.7.0 No"}, SMTPTLSError, {"tls": "starttls"}),
    "protocol": ({"MAIL": b"what?\r\n"}, SMTPProtocolError, {}),
    "not supported": ({}, SMTPNotSupported, {"raw": b"\xff"}),
    "too large": ({}, SMTPMessageTooLarge, {"raw": b"x\r\n" * 3334}),
    "login": (
        {},
        SMTPAuthenticationError,
        {"username": "ann", "password": "secret", "allow_plaintext_auth": True},
    ),
    "sender": ({"MAIL": "550 5.7.1 No"}, SMTPSenderRefused, {}),
    "recipients": ({"RCPT": "550 5.1.1 No"}, SMTPRecipientsRefused, {}),
    "data": ({"DATA": "451 4.3.0 No"}, SMTPDataError, {}),
    "end of data": ({".": "554 5.6.0 No"}, SMTPDataError, {}),
    "in doubt": ({".": DROP}, SMTPServerDisconnected, {}),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_every_exception_of_a_send_carries_its_delivery_and_can_be_pickled(
    end: tuple[Script, type[SMTPException], dict[str, Any]], certificates: Certificates
) -> None:
    script, kind, options = copy.deepcopy(end)
    raw = options.pop("raw", RAW)
    delivery = Delivery(key=("user", 7))
    server = ScriptedServer(
        keywords=["SIZE 10000", "PIPELINING"], script=script, starttls=certificates.server
    )
    async with server, on_memory(server, **options) as smtp:
        with pytest.raises(kind) as caught:
            await deliver(smtp, raw, delivery=delivery)
    error = caught.value
    assert type(error) is kind
    assert error.delivery is delivery
    assert error.server == ("mail.example.test:587" if "tls" in options else "mail.example.test:25")
    assert delivery.exception() is error
    assert error.outcome == delivery.outcome
    assert error.may_retry == delivery.may_retry
    with pytest.raises(kind):
        delivery.result()
    for thing in (error, delivery):
        restored = pickle.loads(pickle.dumps(thing))
        other = restored if isinstance(restored, SMTPException) else restored.exception()
        assert type(other) is kind
        assert str(other) == str(error)
        assert other.delivery is not None
        assert other.delivery.key == ("user", 7)
        assert other.outcome == error.outcome
        assert other.may_retry == error.may_retry
        assert other.connection_closed == error.connection_closed
        assert other.reply == error.reply


async def test_a_receipt_and_a_delivery_that_went_well_can_be_pickled() -> None:
    delivery = Delivery(key="well")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await deliver(smtp, delivery=delivery)
    assert pickle.loads(pickle.dumps(receipt)) == receipt
    restored: Delivery[str] = pickle.loads(pickle.dumps(delivery))
    assert restored.key == "well"
    assert restored.outcome == "accepted"
    assert isinstance(restored.result(), Receipt)
    assert restored.result() == receipt


async def test_a_delivery_that_was_pickled_half_way_resumes_elsewhere() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script={f"RCPT TO:<{B}>": ["450 4.2.1 No"]}) as server:
        async with on_memory(server) as smtp:
            await smtp.send_message(email(Cc=C), delivery=delivery)
        restored: Delivery[None] = pickle.loads(pickle.dumps(delivery))
        async with on_memory(server) as smtp:
            await smtp.send_message(email(Cc=C), delivery=restored)
    assert [received.recipients for received in server.messages] == [[C], [B]]
    assert restored.message_id == delivery.message_id
    assert restored.outcome == "accepted"
