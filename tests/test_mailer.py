"""The two ways to send: what they take, what they refuse, what they write in a Delivery."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from email.headerregistry import Address
from email.message import EmailMessage, Message
from typing import Any

import anyio
import pytest

import anysmtp
from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Mailer,
    Receipt,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
)
from anysmtp.testing import STALL, ScriptedServer
from support.bench import RECIPIENTS
from support.clients import RAW, SENDER, connection_to, deliver, email, on_memory
from support.slow import SlowMessage

pytestmark = pytest.mark.anyio


# What application code asks for


async def notify(mailer: Mailer) -> None:
    await mailer.send_message(email())
    await mailer.sendmail(SENDER, RECIPIENTS[0], RAW)


class Double:
    """A test's double: anything with the two methods is a Mailer."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    async def send_message(self, message: Message, /, **options: Any) -> Receipt:
        self.sent.append(message)
        return Receipt(reply=anysmtp.Reply(250), accepted={})

    async def sendmail(self, sender: Any, recipients: Any, message: Any, /, **_: Any) -> Receipt:
        self.sent.append(message)
        return Receipt(reply=anysmtp.Reply(250), accepted={})


async def test_a_client_a_connection_and_a_double_are_mailers() -> None:
    double = Double()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await notify(smtp)
        async with smtp.connection() as conn:
            await notify(conn)
        async with await connection_to(server) as conn:
            await notify(conn)
        await notify(double)
    assert len(server.messages) == 6
    assert len(double.sent) == 2


# Sender and recipients


@pytest.mark.parametrize(
    ("fields", "sender", "recipients"),
    [
        ({"From": "Ann <a@x.test>", "To": "b@x.test"}, "a@x.test", ["b@x.test"]),
        (
            {"From": "a@x.test, b@x.test", "Sender": "c@x.test", "To": "d@x.test"},
            "c@x.test",
            ["d@x.test"],
        ),
        (
            {"From": "a@x.test", "To": "b@x.test", "Cc": "c@x.test", "Bcc": "d@x.test, b@x.test"},
            "a@x.test",
            ["b@x.test", "c@x.test", "d@x.test"],
        ),
        ({"From": "a@x.test", "To": "Team: b@x.test, c@x.test;"}, "a@x.test", list("bc")),
        (
            {
                "From": "a@x.test",
                "To": "b@x.test",
                "Resent-From": "c@x.test",
                "Resent-To": "d@x.test",
                "Resent-Bcc": "e@x.test",
            },
            "c@x.test",
            ["d@x.test", "e@x.test"],
        ),
    ],
    ids=["from-to", "sender", "bcc", "group", "resent"],
)
async def test_the_envelope_comes_from_the_header_fields(
    fields: dict[str, str], sender: str, recipients: list[str]
) -> None:
    message = EmailMessage()
    for name, value in fields.items():
        message[name] = value
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await smtp.send_message(message)
    [received] = server.messages
    assert received.sender == sender
    assert [recipient[0] for recipient in received.recipients] == [r[0] for r in recipients]
    assert list(receipt.accepted) == received.recipients


@pytest.mark.parametrize(
    "options",
    [
        {"sender": "c@x.test", "recipients": ["Dan <d@x.test>", Address("", "e", "x.test")]},
        {"envelope": Envelope(sender="c@x.test", recipients=["Dan <d@x.test>", "e@x.test"])},
        {
            "sender": "c@x.test",
            "envelope": Envelope(sender="c@x.test", recipients=("Dan <d@x.test>", "e@x.test")),
        },
    ],
    ids=["arguments", "envelope", "both"],
)
async def test_the_caller_has_precedence_over_the_header_fields(options: dict[str, Any]) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await smtp.send_message(email(Bcc="hidden@x.test"), **options)
    [received] = server.messages
    assert received.sender == "c@x.test"
    assert received.recipients == ["d@x.test", "e@x.test"]
    assert list(receipt.accepted) == ["Dan <d@x.test>", "e@x.test"]
    assert b"hidden@x.test" not in received.raw


@pytest.mark.parametrize("sender", ["", "<>"])
async def test_the_null_sender_is_asked_for_by_name(sender: str) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.sendmail(sender, "b@x.test", RAW)
        await smtp.send_message(email(), sender=sender)
    assert [received.sender for received in server.messages] == ["", ""]


async def test_recipients_may_be_any_iterable() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.sendmail(SENDER, (recipient for recipient in RECIPIENTS), RAW)
        await smtp.send_message(email(), recipients=iter(RECIPIENTS))
    assert [received.recipients for received in server.messages] == [list(RECIPIENTS)] * 2


async def test_options_come_from_the_call_and_from_the_envelope() -> None:
    envelope = Envelope(mail_options=["ENVID=1"], rcpt_options=["ORCPT=rfc822;b@x.test"])
    async with ScriptedServer(keywords=["DSN"]) as server, on_memory(server) as smtp:
        await smtp.sendmail(
            SENDER,
            "b@x.test",
            RAW,
            mail_options=["RET=HDRS"],
            rcpt_options=["NOTIFY=NEVER"],
            envelope=envelope,
        )
    [received] = server.messages
    assert received.mail_options == ["RET=HDRS", "ENVID=1"]
    assert received.rcpt_options == {"b@x.test": ["NOTIFY=NEVER", "ORCPT=rfc822;b@x.test"]}


# Wrong input


def _with(**fields: str) -> Message:
    message = EmailMessage()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def _two_blocks() -> Message:
    message = Message()
    for name in ("Resent-From", "Resent-To", "Resent-From", "Resent-To"):
        message[name] = "a@x.test"
    return message


WRONG_MESSAGES: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "raw": (RAW, {}, TypeError, "a message object is needed, not bytes .sendmail takes text"),
    "no sender": (_with(To="b@x.test"), {}, ValueError, "no sender"),
    "no recipients": (_with(From="a@x.test"), {}, ValueError, "no recipients"),
    "two senders": (_with(From="a@x.test, b@x.test", To="b@x.test"), {}, ValueError, "2 addr"),
    "two Resent blocks": (_two_blocks(), {}, ValueError, "several blocks of Resent- fields"),
    "empty recipients": (email(), {"recipients": []}, ValueError, "no recipients"),
    "two in one": (email(), {"recipients": "a@x.test, b@x.test"}, ValueError, "several go into"),
    "malformed": (email(), {"sender": "a b@x.test"}, ValueError, "is not one address"),
    "unknown option": (email(), {"dns": None}, TypeError, "no option of this name: dns; there"),
    "timeout": (email(), {"timeout": 5}, TypeError, "timeout .instead: a cancel scope around"),
    "of smtplib": (email(), {"to_addrs": "b@x.test"}, TypeError, "to_addrs .instead: recipients"),
    "options as str": (email(), {"mail_options": "RET=HDRS"}, TypeError, "several strings"),
    "no option": (email(), {"rcpt_options": ["NOTIFY NEVER"]}, ValueError, "no parameter of MAIL"),
    "contradiction": (
        email(),
        {"sender": "a@x.test", "envelope": Envelope(sender="b@x.test")},
        ValueError,
        "contradict",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_MESSAGES.values(), ids=WRONG_MESSAGES)
async def test_a_message_that_cannot_be_sent_is_an_error_before_anything_is_opened(
    wrong: tuple[Any, dict[str, Any], type[Exception], str],
) -> None:
    message, options, error, match = wrong
    delivery = Delivery[None]()
    given: dict[str, Any] = {"delivery": delivery, **options}
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(error, match=match) as caught:
            await smtp.send_message(message, **given)
        assert not server.connections
        if "delivery" not in options:
            assert (delivery.outcome, delivery.exception()) == ("not_sent", caught.value)
            await deliver(smtp, delivery=delivery)
            assert delivery.outcome == "accepted"


WRONG_MAIL: dict[str, tuple[tuple[Any, Any, Any], type[Exception], str]] = {
    "no sender": ((None, "b@x.test", RAW), TypeError, "null reverse-path"),
    "no recipients": ((SENDER, None, RAW), TypeError, "recipients are one address or several"),
    "empty recipients": ((SENDER, (), RAW), ValueError, "no recipients"),
    "bytes as recipients": ((SENDER, b"b@x.test", RAW), TypeError, "recipients are"),
    "a mapping as recipients": ((SENDER, {"b@x.test": 1}, RAW), TypeError, "recipients are one"),
    "None as address": ((SENDER, [None], RAW), TypeError, "Address, not None$"),
    "an empty address": ((SENDER, [""], RAW), ValueError, "an empty string is nobody's"),
    "a number as address": ((SENDER, [5], RAW), TypeError, "an address is a str"),
    "an object as message": ((SENDER, "b@x.test", email()), TypeError, "not EmailMessage .send_m"),
    "a number as message": ((SENDER, "b@x.test", 5), TypeError, "not int"),
    "lone surrogates": ((SENDER, "b@x.test", "\udc80"), ValueError, "no encoding in UTF-8"),
}


@pytest.mark.parametrize("wrong", WRONG_MAIL.values(), ids=WRONG_MAIL)
async def test_raw_mail_that_cannot_be_sent_is_an_error_before_anything_is_opened(
    wrong: tuple[tuple[Any, Any, Any], type[Exception], str],
) -> None:
    arguments, error, match = wrong
    delivery = Delivery[None]()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(error, match=match) as caught:
            await smtp.sendmail(*arguments, delivery=delivery)
    assert not server.connections
    assert (delivery.outcome, delivery.exception()) == ("not_sent", caught.value)


async def test_a_message_that_cannot_be_serialised_is_an_error_before_anything_is_opened() -> None:
    message = email()
    message.set_content("hello")
    message.replace_header("Content-Transfer-Encoding", "8bit")
    message["X-Broken"] = "fine"
    message._headers[-1] = ("X-Broken", "a\nb")  # type: ignore[attr-defined]
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match="the message cannot be serialised") as caught:
            await smtp.send_message(message, delivery=delivery)
    assert not server.connections
    assert delivery.exception() is caught.value
    assert delivery.outcome == "not_sent"
    assert not delivery.may_retry


# require_all


@pytest.mark.parametrize("of_client", [True, False])
@pytest.mark.parametrize("of_send", [True, False, None])
async def test_require_all_of_the_send_has_precedence(
    of_client: bool, of_send: bool | None
) -> None:
    server = ScriptedServer(script={f"RCPT TO:<{RECIPIENTS[1]}>": "550 5.1.1 No"})
    expected = of_client if of_send is None else of_send
    async with server, on_memory(server, require_all=of_client) as smtp:
        with pytest.raises(SMTPRecipientsRefused) if expected else nullcontext():
            await deliver(smtp, require_all=of_send)
    assert len(server.messages) == (0 if expected else 1)


# What is added


async def test_date_and_message_id_are_added_and_the_receipt_has_the_latter() -> None:
    message = email()
    before = message.as_bytes()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await smtp.send_message(message)
        other = await smtp.send_message(message)
    assert receipt.message_id is not None
    assert receipt.message_id.endswith("@x.test>")
    assert other.message_id != receipt.message_id
    assert f"\r\nMessage-ID: {receipt.message_id}\r\n".encode() in server.messages[0].raw
    assert b"\r\nDate: " in server.messages[0].raw
    assert message.as_bytes() == before


async def test_what_is_there_is_not_added() -> None:
    message = email(Message_ID="<one@x.test>", Date="Sun, 22 Nov 2026 12:00:00 +0000")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await smtp.send_message(message)
    assert receipt.message_id == "<one@x.test>"
    assert server.messages[0].raw.count(b"Message-ID:") == 1
    assert server.messages[0].raw.count(b"Date:") == 1


async def test_nothing_is_added_where_the_caller_does_not_want_it_or_it_is_not_ours() -> None:
    resent = email(Resent_From="c@x.test", Resent_To="d@x.test")
    async with ScriptedServer() as server:
        async with on_memory(server, add_missing_headers=False) as smtp:
            receipts = [await smtp.send_message(email())]
        async with on_memory(server) as smtp:
            receipts.append(await smtp.send_message(resent))
            receipts.append(await deliver(smtp))
    assert [receipt.message_id for receipt in receipts] == [None, None, None]
    for received in server.messages:
        assert b"Message-ID" not in received.raw
        assert b"Date" not in received.raw


async def test_the_message_id_of_a_raw_message_is_in_the_receipt() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await deliver(smtp, b"Message-ID: <raw@x.test>\r\n\r\nhello\r\n")
    assert receipt.message_id == "<raw@x.test>"


# Threads


async def test_a_small_message_is_serialised_without_a_thread() -> None:
    with SlowMessage(size=1000) as slow:
        slow.go_on()
        async with ScriptedServer() as server, on_memory(server) as smtp:
            await smtp.send_message(slow.message)
    assert slow.threads == {threading.get_ident()}


async def test_a_large_message_is_serialised_in_a_thread_while_the_loop_goes_on() -> None:
    with SlowMessage() as slow:
        async with (
            ScriptedServer() as server,
            on_memory(server) as smtp,
            anyio.create_task_group() as group,
        ):
            group.start_soon(smtp.send_message, slow.message)
            await slow.wait_started()
            slow.go_on()
    assert threading.get_ident() not in slow.threads
    assert len(server.messages) == 1


async def test_a_send_that_is_cancelled_while_it_is_serialised_is_not_sent() -> None:
    delivery = Delivery(key="slow")
    with SlowMessage() as slow:
        async with (
            ScriptedServer() as server,
            on_memory(server) as smtp,
            anyio.create_task_group() as group,
        ):

            async def stopped() -> None:
                await smtp.send_message(slow.message, delivery=delivery)

            group.start_soon(stopped)
            await slow.wait_started()
            assert delivery.phase == "waiting"
            assert delivery.outcome is None
            group.cancel_scope.cancel()
    assert not server.connections
    assert delivery.outcome == "not_sent"
    assert delivery.not_sent == (RECIPIENTS[0],)
    assert delivery.may_retry
    with pytest.raises(SMTPException, match="the send was cancelled"):
        delivery.result()


# What is written in a Delivery


async def test_a_delivery_follows_a_send_to_its_end() -> None:
    phases: list[str] = []
    delivery = Delivery(key=7)

    def answer(line: str) -> None:
        if delivery.phase != "done":
            phases.append(f"{line.split(maxsplit=1)[0]} {delivery.phase}")

    assert delivery.phase == "waiting"
    assert repr(delivery) == "<Delivery 7 waiting>"
    async with ScriptedServer(script=answer) as server, on_memory(server) as smtp:
        receipt = await deliver(smtp, delivery=delivery)
    assert [*dict.fromkeys(phases)] == [
        "CONNECT connecting",
        "GREETING connecting",
        "EHLO connecting",
        "MAIL envelope",
        "RCPT envelope",
        "DATA envelope",
        "BODY reply",
        ". reply",
    ]
    assert delivery.result() is receipt
    assert delivery.exception() is None
    assert delivery.bytes_sent == delivery.bytes_total == len(RAW)
    assert repr(delivery) == "<Delivery 7 accepted>"


async def test_a_delivery_is_for_one_send_at_a_time() -> None:
    delivery: Delivery[None] = Delivery()
    async with (
        ScriptedServer(script={".": STALL}) as server,
        on_memory(server) as smtp,
        anyio.create_task_group() as group,
    ):

        async def first() -> None:
            await deliver(smtp, delivery=delivery)

        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="used by a send that has not ended"):
            await deliver(smtp, delivery=delivery)
        for ask in (delivery.result, delivery.exception):
            with pytest.raises(RuntimeError, match="the send has not ended"):
                ask()
        group.cancel_scope.cancel()
    assert len(server.received) == 1
    assert delivery.outcome == "in_doubt"


async def test_a_resumed_delivery_is_for_one_send_at_a_time_from_its_beginning() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script={"MAIL": ["451 4.3.0 Not now"]}) as server:
        with SlowMessage() as slow:
            async with on_memory(server) as smtp, anyio.create_task_group() as group:

                async def resume() -> None:
                    await smtp.send_message(slow.message, delivery=delivery)

                with pytest.raises(SMTPSenderRefused):
                    await smtp.send_message(email(), delivery=delivery)
                group.start_soon(resume)
                await slow.wait_started()
                assert delivery.phase == "waiting"
                assert delivery.outcome is None
                with pytest.raises(RuntimeError, match="used by a send that has not ended"):
                    await smtp.send_message(email(), delivery=delivery)
                slow.go_on()
    assert len(server.received) == 1
    assert delivery.outcome == "accepted"


async def test_a_resumed_send_that_is_cancelled_at_once_says_so() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script={"MAIL": "451 4.3.0 Not now"}) as server:
        with SlowMessage() as slow:
            async with on_memory(server) as smtp, anyio.create_task_group() as group:

                async def resume() -> None:
                    await smtp.send_message(slow.message, delivery=delivery)

                with pytest.raises(SMTPSenderRefused):
                    await smtp.send_message(email(), delivery=delivery)
                group.start_soon(resume)
                await slow.wait_started()
                group.cancel_scope.cancel()
    with pytest.raises(SMTPException, match="the send was cancelled"):
        delivery.result()
    assert delivery.outcome == "not_sent"


async def test_a_delivery_is_not_resumed_for_others() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script={"RCPT": "451 Later"}) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPRecipientsRefused):
            await smtp.sendmail(SENDER, "b@x.test", RAW, delivery=delivery)
        with pytest.raises(ValueError, match="none of the delivery's retry_recipients is among"):
            await smtp.sendmail(SENDER, "c@x.test", RAW, delivery=delivery)
    assert delivery.retry_recipients == ("b@x.test",)


async def test_a_delivery_that_is_done_for_all_cannot_be_resumed() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp, delivery=delivery)
        with pytest.raises(ValueError, match="nobody left"):
            await deliver(smtp, delivery=delivery)
    assert len(server.received) == 1
    assert delivery.outcome == "accepted"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"delivery": Delivery}, "delivery is a Delivery, not <class"),
        ({"delivery": {}}, "delivery is a Delivery, not {}"),
        ({"envelope": {}}, "envelope is an Envelope, not {}"),
        ({"require_all": "no"}, "require_all is a bool, not 'no'"),
        ({"mail_options": None}, "options are several strings, not None"),
        ({"mail_options": [3]}, r"options are several strings, not \[3\]"),
        ({"rcpt_options": b"NOTIFY=NEVER"}, "options are several strings, not b'NOTIFY=NEVER'"),
        ({"rcpt_options": "NOTIFY=NEVER"}, "options are several strings, not 'NOTIFY=NEVER'"),
    ],
)
async def test_an_option_of_another_type_is_an_error(options: dict[str, Any], text: str) -> None:
    async with SMTP("mail.example.test") as smtp:
        with pytest.raises(TypeError, match=text):
            await smtp.sendmail("a@x.test", "b@x.test", "hello", **options)
