"""A server that is the judge of what became of each message, and clients for it.

Messages are told apart by their subject. The server answers the end of each with its subject, so a
reply that was taken for another message's shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from anyio.lowlevel import checkpoint

from anysmtp import SMTP, Delivery, Receipt, SendOptions
from anysmtp.events import Event, MessageEvent
from anysmtp.testing import DEFAULT_KEYWORDS, Answer, ScriptedServer, Sent

from .tls import Certificates

Transport: TypeAlias = Literal["plain", "starttls", "implicit"]
TRANSPORTS: tuple[Transport, ...] = ("plain", "starttls", "implicit")

_TURNS = 20

RECIPIENTS = ("b@x.test", "c@x.test")
SMALL = 200
LARGE = 200_000
"""Goes out in pieces, while the client listens."""


class Bench:
    """``async with Bench(transport, certificates) as bench``."""

    def __init__(
        self,
        transport: Transport,
        certificates: Certificates,
        *,
        keywords: Sequence[str] = DEFAULT_KEYWORDS,
        pipelining: bool = True,
        capacity: int = 65536,
    ) -> None:
        self.once: dict[str, Answer] = {}
        """Answers for the next time that a point is met, by the beginning of its line."""
        self._answered: Counter[int] = Counter()
        self.server = ScriptedServer(
            script=self._answer,
            keywords=[word for word in keywords if pipelining or word != "PIPELINING"],
            starttls=certificates.server if transport == "starttls" else None,
            implicit_tls=certificates.server if transport == "implicit" else None,
            capacity=capacity,
        )
        self._options: dict[str, Any] = {"tls": "off", "timeout": None}
        if transport != "plain":
            self._options |= {"tls": transport, "tls_context": certificates.client}

    async def __aenter__(self) -> Bench:
        await self.server.__aenter__()
        await self.server.listen()
        # Its tasks have begun then, and are not taken for something that a test leaves behind.
        for _ in range(_TURNS):
            await checkpoint()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.server.__aexit__(*exc_info)

    def client(self, **options: Any) -> SMTP:
        return SMTP("127.0.0.1", self.server.port, **self._options, **options)

    def received(self, subject: str) -> list[Sent]:
        """The messages of this subject whose end has arrived."""
        return [message for message in self.server.received if subject_of(message) == subject]

    def judge(self, subject: str, delivery: Delivery[Any]) -> None:
        """What the Delivery says must be what the server saw; all its connections have ended."""
        received = self.received(subject)
        assert len(received) <= 1, "sent twice"
        outcome = delivery.outcome
        if outcome == "accepted":
            assert len(received) == 1
            assert tuple(delivery.accepted) == RECIPIENTS
        elif outcome == "not_sent":
            assert not received, "called not_sent, and the server has it"
            assert delivery.may_retry
        else:
            assert outcome == "in_doubt"
            assert not delivery.may_retry
        assert delivery.phase == "done"

    def judge_all(self, deliveries: Mapping[str, Delivery[Any]]) -> list[str | None]:
        """Judge each, by its subject; their outcomes."""
        for subject, delivery in deliveries.items():
            self.judge(subject, delivery)
        return [delivery.outcome for delivery in deliveries.values()]

    def _answer(self, line: str) -> Answer | None:
        for point in self.once:
            if line.startswith(point):
                return self.once.pop(point)
        return f"250 2.0.0 {subject_of(self._newest())}" if line == "." else None

    def _newest(self) -> Sent:
        """The one that has not been answered, on whichever connection it came."""
        for record in reversed(self.server.connections):
            if len(record.received) > self._answered[record.number]:
                self._answered[record.number] = len(record.received)
                return record.received[-1]
        raise AssertionError("there is no message")


async def send(
    smtp: SMTP, subject: str, size: int = SMALL, delivery: Delivery[Any] | None = None
) -> Receipt:
    options: SendOptions = {} if delivery is None else {"delivery": delivery}
    receipt = await smtp.sendmail("a@x.test", RECIPIENTS, message(subject, size), **options)
    assert receipt.reply.text == f"2.0.0 {subject}", "the reply to another message"
    return receipt


class Seen:
    """An observer: what has become of each message, also of those without a Delivery."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery[Any]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, MessageEvent):
            self.deliveries.append(event.delivery)


def message(subject: str, size: int = SMALL) -> bytes:
    line = b"." + b"x" * 69 + b"\r\n"
    return b"Subject: " + subject.encode() + b"\r\n\r\n" + line * (size // len(line))


def subject_of(received: Sent) -> str:
    return received.raw.partition(b"\r\n")[0].decode().removeprefix("Subject: ")
