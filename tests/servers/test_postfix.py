"""The client against a real Postfix: what its mailboxes hold is what was sent."""

from __future__ import annotations

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    SMTPDataError,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
)
from support.letters import letter
from support.postfix import Postfix
from support.tls import Certificates

pytestmark = pytest.mark.anyio

RAW = b"From: a@example.test\r\nSubject: raw\r\n\r\n.\r\n..\r\n.dot\r\n\r\n\xe9\xff\r\nlast\r\n"


def plain(postfix: Postfix) -> SMTP:
    return SMTP(postfix.host, postfix.ports["plain"])


@pytest.mark.parametrize("size", [0, 300_000], ids=["small", "large"])
async def test_a_raw_message_is_stored_byte_for_byte(size: int, postfix: Postfix) -> None:
    raw = RAW + (b"." + b"x" * 75 + b"\r\n") * (size // 78)
    one, two = postfix.address(), postfix.address()
    async with plain(postfix) as smtp:
        receipt = await smtp.sendmail("a@example.test", [one, two], raw)
    assert tuple(receipt.accepted) == (one, two)
    assert receipt.reply.enhanced == "2.0.0"
    for recipient in (one, two):
        stored = await postfix.wait_for(recipient)
        assert stored.data == raw
        assert stored.sender == "a@example.test"


@pytest.mark.parametrize(("port", "scheme"), [("submission", "smtp+starttls"), ("smtps", "smtps")])
async def test_a_message_object_over_tls_with_a_login(
    port: str, scheme: str, postfix: Postfix, certificates: Certificates
) -> None:
    recipient = postfix.address()
    name, password = next(iter(postfix.users.items()))
    message = letter()
    message.replace_header("To", recipient)
    del message["Bcc"]
    async with SMTP.from_url(
        f"{scheme}://{postfix.host}:{postfix.ports[port]}",
        tls_context=certificates.client,
        username=name,
        password=password,
    ) as smtp:
        await smtp.send_message(message)
    stored = await postfix.wait_for(recipient)
    assert stored.data == message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


async def test_several_messages_on_one_connection(postfix: Postfix) -> None:
    recipients = [postfix.address() for _ in range(5)]
    async with plain(postfix) as smtp:
        for number, recipient in enumerate(recipients):
            await smtp.sendmail("a@example.test", recipient, f"Subject: {number}\n\nhello")
    for number, recipient in enumerate(recipients):
        stored = await postfix.wait_for(recipient)
        assert stored.data == f"Subject: {number}\r\n\r\nhello\r\n".encode()


async def test_refused_recipients_and_retryable_ones(postfix: Postfix) -> None:
    good = postfix.address()
    delivery: Delivery[None] = Delivery()
    async with plain(postfix) as smtp:
        receipt = await smtp.sendmail(
            "a@example.test",
            ["unknown@example.test", good, "later@example.test"],
            RAW,
            delivery=delivery,
        )
        assert tuple(receipt.accepted) == (good,)
        assert receipt.refused["unknown@example.test"].enhanced == "5.1.1"
        assert delivery.retry_recipients == receipt.retry_recipients == ("later@example.test",)
        with pytest.raises(SMTPRecipientsRefused, match=r"450 4\.2\.0"):
            await smtp.sendmail(
                "a@example.test",
                ["unknown@example.test", good, "later@example.test"],
                RAW,
                delivery=delivery,
            )
    assert (await postfix.wait_for(good)).data == RAW


async def test_a_refused_message_does_not_spoil_the_next(postfix: Postfix) -> None:
    """Postfix keeps the transaction open after a refused end of data."""
    recipient = postfix.address()
    async with plain(postfix) as smtp:
        with pytest.raises(SMTPDataError, match=r"550 5\.7\.1"):
            await smtp.sendmail("refused-data@example.test", recipient, RAW)
        with pytest.raises(SMTPSenderRefused, match=r"550 5\.7\.1"):
            await smtp.sendmail("refused@example.test", recipient, RAW)
        with pytest.raises(SMTPRecipientsRefused):
            await smtp.sendmail("a@example.test", "unknown@example.test", RAW)
        await smtp.sendmail("a@example.test", recipient, RAW)
        assert " idle 1 " in repr(smtp)
    assert (await postfix.wait_for(recipient)).data == RAW


async def test_a_server_that_hangs_up_at_a_recipient(postfix: Postfix) -> None:
    good = postfix.address()
    async with plain(postfix) as smtp:
        delivery: Delivery[None] = Delivery()
        with pytest.raises(ConnectionError, match=r"421 4\.7\.0"):
            await smtp.sendmail(
                "a@example.test", [good, "quit421@example.test"], RAW, delivery=delivery
            )
        assert set(delivery.retry_recipients) == {good, "quit421@example.test"}
        await smtp.sendmail("a@example.test", good, RAW)
    assert (await postfix.wait_for(good)).data == RAW


async def test_more_recipients_than_one_flight_takes(postfix: Postfix) -> None:
    recipients = [postfix.address() for _ in range(300)]
    async with plain(postfix) as smtp:
        receipt = await smtp.sendmail("a@example.test", recipients, RAW)
    assert list(receipt.accepted) == recipients
    assert (await postfix.wait_for(recipients[-1])).data == RAW


async def test_a_server_that_offers_nothing(postfix: Postfix) -> None:
    """Without 8BITMIME a message object goes in 7bit, and a raw one with octets above 127 not."""
    recipient = postfix.address()
    message = letter()
    message.replace_header("To", recipient)
    del message["Bcc"]
    async with SMTP(postfix.host, postfix.ports["bare"]) as smtp:
        with pytest.raises(SMTPNotSupported, match="8BITMIME"):
            await smtp.sendmail("a@example.test", recipient, RAW)
        await smtp.send_message(message)
    assert (await postfix.wait_for(recipient)).data.isascii()


async def test_a_message_over_the_declared_size_is_not_sent(postfix: Postfix) -> None:
    recipient = postfix.address()
    async with SMTP(postfix.host, postfix.ports["limits"]) as smtp:
        with pytest.raises(SMTPMessageTooLarge, match="the server takes 100000"):
            await smtp.sendmail("a@example.test", recipient, b"x" * 70 + b"\n" * 100_000)
        await smtp.sendmail("a@example.test", recipient, RAW)
    assert (await postfix.wait_for(recipient)).data == RAW


async def test_a_connection_that_timed_out_at_the_server_is_replaced(postfix: Postfix) -> None:
    first, second = postfix.address(), postfix.address()
    async with SMTP(postfix.host, postfix.ports["limits"]) as smtp:
        await smtp.sendmail("a@example.test", first, RAW)
        await anyio.sleep(3.5)  # Postfix says 421 after 3 seconds, in real time.
        await smtp.sendmail("a@example.test", second, RAW)
    assert (await postfix.wait_for(second)).data == RAW


async def test_a_utf8_address(postfix: Postfix) -> None:
    recipient = "jörg-" + postfix.address()
    async with plain(postfix) as smtp:
        await smtp.sendmail("a@example.test", recipient, RAW)
    assert (await postfix.wait_for(recipient)).data == RAW
