"""Streams of messages to real servers: what their mailboxes hold is what was reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import pytest
from anyio import sleep

from anysmtp import SMTP, Delivery, Envelope, Limits, Mail, SMTPAuthenticationError
from anysmtp.testing import AiosmtpdServer
from support.bench import message
from support.fixtures import USERS
from support.letters import letter
from support.many import Source, keys, mail, outcomes, send_all
from support.postfix import Postfix
from support.tls import Certificates

pytestmark = pytest.mark.anyio

Pipelining: TypeAlias = Literal["auto", "eager", "off"]

SENDER = "a@example.test"


def mails_to(recipients: list[str], sender: str = SENDER) -> Iterator[Mail[str]]:
    for recipient in recipients:
        envelope = Envelope(sender=sender, recipients=recipient)
        yield Mail(message(recipient), envelope, key=recipient)


async def check_stored(postfix: Postfix, recipients: list[str]) -> None:
    """Each has its own message, once."""
    for recipient in recipients:
        assert (await postfix.wait_for(recipient)).data == message(recipient)


# Postfix: PIPELINING, and CHUNKING


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("pipelining", ["auto", "eager", "off"])
async def test_postfix_stores_each_message_once(
    pipelining: Pipelining, connections: int, postfix: Postfix
) -> None:
    recipients = [postfix.address() for _ in range(100)]
    limits = Limits(max_connections=connections)
    async with SMTP(
        postfix.host, postfix.ports["plain"], pipelining=pipelining, limits=limits
    ) as smtp:
        deliveries = await send_all(smtp, mails_to(recipients), ordered=True)
    assert keys(deliveries) == recipients
    assert set(outcomes(deliveries).values()) == {"accepted"}
    await check_stored(postfix, recipients)


@pytest.mark.parametrize("pipelining", ["auto", "eager", "off"])
async def test_postfix_refuses_some_and_stores_the_others(
    pipelining: Pipelining, postfix: Postfix
) -> None:
    """At each point of a transaction; the connection goes on behind it."""
    one, two, three, four = (postfix.address() for _ in range(4))
    mails = [
        *mails_to([one]),
        *mails_to([postfix.address("no")], "refused@example.test"),
        *mails_to([two, "unknown@example.test", "later@example.test", three]),
        *mails_to([postfix.address("no")], "refused-data@example.test"),
        *mails_to([four]),
    ]
    async with SMTP(
        postfix.host,
        postfix.ports["plain"],
        pipelining=pipelining,
        limits=Limits(max_connections=1),
    ) as smtp:
        deliveries = await send_all(smtp, mails, ordered=True)
    good = [d.key for d in deliveries if d.outcome == "accepted"]
    assert good == [one, two, three, four]
    refused = [d for d in deliveries if d.outcome == "refused"]
    assert len(refused) == 4
    assert [d.key for d in refused if d.may_retry] == ["later@example.test"]
    await check_stored(postfix, good)


async def test_postfix_hangs_up_and_the_others_are_stored(postfix: Postfix) -> None:
    """421 to a recipient ends the connection, and the stream goes on over another one."""
    recipients = [postfix.address() for _ in range(6)]
    mails = [*mails_to(recipients[:3]), *mails_to(["quit421@example.test"])]
    mails += mails_to(recipients[3:])
    async with SMTP(postfix.host, postfix.ports["plain"], limits=Limits(max_connections=1)) as smtp:
        deliveries = await send_all(smtp, mails)
    found = outcomes(deliveries)
    assert found.pop("quit421@example.test") != "accepted"
    assert found == dict.fromkeys(recipients, "accepted")
    await check_stored(postfix, recipients)


async def test_postfix_over_tls_with_a_login(postfix: Postfix, certificates: Certificates) -> None:
    recipients = [postfix.address() for _ in range(30)]
    name, password = next(iter(postfix.users.items()))
    async with SMTP(
        postfix.host,
        postfix.ports["submission"],
        tls="starttls",
        tls_context=certificates.client,
        username=name,
        password=password,
    ) as smtp:
        deliveries = await send_all(smtp, mails_to(recipients))
    assert set(outcomes(deliveries).values()) == {"accepted"}
    await check_stored(postfix, recipients)


async def test_postfix_refuses_a_wrong_password_once(
    postfix: Postfix, certificates: Certificates
) -> None:
    name = next(iter(postfix.users))
    source = Source()
    smtp = SMTP(
        postfix.host,
        postfix.ports["submission"],
        tls="starttls",
        tls_context=certificates.client,
        username=name,
        password="wrong horse",
    )
    failures = count_failed_logins(postfix)
    async with smtp:
        with pytest.raises(SMTPAuthenticationError, match="535"):
            await send_all(smtp, source.items())
    assert source.pulled <= 100
    for _ in range(1000):
        if count_failed_logins(postfix) > failures:
            break
        await sleep(0.01)
    # What another process writes into the log comes a little later; by now all of it is there.
    async with SMTP(postfix.host, postfix.ports["plain"]) as plain:
        await send_all(plain, mails_to([to := postfix.address()]))
    await postfix.wait_for(to)
    assert count_failed_logins(postfix) == failures + 1


def count_failed_logins(postfix: Postfix) -> int:
    return postfix.log().count("authentication failed")


async def test_postfix_with_no_keyword_at_all(postfix: Postfix) -> None:
    recipients = [postfix.address() for _ in range(10)]
    message = letter()
    message.replace_header("To", postfix.address())
    del message["Bcc"]
    bad = Mail("ü", Envelope(sender=SENDER, recipients=recipients[0]), key="8 bits")
    async with SMTP(postfix.host, postfix.ports["bare"]) as smtp:
        mails = [*mails_to(recipients[:5]), bad, Mail(message, key="7bit")]
        deliveries = await send_all(smtp, [*mails, *mails_to(recipients[5:])])
    found = outcomes(deliveries)
    assert found.pop("8 bits") == "not_sent"
    assert found == dict.fromkeys([*recipients, "7bit"], "accepted")
    await check_stored(postfix, recipients)


async def test_leaving_early_loses_nothing_that_was_reported(postfix: Postfix) -> None:
    recipients = [postfix.address() for _ in range(60)]
    taken: list[Delivery[Any]] = []
    async with SMTP(postfix.host, postfix.ports["plain"]) as smtp:
        async with smtp.send_many(mails_to(recipients)) as deliveries:
            async for delivery in deliveries:
                taken.append(delivery)
                if len(taken) == 20:
                    break
        rest = [key for key in recipients if key not in keys(taken)]
        await smtp.sendmail(SENDER, last := postfix.address(), message(last))
    await check_stored(postfix, [*keys(taken), last])
    assert all(len(postfix.messages(key)) <= 1 for key in rest)


# aiosmtpd: somebody else's, without PIPELINING


@pytest.mark.parametrize("connections", [1, 3])
async def test_aiosmtpd_takes_each_message_once(
    connections: int, aiosmtpd_plain: AiosmtpdServer
) -> None:
    limits = Limits(max_connections=connections)
    async with SMTP(aiosmtpd_plain.host, aiosmtpd_plain.port, limits=limits) as smtp:
        deliveries = await send_all(smtp, Source(100).items_async())
    assert outcomes(deliveries) == dict.fromkeys(range(100), "accepted")
    taken = {delivered.recipients[0]: delivered.raw for delivered in aiosmtpd_plain.messages}
    assert len(aiosmtpd_plain.messages) == 100
    assert taken == {f"{n}@x.test": message(str(n)) for n in range(100)}


async def test_aiosmtpd_over_tls_with_a_login(
    aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    async with SMTP(
        aiosmtpd_starttls.host,
        aiosmtpd_starttls.port,
        username="ann",
        password=USERS["ann"],
        tls_context=certificates.client,
    ) as smtp:
        deliveries = await send_all(smtp, Source(30).items())
    assert set(outcomes(deliveries).values()) == {"accepted"}
    assert {delivered.username for delivered in aiosmtpd_starttls.messages} == {"ann"}
    assert len(aiosmtpd_starttls.messages) == 30


async def test_aiosmtpd_refuses_some() -> None:
    with AiosmtpdServer(refuse={"1@x.test": "550 5.1.1 no such user"}, size_limit=5000) as server:
        async with SMTP(server.host, server.port) as smtp:
            mails = [mail(0), mail(1), mail(2, 10_000), mail(3)]
            deliveries = await send_all(smtp, mails)
    assert outcomes(deliveries) == {0: "accepted", 1: "refused", 2: "not_sent", 3: "accepted"}
    assert len(server.messages) == 2
