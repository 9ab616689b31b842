"""What is still to be sent of one message: transaction after transaction, try after try.

One send is one transaction, as a rule. It is more where the server takes fewer recipients in one
than the message has, and where a `Retry` is asked for. `Attempts` says after each transaction
whether another one follows, for whom, and after how long; who runs them, and on which
connection, is not its affair. Whoever has the message, or may have it, is in none that follows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from ._delivery import Ledger
from ._envelope import Job, Receipt
from .errors import (
    SMTPDataError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    is_final,
)

# What a server says about a message, as opposed to what becomes of the connection.
_REFUSALS = (SMTPSenderRefused, SMTPRecipientsRefused, SMTPDataError)
# A delay is between this part of what it could be and the whole, so that clients that were refused
# together do not come back together.
_LEAST_PART = 0.5


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often, and after how many seconds, a client sends again what may be sent again.

    ``attempts`` counts the first one too. The n-th pause has ``base * factor ** (n - 1)`` seconds,
    ``max_delay`` at most, of which a random part of up to a half is left out. Only recipients
    that were refused for now (4yz), or to whom nothing was sent, are tried again; nobody is if the
    message is in doubt for anybody. ValueError for numbers that make no sense.
    """

    attempts: int
    """How many times a message is tried in all."""
    base: float
    """Seconds before the second attempt."""
    factor: float
    """By how much each pause is longer than the one before."""
    max_delay: float
    """The longest pause, in seconds."""

    def __init__(
        self, attempts: int = 3, *, base: float = 1, factor: float = 4, max_delay: float = 300
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int):
            raise TypeError(f"attempts is a number of attempts, not {attempts!r}")
        if attempts < 1:
            raise ValueError(f"attempts is 1 or more, not {attempts}")
        for name, value, least in (
            ("base", base, 0),
            ("factor", factor, 1),
            ("max_delay", max_delay, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} is a number, not {value!r}")
            if not least <= value < float("inf"):
                raise ValueError(f"{name} is {least} or more, not {value!r}")
        object.__setattr__(self, "attempts", attempts)
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "max_delay", max_delay)

    def delay(self, attempt: int) -> float:
        """Seconds to wait after this attempt, the first one being 1."""
        try:
            whole = min(self.base * self.factor ** (attempt - 1), self.max_delay)
        except OverflowError:
            whole = self.max_delay if self.base else 0.0
        return whole * random.uniform(_LEAST_PART, 1)


class Attempts:
    """The transactions of one send."""

    __slots__ = (
        "_asked",
        "_error",
        "_groups",
        "_keys",
        "_ledger",
        "_retry",
        "_tries",
        "_whole",
        "delay",
        "job",
    )

    def __init__(self, job: Job, ledger: Ledger, retry: Retry | None) -> None:
        self.job = job
        """What the next transaction is for."""
        self.delay = 0.0
        """Seconds to wait before it."""
        self._whole = job
        self._ledger = ledger
        self._retry = retry
        self._keys = frozenset(recipient.given for recipient in job.recipients)
        self._tries = 1
        self._groups = 1
        self._error: SMTPException | None = None
        self._asked: tuple[str, ...] = ()

    @property
    def tries(self) -> int:
        """How many times the message was tried."""
        return self._tries

    def another(self, error: SMTPException | None, *, is_over: bool = False) -> bool:
        """A transaction has ended, with this error or without; whether there is another one.

        It starts with `begin`, after ``delay``. ``is_over``: nothing can be tried again.
        """
        self._error = error
        ledger = self._ledger
        if ledger.left_over and not self.job.is_spent:
            self._groups += 1
            self._narrow(ledger.left_over, 0.0)
            return True
        if is_over or not self._may_try_again(error):
            return False
        assert self._retry is not None
        delay = self._retry.delay(self._tries)
        self._tries += 1
        self._narrow(ledger.retry_keys(), delay)
        return True

    def begin(self) -> None:
        """Another transaction begins: what is known of those that it is for is not any more."""
        self._ledger.again(self._asked)

    def receipt(self) -> Receipt:
        """What all of them have come to; or the error, raised, if nobody has the message.

        So is one that says more than that somebody was refused.
        """
        error = self._error
        if error is not None:
            is_accepted = self._ledger.is_any("accepted", self._keys)
            if not is_accepted or not isinstance(error, _REFUSALS):
                raise self._of_all_groups(error)
        return self._ledger.receipt_now()

    def _may_try_again(self, error: SMTPException | None) -> bool:
        if self._retry is None or self._tries >= self._retry.attempts or is_final(error):
            return False
        if self._whole.is_spent:
            return False
        return bool(self._ledger.retry_keys()) and not self._ledger.is_any("in_doubt", self._keys)

    def _narrow(self, keys: tuple[str, ...], delay: float) -> None:
        chosen = frozenset(keys)
        self.delay = delay
        self.job = replace(
            self._whole,
            recipients=tuple(r for r in self._whole.recipients if r.given in chosen),
        )
        self._asked = keys
        self._ledger.left_over = ()
        self._ledger.phase = "waiting"

    def _of_all_groups(self, error: SMTPException) -> SMTPException:
        """Where recipients were asked for in several transactions, the error names them all."""
        if self._groups == 1 or not isinstance(error, SMTPRecipientsRefused):
            return error
        whole = SMTPRecipientsRefused(
            self._ledger.replies("refused"), server=error.server, command=error.command
        )
        whole.connection_closed = error.connection_closed
        return whole
