"""The client against aiosmtpd, somebody else's server: plain, STARTTLS and implicit TLS."""

from __future__ import annotations

import pytest

import anysmtp
from anysmtp import SMTP, SMTPAuthenticationError
from anysmtp.testing import AiosmtpdServer
from support.fixtures import USERS
from support.letters import letter
from support.tls import Certificates

pytestmark = pytest.mark.anyio

RAW = b"Subject: raw\r\n\r\n.\r\n..\r\n.dot\r\n\r\n\xe9\xff\r\nlast\r\n"


@pytest.mark.parametrize("size", [0, 300_000], ids=["small", "large"])
async def test_a_raw_message_arrives_byte_for_byte(
    size: int, aiosmtpd_plain: AiosmtpdServer
) -> None:
    raw = RAW + (b"." + b"x" * 75 + b"\r\n") * (size // 78)
    async with SMTP(aiosmtpd_plain.host, aiosmtpd_plain.port) as smtp:
        receipt = await smtp.sendmail("a@example.test", ["b@x.test", "c@x.test"], raw)
    [delivered] = aiosmtpd_plain.messages
    assert delivered.raw == raw
    assert delivered.sender == "a@example.test"
    assert delivered.recipients == ["b@x.test", "c@x.test"] == list(receipt.accepted)
    assert not delivered.tls


async def test_what_is_not_clean_arrives_in_crlf_lines(aiosmtpd_plain: AiosmtpdServer) -> None:
    async with SMTP(aiosmtpd_plain.host, aiosmtpd_plain.port) as smtp:
        await smtp.sendmail("a@x.test", "b@x.test", b"one\ntwo\rthree\r\n.\n\n.\nfour")
    [delivered] = aiosmtpd_plain.messages
    assert delivered.raw == b"one\r\ntwo\r\nthree\r\n.\r\n\r\n.\r\nfour\r\n"


async def test_starttls_and_a_login(
    aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    async with SMTP(
        aiosmtpd_starttls.host,
        aiosmtpd_starttls.port,
        username="jörg",
        password=USERS["jörg"],
        tls="starttls",
        tls_context=certificates.client,
    ) as smtp:
        await smtp.send_message(letter())
        await smtp.send_message(letter())
    for delivered in aiosmtpd_starttls.messages:
        assert delivered.tls
        assert delivered.username == "jörg"
        assert delivered.recipients == ["ann@example.test", "secret@example.test"]
        assert b"secret" not in delivered.raw
    assert len(aiosmtpd_starttls.messages) == 2


async def test_implicit_tls_and_a_login(
    aiosmtpd_implicit: AiosmtpdServer, certificates: Certificates
) -> None:
    receipt = await anysmtp.send(
        letter(),
        aiosmtpd_implicit.host,
        aiosmtpd_implicit.port,
        username="ann",
        password=USERS["ann"],
        tls="implicit",
        tls_context=certificates.client,
    )
    [delivered] = aiosmtpd_implicit.messages
    expected = letter()
    del expected["Bcc"]
    assert delivered.raw == expected.as_bytes(policy=expected.policy.clone(linesep="\r\n"))
    assert delivered.username == "ann"
    assert receipt.message_id == "<letter@example.test>"


async def test_on_loopback_a_login_turns_tls_on_where_it_is_needed(
    aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    async with SMTP(
        aiosmtpd_starttls.host,
        aiosmtpd_starttls.port,
        username="ann",
        password=USERS["ann"],
        tls_context=certificates.client,
    ) as smtp:
        await smtp.send_message(letter())
    assert aiosmtpd_starttls.messages[0].tls


async def test_a_wrong_password(
    aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    smtp = SMTP(
        aiosmtpd_starttls.host,
        aiosmtpd_starttls.port,
        username="ann",
        password="wrong horse",
        tls_context=certificates.client,
    )
    async with smtp:
        with pytest.raises(SMTPAuthenticationError, match="535") as caught:
            await smtp.send_message(letter())
    assert caught.value.outcome == "not_sent"
    assert not caught.value.may_retry


async def test_a_refused_recipient_does_not_keep_the_others_from_the_message() -> None:
    with AiosmtpdServer(refuse={"b@x.test": "550 5.1.1 no such user"}) as server:
        async with SMTP(server.host, server.port) as smtp:
            receipt = await smtp.sendmail("a@x.test", ["b@x.test", "c@x.test"], RAW)
    assert receipt.refused["b@x.test"].enhanced == "5.1.1"
    assert server.messages[0].recipients == ["c@x.test"] == list(receipt.accepted)


async def test_the_command_layer(aiosmtpd_plain: AiosmtpdServer) -> None:
    smtp = SMTP(aiosmtpd_plain.host, aiosmtpd_plain.port)
    async with smtp, smtp.connection() as conn:
        assert conn.extensions.size == 10_000_000
        assert (await conn.noop()).code == 250
        assert (await conn.vrfy("ann@example.test")).code == 252
        assert (await conn.help()).code in (214, 250)
        assert (await conn.command("FROB")).code == 500
        await conn.mail("a@x.test", ["BODY=8BITMIME"])
        await conn.rcpt("b@x.test")
        await conn.rset()
        await conn.mail("", ["SIZE=10"])
        await conn.rcpt("b@x.test")
        assert (await conn.data("one\n.two")).code == 250
    [delivered] = aiosmtpd_plain.messages
    assert delivered.raw == b"one\r\n.two\r\n"
    assert delivered.sender == ""
