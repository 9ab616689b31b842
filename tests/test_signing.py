"""Messages that are signed on their way out."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from anysmtp import SMTP, Delivery, Envelope, Mail, Retry, SMTPNotSupported
from anysmtp.testing import DEFAULT_KEYWORDS, Act, ScriptedServer
from support.bench import RECIPIENTS
from support.clients import RAW, SENDER, deliver, email, on_memory
from support.letters import letter

pytestmark = pytest.mark.anyio


def marks(name: str, seen: list[bytes] | None = None) -> Callable[[bytes], bytes]:
    """A signer that says who it is."""

    def sign(message: bytes) -> bytes:
        if seen is not None:
            seen.append(message)
        return f"X-Signed: {name}\r\n".encode() + message

    return sign


async def test_a_message_is_signed_as_it_is_sent() -> None:
    seen: list[bytes] = []
    async with ScriptedServer() as server, on_memory(server, sign=marks("a", seen)) as smtp:
        await smtp.send_message(letter(), sender=SENDER, recipients=RECIPIENTS)
        await deliver(smtp)
    assert [message.raw for message in server.messages] == [
        b"X-Signed: a\r\n" + message for message in seen
    ]
    assert b"secret@" not in seen[0]
    assert seen[1] == RAW


async def test_several_sign_one_after_another_and_a_send_may_choose() -> None:
    async with (
        ScriptedServer() as server,
        on_memory(server, sign=[marks("a"), marks("b")]) as smtp,
    ):
        await deliver(smtp)
        await deliver(smtp, sign=marks("c"))
        await deliver(smtp, sign=())
        mails = [Mail(RAW, Envelope(sender=SENDER, recipients=RECIPIENTS)), Mail(email())]
        async with smtp.send_many(mails, ordered=True) as deliveries:
            assert [delivery.outcome async for delivery in deliveries] == ["accepted"] * 2
        async with smtp.connection() as conn:
            await deliver(conn)
    signed = [
        message_from_bytes(message.raw).get_all("X-Signed", []) for message in server.messages
    ]
    assert signed == [["b", "a"], ["c"], [], ["b", "a"], ["b", "a"], ["b", "a"]]


async def test_what_is_written_in_7bit_is_signed_anew() -> None:
    seen: list[bytes] = []
    message = email()
    message.set_content("ä\n", cte="8bit")
    async with (
        ScriptedServer(keywords=("PIPELINING",)) as server,
        on_memory(server, sign=marks("a", seen)) as smtp,
    ):
        await smtp.send_message(message)
    assert server.messages[0].raw == b"X-Signed: a\r\n" + seen[-1]
    assert seen[-1].isascii()


async def test_a_signer_that_fails_on_the_second_time_ends_its_own_message_in_a_stream() -> None:
    once = marks("a")

    def sign(message: bytes) -> bytes:
        if b"Subject: 1" in message and message.isascii():
            raise OSError("the key is gone")
        return once(message)

    messages = [email(Subject=str(number)) for number in range(4)]
    messages[1].set_content("ä\n", cte="8bit")
    async with (
        ScriptedServer(keywords=("PIPELINING",)) as server,
        on_memory(server, sign=sign) as smtp,
        smtp.send_many(messages, ordered=True) as deliveries,
    ):
        found = [delivery async for delivery in deliveries]
    assert [delivery.outcome for delivery in found] == [
        *("accepted", "not_sent", "accepted", "accepted")
    ]
    assert isinstance(found[1].exception(), OSError)


async def test_it_is_signed_in_a_worker_thread() -> None:
    threads: list[int] = []

    def sign(message: bytes) -> bytes:
        threads.append(threading.get_ident())
        return message

    async with ScriptedServer() as server, on_memory(server, sign=sign) as smtp:
        await deliver(smtp)
        await smtp.send_message(email())
    assert threading.get_ident() not in threads
    assert len(threads) == 2


async def test_binary_messages_stay_binary() -> None:
    raw = b"Subject: x\r\n\r\n\x00\n\r"
    async with (
        ScriptedServer(keywords=(*DEFAULT_KEYWORDS, "CHUNKING", "BINARYMIME")) as server,
        on_memory(server, sign=marks("a")) as smtp,
    ):
        await deliver(smtp, raw, binary=True)
    assert server.messages[0].raw == b"X-Signed: a\r\n" + raw


class Refuses(Exception):
    pass


async def test_what_a_signer_raises_leaves_and_nothing_is_sent() -> None:
    def sign(message: bytes) -> bytes:
        raise Refuses

    delivery = Delivery()
    async with ScriptedServer() as server, on_memory(server, sign=sign) as smtp:
        with pytest.raises(Refuses):
            await deliver(smtp, delivery=delivery)
        async with smtp.send_many([email()]) as deliveries:
            assert [type(each.exception()) async for each in deliveries] == [Refuses]
    assert delivery.outcome == "not_sent"
    assert not server.connections


SECRET = "-----BEGIN PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("sign", "kind"),
    [
        (1, "int"),
        (SECRET, "str"),
        (SECRET.encode(), "bytes"),
        (bytearray(b"key"), "bytearray"),
        ([None], "NoneType"),
        ([marks("a"), SECRET], "str"),
    ],
)
async def test_what_is_no_signer_is_an_error_that_names_its_type_alone(
    sign: Any, kind: str
) -> None:
    pattern = rf"is a function of the message.* not {kind}$"
    with pytest.raises(TypeError, match=pattern):
        SMTP("mail.example.test", sign=sign)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(TypeError, match=pattern):
            await deliver(smtp, sign=sign)


@pytest.mark.parametrize("kind", [bytearray, memoryview, bytes.decode, len])
async def test_a_signer_that_returns_something_else_is_an_error_without_the_letter(
    kind: Callable[[bytes], object],
) -> None:
    sign: Any = kind
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(TypeError, match="returns the signed message in bytes, not ") as caught:
            await deliver(smtp, sign=sign)
        assert "hello" not in str(caught.value)
        assert not server.connections


async def pieces(failure: Exception | None = None) -> AsyncIterator[bytes]:
    yield RAW[:10]
    if failure is not None:
        raise failure
    yield RAW[10:]


@pytest.mark.parametrize("size", [10, 2_000_000])
async def test_a_file_is_signed_whatever_its_size(size: int, tmp_path: Path) -> None:
    raw = RAW + b"line\r\n" * (size // 6)
    path = tmp_path / "message"
    path.write_bytes(raw)
    async with ScriptedServer() as server, on_memory(server, sign=marks("a")) as smtp:
        await deliver(smtp, path)
        with path.open("rb") as file:
            await deliver(smtp, file)
    assert [message.raw for message in server.messages] == [b"X-Signed: a\r\n" + raw] * 2


@pytest.mark.parametrize("make", [pieces, lambda: iter([RAW]), lambda: [RAW[:10], RAW[10:]]])
@pytest.mark.parametrize("binary", [False, True])
async def test_what_comes_in_pieces_is_read_to_its_end_and_signed(
    make: Callable[[], Any], binary: bool
) -> None:
    """After that it is in memory, and can be sent again."""
    async with (
        ScriptedServer(
            keywords=(*DEFAULT_KEYWORDS, "CHUNKING", "BINARYMIME"), script={"MAIL": ["450 Later"]}
        ) as server,
        on_memory(server, sign=marks("a"), retry=Retry(2, base=0)) as smtp,
    ):
        await deliver(smtp, make(), binary=binary)
    assert server.messages[0].raw == b"X-Signed: a\r\n" + RAW


async def test_a_source_that_fails_while_it_is_read_for_signing_was_not_sent() -> None:
    delivery, failure = Delivery(), Refuses()
    async with ScriptedServer() as server, on_memory(server, sign=marks("a")) as smtp:
        with pytest.raises(Refuses) as caught:
            await deliver(smtp, pieces(failure), delivery=delivery)
        assert not server.connections
    assert caught.value is failure
    assert caught.value.__context__ is None
    assert delivery.outcome == "not_sent"


LONG = b"X-Signed: " + b"s" * 1000 + b"\r\n"


async def send(smtp: SMTP, message: Any, **options: Any) -> None:
    """Send a message of either kind."""
    if hasattr(message, "walk"):
        await smtp.send_message(message, **options)
    else:
        await deliver(smtp, message, **options)


@pytest.mark.parametrize("make", [lambda: RAW, pieces, email])
async def test_what_a_signer_makes_has_no_lines_that_are_too_long(make: Callable[[], Any]) -> None:
    def sign(message: bytes) -> bytes:
        return LONG + message

    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match="a line of more than 998 octets"):
            await send(smtp, make(), sign=sign)
        assert not server.connections
        await send(smtp, make(), sign=sign, allow_long_lines=True)
        assert server.messages[0].raw.startswith(LONG)


@pytest.mark.parametrize(
    ("field", "keywords", "lacks"),
    [
        ("X-Signed: ä\r\n", ("8BITMIME",), "SMTPUTF8"),
        ("X-Signed: a\r\n\r\nä\r\n", (), "8BITMIME"),
    ],
)
@pytest.mark.parametrize("message", [RAW, email()])
async def test_what_a_signer_makes_is_not_sent_where_it_is_not_taken(
    field: str, keywords: tuple[str, ...], lacks: str, message: Any
) -> None:
    def sign(message: bytes) -> bytes:
        return field.encode() + message

    async with ScriptedServer(keywords=keywords) as server, on_memory(server, sign=sign) as smtp:
        with pytest.raises(SMTPNotSupported, match=f"does not offer {lacks}"):
            await send(smtp, message)
    assert not server.messages


async def test_what_a_signer_makes_is_sent_in_crlf_lines() -> None:
    def sign(message: bytes) -> bytes:
        return b"X-Signed: a\rX-Other: b\n" + message.replace(b"\r\n", b"\n")

    async with ScriptedServer() as server, on_memory(server, sign=sign) as smtp:
        await deliver(smtp)
    assert server.messages[0].raw == b"X-Signed: a\r\nX-Other: b\r\n" + RAW


def smime(message: bytes) -> bytes:
    """What S/MIME and PGP do: the message becomes a part of another one."""
    inner = message_from_bytes(message, policy=policy.SMTP)
    outer = EmailMessage(policy=policy.SMTP)
    for name in ("From", "To", "Subject", "Date", "Message-ID"):
        outer[name] = inner[name]
        del inner[name]
    outer.set_content("signed", subtype="plain")
    outer.add_attachment(inner.as_bytes(), "application", "octet-stream", filename="signed")
    return outer.as_bytes()


async def test_a_signer_may_write_another_message() -> None:
    async with ScriptedServer(script={"MAIL": Act()}) as server, on_memory(server) as smtp:
        receipt = await smtp.send_message(email(Message_ID="<1@x.test>"), sign=smime)
    stored = message_from_bytes(server.messages[0].raw, policy=policy.SMTP)
    assert stored["Message-ID"] == receipt.message_id == "<1@x.test>"
    assert [part.get_content_type() for part in stored.walk()] == [
        "multipart/mixed",
        "text/plain",
        "application/octet-stream",
    ]
