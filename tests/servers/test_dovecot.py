"""Every mechanism that Dovecot has, against Dovecot; its mail arrives at the relay behind it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import pytest

from anysmtp import SMTP, SMTPAuthenticationError, create_tls_context, sasl
from support.bench import RECIPIENTS, message
from support.dovecot import Dovecot, require_dovecot
from support.fixtures import USERS
from support.tls import Certificates
from support.tokens import IntrospectionEndpoint

pytestmark = pytest.mark.anyio

Auth: TypeAlias = "sasl.Mechanism | Sequence[sasl.Mechanism]"


@pytest.fixture(scope="module")
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """A real Dovecot."""
    require_dovecot()
    with Dovecot(certificates.server_file, certificates.cafile, USERS) as server:
        yield server


@pytest.fixture(scope="module")
def certified(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A context with a certificate for ann."""
    made = certificates.ca.issue_cert("ann@example.test", common_name="ann")
    path = tmp_path_factory.mktemp("ann") / "ann.pem"
    path.write_bytes(made.private_key_and_cert_chain_pem.bytes())
    return create_tls_context(cafile=certificates.cafile, client_cert=path)


def client(dovecot: Dovecot, context: ssl.SSLContext, auth: Auth) -> SMTP:
    """A client on implicit TLS."""
    port = dovecot.ports["submissions"]
    return SMTP("127.0.0.1", port, tls="implicit", tls_context=context, auth=auth)


async def deliver(dovecot: Dovecot, smtp: SMTP) -> None:
    """Send a message that nobody else has sent."""
    subject = f"message {len(dovecot.relay.messages)}"
    async with smtp:
        receipt = await smtp.sendmail("a@x.test", RECIPIENTS, message(subject))
    assert receipt.reply.code == 250
    assert f"Subject: {subject}".encode() in dovecot.relay.messages[-1].raw


PASSWORDS: dict[str, Callable[[str, str], sasl.Mechanism]] = {
    "PLAIN": sasl.Plain,
    "LOGIN": sasl.Login,
    "CRAM-MD5": sasl.CramMD5,
    "SCRAM-SHA-1": sasl.ScramSHA1,
    "SCRAM-SHA-256": sasl.ScramSHA256,
}
TOKENS: dict[str, type[sasl.XOAuth2] | type[sasl.OAuthBearer]] = {
    "XOAUTH2": sasl.XOAuth2,
    "OAUTHBEARER": sasl.OAuthBearer,
}


@pytest.mark.parametrize("username", USERS)
@pytest.mark.parametrize("port", ["submission", "submissions"])
@pytest.mark.parametrize("name", PASSWORDS)
async def test_a_password_logs_in(
    name: str, port: str, username: str, dovecot: Dovecot, certificates: Certificates
) -> None:
    smtp = SMTP(
        "127.0.0.1",
        dovecot.ports[port],
        tls="starttls" if port == "submission" else "implicit",
        tls_context=certificates.client,
        auth=PASSWORDS[name](username, USERS[username]),
    )
    await deliver(dovecot, smtp)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_strongest_is_scram_which_says_that_it_could_bind(
    version: ssl.TLSVersion,
    dovecot: Dovecot,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = ssl.create_default_context(cafile=str(certificates.cafile))
    context.minimum_version = context.maximum_version = version
    smtp = client(dovecot, context, sasl.from_password("ann", USERS["ann"]))
    with caplog.at_level("DEBUG", "anysmtp.wire"):
        await deliver(dovecot, smtp)
    assert "> AUTH SCRAM-SHA-256 ***" in caplog.text


@pytest.mark.parametrize("name", [*PASSWORDS, "any"])
async def test_a_wrong_password_is_refused(
    name: str, dovecot: Dovecot, certificates: Certificates
) -> None:
    auth = PASSWORDS[name]("ann", "wrong") if name != "any" else sasl.from_password("ann", "wrong")
    smtp = client(dovecot, certificates.client, auth)
    async with smtp:
        with pytest.raises(
            SMTPAuthenticationError, match="refused the user name or password"
        ) as caught:
            await smtp.connect()
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert "the server offers" in str(caught.value)
    assert "SCRAM-SHA-256" in str(caught.value)


@pytest.mark.parametrize("name", TOKENS)
async def test_a_token_logs_in(name: str, dovecot: Dovecot, certificates: Certificates) -> None:
    async def get_token() -> str:
        return dovecot.token("ann")

    for token in (dovecot.token("ann"), get_token):
        smtp = client(dovecot, certificates.client, TOKENS[name]("ann", token))
        await deliver(dovecot, smtp)


@pytest.mark.parametrize("name", TOKENS)
async def test_a_token_that_expired_is_replaced(
    name: str, dovecot: Dovecot, certificates: Certificates
) -> None:
    async def refresh() -> str:
        return dovecot.token("ann")

    smtp = client(
        dovecot,
        certificates.client,
        TOKENS[name]("ann", dovecot.token("ann", seconds=-5), refresh=refresh),
    )
    await deliver(dovecot, smtp)


@pytest.mark.parametrize("name", TOKENS)
async def test_a_wrong_token_is_refused_with_the_servers_reason(
    name: str, dovecot: Dovecot, certificates: Certificates
) -> None:
    for token in (dovecot.token("ann", seconds=-5), dovecot.token("ann") + "x", "x"):
        smtp = client(dovecot, certificates.client, TOKENS[name]("ann", token))
        async with smtp:
            with pytest.raises(SMTPAuthenticationError, match="refused the token") as caught:
                await smtp.connect()
        assert caught.value.details is not None
        assert caught.value.details["status"] == (
            "invalid_token" if name == "OAUTHBEARER" else "401"
        )
        assert token not in str(caught.value)


async def test_a_certificate_logs_in(dovecot: Dovecot, certified: ssl.SSLContext) -> None:
    for authzid in ("", "ann"):
        smtp = client(dovecot, certified, sasl.External(authzid))
        await deliver(dovecot, smtp)


async def test_without_a_certificate_external_is_refused(
    dovecot: Dovecot, certificates: Certificates
) -> None:
    smtp = client(dovecot, certificates.client, sasl.External())
    async with smtp:
        with pytest.raises(SMTPAuthenticationError, match="EXTERNAL"):
            await smtp.connect()


@pytest.fixture(scope="module")
def introspecting(certificates: Certificates) -> Iterator[tuple[Dovecot, IntrospectionEndpoint]]:
    """A Dovecot that asks an endpoint about each token."""
    require_dovecot()
    with (
        IntrospectionEndpoint({"good": "ann"}) as endpoint,
        Dovecot(
            certificates.server_file,
            certificates.cafile,
            USERS,
            mechanisms=("xoauth2", "oauthbearer"),
            introspection_url=endpoint.url,
        ) as server,
    ):
        yield server, endpoint


@pytest.mark.parametrize("name", TOKENS)
async def test_an_introspection_endpoint_knows_whose_the_token_is(
    name: str,
    introspecting: tuple[Dovecot, IntrospectionEndpoint],
    certificates: Certificates,
) -> None:
    server, endpoint = introspecting
    before = len(endpoint.requests)
    await deliver(server, client(server, certificates.client, TOKENS[name]("ann", "good")))
    async with client(server, certificates.client, TOKENS[name]("ann", "bad")) as smtp:
        with pytest.raises(SMTPAuthenticationError, match="refused the token"):
            await smtp.connect()
    asked = [form["token"] for _, form in endpoint.requests[before:]]
    assert {"good", "bad"} == set(asked)
