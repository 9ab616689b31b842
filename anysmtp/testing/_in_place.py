"""What stands in the place of a server behind an `Outbox`: its answers, and what goes wrong.

A `Conversation` takes the plan of one transaction, flight by flight, and has a server's state
(`_state`) answer each command. Neither of the two does any I/O, so all of it is done at once, but
for a `Fault` that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Literal, TypeAlias

import anyio

from .. import Extensions, Reply
from .._protocol._transaction import Transaction
from ..errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPTLSError,
)
from ._records import Sent, Transcript
from ._script import reply_of
from ._state import Own, Settings, State

NAME = "outbox"
"""What the server is called in errors and receipts."""

# With these there is no connection at all: a client raises them for a whole stream of messages.
NO_CONNECTION = (SMTPConnectError, SMTPTLSError, SMTPHeloError, SMTPAuthenticationError)
_REPLIES = (SMTPRecipientsRefused, SMTPSenderRefused, SMTPDataError)


When: TypeAlias = Literal["never", "connecting", "before", "said", "after"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one message, and when; without an error somebody waits for ever.

    In place of the connection, before the message is sent, by a reply of the server's, or after it.
    """

    when: When
    error: SMTPException | None = None

    @classmethod
    def by(cls, error: SMTPException) -> Fault:
        """What has this error come about."""
        if error.outcome == "in_doubt":
            return cls("after", error)
        if isinstance(error, NO_CONNECTION):
            return cls("connecting", error)
        is_said = isinstance(error, _REPLIES) and error.reply is not None
        return cls("said" if is_said else "before", error)

    def reply_to(self, command: str, address: str = "") -> Reply | None:
        """What the server says to this command on account of it."""
        error = self.error if self.when == "said" else None
        if isinstance(error, SMTPRecipientsRefused) and command == "RCPT":
            return error.refused.get(address) or error.reply
        if isinstance(error, SMTPSenderRefused) and command == "MAIL":
            return error.reply
        if isinstance(error, SMTPDataError) and command == ".":
            return error.reply
        return None

    async def happen(self, now: When) -> None:
        """If this is when, raise the error, or wait until the caller has waited for long enough."""
        if self.when != now:
            return
        if self.error is None:
            await anyio.sleep_forever()
        failure = copy(self.error)
        assert failure is not None
        failure.server = failure.server or NAME
        raise failure


NOTHING = Fault("never")


class Conversation:
    """Answers the commands of one transaction."""

    def __init__(self, settings: Settings, refused: Mapping[str, Reply], fault: Fault) -> None:
        self._state, _ = _greeted(settings)
        self._refused = refused
        self._fault = fault

    async def take_envelope(self, transaction: Transaction) -> None:
        """Answer flight by flight, until the envelope is settled."""
        await self._fault.happen("before")
        while flight := transaction.flight():
            for command, take in flight:
                line = command.line.decode().removesuffix("\r\n")
                take(self._do(self._state.own(line), self._instead(command.verb, line)))

    async def take_message(
        self, transaction: Transaction, raw: bytes, keep: Callable[[Sent], None]
    ) -> None:
        """Take the message that was handed over, and say so."""
        message = self._state.received(raw)
        ((point, own),) = self._state.end_of_data(message)
        reply = self._do(own, self._fault.reply_to(point))
        if message.accepted:
            keep(message)
        await self._fault.happen("after")
        transaction.take_final(reply)

    def _instead(self, verb: str, line: str) -> Reply | None:
        """What is said in the place of the server's own reply."""
        address = line.partition("<")[2].rpartition(">")[0] if verb == "RCPT" else ""
        return self._fault.reply_to(verb, address) or self._refused.get(address.lower())

    def _do(self, own: Own, instead: Reply | None) -> Reply:
        """The reply, the server's own or another one, and its effect."""
        reply = instead or reply_of(own.reply)
        if own.effect is not None and str(reply.code).startswith(own.on):
            own.effect()
        return reply


def offered(settings: Settings) -> Extensions:
    """What the server says to EHLO."""
    _, hello = _greeted(settings)
    return Extensions(reply_of(hello.reply))


def _greeted(settings: Settings) -> tuple[State, Own]:
    """A server that has heard EHLO, and its answer."""
    state = State(settings, Transcript(0))
    hello = state.own("EHLO client.example.test")
    assert hello.effect is not None
    hello.effect()
    return state, hello
