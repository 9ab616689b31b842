"""smtplib, which is nobody's fake, talks to the aiosmtpd of the kit."""

from __future__ import annotations

import smtplib

import pytest

from anysmtp.testing import AiosmtpdServer
from support.tls import Certificates

MESSAGE = b"Subject: hello\r\n\r\n.one\r\n..two\r\ncaf\xc3\xa9\r\n"
USERS = {"ann": "secret"}


def test_the_message_is_kept_byte_for_byte() -> None:
    with AiosmtpdServer() as server, smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@x.test", ["b@x.test", "c@x.test"], MESSAGE, ["BODY=8BITMIME"])
    (delivered,) = server.messages
    assert delivered.raw == MESSAGE
    assert (delivered.sender, delivered.recipients) == ("a@x.test", ["b@x.test", "c@x.test"])
    assert delivered.mail_options[-1] == "BODY=8BITMIME"
    assert (delivered.tls, delivered.username) == (False, None)


def test_starttls_and_login(certificates: Certificates) -> None:
    with (
        AiosmtpdServer(starttls=certificates.server, users=USERS, require_auth=True) as server,
        smtplib.SMTP(server.host, server.port) as client,
    ):
        with pytest.raises(smtplib.SMTPSenderRefused, match=r"5\.7\.0"):
            client.sendmail("a@x.test", ["b@x.test"], MESSAGE)
        client.starttls(context=certificates.client)
        client.login("ann", "secret")
        client.sendmail("a@x.test", ["b@x.test"], MESSAGE)
    (delivered,) = server.messages
    assert (delivered.raw, delivered.tls, delivered.username) == (MESSAGE, True, "ann")


def test_implicit_tls_and_login(certificates: Certificates) -> None:
    with (
        AiosmtpdServer(implicit_tls=certificates.server, users=USERS, require_auth=True) as server,
        smtplib.SMTP_SSL(server.host, server.port, context=certificates.client) as client,
    ):
        client.login("ann", "secret")
        client.sendmail("a@x.test", ["b@x.test"], MESSAGE)
    (delivered,) = server.messages
    assert (delivered.raw, delivered.tls, delivered.username) == (MESSAGE, True, "ann")


def test_a_wrong_password_is_refused(certificates: Certificates) -> None:
    with (
        AiosmtpdServer(users=USERS, plaintext_auth=True) as server,
        smtplib.SMTP(server.host, server.port) as client,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        client.login("ann", "wrong")


def test_a_recipient_can_be_refused() -> None:
    with (
        AiosmtpdServer(refuse={"b@x.test": "550 5.1.1 no"}) as server,
        smtplib.SMTP(server.host, server.port) as client,
    ):
        refused = client.sendmail("a@x.test", ["b@x.test", "c@x.test"], MESSAGE)
    assert refused == {"b@x.test": (550, b"5.1.1 no")}
    assert server.messages[0].recipients == ["c@x.test"]


def test_it_stops_with_connections_open(certificates: Certificates) -> None:
    with AiosmtpdServer(starttls=certificates.server) as server:
        plain = smtplib.SMTP(server.host, server.port)
        encrypted = smtplib.SMTP(server.host, server.port)
        encrypted.starttls(context=certificates.client)
    plain.close()
    encrypted.close()
