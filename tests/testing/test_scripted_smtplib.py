"""smtplib, which is nobody's fake, says over TCP that the scripted server is a server."""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path

import pytest
from anyio import to_thread

from anysmtp.testing import ScriptedServer
from support.leaks import no_leaks
from support.tls import Certificates

pytestmark = pytest.mark.anyio

MESSAGE = b"Subject: hello\r\n\r\n.one\r\n..two\r\n.\r\nthree\r\n"
USERS = {"ann": "correct horse"}


@pytest.mark.parametrize("split", [None, 1])
async def test_it_takes_a_message(split: int | None) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client:
            client.sendmail("a@x", ["b@x", "c@x"], MESSAGE)

    async with no_leaks(), ScriptedServer(split=split) as server:
        await server.listen()
        await to_thread.run_sync(send)
        await server.wait_closed()
    (message,) = server.messages
    assert (message.sender, message.recipients, message.raw) == ("a@x", ["b@x", "c@x"], MESSAGE)
    assert message.mail_options == [f"size={len(MESSAGE)}"]
    assert not message.tls
    assert server.connection.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert server.connection.end == "quit"
    assert server.connection.sent == sum(map(len, server.connection.replies))


async def test_it_speaks_starttls_and_takes_a_login(certificates: Certificates) -> None:
    def send() -> None:
        with smtplib.SMTP("localhost", server.port, timeout=10) as client:
            client.ehlo()
            assert not client.has_extn("auth")
            client.starttls(context=certificates.client)
            client.login("ann", USERS["ann"])
            client.sendmail("a@x", ["b@x"], MESSAGE)

    async with ScriptedServer(
        starttls=certificates.server, users=USERS, require_auth=True
    ) as server:
        await server.listen()
        await to_thread.run_sync(send)
        await server.wait_closed()
    (message,) = server.messages
    assert (message.raw, message.tls, message.username) == (MESSAGE, True, "ann")
    (login,) = server.connection.logins
    assert (login.mechanism, login.password, login.accepted) == ("PLAIN", USERS["ann"], True)
    assert server.connection.tls_version == "TLSv1.3"


async def test_it_speaks_implicit_tls_and_takes_a_login_by_login(
    certificates: Certificates,
) -> None:
    def send() -> None:
        with smtplib.SMTP_SSL("localhost", server.port, context=certificates.client) as client:
            client.ehlo()
            client.user, client.password = "ann", USERS["ann"]
            client.auth("LOGIN", client.auth_login)
            client.sendmail("a@x", ["b@x"], MESSAGE)

    async with ScriptedServer(implicit_tls=certificates.server, users=USERS) as server:
        await server.listen()
        await to_thread.run_sync(send)
    (message,) = server.messages
    assert (message.raw, message.tls, message.username) == (MESSAGE, True, "ann")
    assert server.connection.logins[0].mechanism == "LOGIN"


async def test_it_refuses_as_the_script_says() -> None:
    def send() -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("ann", "wrong")
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("no@x", ["b@x"], MESSAGE)
            with pytest.raises(smtplib.SMTPDataError):
                client.sendmail("spam@x", ["b@x"], MESSAGE)
            return client.sendmail("a@x", ["b@x", "c@x"], MESSAGE)

    script = {
        "MAIL FROM:<no@x>": "550 5.7.1 no",
        "rcpt to:<c@x>": "450 4.2.0 later",
        ".": ["550 5.7.1 spam"],
    }
    async with ScriptedServer(users=USERS, script=script) as server:
        await server.listen()
        refused = await to_thread.run_sync(send)
    assert refused == {"c@x": (450, b"4.2.0 later")}
    assert [message.recipients for message in server.messages] == [["b@x"]]
    assert [message.accepted for message in server.received] == [False, True]


async def test_it_takes_helo_after_a_refused_ehlo() -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client:
            client.sendmail("a@x", ["b@x"], MESSAGE)

    async with ScriptedServer(script={"EHLO": "500 5.5.1 what?"}) as server:
        await server.listen()
        await to_thread.run_sync(send)
    assert server.connection.verbs[:2] == ["EHLO", "HELO"]
    assert len(server.messages) == 1


async def test_it_is_shown_a_certificate_if_it_asks(certificates: Certificates) -> None:
    def connect() -> None:
        context = certificates.client_certified
        with smtplib.SMTP_SSL("localhost", server.port, context=context):
            pass

    async with ScriptedServer(implicit_tls=certificates.server_asking) as server:
        await server.listen()
        await to_thread.run_sync(connect)
    shown = ssl.DER_cert_to_PEM_cert(server.connection.client_certificate or b"")
    assert shown.split() == certificates.client_cert.read_text().split()


@pytest.mark.parametrize("name", ["server_misnamed", "server_expired", "server_untrusted"])
async def test_a_bad_certificate_is_declined(certificates: Certificates, name: str) -> None:
    def connect() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL("localhost", server.port, context=certificates.client)

    async with ScriptedServer(implicit_tls=getattr(certificates, name)) as server:
        await server.listen()
        await to_thread.run_sync(connect)
        await server.wait_closed()
    assert (server.connection.end, server.connection.tls) == ("lost", False)
    assert server.connection.tls_error is not None


async def test_it_speaks_lmtp_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def send() -> list[int]:
        client = smtplib.LMTP(path)
        client.ehlo()
        client.mail("a@x")
        for recipient in ("b@x", "c@x", "d@x"):
            client.rcpt(recipient)
        client.putcmd("data")
        codes = [client.getreply()[0]]
        client.send(b"Subject: hello\r\n\r\n.\r\n")
        codes += [client.getreply()[0] for _ in range(2)]
        client.quit()
        return codes

    script = {"RCPT TO:<c@x>": "550 5.1.1 no", ". <d@x>": "452 4.2.2 full"}
    async with ScriptedServer(lmtp=True, script=script) as server:
        await server.listen_unix(path)
        assert await to_thread.run_sync(send) == [354, 250, 452]
    assert server.connection.verbs[0] == "LHLO"
    assert server.messages[0].recipients == ["b@x", "d@x"]
    assert server.messages[0].accepted_for == ["b@x"]
