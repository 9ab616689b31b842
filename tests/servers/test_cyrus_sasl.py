"""The mechanisms of Cyrus SASL, behind Postfix."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from anysmtp import SMTP, SMTPAuthenticationError, sasl
from support.fixtures import USERS
from support.postfix import Postfix
from support.tls import Certificates

pytestmark = pytest.mark.anyio

KINDS: dict[str, Callable[[str, str], sasl.Mechanism]] = {
    "PLAIN": sasl.Plain,
    "LOGIN": sasl.Login,
    "CRAM-MD5": sasl.CramMD5,
    "SCRAM-SHA-1": sasl.ScramSHA1,
    "SCRAM-SHA-256": sasl.ScramSHA256,
}


def client(postfix: Postfix, context: ssl.SSLContext, *auth: sasl.Mechanism) -> SMTP:
    port = postfix.ports["submission"]
    return SMTP("127.0.0.1", port, tls="starttls", tls_context=context, auth=auth)


@pytest.mark.parametrize("username", USERS)
@pytest.mark.parametrize("name", KINDS)
async def test_a_password_logs_in(
    name: str, username: str, postfix: Postfix, certificates: Certificates
) -> None:
    recipient = postfix.address()
    auth = KINDS[name](username, USERS[username])
    async with client(postfix, certificates.client, auth) as smtp:
        await smtp.sendmail("a@x.test", recipient, b"Subject: hello\r\n\r\nhello\r\n")
    await postfix.wait_for(recipient)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_strongest_that_it_offers_is_used(
    version: ssl.TLSVersion,
    postfix: Postfix,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = ssl.create_default_context(cafile=str(certificates.cafile))
    context.minimum_version = context.maximum_version = version
    auth = sasl.from_password("ann", USERS["ann"])
    with caplog.at_level("DEBUG", "anysmtp.wire"):
        async with client(postfix, context, *auth) as smtp:
            await smtp.connect()
    assert "> AUTH SCRAM-SHA-256 ***" in caplog.text


@pytest.mark.parametrize("name", KINDS)
async def test_a_wrong_password_is_refused(
    name: str, postfix: Postfix, certificates: Certificates
) -> None:
    async with client(postfix, certificates.client, KINDS[name]("ann", "wrong")) as smtp:
        with pytest.raises(SMTPAuthenticationError) as caught:
            await smtp.connect()
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert f"the server refused the user name or password ({name}); the server offers " in str(
        caught.value
    )
