"""An outbox is verified: the same program, against it and against a client with a server.

A program says what it saw in values that do not name the server, and both have to say the same.
What goes wrong is asked of the outbox, and of a scripted server by `Behind`, which has the outbox's
methods. What is in the outbox afterwards has to be what the server took.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from email.message import EmailMessage
from functools import partial
from typing import Any, TypeAlias

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Mail,
    Mailer,
    Reply,
    Retry,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from anysmtp.events import Event, MessageEvent
from anysmtp.testing import DROP, STALL, Act, Outbox, ScriptedServer, Sent
from support.clients import RAW, SENDER, email, on_memory

pytestmark = pytest.mark.anyio

A, B, C = "a@x.test", "b@x.test", "c@x.test"
KEYWORDS = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
LATER, NEVER = Reply(451, "4.3.0 later"), Reply(554, "5.7.1 never")


POINTS: dict[type[SMTPException], str] = {
    SMTPSenderRefused: "MAIL",
    SMTPRecipientsRefused: "RCPT",
    SMTPDataError: ".",
}


class Behind:
    """What goes wrong in an outbox, said to a scripted server."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def refuse(self, address: str, reply: str = "550 5.1.1 no such user") -> None:
        self._server.script[f"RCPT TO:<{address}>"] = reply

    def fail_next(self, error: SMTPException, times: int = 1) -> None:
        if isinstance(error, SMTPServerDisconnected):
            self._next("MAIL", DROP, times)
        else:
            self._next(POINTS[type(error)], Act(str(error.reply)), times)

    def doubt_next(self, times: int = 1) -> None:
        self._next(".", DROP, times)

    def stall_next(self, times: int = 1, *, after_message: bool = False) -> None:
        self._next("." if after_message else "MAIL", STALL, times)

    def _next(self, point: str, act: Act, times: int) -> None:
        self._server.script[point] = [act] * times


Faults: TypeAlias = Outbox | Behind
Program: TypeAlias = Callable[[Any, Any], Awaitable[object]]


async def compare(program: Program, **options: Any) -> list[Sent]:
    """Run it against both, and return what was sent."""
    keywords: Sequence[str] = options.pop("keywords", KEYWORDS)
    outbox = Outbox(keywords=keywords, **options)
    async with outbox:
        said = await program(outbox, outbox)
    async with ScriptedServer(keywords=keywords) as server, on_memory(server, **options) as smtp:
        expected = await program(smtp, Behind(server))
    assert said == expected
    assert [*outbox] == server.messages
    return [*outbox]


def known(delivery: Delivery[Any]) -> tuple[object, ...]:
    """All that a Delivery says, but for the server's name."""
    return (
        *(delivery.key, delivery.phase, delivery.outcome, delivery.may_retry),
        *(delivery.accepted, delivery.refused, delivery.in_doubt, delivery.not_sent),
        *(delivery.retry_recipients, delivery.message_id),
        *(delivery.bytes_sent, delivery.bytes_total),
        told(delivery.exception()),
    )


def told(error: BaseException | None) -> tuple[object, ...]:
    """All that an exception says, but for the server's name."""
    if not isinstance(error, SMTPException):
        return type(error), str(error)
    return type(error), error.reply, error.command, error.outcome, error.may_retry


async def seen(send: Callable[[], Awaitable[Any]], delivery: Delivery[Any]) -> list[object]:
    """What a send came to, within a moment."""
    error: BaseException | None = None
    with anyio.move_on_after(0.05):
        try:
            await send()
        except Exception as caught:  # noqa: BLE001 - it is looked at by the test
            error = caught
    return [told(error), known(delivery)]


async def try_to_send(mailer: Mailer, count: int = 1, **options: Any) -> list[object]:
    """Send a message object to two, so many times; each with a Delivery of its own."""
    facts: list[object] = []
    for _ in range(count):
        delivery = Delivery()
        send = partial(mailer.send_message, letter(), delivery=delivery, **options)
        facts += await seen(send, delivery)
    return facts


def letter(**fields: str) -> EmailMessage:
    date = "Sun, 22 Nov 2026 12:00:00 +0000"
    return email(To=f"Bob <{B}>, {C}", Date=date, Message_ID="<1@x.test>", **fields)


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


async def one_by_one(mails: list[Any]) -> AsyncGenerator[Any, None]:
    for mail in mails:
        await anyio.lowlevel.checkpoint()
        yield mail


class Iterator:
    """A source that is no generator."""

    def __init__(self, mails: list[Any]) -> None:
        self._mails = iter(mails)

    def __aiter__(self) -> Iterator:
        return self

    async def __anext__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        for mail in self._mails:
            return mail
        raise StopAsyncIteration


def and_then_fail(mails: list[Any]) -> Generator[Any, None, None]:
    yield from mails
    raise LookupError("there are no more")


def mail(key: int, recipient: str = B, raw: Any = RAW) -> Mail[int]:
    return Mail(raw, Envelope(sender=A, recipients=recipient), key=key)


MAILS: list[Any] = [
    mail(1),
    Mail(letter(), Envelope(sender=A), key=2),
    mail(3, "no address"),
    mail(4, C),
    Mail(RAW, key=5),
    "no mail",
    letter(),
    mail(8, raw="x\ud800"),
]


async def take_all(mailer: Any, source: Any, **options: Any) -> list[object]:
    """The deliveries of a stream, and what ended it."""
    facts: list[object] = []
    try:
        async with mailer.send_many(source, ordered=True, **options) as deliveries:
            async for delivery in deliveries:
                facts.append(known(delivery))  # noqa: PERF401 - those before an error count
    except Exception as error:  # noqa: BLE001 - it is looked at by the test
        facts.append(told(error))
    return facts


@pytest.mark.parametrize("make", [list[Any], one_by_one, Iterator, and_then_fail])
@pytest.mark.parametrize("read_ahead", [1, 100])
async def test_a_stream_of_messages_is_sent(make: Any, read_ahead: int) -> None:
    async def program(mailer: Any, faults: Faults) -> object:
        faults.refuse(C, "450 4.2.1 later")
        return await take_all(mailer, make(MAILS), read_ahead=read_ahead)

    sent = await compare(program)
    assert [one.recipients for one in sent] == [[B], [B], [B]]


async def test_who_leaves_a_stream_takes_no_more_of_the_source() -> None:
    async def program(mailer: Any, _: Faults) -> object:
        source = one_by_one([mail(n) for n in range(1000)])
        async with mailer.send_many(source, read_ahead=1) as deliveries:
            first = await anext(deliveries)
        with pytest.raises(StopAsyncIteration):
            await anext(deliveries)
        with pytest.raises(StopAsyncIteration):
            await anext(source)
        return first.key, first.outcome

    outbox = Outbox()
    assert await program(outbox, outbox) == (0, "accepted")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        assert await program(smtp, Behind(server)) == (0, "accepted")


async def test_what_the_body_of_a_stream_raises_leaves_it_as_it_is() -> None:
    outbox = Outbox()
    with pytest.raises(LookupError, match="mine"):
        async with outbox.send_many([letter()]):
            raise LookupError("mine")


async def test_a_source_that_fails_when_it_is_left_is_heard() -> None:
    async def source() -> AsyncGenerator[Any, None]:
        try:
            yield mail(1)
            await anyio.sleep_forever()
        finally:
            raise LookupError("mine")

    async def program(mailer: Any, _: Faults) -> object:
        with pytest.raises(LookupError, match="mine"):
            async with mailer.send_many(source()) as deliveries:
                await anext(deliveries)
        return None

    await compare(program)


async def test_a_client_that_cannot_connect_ends_the_stream() -> None:
    async def program(mailer: Any, faults: Faults) -> list[Any]:
        if isinstance(faults, Outbox):
            faults.fail_next(SMTPConnectError("nothing listens"))
        return await take_all(mailer, [mail(1), mail(2)])

    outbox = Outbox()
    (said,) = await program(outbox, outbox)
    async with ScriptedServer(script={"CONNECT": DROP}) as server, on_memory(server) as smtp:
        (expected,) = await program(smtp, Behind(server))
    assert said[0] == expected[0] == SMTPConnectError
    assert said[-2:] == expected[-2:] == ("not_sent", True)
    assert len(outbox) == 0


async def test_a_stream_that_lost_its_login_on_the_way_tells_who_has_the_message() -> None:
    outbox = Outbox(retry=Retry(2, base=0))
    outbox.refuse(C)
    outbox.fail_next(SMTPDataError(LATER))
    outbox.fail_next(SMTPAuthenticationError("no more"))
    (facts,) = await take_all(outbox, [letter()])
    assert len(outbox) == 0
    assert isinstance(facts, tuple)
    assert facts[2] == "not_sent"


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
