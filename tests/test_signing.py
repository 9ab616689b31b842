"""Messages that are signed on their way out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from anysmtp import SMTP, Delivery, Envelope, Mail
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


@pytest.mark.parametrize("sign", [1, "mail.private", b"key", [None], [marks("a"), "b"]])
async def test_what_is_no_signer_is_an_error(sign: Any) -> None:
    with pytest.raises(TypeError, match="is a function of the message"):
        SMTP("mail.example.test", sign=sign)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(TypeError, match="is a function of the message"):
            await deliver(smtp, sign=sign)


async def test_a_signer_that_returns_something_else_is_an_error(tmp_path: Path) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(TypeError, match="returns the signed message in bytes, not None"):
            await deliver(smtp, sign=print)
        with pytest.raises(TypeError, match="in memory"):
            await deliver(smtp, iter([RAW]), sign=marks("a"))


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
