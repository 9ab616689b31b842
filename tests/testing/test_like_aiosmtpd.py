"""The same smtplib dialogue comes to the same with the scripted server and with aiosmtpd.

Replies are compared by their first digit, which decides (RFC 5321 section 4.2.1): of the exact
codes the standard leaves many to the server.
"""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import TypeAlias

import pytest
from anyio.from_thread import start_blocking_portal

from anysmtp.testing import AiosmtpdServer, Certificates, ScriptedServer, Sent

Dialogue: TypeAlias = Callable[[smtplib.SMTP], object]
USERS = {"ann": "correct horse"}
KEYWORDS = ["SIZE 1000", "8BITMIME", "SMTPUTF8"]
REFUSED = {"no@x.test": "550 5.1.1 no", "later@x.test": "450 4.2.1 later"}


@contextmanager
def scripted(certificates: Certificates, backend: str) -> Generator[tuple[int, list[Sent]]]:
    server = ScriptedServer(
        keywords=KEYWORDS,
        users=USERS,
        starttls=certificates.server,
        script={f"RCPT TO:<{address}>": reply for address, reply in REFUSED.items()},
        strict=False,
    )
    messages: list[Sent] = []
    with start_blocking_portal(backend) as portal:
        with portal.wrap_async_context_manager(server):
            yield portal.call(server.listen), messages
        messages += server.messages


@contextmanager
def real(certificates: Certificates) -> Generator[tuple[int, list[Sent]]]:
    with AiosmtpdServer(
        starttls=certificates.server, users=USERS, refuse=REFUSED, size_limit=1000
    ) as server:
        yield server.port, server.messages


def lines(*commands: str) -> Dialogue:
    """Commands as they stand, and the first digits of their replies; a message behind a 354."""

    def dialogue(client: smtplib.SMTP) -> list[int]:
        digits: list[int] = []
        for command in commands:
            client.putcmd(command)
            digits.append(client.getreply()[0] // 100)
        return digits

    return dialogue


def take(send: Callable[[], dict[str, tuple[int, bytes]]]) -> object:
    """What a call of smtplib returns or raises, without texts."""
    try:
        result = send()
    except smtplib.SMTPRecipientsRefused as error:
        return {address: code for address, (code, _) in error.recipients.items()}
    except smtplib.SMTPResponseException as error:
        return type(error), error.smtp_code // 100
    return {address: code for address, (code, _) in result.items()}


def letter() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@x.test", "b@x.test", "Grüße"
    message.set_content("Hällo\n.\n..\n")
    return message


def log_in(client: smtplib.SMTP, certificates: Certificates, password: str) -> object:
    client.ehlo()
    offered = client.has_extn("auth")
    client.starttls(context=certificates.client)
    client.ehlo()
    try:
        client.login("ann", password)
    except smtplib.SMTPAuthenticationError as error:
        return offered, error.smtp_code
    client.sendmail("a@x.test", ["b@x.test"], "Subject: x\n\nhello\n")
    return offered, client.has_extn("auth"), client.has_extn("starttls")


DIALOGUES: dict[str, Dialogue] = {
    "nothing before EHLO": lines("MAIL FROM:<a@x>", "EHLO c", "MAIL FROM:<a@x>"),
    "HELO": lines("HELO c", "MAIL FROM:<a@x>", "RCPT TO:<b@x>", "RSET", "QUIT"),
    "the order of things": lines(
        *("EHLO c", "RCPT TO:<b@x>", "DATA", "MAIL FROM:<a@x>", "MAIL FROM:<a@x>", "DATA"),
        *("RSET", "RCPT TO:<b@x>"),
    ),
    "EHLO ends a transaction": lines("EHLO c", "MAIL FROM:<a@x>", "EHLO c", "RCPT TO:<b@x>"),
    "what is no command": lines("EHLO", "EHLO c", "XYZZY", "MAIL FROM a@x", "NOOP", "VRFY b@x"),
    "parameters": lines(
        *("EHLO c", "MAIL FROM:<a@x> SIZE=100000", "MAIL FROM:<a@x> X=1", "MAIL FROM:<a@x> SIZE=x"),
        *("MAIL FROM:<a@x> SIZE=100 BODY=8BITMIME SMTPUTF8", "RCPT TO:<b@x> X=1"),
    ),
    "refused recipients": lines(
        *("EHLO c", "MAIL FROM:<>", "RCPT TO:<no@x.test>", "RCPT TO:<later@x.test>", "DATA"),
        *("RCPT TO:<b@x.test>", "QUIT"),
    ),
    "two messages": lambda client: [
        take(lambda: client.sendmail("a@x.test", ["b@x.test", "no@x.test"], "Subject: 1\n\n.\n")),
        take(lambda: client.sendmail("", ["c@x.test"], b"Subject: 2\r\n\r\n\r\n")),
    ],
    "a message object": lambda client: take(lambda: client.send_message(letter())),
    "nobody is left": lambda client: take(lambda: client.sendmail("a@x", [*REFUSED], "x")),
    "too large": lambda client: take(lambda: client.sendmail("a@x", ["b@x"], "x" * 2000)),
    "login before STARTTLS": lines("EHLO c", "AUTH PLAIN AGFubgBjb3JyZWN0IGhvcnNl"),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_dialogue_comes_to_the_same(
    smtp_certificates: Certificates, anyio_backend_name: str, name: str
) -> None:
    def run(port: int) -> object:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            return DIALOGUES[name](client)

    compare(smtp_certificates, anyio_backend_name, run)


@pytest.mark.parametrize("password", ["correct horse", "wrong"])
def test_a_login_comes_to_the_same(
    smtp_certificates: Certificates, anyio_backend_name: str, password: str
) -> None:
    def run(port: int) -> object:
        with smtplib.SMTP("localhost", port, timeout=10) as client:
            return log_in(client, smtp_certificates, password)

    compare(smtp_certificates, anyio_backend_name, run)


def compare(certificates: Certificates, backend: str, run: Callable[[int], object]) -> None:
    with real(certificates) as (port, expected):
        said = run(port)
    with scripted(certificates, backend) as (port, messages):
        assert run(port) == said
    # smtplib's parameters are in lower case, which aiosmtpd does not keep.
    for message in messages:
        message.mail_options = [option.upper() for option in message.mail_options]
    assert messages == expected
