"""A stream of messages: where it comes from, in which order it ends, and what never ends it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Generator
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Limits,
    Mail,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPTLSError,
    sasl,
)
from anysmtp.testing import DROP, Act, ScriptedServer
from support.clients import RAW, SENDER, Script, deliver, email, on_memory, on_tcp
from support.many import Source, keys, mail, outcomes, send_all, subjects, take
from support.quick import every
from support.tls import Certificates

pytestmark = pytest.mark.anyio

TO = Envelope(sender=SENDER, recipients="b@x.test")


# Where the mails come from


SOURCES: dict[str, Callable[[], Any]] = {
    "list": lambda: [mail(n) for n in range(3)],
    "generator": lambda: Source(3).items(),
    "async generator": lambda: Source(3).items_async(),
    "dict values": lambda: {n: mail(n) for n in range(3)}.values(),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=list(SOURCES))
async def test_the_mails_come_from_any_iterable(make: Callable[[], Any]) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        deliveries = await send_all(smtp, make())
    assert outcomes(deliveries) == dict.fromkeys(range(3), "accepted")
    assert subjects(server.messages) == ["0", "1", "2"]


async def test_the_mails_come_from_another_task_through_a_memory_stream() -> None:
    send, receive = anyio.create_memory_object_stream[Mail[int]](1)

    async def produce() -> None:
        async with send:
            for number in range(5):
                await send.send(mail(number))

    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        receive,
        anyio.create_task_group() as group,
    ):
        group.start_soon(produce)
        assert keys(await send_all(smtp, receive)) == list(range(5))


async def test_a_memory_stream_goes_on_in_a_next_call_after_an_early_end() -> None:
    """Who came with a stream still has it: only generators end with the loop over them."""
    send, receive = anyio.create_memory_object_stream[Mail[int]](10)
    async with ScriptedServer() as server, on_memory(server) as smtp, send, receive:
        send.send_nowait(mail(0))
        async with smtp.send_many(receive) as deliveries:
            async for _ in deliveries:
                break
        send.send_nowait(mail(1))
        async with smtp.send_many(receive) as deliveries:
            async for delivery in deliveries:
                assert delivery.key == 1
                break


async def test_message_objects_are_sent_as_send_message_sends_them() -> None:
    message = email(Bcc="secret@x.test")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        [delivery] = await send_all(smtp, [message])
    [received] = server.messages
    assert received.recipients == ["b@x.test", "secret@x.test"]
    assert b"secret" not in received.raw
    assert delivery.key is None
    assert delivery.message_id is not None
    assert delivery.message_id.encode() in received.raw
    assert message["Message-ID"] is None


async def test_one_message_object_may_be_changed_for_each_mail() -> None:
    def reused() -> Generator[EmailMessage]:
        message = email()
        for number in range(20):
            del message["To"]
            message["To"] = f"{number}@x.test"
            yield message

    async with ScriptedServer() as server, on_memory(server) as smtp:
        await send_all(smtp, reused())
    assert [m.recipients for m in server.messages] == [[f"{n}@x.test"] for n in range(20)]
    assert all(f"To: {n}@x.test".encode() in m.raw for n, m in enumerate(server.messages))


@pytest.mark.parametrize("raw", [RAW, bytearray(RAW), memoryview(RAW), RAW.decode()])
async def test_raw_messages_have_an_envelope_and_arrive_as_they_are(raw: Any) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        [delivery] = await send_all(smtp, [Mail(raw, TO, key="raw")])
    assert server.messages[0].raw == RAW
    assert tuple(delivery.accepted) == ("b@x.test",)
    assert delivery.result().accepted == delivery.accepted


async def test_an_envelope_goes_before_the_header_fields() -> None:
    envelope = Envelope(sender="", recipients=["z@x.test"], mail_options=["RET=HDRS"])
    async with ScriptedServer(keywords=["PIPELINING", "DSN"]) as server, on_memory(server) as smtp:
        await send_all(smtp, [Mail(email(), envelope)])
    [received] = server.messages
    assert (received.sender, received.recipients) == ("", ["z@x.test"])
    assert received.mail_options == ["RET=HDRS"]


async def test_an_empty_source_opens_no_connection() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        assert await send_all(smtp, []) == []
    assert not server.connections


@pytest.mark.parametrize(
    "wrong", [email(), "From: a", RAW, bytearray(RAW), mail(0), None, 5, Source(1).items_async]
)
async def test_what_is_no_source_of_mails_is_a_type_error(wrong: Any) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(TypeError, match="mails are an iterable or async iterable"):
            smtp.send_many(wrong)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(True, TypeError), (1.5, TypeError), ("3", TypeError), (0, ValueError), (-1, ValueError)],
)
async def test_read_ahead_is_a_number_of_mails(wrong: Any, error: type[Exception]) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(error, match="read_ahead is"):
            smtp.send_many([], read_ahead=wrong)


@pytest.mark.parametrize("source", [Source.items, Source.items_async])
async def test_one_task_takes_all_the_mails(source: Callable[[Source], Any]) -> None:
    mails = Source(40)
    async with (
        ScriptedServer() as server,
        on_memory(server, limits=Limits(max_connections=3)) as smtp,
    ):
        await send_all(smtp, source(mails), read_ahead=2)
    assert mails.pulled == 40
    assert len(mails.tasks) == 1
    assert mails.is_closed


# The order of the deliveries


async def late_first(ordered: bool) -> list[Any]:
    """Three messages on two connections, of which the first is answered last."""
    answer = anyio.Event()
    script: Script = {"RCPT TO:<0@": Act(late=answer)}
    found: list[Any] = []
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, limits=Limits(max_connections=2)) as smtp,
        smtp.send_many(map(mail, range(3)), ordered=ordered) as deliveries,
    ):

        async def take() -> None:
            found.extend(keys([d async for d in deliveries]))

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            assert subjects(server.messages) == ["1", "2"]
            answer.set()
    return found


async def test_deliveries_come_as_they_end() -> None:
    assert await late_first(ordered=False) == [1, 2, 0]


async def test_deliveries_come_in_the_order_of_the_mails_if_asked() -> None:
    assert await late_first(ordered=True) == [0, 1, 2]


async def test_the_order_also_has_those_that_were_not_sent_or_refused() -> None:
    mails: list[Any] = [mail(0), 1, mail(2), Mail(RAW, key=3), mail(4)]
    async with (
        ScriptedServer(script={"RCPT TO:<2@": "550 5.1.1 no"}) as server,
        on_memory(server, limits=Limits(max_connections=3)) as smtp,
    ):
        deliveries = await send_all(smtp, mails, ordered=True)
    assert [d.key for d in deliveries] == [0, None, 2, 3, 4]
    assert [d.outcome for d in deliveries] == [
        "accepted",
        "not_sent",
        "refused",
        "not_sent",
        "accepted",
    ]


# How far it reads ahead


@pytest.mark.parametrize("source", [Source.items, Source.items_async])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("read_ahead", [1, 3])
async def test_no_more_is_taken_or_sent_than_read_ahead_of_what_was_taken(
    read_ahead: int, ordered: bool, source: Callable[[Source], Any]
) -> None:
    mails, taken = Source(), 0
    async with (
        ScriptedServer() as server,
        on_memory(server, limits=Limits(max_connections=2)) as smtp,
        smtp.send_many(source(mails), ordered=ordered, read_ahead=read_ahead) as deliveries,
    ):
        async for _ in deliveries:
            taken += 1
            await anyio.wait_all_tasks_blocked()
            # One that is taken makes room for one.
            assert mails.pulled == len(server.messages) == taken + read_ahead
            if taken == 8:
                break
    assert mails.pulled == len(server.received) == 8 + read_ahead


async def test_nothing_more_is_begun_than_was_taken_when_nobody_takes_the_deliveries() -> None:
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many(Source().items(), read_ahead=5),
    ):
        await anyio.wait_all_tasks_blocked()
        assert subjects(server.messages) == list("01234")
        assert server.connection.verbs.count("MAIL") == 5


async def test_large_messages_are_read_ahead_by_octets() -> None:
    mails = Source(make=lambda n: mail(n, 1024 * 1024))
    stalled = anyio.Event()
    async with (
        ScriptedServer(script={"MAIL": Act(late=stalled)}) as server,
        on_memory(server) as smtp,
        smtp.send_many(mails.items()) as deliveries,
    ):
        await anyio.wait_all_tasks_blocked()
        # One is on its way; those in line have 4 MiB, of which the last goes over it.
        assert mails.pulled <= 6
        stalled.set()
        for number in range(10):
            assert (await deliveries.__anext__()).key == number


async def test_memory_does_not_grow_with_the_number_of_messages() -> None:
    sizes: list[int] = []
    step = 500 // every(4)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        tracemalloc.start()
        try:
            async with smtp.send_many(Source(10 * step).items()) as deliveries:
                async for delivery in deliveries:
                    assert delivery.outcome == "accepted"
                    if (delivery.key + 1) % step == 0:
                        record = server.connection
                        # The server's own log is not the client's memory.
                        for log in (record.writes, record.commands, record.replies):
                            log.clear()
                        record.received.clear()
                        gc.collect()
                        sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert len(sizes) == 10
    assert max(sizes[1:]) - sizes[1] < 200_000


# Messages that do not end the stream


class _Once(EmailPolicy):
    """Can write a message once, and raises the error after that."""

    error: Exception = ValueError("not again")

    def fold_binary(self, name: str, value: Any) -> bytes:
        if name == "Subject":
            _Once.times += 1
            if _Once.times > 1:
                raise self.error
        return super().fold_binary(name, value)

    times = 0


def _not_serialisable() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = SENDER, "b@x.test"
    message.set_payload("ü")
    return message


def _without(field: str, **fields: str) -> EmailMessage:
    message = email(**fields)
    del message[field]
    return message


UTF8 = Envelope(sender=SENDER, recipients="ü@x.test")
EMPTY = Envelope(sender=SENDER, recipients=[])
BROKEN = Envelope(sender=SENDER, recipients="b@x.test", mail_options=["X\r\nRSET"])

BAD: dict[str, tuple[Any, type[Exception]]] = {
    "no mail": (17, TypeError),
    "no mail but text": ("From: a@x.test", TypeError),
    "no mail but octets": (RAW, TypeError),
    "nothing": (None, TypeError),
    "no recipients": (_without("To"), ValueError),
    "no sender": (_without("From"), ValueError),
    "a bad address": (email(To="b@@x.test"), ValueError),
    "two Resent- blocks": (email(Resent_From="a@x.test", Resent_To="b@x test"), ValueError),
    "not serialisable": (_not_serialisable(), ValueError),
    "raw without an envelope": (Mail(RAW), TypeError),
    "raw without recipients": (Mail(RAW, Envelope(sender=SENDER)), TypeError),
    "raw to nobody": (Mail(RAW, EMPTY), ValueError),
    "raw of a wrong type": (Mail(17, TO), TypeError),  # type: ignore[call-overload]
    "lone surrogates": (Mail("\udc80", TO), ValueError),
    "no envelope": (Mail(RAW, "b@x.test"), TypeError),  # type: ignore[call-overload]
    "a line end in a parameter": (Mail(RAW, BROKEN), ValueError),
    "8 bits": (Mail("Subject: ü\r\n\r\nü".encode(), TO), SMTPNotSupported),
    "an address in UTF-8": (Mail(RAW, UTF8), SMTPNotSupported),
    "too large": (mail("large", 2000), SMTPMessageTooLarge),
}


@pytest.mark.parametrize("limits", [Limits(max_connections=1), Limits(max_connections=3)])
@pytest.mark.parametrize(("bad", "error"), BAD.values(), ids=list(BAD))
async def test_a_bad_message_ends_in_its_delivery(
    bad: Any, error: type[Exception], limits: Limits
) -> None:
    mails = [mail(0), bad, mail(2)]
    async with (
        ScriptedServer(keywords=["PIPELINING", "SIZE 1500"]) as server,
        on_memory(server, limits=limits) as smtp,
    ):
        deliveries = await send_all(smtp, mails, ordered=True)
    assert [d.outcome for d in deliveries] == ["accepted", "not_sent", "accepted"]
    delivery = deliveries[1]
    assert type(delivery.exception()) is error
    with pytest.raises(error):
        delivery.result()
    assert delivery.phase == "done"
    assert not delivery.may_retry
    assert sorted(subjects(server.messages)) == ["0", "2"]


def _not_in_7bit(**policy: Any) -> EmailMessage:
    bad = EmailMessage(policy=_Once(**policy))
    bad["From"], bad["To"], bad["Subject"] = SENDER, "b@x.test", "once"
    bad.set_content("ü", cte="8bit")
    _Once.times = 0
    return bad


async def test_a_message_that_cannot_be_written_in_7bit_ends_in_its_delivery() -> None:
    async with ScriptedServer(keywords=["PIPELINING"]) as server, on_memory(server) as smtp:
        deliveries = await send_all(smtp, [mail(0), _not_in_7bit(), mail(2)])
    assert outcomes(deliveries) == {0: "accepted", None: "not_sent", 2: "accepted"}


async def test_an_error_that_nobody_foresaw_ends_in_its_delivery_too() -> None:
    bad = _not_in_7bit(error=ZeroDivisionError())
    async with ScriptedServer(keywords=["PIPELINING"]) as server, on_memory(server) as smtp:
        deliveries = await send_all(smtp, [mail(0), bad, mail(2)], ordered=True)
        assert smtp.statistics().messages_not_sent == 1
    assert outcomes(deliveries) == {0: "accepted", None: "not_sent", 2: "accepted"}
    assert isinstance(deliveries[1].exception(), ZeroDivisionError)


REFUSALS: dict[str, tuple[str, type[SMTPException]]] = {
    "MAIL": ("MAIL", SMTPSenderRefused),
    "RCPT": ("RCPT", SMTPRecipientsRefused),
    "DATA": ("DATA", SMTPDataError),
    "the message": (".", SMTPDataError),
}


@pytest.mark.parametrize("code", ["450 4.0.0", "550 5.0.0"])
@pytest.mark.parametrize(("point", "error"), REFUSALS.values(), ids=list(REFUSALS))
@pytest.mark.parametrize("pipelining", ["auto", "off"])
async def test_a_refused_message_ends_in_its_delivery(
    point: str, error: type[SMTPException], code: str, pipelining: str
) -> None:
    good = {"MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go", ".": "250 ok"}[point]
    script: Script = {point: [good, f"{code} no", good]}
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, pipelining=pipelining) as smtp,
    ):
        deliveries = await send_all(smtp, map(mail, range(3)))
    assert outcomes(deliveries) == {0: "accepted", 1: "refused", 2: "accepted"}
    refused = deliveries[1]
    with pytest.raises(error, match=f"{code} no") as caught:
        refused.result()
    assert caught.value is refused.exception()
    assert caught.value.delivery is refused
    assert refused.may_retry is code.startswith("4")
    assert len(server.connections) == 1


async def test_a_message_for_some_of_its_recipients_has_a_receipt() -> None:
    two = Envelope(sender=SENDER, recipients=["b@x.test", "c@x.test"])
    async with (
        ScriptedServer(script={"RCPT TO:<c@": "450 4.2.0 later"}) as server,
        on_memory(server) as smtp,
    ):
        [delivery] = await send_all(smtp, [Mail(RAW, two)])
    assert delivery.exception() is None
    assert tuple(delivery.result().accepted) == ("b@x.test",)
    assert delivery.outcome == "refused"
    assert delivery.retry_recipients == ("c@x.test",)


async def test_require_all_holds_for_a_stream_too() -> None:
    two = Envelope(sender=SENDER, recipients=["b@x.test", "c@x.test"])
    async with (
        ScriptedServer(script={"RCPT TO:<c@": "550 no"}) as server,
        on_memory(server, require_all=True) as smtp,
    ):
        deliveries = await send_all(smtp, [Mail(RAW, two, key="two"), mail(1)])
    assert isinstance(deliveries[0].exception(), SMTPRecipientsRefused)
    assert subjects(server.messages) == ["1"]


# A client that cannot work


async def until_error(
    smtp: SMTP, source: Any, error: type[BaseException], **options: Any
) -> tuple[list[Delivery[Any]], BaseException]:
    """The deliveries before the error, and the error; nothing comes after it."""
    found: list[Delivery[Any]] = []
    async with smtp.send_many(source, **options) as deliveries:
        with pytest.raises(error) as caught:
            await take(deliveries, found)
        with pytest.raises(StopAsyncIteration):
            await deliveries.__anext__()
    return found, caught.value


async def expect_the_end(smtp: SMTP, source: Source, error: type[BaseException]) -> BaseException:
    """An endless stream of which nothing is sent: what ends it."""
    found, caught = await until_error(smtp, source.items_async(), error)
    assert not found
    assert source.pulled <= 100
    assert source.is_closed
    return caught


@pytest.mark.parametrize("connections", [1, 3])
async def test_a_wrong_password_is_tried_once(connections: int) -> None:
    source = Source()
    async with ScriptedServer(users={"ann": "right"}) as server:
        smtp = on_memory(
            server,
            limits=Limits(max_connections=connections),
            username="ann",
            password="wrong",
            allow_plaintext_auth=True,
        )
        async with smtp:
            await expect_the_end(smtp, source, SMTPAuthenticationError)
    assert sum(len(c.logins) for c in server.connections) == 1
    assert source.pulled < 50


@pytest.mark.parametrize("connections", [1, 3])
async def test_nothing_listening_ends_the_stream(connections: int) -> None:
    source, limits = Source(), Limits(max_connections=connections)
    async with (
        ScriptedServer(script={"CONNECT": DROP}) as server,
        on_memory(server, limits=limits) as smtp,
    ):
        error = await expect_the_end(smtp, source, SMTPConnectError)
    assert isinstance(error, SMTPConnectError)
    assert error.outcome == "not_sent"
    assert source.pulled < 50


async def test_a_closed_port_ends_the_stream() -> None:
    async with ScriptedServer() as server:
        port = await server.listen()
    server.port = port
    async with await on_tcp(server, limits=Limits(max_connections=3)) as smtp:
        await expect_the_end(smtp, Source(), SMTPConnectError)


async def test_a_bad_certificate_ends_the_stream(certificates: Certificates) -> None:
    async with ScriptedServer(implicit_tls=certificates.server_untrusted) as server:
        smtp = on_memory(server, tls="implicit", tls_context=certificates.client)
        async with smtp:
            await expect_the_end(smtp, Source(), SMTPTLSError)


@pytest.mark.parametrize("script", [{"GREETING": "554 5.3.2 no"}, {"GREETING": "421 4.3.2 no"}])
async def test_a_server_that_lets_nobody_in_ends_the_stream(script: Script) -> None:
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, limits=Limits(max_connections=3)) as smtp,
    ):
        await expect_the_end(smtp, Source(), SMTPConnectError)
    assert len(server.connections) <= 6


async def test_what_the_function_for_a_token_raises_ends_the_stream() -> None:
    failure = ZeroDivisionError("no token")

    async def token() -> str:
        raise failure

    async with ScriptedServer(keywords=["AUTH XOAUTH2"]) as server:
        smtp = on_memory(server, auth=sasl.XOAuth2("ann", token), allow_plaintext_auth=True)
        async with smtp:
            assert await expect_the_end(smtp, Source(), ZeroDivisionError) is failure


async def test_what_was_sent_comes_before_the_error() -> None:
    script: Script = {"CONNECT": [Act(), *[DROP] * 100], ".": ["250 ok", "250 ok", DROP]}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        found, _ = await until_error(smtp, Source().items(), SMTPConnectError)
    assert outcomes(found) == {0: "accepted", 1: "accepted", 2: "in_doubt"}
    assert subjects(server.received) == ["0", "1", "2"]


async def test_with_ordered_too_what_was_sent_comes_before_the_error() -> None:
    """Also what came to its end in front of a message that never will."""
    answer = anyio.Event()
    script: Script = {
        "CONNECT": [Act(), Act(), *[DROP] * 100],
        "RCPT TO:<0@": Act(late=answer, then="close"),
        "RCPT TO:<2@": DROP,
    }
    found: list[Delivery[Any]] = []

    async def stream(smtp: SMTP) -> None:
        with pytest.raises(SMTPConnectError):
            await send_all(smtp, map(mail, range(4)), found, ordered=True)

    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, limits=Limits(max_connections=2)) as smtp,
    ):
        await _open_two(smtp)
        async with anyio.create_task_group() as group:
            group.start_soon(stream, smtp)
            await anyio.wait_all_tasks_blocked()
            answer.set()
    assert "1" in subjects(server.messages)
    assert outcomes(found).get(1) == "accepted"


async def _open_two(smtp: SMTP) -> None:
    """Two connections, both of which have served."""
    async with anyio.create_task_group() as group:
        group.start_soon(deliver, smtp)
        group.start_soon(deliver, smtp)


# The source's own exception


def broken(count: int, error: BaseException) -> Generator[Mail[int]]:
    yield from map(mail, range(count))
    raise error


async def broken_async(count: int, error: BaseException) -> AsyncGenerator[Mail[int]]:
    for number in range(count):
        yield mail(number)
    raise error


@pytest.mark.parametrize("make", [broken, broken_async])
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("ordered", [False, True])
async def test_the_sources_exception_comes_after_all_deliveries(
    make: Callable[[int, BaseException], Any], count: int, ordered: bool
) -> None:
    error = ZeroDivisionError("the database is gone")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        found, caught = await until_error(
            smtp, make(count, error), ZeroDivisionError, ordered=ordered
        )
        assert caught is error
        assert keys(found) == list(range(count))
        with pytest.raises(ZeroDivisionError) as left:
            await send_all(smtp, make(count, error))
        assert left.value is error
        await deliver(smtp)
    assert len(server.messages) == 2 * count + 1
    assert len(server.connections) == 1


async def test_a_source_that_cannot_even_begin() -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise ZeroDivisionError

    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ZeroDivisionError):
            await send_all(smtp, Broken())


async def test_the_end_stays_the_end() -> None:
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many([mail(0)]) as deliveries,
    ):
        assert [d.key async for d in deliveries] == [0]
        assert [d.key async for d in deliveries] == []
        with pytest.raises(StopAsyncIteration):
            await deliveries.__anext__()
