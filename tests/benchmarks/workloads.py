"""What there is to do, as data: one `Workload` for each row of the comparison."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.policy import SMTP
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias

Unit: TypeAlias = Literal["messages/s", "MiB/s", "CPU us/message", "round trips/message"]
TLS: TypeAlias = Literal["plain", "implicit", "starttls"]

SERVERS = ("sink", "smtp-sink", "postfix")
SENDER = "sender@example.test"
USERNAME, PASSWORD = "ann", "correct horse"
LOCAL_HOSTNAME = "client.example.test"
MIB = 1 << 20
DELAY = 0.025
"""Of the long link, one way."""


@dataclass(frozen=True)
class Workload:
    """So many messages of one kind, to be sent over so many connections."""

    name: str
    title: str
    unit: Unit
    count: int
    """Messages in one run of a client that sends one after another."""
    quick: int
    """The same for a quick run."""
    servers: tuple[str, ...] = ("sink",)
    is_raw: bool = False
    """Whether the messages are bytes with an envelope of their own, or message objects."""
    recipients: int = 1
    attachment: int = 0
    tls: TLS = "plain"
    connections: int = 1
    delay: float = 0
    is_first: bool = False
    """Whether the time runs from before there is a connection."""
    is_fixed: bool = False
    """Whether a faster way of sending gets no more messages."""
    is_extra: bool = False
    """Whether it is done only if it is asked for by name."""

    @property
    def higher_is_better(self) -> bool:
        return self.unit.endswith("/s")


_WORKLOADS = (
    Workload(
        name="objects",
        title="1 KiB message objects, one recipient",
        unit="messages/s",
        count=1500,
        quick=250,
        servers=SERVERS,
    ),
    Workload(
        name="bytes",
        title="1 KiB as bytes, one recipient",
        unit="messages/s",
        count=1500,
        quick=250,
        servers=SERVERS,
        is_raw=True,
    ),
    Workload(
        name="recipients",
        title="1 KiB message objects, 50 recipients",
        unit="messages/s",
        count=100,
        quick=15,
        servers=SERVERS,
        recipients=50,
    ),
    Workload(
        name="attachment",
        title="message objects with 10 MiB attached",
        unit="MiB/s",
        count=6,
        quick=2,
        attachment=10 * MIB,
    ),
    Workload(
        name="tls",
        title="1 KiB message objects over implicit TLS 1.3",
        unit="messages/s",
        count=1500,
        quick=250,
        tls="implicit",
    ),
    Workload(
        name="connections",
        title="1 KiB message objects over 50 connections",
        unit="CPU us/message",
        count=5000,
        quick=1000,
        connections=50,
        is_fixed=True,
    ),
    Workload(
        name="link",
        title="50 ms link, 1 KiB as bytes, one recipient",
        unit="round trips/message",
        count=10,
        quick=2,
        is_raw=True,
        delay=DELAY,
    ),
    Workload(
        name="link-10",
        title="50 ms link, 1 KiB as bytes, 10 recipients",
        unit="round trips/message",
        count=10,
        quick=1,
        is_raw=True,
        recipients=10,
        delay=DELAY,
    ),
    Workload(
        name="first",
        title="50 ms link, from connect to the first message accepted, with STARTTLS and login",
        unit="round trips/message",
        count=1,
        quick=1,
        tls="starttls",
        delay=DELAY,
        is_first=True,
        is_fixed=True,
    ),
)
_USUAL = {workload.name: workload for workload in _WORKLOADS}


def _doubled(name: str, title: str, **changes: int) -> Workload:
    """The same with twice as much of something: it should take at most twice the time."""
    changed: Any = changes
    return replace(_USUAL[name], name=f"{name}-doubled", title=title, is_extra=True, **changed)


_DOUBLED = (
    _doubled("bytes", "twice as many messages of 1 KiB as bytes", count=3000, quick=500),
    _doubled("recipients", "1 KiB message objects, 100 recipients", recipients=100),
    _doubled("attachment", "message objects with 20 MiB attached", attachment=20 * MIB),
    _doubled("connections", "1 KiB message objects over 100 connections", connections=100),
)
WORKLOADS = _USUAL | {workload.name: workload for workload in _DOUBLED}


class Letters:
    """The messages of a workload: all different, all made before the time runs."""

    def __init__(self, workload: Workload, count: int) -> None:
        self._workload = workload
        self._count = count

    @cached_property
    def recipients(self) -> list[str]:
        return [f"recipient{number}@example.test" for number in range(self._workload.recipients)]

    @property
    def messages(self) -> list[Any]:
        """Message objects or bytes, as the workload has them."""
        return self.raw if self._workload.is_raw else self.objects

    @cached_property
    def objects(self) -> list[EmailMessage]:
        return [self._object(number) for number in range(self._count)]

    @cached_property
    def raw(self) -> list[bytes]:
        return [message.as_bytes(policy=SMTP) for message in self.objects]

    def _object(self, number: int) -> EmailMessage:
        message = letter(number)
        if self._workload.attachment:
            message.add_attachment(b"", "application", "octet-stream", filename="attached")
            next(message.iter_attachments()).set_payload(_payload(self._workload.attachment))
        return message


def letter(number: int) -> EmailMessage:
    """A message of 1 KiB."""
    message = EmailMessage()
    message["From"] = f"A Sender <{SENDER}>"
    message["To"] = "recipient0@example.test"
    message["Subject"] = f"Letter {number} of the benchmark"
    message["Date"] = "Sun, 22 Nov 2026 12:00:00 +0000"
    message["Message-ID"] = f"<{number}@example.test>"
    message.set_content(_TEXT)
    return message


_TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * 11


@cache
def _payload(size: int) -> str:
    """What add_attachment makes of so many bytes; all messages share it."""
    return base64.encodebytes(bytes(size)).decode()
