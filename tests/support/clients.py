"""Clients of a scripted server, by the road that they take to it, and what they send."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any, TypeAlias

from anysmtp import SMTP, Receipt, SMTPConnection

from .bench import RECIPIENTS
from .script import Answer
from .scripted import ScriptedServer

Script: TypeAlias = "dict[str, Answer | Sequence[Answer]]"

SENDER = "a@x.test"
RAW = b"Subject: hello\r\n\r\nhello\r\n"


def on_memory(server: ScriptedServer, **options: Any) -> SMTP:
    """A client on memory streams, which count as a network."""
    options = {"tls": "off", **options}
    return SMTP("mail.example.test", connectable=server.connectable, **options)


async def on_tcp(server: ScriptedServer, **options: Any) -> SMTP:
    """A client on a loopback socket."""
    port = server.port or await server.listen()
    return SMTP("127.0.0.1", port, **{"tls": "off", **options})


async def connection_to(server: ScriptedServer, **options: Any) -> SMTPConnection:
    """The command layer on a memory stream; nothing has been said on it."""
    return SMTPConnection(await server.connectable.connect(), "mail.example.test", **options)


async def deliver(smtp: SMTP | SMTPConnection, raw: bytes | str = RAW, **options: Any) -> Receipt:
    """Send a raw message to the two of `RECIPIENTS`."""
    return await smtp.sendmail(SENDER, RECIPIENTS, raw, **options)


def email(**fields: str) -> EmailMessage:
    """A message object; underscores in the fields' names stand for hyphens."""
    message = EmailMessage()
    for name, value in {"From": SENDER, "To": RECIPIENTS[0], "Subject": "hello", **fields}.items():
        message[name.replace("_", "-")] = value
    message.set_content("hello\n")
    return message
