"""The extensions against a real Postfix."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Literal

import pytest

from anysmtp import (
    DSN,
    SMTP,
    Envelope,
    Recipient,
    SMTPDataError,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPTLSError,
)
from support.postfix import Postfix
from support.tls import Certificates

pytestmark = pytest.mark.anyio

SENDER = "a@example.test"
RAW = b"From: a@example.test\r\nSubject: raw\r\n\r\n.\r\n..\r\n.dot\r\n\r\n\xe9\xff\r\nlast\r\n"
LONG = RAW + (b"." + b"x" * 75 + b"\r\n") * 4000


def plain(
    postfix: Postfix, chunking: Literal["auto", "always", "off"] = "auto", *, port: str = "plain"
) -> SMTP:
    return SMTP(postfix.host, postfix.ports[port], chunking=chunking)


@pytest.mark.parametrize("raw", [RAW, LONG], ids=["small", "large"])
@pytest.mark.parametrize("chunking", ["always", "off"])
async def test_a_message_in_a_chunk_is_the_same(
    chunking: Literal["always", "off"], raw: bytes, postfix: Postfix
) -> None:
    recipients = [postfix.address() for _ in range(3)]
    async with plain(postfix, chunking) as smtp:
        for recipient in recipients:
            await smtp.sendmail(SENDER, recipient, raw)
        assert smtp.statistics().connections_opened == 1
    for recipient in recipients:
        assert (await postfix.wait_for(recipient)).data == raw


async def test_all_or_nobody_by_a_chunk(postfix: Postfix) -> None:
    good = postfix.address()
    async with plain(postfix) as smtp:
        with pytest.raises(SMTPRecipientsRefused, match=r"5\.1\.1"):
            await smtp.sendmail(SENDER, [good, "unknown@example.test"], RAW, require_all=True)
        await smtp.sendmail(SENDER, good, RAW, require_all=True)
    assert (await postfix.wait_for(good)).data == RAW


async def test_a_chunk_that_is_refused_does_not_spoil_the_next(postfix: Postfix) -> None:
    recipient = postfix.address()
    async with plain(postfix, "always") as smtp:
        with pytest.raises(SMTPDataError, match=r"550 5\.7\.1"):
            await smtp.sendmail("refused-data@example.test", recipient, RAW)
        await smtp.sendmail(SENDER, recipient, RAW)
    assert (await postfix.wait_for(recipient)).data == RAW


async def test_a_size_that_is_declared_is_held_against_the_limit(postfix: Postfix) -> None:
    """By the client; and by the server where the caller declares another one."""
    recipient = postfix.address()
    async with plain(postfix, "always", port="limits") as smtp:
        with pytest.raises(SMTPMessageTooLarge, match="the server takes 100000"):
            await smtp.sendmail(SENDER, recipient, LONG)
        with pytest.raises(SMTPResponseException, match=r"552 5\.3\.4"):
            await smtp.sendmail(SENDER, recipient, RAW, mail_options=["SIZE=100001"])
        await smtp.sendmail(SENDER, recipient, RAW)
    assert (await postfix.wait_for(recipient)).data == RAW


async def test_utf8_in_address_and_header(postfix: Postfix) -> None:
    recipient = "jörg-" + postfix.address()
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ü@example.test", recipient, "Grüße"
    message.set_content("hello\n")
    async with plain(postfix) as smtp:
        await smtp.send_message(message)
    stored = await postfix.wait_for(recipient)
    assert stored.sender == "ü@example.test"
    assert f"To: {recipient}\r\nSubject: Grüße\r\n".encode() in stored.data


async def test_utf8_is_not_sent_to_a_server_that_does_not_offer_it(postfix: Postfix) -> None:
    async with plain(postfix, port="bare") as smtp, smtp.connection() as conn:
        with pytest.raises(SMTPNotSupported, match=r"jörg@example\.test is not ASCII"):
            await conn.sendmail(SENDER, "jörg@example.test", b"Subject: x\r\n\r\n")
        with pytest.raises(SMTPNotSupported, match="jörg is not ASCII"):
            await conn.vrfy("jörg")
        assert (await conn.noop()).code == 250


async def test_reports_of_delivery_say_what_was_asked(postfix: Postfix) -> None:
    sender, told, silent = (postfix.address(name) for name in ("sender", "told", "silent"))
    recipients = [
        Recipient(told, orcpt="rfc822;first+one@example.org"),
        Recipient(silent, notify="never"),
    ]
    dsn = DSN(ret="headers", envid="order 12+3=15", notify="success")
    async with plain(postfix) as smtp:
        receipt = await smtp.sendmail(sender, recipients, RAW, dsn=dsn)
    assert list(receipt.accepted) == [told, silent]
    await postfix.wait_for(silent)
    report = message_from_bytes((await postfix.wait_for(sender)).data, policy=policy.default)
    assert report.get_content_type() == "multipart/report"
    status = next(part for part in report.walk() if "delivery-status" in part.get_content_type())
    fields = str(status)
    assert "Original-Envelope-Id: order 12+3=15" in fields
    assert f"Final-Recipient: rfc822; {told}" in fields
    assert "Original-Recipient: rfc822;first+one@example.org" in fields
    assert "Action: relayed" in fields or "Action: delivered" in fields
    assert silent not in fields


@pytest.mark.parametrize(
    ("envelope", "missing"),
    [
        (Envelope(priority=3), "MT-PRIORITY"),
        (Envelope(deliver_by=60), "DELIVERBY"),
        (Envelope(hold_until=60), "FUTURERELEASE"),
        (Envelope(binary=True), "BINARYMIME"),
    ],
)
async def test_what_it_does_not_offer_is_not_sent(
    envelope: Envelope, missing: str, postfix: Postfix
) -> None:
    recipient = postfix.address()
    async with plain(postfix) as smtp:
        with pytest.raises(SMTPNotSupported, match=f"does not offer {missing}"):
            await smtp.sendmail(SENDER, recipient, RAW, envelope=envelope)
        await smtp.sendmail(SENDER, recipient, RAW)
        assert smtp.statistics().connections_opened == 1
    assert (await postfix.wait_for(recipient)).data == RAW


async def test_requiretls_needs_tls_and_an_offer(
    postfix: Postfix, certificates: Certificates
) -> None:
    envelope = Envelope(require_tls=True)
    async with plain(postfix) as smtp:
        with pytest.raises(SMTPTLSError, match="not under TLS"):
            await smtp.sendmail(SENDER, postfix.address(), RAW, envelope=envelope)
    name, password = next(iter(postfix.users.items()))
    async with SMTP(
        postfix.host,
        postfix.ports["submission"],
        tls="starttls",
        tls_context=certificates.client,
        username=name,
        password=password,
    ) as smtp:
        with pytest.raises(SMTPNotSupported, match="does not offer REQUIRETLS"):
            await smtp.sendmail(SENDER, postfix.address(), RAW, envelope=envelope)
