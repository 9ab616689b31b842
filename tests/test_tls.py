"""What TLS came to, sessions that are taken up again, and certificates that are pinned."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from anyio.streams.tls import TLSAttribute, TLSConnectable
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from anysmtp import SMTP, Limits, SMTPTLSError, TLSInfo
from anysmtp.events import Event, TLSEvent
from anysmtp.testing import ScriptedServer
from support.cancel import How, cancel_at
from support.clients import connection_to, deliver, on_memory, on_tcp
from support.fixtures import Tally
from support.leaks import no_leaks
from support.tls import Certificates

pytestmark = pytest.mark.anyio

LOGIN: dict[str, Any] = {"username": "ann", "password": "secret"}
VERSIONS = ["TLSv1.2", "TLSv1.3"]
MODES = ["starttls", "implicit"]

each_version = pytest.mark.parametrize("version", VERSIONS)
each_mode = pytest.mark.parametrize("mode", MODES)


def server_of(
    certificates: Certificates, version: str, mode: str, users: dict[str, str] | None = None
) -> ScriptedServer:
    context = certificates.server if version == "TLSv1.3" else certificates.server_tls12
    return ScriptedServer(
        starttls=context if mode == "starttls" else None,
        implicit_tls=context if mode == "implicit" else None,
        users=users,
    )


def options_of(certificates: Certificates, mode: str) -> dict[str, Any]:
    return {"tls": mode, "tls_context": certificates.client}


def fingerprint(certificates: Certificates) -> str:
    """The server's, by other means."""
    certificate = x509.load_pem_x509_certificate(certificates.server_file.read_bytes())
    return f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"


OTHER = "sha256:" + "ab" * 32


# What it came to


@each_version
async def test_a_connection_says_what_tls_came_to(version: str, certificates: Certificates) -> None:
    server = server_of(certificates, version, "starttls")
    async with server, await connection_to(server) as conn:
        await conn.ehlo()
        infos = [conn.tls]
        await conn.starttls(certificates.client)
        infos.append(conn.tls)
        assert infos[0] is None
        info = infos[1]
        assert info is not None
        assert (info.version, info.is_resumed) == (version, False)
        assert info.cipher == conn._channel.link.stream.extra(TLSAttribute.cipher)[0]
        assert info.fingerprint == fingerprint(certificates)
        assert info.certificate is not None
        assert info.certificate.hex() not in repr(info)


def test_without_a_certificate_there_is_no_fingerprint() -> None:
    assert TLSInfo("TLSv1.3", "AES", None, False).fingerprint is None


# Sessions


async def resumed(smtp: SMTP) -> bool:
    """Whether the connection that the client has now, or opens, is a resumed one."""
    async with smtp.connection() as conn:
        assert conn.tls is not None
        return conn.tls.is_resumed


@each_mode
@each_version
@pytest.mark.parametrize("road", ["memory", "tcp"])
async def test_a_connection_takes_up_the_session_of_the_one_before_it(
    road: str, version: str, mode: str, certificates: Certificates
) -> None:
    events: list[Event] = []
    options = {**options_of(certificates, mode), "observer": events.append}
    async with server_of(certificates, version, mode) as server:
        client = (
            on_memory(server, **options) if road == "memory" else await on_tcp(server, **options)
        )
        async with client as smtp:
            seen = list[bool]()
            for _ in range(3):
                await deliver(smtp)
                seen.append(await resumed(smtp))
                await server.hang_up()
            assert seen == [False, True, True]
    handshakes = [event for event in events if isinstance(event, TLSEvent)]
    assert [event.is_resumed for event in handshakes] == [False, True, True]
    assert len(server.messages) == 3
    assert len(server.connections) == 3


@each_version
async def test_a_session_outlives_a_connection_that_is_closed_by_force(
    version: str, certificates: Certificates
) -> None:
    async with (
        server_of(certificates, version, "implicit") as server,
        on_memory(server, **options_of(certificates, "implicit")) as smtp,
    ):
        for expected in (False, True):
            async with smtp.connection() as conn:
                assert conn.tls is not None
                assert conn.tls.is_resumed is expected
                await conn.aclose()


@each_version
async def test_each_session_is_taken_up_once(version: str, certificates: Certificates) -> None:
    async with (
        server_of(certificates, version, "implicit") as server,
        on_memory(server, **options_of(certificates, "implicit"), limits=Limits()) as smtp,
    ):
        await smtp.connect()
        async with smtp.connection() as one, smtp.connection() as two, smtp.connection() as three:
            infos = [one.tls, two.tls, three.tls]
            assert [info and info.is_resumed for info in infos] == [False, True, True]
        assert len(smtp._leases._encryption._sessions) == 1


async def test_a_server_without_sessions_is_a_full_handshake_each_time(
    certificates: Certificates,
) -> None:
    context = certificates.server_named("mail.example.test")
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    async with (
        ScriptedServer(implicit_tls=context) as server,
        on_memory(server, **options_of(certificates, "implicit")) as smtp,
    ):
        for _ in range(2):
            await deliver(smtp)
            assert not await resumed(smtp)
            await server.hang_up()


async def test_another_kind_of_context_is_asked_for_a_full_handshake(
    certificates: Certificates,
) -> None:
    class Context(ssl.SSLContext):
        """Verifies in its own way, as truststore's does."""

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates.cafile)
    async with (
        ScriptedServer(implicit_tls=certificates.server) as server,
        on_memory(server, tls="implicit", tls_context=context) as smtp,
    ):
        for _ in range(2):
            await deliver(smtp)
            assert not await resumed(smtp)
            await server.hang_up()


async def test_tls_of_a_connectables_own_is_left_alone(certificates: Certificates) -> None:
    server = ScriptedServer(implicit_tls=certificates.server)
    own = TLSConnectable(
        server.connectable,
        hostname="mail.example.test",
        ssl_context=certificates.client,
        standard_compatible=False,
    )
    async with server:
        other = ssl.create_default_context()
        async with on_memory(server, connectable=own, tls="auto", tls_context=other) as smtp:
            for _ in range(2):
                await deliver(smtp)
                assert not await resumed(smtp)
                await server.hang_up()
    assert len(server.messages) == 2


async def test_a_server_that_forgot_the_session_makes_a_new_one(
    certificates: Certificates,
) -> None:
    server = ScriptedServer(implicit_tls=certificates.server_named("mail.example.test"))
    other = ScriptedServer(implicit_tls=certificates.server_named("mail.example.test"))
    async with server, other, on_memory(server, **options_of(certificates, "implicit")) as smtp:
        await deliver(smtp)
        await server.hang_up()
        server.connectable._server = other
        await deliver(smtp)
        assert not await resumed(smtp)
    assert len(other.messages) == 1


@each_version
async def test_stopping_a_resumed_handshake_at_any_await_leaves_nothing_open(
    version: str, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    server = server_of(certificates, version, "implicit")
    async with server, await on_tcp(server, **options_of(certificates, "implicit")) as smtp:
        await smtp.connect()
        async with no_leaks():
            for k in range(1, 100):
                async with smtp.connection() as conn:
                    await conn.aclose()
                ended = await cancel_at(k, cancel_how, smtp.connect)
                ended.unwrap()
                assert smtp.statistics().open_connections == (ended.how == "finished")
                if not ended.stopped:
                    break
                await smtp.connect()
            else:
                pytest.fail("the scenario has no end")
            async with smtp.connection() as conn:
                await conn.aclose()
    tally("awaits at which a resumed handshake was stopped", k)


# Pins


@each_mode
@each_version
async def test_a_pinned_certificate_needs_no_authority(
    version: str, mode: str, certificates: Certificates
) -> None:
    pin = fingerprint(certificates)
    digits = pin.removeprefix("sha256:").upper()
    colons = ":".join(digits[i : i + 2] for i in range(0, 64, 2))
    server = server_of(certificates, version, mode, users={"ann": "secret"})
    async with server:
        for given in (pin, f"SHA256:{colons}", [OTHER, pin]):
            async with on_memory(server, tls=mode, fingerprint=given, **LOGIN) as smtp:
                await deliver(smtp)
                await server.hang_up()
                await deliver(smtp)
    assert len(server.messages) == 6


@each_mode
@pytest.mark.parametrize("pins", [OTHER, [OTHER, "sha256:" + "cd" * 32]])
async def test_another_certificate_is_an_error_that_names_both(
    mode: str, pins: str | list[str], certificates: Certificates
) -> None:
    server = server_of(certificates, "TLSv1.3", mode, users={"ann": "secret"})
    events: list[Event] = []
    async with (
        server,
        no_leaks(),
        on_memory(server, tls=mode, fingerprint=pins, observer=events.append, **LOGIN) as smtp,
    ):
        with pytest.raises(SMTPTLSError, match="not the one that fingerprint= demands") as caught:
            await deliver(smtp)
        text = str(caught.value)
        assert caught.value.outcome == "not_sent"
        assert caught.value.connection_closed
        del caught
    assert f"{fingerprint(certificates)}, not {OTHER}" in text
    assert isinstance(pins, str) or f" or {pins[1]}" in text
    assert server.connection.logins == []
    assert [type(event.error) for event in events if isinstance(event, TLSEvent)] == [SMTPTLSError]


async def test_beside_a_context_both_are_asked(certificates: Certificates) -> None:
    pin = fingerprint(certificates)
    untrusting = ssl.create_default_context()
    async with ScriptedServer(implicit_tls=certificates.server) as server:
        options: dict[str, Any] = {"tls": "implicit", "fingerprint": pin}
        async with on_memory(server, **options, tls_context=untrusting) as smtp:
            with pytest.raises(SMTPTLSError, match="trusts another authority"):
                await smtp.connect()
        async with on_memory(server, **options, tls_context=certificates.client) as smtp:
            await smtp.connect()
        options["fingerprint"] = OTHER
        async with on_memory(server, **options, tls_context=certificates.client) as smtp:
            with pytest.raises(SMTPTLSError, match="fingerprint= demands"):
                await smtp.connect()


async def test_a_pin_demands_tls_also_on_loopback(certificates: Certificates) -> None:
    pin = fingerprint(certificates)
    async with (
        ScriptedServer(starttls=certificates.server) as server,
        await on_tcp(server, tls="auto", fingerprint=pin) as smtp,
        smtp.connection() as conn,
    ):
        assert conn.is_encrypted
