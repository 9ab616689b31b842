"""The client against a real Postfix that limits connections, recipients and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, Delivery, Envelope, Limits, Mail, Receipt, SMTPRecipientsRefused
from support.bench import message
from support.fixtures import check_postfix
from support.postfix import DOMAIN, Postfix, why_not
from support.tls import Certificates

pytestmark = pytest.mark.anyio

SENDER = "a@example.test"
_STRICT = (
    "smtpd_client_connection_count_limit = 3",
    "smtpd_recipient_limit = 3",
    "smtpd_soft_error_limit = 3",
    "smtpd_hard_error_limit = 5",
)


class Strict(Postfix):
    """Its port ``plain`` has limits that are soon reached."""

    def _service(self, name: str) -> str:
        options = _STRICT if name == "plain" else ()
        return super()._service(name) + "".join(f"  -o {{{{ {one} }}}}\n" for one in options)

    def refusals(self, what: str) -> int:
        """How often the log says so."""
        return self.log().count(what)

    def client(self, count: int = 1, **options: Any) -> SMTP:
        limits = Limits(max_connections=count)
        return SMTP(self.host, self.ports["plain"], limits=limits, **options)


@pytest.fixture
def strict(certificates: Certificates) -> Iterator[Strict]:
    check_postfix(why_not())
    server = Strict(certificates.server_file, {})
    with server:
        yield server


async def test_a_server_that_takes_three_connections_gets_everything_from_a_pool_of_twenty(
    strict: Strict,
) -> None:
    recipients = [strict.address() for _ in range(60)]

    async def send(smtp: SMTP, recipient: str) -> None:
        await smtp.sendmail(SENDER, recipient, message(recipient))

    async with strict.client(20) as smtp:
        async with anyio.create_task_group() as group:
            for recipient in recipients:
                group.start_soon(send, smtp, recipient)
        assert smtp.statistics().allowed_connections <= 4
    for recipient in recipients:
        assert (await strict.wait_for(recipient)).data == message(recipient)
    # Those that were opened together before one was refused, and few later ones.
    assert 1 <= strict.refusals("Connection concurrency limit exceeded") <= 8


async def test_a_stream_of_messages_to_a_server_that_takes_three_connections(
    strict: Strict,
) -> None:
    recipients = [strict.address() for _ in range(60)]
    mails = [
        Mail(message(recipient), Envelope(sender=SENDER, recipients=recipient), key=recipient)
        for recipient in recipients
    ]
    async with strict.client(20) as smtp, smtp.send_many(mails) as deliveries:
        keys = {delivery.key async for delivery in deliveries if delivery.accepted}
    assert keys == set(recipients)
    for recipient in recipients:
        assert (await strict.wait_for(recipient)).data == message(recipient)
    assert strict.refusals("Connection concurrency limit exceeded") <= 8


@pytest.mark.parametrize("pipelining", ["auto", "off", "eager"])
async def test_a_message_for_more_recipients_than_a_transaction_has_room_for(
    strict: Strict, pipelining: str
) -> None:
    recipients = [strict.address() for _ in range(8)]
    delivery: Delivery[None] = Delivery()
    async with strict.client(pipelining=pipelining) as smtp:
        receipt = await smtp.sendmail(SENDER, recipients, message("many"), delivery=delivery)
    assert list(receipt.accepted) == recipients
    assert not receipt.refused
    assert [reply.enhanced for reply in receipt.replies] == ["2.0.0"] * 3
    assert len({reply.text for reply in receipt.replies}) == 3
    assert delivery.outcome == "accepted"
    for recipient in recipients:
        assert (await strict.wait_for(recipient)).data == message("many")


async def test_several_such_messages_at_once(strict: Strict) -> None:
    everybody = [[strict.address() for _ in range(7)] for _ in range(6)]
    receipts: list[Receipt] = []

    async def send(smtp: SMTP, number: int) -> None:
        recipients = everybody[number]
        receipts.append(await smtp.sendmail(SENDER, recipients, message(str(number))))

    async with strict.client(3) as smtp, anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(send, smtp, number)
    assert all(len(receipt.replies) == 3 for receipt in receipts)
    for number, recipients in enumerate(everybody):
        for recipient in recipients:
            assert (await strict.wait_for(recipient)).data == message(str(number))


async def test_to_all_or_to_nobody_where_there_is_no_room_is_to_nobody(strict: Strict) -> None:
    recipients = [strict.address() for _ in range(5)]
    last = strict.address()
    async with strict.client() as smtp:
        with pytest.raises(SMTPRecipientsRefused, match=r"452 4\.5\.3"):
            await smtp.sendmail(SENDER, recipients, message("no"), require_all=True)
        await smtp.sendmail(SENDER, last, message("yes"))
    await strict.wait_for(last)
    assert not any(strict.messages(recipient) for recipient in recipients)


async def test_a_server_that_has_had_enough_errors_is_asked_on_another_connection(
    strict: Strict,
) -> None:
    """It says 421 and hangs up; each message gets the answer that is its own."""
    good = strict.address()
    async with strict.client() as smtp:
        for _ in range(12):
            with pytest.raises(SMTPRecipientsRefused, match=r"550 5\.1\.1"):
                await smtp.sendmail(SENDER, f"unknown@{DOMAIN}", message("no"))
        await smtp.sendmail(SENDER, good, message("yes"))
    assert (await strict.wait_for(good)).data == message("yes")
    assert strict.refusals("too many errors") >= 1


async def test_a_stream_in_which_every_second_message_is_refused(strict: Strict) -> None:
    good = [strict.address() for _ in range(12)]
    recipients = [who for one in good for who in (one, f"unknown@{DOMAIN}")]
    mails = [
        Mail(message(who), Envelope(sender=SENDER, recipients=who), key=number)
        for number, who in enumerate(recipients)
    ]
    async with strict.client() as smtp, smtp.send_many(mails, ordered=True) as deliveries:
        outcomes = [delivery.outcome async for delivery in deliveries]
    assert outcomes == ["accepted", "refused"] * 12
    for recipient in good:
        await strict.wait_for(recipient)
