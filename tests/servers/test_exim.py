"""The extensions against a real Exim."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from anysmtp import DSN, SMTP, Recipient, SMTPMessageTooLarge, SMTPNotSupported
from support.exim import Exim

pytestmark = pytest.mark.anyio

RAW = b"From: a@example.test\r\nSubject: raw\r\n\r\n.\r\n..\r\n.dot\r\n\r\n\xe9\xff\r\nlast\r\n"


def body_of(stored: bytes) -> bytes:
    return stored.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("size", [0, 300_000], ids=["small", "large"])
@pytest.mark.parametrize("chunking", ["always", "off"])
async def test_a_raw_message_is_stored_byte_for_byte(chunking: str, size: int, exim: Exim) -> None:
    one, two = exim.address(), exim.address()
    raw = RAW + (b"." + b"x" * 75 + b"\r\n") * (size // 78)
    async with SMTP.from_url(f"smtp://{exim.host}:{exim.port}?chunking={chunking}") as smtp:
        for recipient in (one, two):
            receipt = await smtp.sendmail("a@example.test", recipient, raw)
            assert receipt.reply.code == 250
        assert smtp.statistics().connections_opened == 1
    for recipient in (one, two):
        assert body_of(await exim.wait_for(recipient)) == body_of(raw)


async def test_a_chunk_over_the_limit_is_not_sent(exim: Exim) -> None:
    async with SMTP(exim.host, exim.port, chunking="always") as smtp:
        with pytest.raises(SMTPMessageTooLarge, match="the server takes 1000000"):
            await smtp.sendmail("a@example.test", exim.address(), b"x\r\n" * 400_000)
        await smtp.sendmail("a@example.test", exim.address(), RAW)


async def test_utf8_in_address_and_header(exim: Exim) -> None:
    recipient = "jörg-" + exim.address()
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ü@example.test", recipient, "Grüße"
    message.set_content("hello\n")
    async with SMTP(exim.host, exim.port) as smtp:
        await smtp.send_message(message)
    stored = await exim.wait_for(recipient)
    assert f"To: {recipient}\r\n".encode() in stored
    assert "Subject: Grüße\r\n".encode() in stored


async def test_reports_of_delivery(exim: Exim) -> None:
    recipient = exim.address()
    asked = Recipient(recipient, notify=["success", "delay"], orcpt=f"rfc822;a+b={recipient}")
    async with SMTP(exim.host, exim.port) as smtp:
        receipt = await smtp.sendmail(
            "a@example.test", [asked], RAW, dsn=DSN(ret="headers", envid="one + two")
        )
    assert list(receipt.accepted) == [recipient]
    await exim.wait_for(recipient)


async def test_what_it_does_not_offer_is_not_sent(exim: Exim) -> None:
    recipient = exim.address()
    async with SMTP(exim.host, exim.port) as smtp:
        with pytest.raises(SMTPNotSupported, match="does not offer BINARYMIME"):
            await smtp.sendmail("a@example.test", recipient, RAW, binary=True)
        await smtp.sendmail("a@example.test", recipient, RAW)
    assert body_of(await exim.wait_for(recipient)) == body_of(RAW)
