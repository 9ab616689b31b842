"""A program run against an outbox, and against a client with a server: both have to say the same.

A program says what it saw in values that do not name the server. What goes wrong is asked of the
outbox, and of a scripted server by `Behind`, which has the outbox's methods. What is in the outbox
afterwards has to be what the server took.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from email.message import EmailMessage
from functools import partial
from typing import Any, TypeAlias

import anyio

from anysmtp import (
    Delivery,
    Mailer,
    Reply,
    SMTPDataError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from anysmtp.testing import DROP, STALL, Act, Outbox, ScriptedServer, Sent
from support.clients import email, on_memory

A, B, C = "a@x.test", "b@x.test", "c@x.test"
KEYWORDS = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
LATER, NEVER = Reply(451, "4.3.0 later"), Reply(554, "5.7.1 never")


POINTS: dict[type[SMTPException], str] = {
    SMTPSenderRefused: "MAIL",
    SMTPRecipientsRefused: "RCPT",
    SMTPDataError: ".",
}


class Behind:
    """What goes wrong in an outbox, said to a scripted server."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def refuse(self, address: str, reply: str = "550 5.1.1 no such user") -> None:
        self._server.script[f"RCPT TO:<{address}>"] = reply

    def fail_next(self, error: SMTPException, times: int = 1) -> None:
        if isinstance(error, SMTPServerDisconnected):
            self._next("MAIL", DROP, times)
        else:
            self._next(POINTS[type(error)], Act(str(error.reply)), times)

    def doubt_next(self, times: int = 1) -> None:
        self._next(".", DROP, times)

    def stall_next(self, times: int = 1, *, after_message: bool = False) -> None:
        self._next("." if after_message else "MAIL", STALL, times)

    def _next(self, point: str, act: Act, times: int) -> None:
        self._server.script[point] = [act] * times


Faults: TypeAlias = Outbox | Behind
Program: TypeAlias = Callable[[Any, Any], Awaitable[object]]


async def compare(program: Program, **options: Any) -> list[Sent]:
    """Run it against both, and return what was sent."""
    keywords: Sequence[str] = options.pop("keywords", KEYWORDS)
    outbox = Outbox(keywords=keywords, **options)
    async with outbox:
        said = await program(outbox, outbox)
    async with ScriptedServer(keywords=keywords) as server, on_memory(server, **options) as smtp:
        expected = await program(smtp, Behind(server))
    assert said == expected
    assert [*outbox] == server.messages
    return [*outbox]


def known(delivery: Delivery[Any]) -> tuple[object, ...]:
    """All that a Delivery says, but for the server's name."""
    return (
        *(delivery.key, delivery.phase, delivery.outcome, delivery.may_retry),
        *(delivery.accepted, delivery.refused, delivery.in_doubt, delivery.not_sent),
        *(delivery.retry_recipients, delivery.message_id),
        *(delivery.bytes_sent, delivery.bytes_total),
        told(delivery.exception()),
    )


def told(error: BaseException | None) -> tuple[object, ...]:
    """All that an exception says, but for the server's name."""
    if not isinstance(error, SMTPException):
        return type(error), str(error)
    return type(error), error.reply, error.command, error.outcome, error.may_retry


async def seen(send: Callable[[], Awaitable[Any]], delivery: Delivery[Any]) -> list[object]:
    """What a send came to, within a minute."""
    error: BaseException | None = None
    with anyio.move_on_after(60):
        try:
            await send()
        except Exception as caught:  # noqa: BLE001 - it is looked at by the test
            error = caught
    return [told(error), known(delivery)]


async def try_to_send(mailer: Mailer, count: int = 1, **options: Any) -> list[object]:
    """Send a message object to two, so many times; each with a Delivery of its own."""
    facts: list[object] = []
    for _ in range(count):
        delivery = Delivery()
        send = partial(mailer.send_message, letter(), delivery=delivery, **options)
        facts += await seen(send, delivery)
    return facts


def letter(**fields: str) -> EmailMessage:
    date = "Sun, 22 Nov 2026 12:00:00 +0000"
    return email(To=f"Bob <{B}>, {C}", Date=date, Message_ID="<1@x.test>", **fields)
