"""An outbox is verified: the same program, against it and against a client with a server."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from email.message import EmailMessage
from functools import partial
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Mailer,
    Reply,
    Retry,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from anysmtp.events import Event, MessageEvent
from anysmtp.testing import Outbox
from support.clients import RAW, SENDER
from support.twins import (
    LATER,
    NEVER,
    A,
    B,
    Behind,
    C,
    Faults,
    compare,
    letter,
    seen,
    told,
    try_to_send,
)
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio


async def test_a_message_object_is_sent() -> None:
    async def program(mailer: Mailer, _: Faults) -> object:
        receipt = await mailer.send_message(letter(Bcc="d@x.test", Subject="Grüße"))
        return receipt.accepted, receipt.refused, receipt.reply, receipt.message_id

    (sent,) = await compare(program)
    assert (sent.sender, sent.recipients) == (SENDER, [B, C, "d@x.test"])
    assert sent.message["Subject"] == "Grüße"
    assert sent.message["Bcc"] is None
    assert sent.message.get_content() == "hello\n"


async def test_a_raw_message_is_sent() -> None:
    async def program(mailer: Mailer, _: Faults) -> object:
        options: Any = {"rcpt_options": ["NOTIFY=NEVER"], "mail_options": ["RET=HDRS"]}
        receipt = await mailer.sendmail("", [f"Bob <{B}>", C], "Subject: x\n\n.\nä", **options)
        return receipt.accepted, receipt.message_id

    (sent,) = await compare(program)
    assert (sent.sender, sent.raw) == ("", "Subject: x\r\n\r\n.\r\nä\r\n".encode())
    assert "RET=HDRS" in sent.mail_options
    assert sent.rcpt_options == {B: ["NOTIFY=NEVER"], C: ["NOTIFY=NEVER"]}


@pytest.mark.parametrize(
    "refusals",
    [{B: "550 5.1.1 no"}, {B: "450 4.2.1 later"}, {B: "550 5.1.1 no", C: "450 4.2.1 later"}],
)
@pytest.mark.parametrize("require_all", [False, True])
async def test_recipients_are_refused(refusals: dict[str, str], require_all: bool) -> None:
    async def program(mailer: Mailer, faults: Faults) -> object:
        for address, reply in refusals.items():
            faults.refuse(address, reply)
        return await try_to_send(mailer, 2)

    sent = await compare(program, require_all=require_all)
    assert len(sent) == (0 if require_all or len(refusals) == 2 else 2)


@pytest.mark.parametrize("reply", [LATER, NEVER])
@pytest.mark.parametrize("kind", [SMTPSenderRefused, SMTPDataError, SMTPRecipientsRefused])
async def test_a_message_is_refused(kind: Any, reply: Reply) -> None:
    async def program(mailer: Mailer, faults: Faults) -> object:
        is_of_recipients = kind is SMTPRecipientsRefused
        # A point of a script is met by each of the recipients.
        times = 2 if is_of_recipients and isinstance(faults, Behind) else 1
        faults.fail_next(kind({C: reply}) if is_of_recipients else kind(reply), times)
        return await try_to_send(mailer, 2)

    # 554 to MAIL is believed on a new connection only, as here.
    assert len(await compare(program)) == 1


async def test_a_connection_is_lost() -> None:
    async def program(mailer: Mailer, faults: Faults) -> object:
        faults.fail_next(SMTPServerDisconnected("lost"))
        facts: Any = await try_to_send(mailer, 2)
        # Which words the command and the error have is the test's own choice.
        return [fact[-2:] for fact in facts[:1]], facts[1][:-1], facts[2:]

    assert len(await compare(program)) == 1


async def test_a_message_is_in_doubt() -> None:
    async def program(mailer: Mailer, faults: Faults) -> object:
        faults.doubt_next()
        facts: Any = await try_to_send(mailer, 2)
        kind, _, _, *rest = facts[0]
        return kind, rest, facts[1][:-1], facts[2:]

    assert len(await compare(program)) == 2


@in_virtual_time
@pytest.mark.parametrize("after_message", [False, True])
async def test_a_send_that_stalls_is_ended_by_the_callers_timeout(after_message: bool) -> None:
    async def program(mailer: Mailer, faults: Faults) -> object:
        faults.stall_next(after_message=after_message)
        return await try_to_send(mailer, 2)

    assert len(await compare(program)) == 1 + after_message


async def test_a_delivery_resumes() -> None:
    async def program(mailer: Mailer, faults: Faults) -> object:
        faults.refuse(C, "450 4.2.1 later")
        delivery = Delivery(key="one")
        send = partial(mailer.send_message, letter(), delivery=delivery)
        facts = await seen(send, delivery)
        faults.refuse(C, "250 2.1.5 Ok")
        return [*facts, *await seen(send, delivery), *await seen(send, delivery)]

    sent = await compare(program)
    assert [one.recipients for one in sent] == [[B], [C]]


async def test_what_is_refused_for_now_is_tried_again() -> None:
    async def program(mailer: Mailer, faults: Faults) -> object:
        faults.fail_next(SMTPDataError(LATER), times=2)
        return await try_to_send(mailer)

    assert len(await compare(program, retry=Retry(3, base=0))) == 1


async def test_the_pauses_before_other_tries_take_no_time() -> None:
    outbox = Outbox(retry=Retry(2, base=1000, max_delay=1000))
    outbox.fail_next(SMTPTimeoutError())
    with anyio.fail_after(10):
        await outbox.send_message(letter())
    assert len(outbox) == 1


@pytest.mark.parametrize(
    "keywords",
    [
        [],
        ["SIZE 100"],
        ["PIPELINING", "SIZE", "SMTPUTF8"],
        ["PIPELINING", "8BITMIME"],
        ["PIPELINING", "8BITMIME", "SMTPUTF8", "LIMITS RCPTMAX=1"],
        ["PIPELINING", "8BITMIME", "LIMITS RCPTDOMAINMAX=1"],
    ],
)
async def test_the_server_offers_what_the_test_says(keywords: list[str]) -> None:
    async def program(mailer: Mailer, _: Faults) -> object:
        delivery = Delivery()
        message = letter(Subject="ä")
        message.set_content("ö\n", cte="8bit")
        facts = await seen(partial(mailer.send_message, message, delivery=delivery), delivery)
        other = Delivery()
        raw = partial(mailer.sendmail, "ü@x.test", [B], RAW + "ä".encode(), delivery=other)
        return [*facts, *await seen(raw, other)]

    await compare(program, keywords=keywords)


WRONG: list[Callable[[Any], Any]] = [
    lambda mailer: mailer.sendmail(None, B, RAW),
    lambda mailer: mailer.sendmail(A, "no address", RAW),
    lambda mailer: mailer.sendmail(A, B, 1),
    lambda mailer: mailer.send_message(RAW),
    lambda mailer: mailer.send_message(EmailMessage()),
    lambda mailer: mailer.send_message(letter(), timeout=1),
    lambda mailer: mailer.send_message(letter(), mail_options=["A B"]),
    lambda mailer: mailer.send_message(letter(), mail_options=["X=1"]),
    lambda mailer: mailer.send_many(letter()),
    lambda mailer: mailer.send_many([], read_ahead=0),
]


@pytest.mark.parametrize("send", WRONG)
async def test_wrong_arguments_are_refused(send: Callable[[Any], Any]) -> None:
    async def program(mailer: Mailer, _: Faults) -> object:
        with pytest.raises((ValueError, TypeError, SMTPException)) as caught:
            await send(mailer)
        return told(caught.value)

    assert await compare(program) == []


async def test_an_error_is_raised_as_it_is() -> None:
    error = SMTPTimeoutError("too slow", outcome="not_sent")
    outbox = Outbox()
    outbox.fail_next(error, times=2)
    for _ in range(2):
        delivery = Delivery()
        with pytest.raises(SMTPTimeoutError, match="outbox: too slow") as caught:
            await outbox.send_message(letter(), delivery=delivery)
        assert caught.value.delivery is delivery
        assert delivery.outcome == caught.value.outcome == "not_sent"
        assert caught.value is not error
    await outbox.send_message(letter())
    assert len(outbox) == 1


async def test_an_error_in_doubt_leaves_the_message_in_the_outbox() -> None:
    outbox = Outbox()
    outbox.fail_next(SMTPTimeoutError("too slow", outcome="in_doubt"))
    with pytest.raises(SMTPTimeoutError) as caught:
        await outbox.send_message(letter())
    assert caught.value.in_doubt
    assert caught.value.delivery is not None
    assert caught.value.delivery.in_doubt == (B, C)
    assert len(outbox) == 1


@pytest.mark.parametrize("error", [OSError("no"), "no", None])
def test_what_no_client_raises_is_a_type_error(error: Any) -> None:
    with pytest.raises(TypeError, match="SMTPException"):
        Outbox().fail_next(error)


@pytest.mark.parametrize("reply", ["no", "", "99 no", "250x", "250-a\nb"])
def test_what_is_no_reply_is_a_value_error(reply: str) -> None:
    with pytest.raises(ValueError, match="a reply starts with its code"):
        Outbox().refuse(A, reply)


@pytest.mark.parametrize("reply", [550, None, b"550 no"])
def test_what_is_not_even_text_is_a_type_error(reply: Any) -> None:
    with pytest.raises(TypeError, match="a reply is a Reply or a str, not "):
        Outbox().refuse(A, reply)


async def test_an_address_is_refused_in_any_case_by_a_value_too() -> None:
    outbox = Outbox()
    outbox.refuse("Bob@X.test", NEVER)
    with pytest.raises(SMTPRecipientsRefused) as caught:
        await outbox.sendmail(A, "bob@x.TEST", RAW)
    assert caught.value.refused == {"bob@x.TEST": NEVER}


async def test_it_is_a_sequence() -> None:
    outbox = Outbox()
    assert not outbox
    for subject in ("one", "two", "three"):
        await outbox.send_message(letter(Subject=subject))
    assert [sent.header("subject") for sent in outbox] == ["one", "two", "three"]
    assert [sent.header("subject") for sent in outbox[1:]] == ["two", "three"]
    assert outbox[-1] in outbox
    assert repr(outbox) == "<Outbox 3 sent>"


async def test_it_can_be_cleared() -> None:
    outbox = Outbox()
    await outbox.send_message(letter())
    outbox.refuse(B)
    outbox.doubt_next()
    outbox.clear()
    assert len(outbox) == 0
    assert not (await outbox.send_message(letter())).refused


async def test_what_is_sent_in_the_background_can_be_waited_for() -> None:
    outbox = Outbox()

    async def later() -> None:
        for _ in range(2):
            await anyio.wait_all_tasks_blocked()
            await outbox.send_message(letter())

    async with anyio.create_task_group() as group:
        group.start_soon(later)
        with anyio.fail_after(10):
            await outbox.wait(2)
        assert len(outbox) == 2


async def test_it_has_no_end_and_says_what_it_offers() -> None:
    outbox = Outbox(keywords=["SIZE 1000"])
    for _ in range(2):
        async with outbox as entered:
            assert entered is outbox
            assert (await outbox.connect()).size == 1000
    await outbox.aclose()
    outbox.doubt_next()
    await outbox.connect()
    outbox.clear()
    outbox.fail_next(SMTPConnectError("nothing listens"))
    with pytest.raises(SMTPConnectError, match="outbox: nothing listens"):
        await outbox.connect()
    assert len(await outbox.connect()) == 1


def test_one_outbox_serves_several_event_loops(anyio_backend_name: str) -> None:
    outbox = Outbox()

    async def send_and_wait(count: int) -> None:
        await outbox.send_message(letter())
        await outbox.wait(count)
        with anyio.move_on_after(0.01):
            await outbox.wait(count + 1)

    for count in (1, 2):
        anyio.run(send_and_wait, count, backend=anyio_backend_name)
    assert len(outbox) == 2


async def test_an_observer_is_told() -> None:
    events: list[Event] = []
    outbox = Outbox(observer=events.append)
    await outbox.send_message(letter())
    assert [type(event) for event in events] == [MessageEvent]


async def test_it_is_what_an_application_takes_for_a_mailer() -> None:
    mailers: list[Mailer] = [Outbox(), SMTP()]
    assert len(mailers) == 2


async def test_there_are_no_chunks() -> None:
    outbox = Outbox(keywords=["CHUNKING", "BINARYMIME", "8BITMIME"], require_all=True)
    await outbox.send_message(letter())
    with pytest.raises(SMTPNotSupported):
        await outbox.send_message(letter(), binary=True)
    assert len(outbox) == 1


@pytest.mark.parametrize("is_broken", [False, True])
async def test_a_message_that_is_read_as_it_goes_is_sent(is_broken: bool) -> None:
    def pieces() -> Generator[bytes, None, None]:
        yield b"Subject: x\r\n\r\n"
        if is_broken:
            raise LookupError("its own")
        yield b"hello\r\n"

    async def program(mailer: Mailer, _: Faults) -> object:
        delivery = Delivery()
        with suppress(LookupError):
            await mailer.sendmail(A, B, pieces(), delivery=delivery)
        return delivery.outcome, told(delivery.exception())

    assert len(await compare(program)) == (not is_broken)
