"""What a server saw: the judge of what a client did.

A message is *received* when its end has arrived, whatever the server answers, and *accepted* when
the server answered, or would have answered had it been able to, that it takes it. Accepted is
what must never be called not_sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from functools import cached_property
from typing import Literal, TypeAlias

# quit: the client said QUIT. eof: it closed without. lost: it reset the connection, or the
# TLS layer failed. script: the server ended it. None: it is still open.
End: TypeAlias = Literal["quit", "eof", "lost", "script"]


@dataclass(frozen=True, slots=True)
class Login:
    """One AUTH exchange that came to its end."""

    mechanism: str
    username: str
    password: str
    accepted: bool


@dataclass
class Sent:
    """One message as a server has it, with its envelope: in a server's list, or in an `Outbox`."""

    sender: str
    """The reverse-path without its brackets; empty for the null one."""
    recipients: list[str]
    """The recipients that the server took, without brackets."""
    raw: bytes
    """The octets as they came over the wire, without the stuffed dots and the final one."""
    mail_options: list[str] = field(default_factory=list[str])
    """The parameters of MAIL, those included that the client adds: ``["SIZE=312"]``."""
    rcpt_options: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])
    """The parameters of RCPT, for each recipient."""
    tls: bool = False
    """Whether it came encrypted."""
    username: str | None = None
    """Who had logged in."""
    accepted_for: list[str] = field(default_factory=list[str])
    """The recipients for which the server took the message itself: all or none, but of LMTP."""

    @cached_property
    def message(self) -> EmailMessage:
        """The message, parsed: ``sent.message["Subject"]``, ``sent.message.get_content()``.

        The lines of its texts end as Python's do.
        """
        return message_from_bytes(self.raw.replace(b"\r\n", b"\n"), policy=default)

    @property
    def accepted(self) -> bool:
        """Whether the server took it for anybody."""
        return bool(self.accepted_for)

    def header(self, name: str) -> str:
        """The first header field of this name, on one line and not decoded; empty if there is none.

        For thousands of messages, or ones that no parser is to touch; else see `message`.
        """
        section = self.raw.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
        unfolded = section.replace("\r\n ", " ").replace("\r\n\t", " ")
        for line in unfolded.split("\r\n"):
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return ""


@dataclass
class Transcript:
    """What the server saw and said on one connection."""

    number: int
    """The place of the connection among those to the server, from 0."""
    writes: list[bytes] = field(default_factory=list[bytes])
    """What arrived, decrypted, as it arrived: on memory streams one entry per `send` of the client,
    under TLS one per TLS record (a `send` of up to 16 KiB is one), on sockets as it comes."""
    commands: list[bytes] = field(default_factory=list[bytes])
    """Every line of the client outside of messages, with its line end."""
    replies: list[bytes] = field(default_factory=list[bytes])
    """Every reply in the order in which they left, or would have left but for a cut."""
    received: list[Sent] = field(default_factory=list[Sent])
    """The messages whose end has arrived."""
    logins: list[Login] = field(default_factory=list[Login])
    violations: list[str] = field(default_factory=list[str])
    """What the client did that SMTP does not allow."""
    hello: str | None = None
    """The argument of the last EHLO, HELO or LHLO that was accepted."""
    tls_version: str | None = None
    """None without TLS."""
    tls_unique: bytes | None = None
    """The channel binding of TLS 1.2."""
    client_certificate: bytes | None = None
    """The client's certificate (DER), if the server asked for one and got it."""
    tls_error: Exception | None = None
    """What the TLS layer died of."""
    sent: int = 0
    """Bytes of replies sent, before encryption."""
    sent_on_wire: int = 0
    """Bytes sent, after encryption; known when the connection has ended."""
    end: End | None = None
    """How the connection ended; None while it is open."""

    @property
    def messages(self) -> list[Sent]:
        """The messages that the server took."""
        return [message for message in self.received if message.accepted]

    @property
    def verbs(self) -> list[str]:
        """The first word of each line of the client, in upper case."""
        return [command.split()[0].decode().upper() for command in self.commands if command.split()]

    @property
    def tls(self) -> bool:
        """Whether it was encrypted in the end."""
        return self.tls_version is not None
