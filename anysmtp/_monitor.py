"""Where everything that happens is told: the log, the counts, and the user's observer.

One line at INFO for each connection that was opened or lost and for each message; a WARNING for a
message that was refused in part. No addresses, and so no reply of a server, at INFO and above.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ._delivery import Delivery, Outcome
from ._envelope import Receipt
from .errors import SMTPException
from .events import (
    CloseEvent,
    ConnectEvent,
    Event,
    LoginEvent,
    MessageEvent,
    Observer,
    RetryEvent,
    TLSEvent,
)

_log = logging.getLogger("anysmtp")
# A program that has not set up logging does not get our warnings on its standard error.
_log.addHandler(logging.NullHandler())


class Since:
    """A moment, by the clock on the wall and by one that is never set back."""

    __slots__ = ("steady", "wall")

    def __init__(self) -> None:
        self.wall = time.time()
        self.steady = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.steady


class Monitor:
    """The log, the counts and the observer of one client, or of one connection."""

    def __init__(self, server: str, observer: Observer | None = None) -> None:
        self._server = server
        self._observer = observer
        self.opened = 0
        self.failed = 0
        self.lost = 0
        self.retries = 0
        self.messages: dict[Outcome, int] = dict.fromkeys(_OUTCOMES, 0)

    @contextmanager
    def connecting(self) -> Generator[None, None, None]:
        """Stands around the opening of a connection."""
        since = Since()
        try:
            yield
        except BaseException as error:
            self.failed += 1
            self._tell(ConnectEvent, since, error)
            raise
        self.opened += 1
        self._tell(ConnectEvent, since)

    @contextmanager
    def logging_in(self) -> Generator[None, None, None]:
        """Stands around a login."""
        since = Since()
        try:
            yield
        except BaseException as error:
            self._tell(LoginEvent, since, error)
            raise
        self._tell(LoginEvent, since)

    def encrypted(self, since: Since, version: str, cipher: str, *, is_resumed: bool) -> None:
        """TLS was put on a connection."""
        self._tell(TLSEvent, since, version=version, cipher=cipher, is_resumed=is_resumed)

    def not_encrypted(self, since: Since, error: BaseException) -> None:
        """A TLS handshake failed, or was cancelled."""
        self._tell(TLSEvent, since, error)

    def connected(self, version: str) -> None:
        _log.info("connected to %s (%s)", self._server, version)

    def accepted(
        self,
        receipt: Receipt,
        keys: list[str],
        octets: int | None,
        delivery: Delivery[Any],
        since: Since,
    ) -> None:
        """A send has ended with a Receipt; ``keys``, whom it was for."""
        refused = sum(key in receipt.refused for key in keys) if receipt.refused else 0
        if refused:
            _log.warning("%s refused %d of %d recipients", receipt.server, refused, len(keys))
        _log.info("%s accepted %s octets for %d", receipt.server, octets, len(keys) - refused)
        self._ended(delivery, "refused" if refused else "accepted", octets, since)

    def accepted_whole(
        self,
        server: str,
        recipients: int,
        octets: int,
        delivery: Delivery[Any],
        since: Since | None,
    ) -> None:
        """A send has ended, and nobody was refused; for ``since`` see `since`."""
        _log.info("%s accepted %s octets for %d", server, octets, recipients)
        if since is None:
            self.messages["accepted"] += 1
        else:
            self._ended(delivery, "accepted", octets, since)

    def since(self) -> Since | None:
        """Now, if anybody is told how long things take."""
        return None if self._observer is None else Since()

    def failed_to_send(
        self,
        error: BaseException,
        outcome: Outcome,
        octets: int | None,
        delivery: Delivery[Any],
        since: Since,
    ) -> None:
        """A send has ended with an exception."""
        _log.info("%s: %s", outcome, type(error).__name__)
        self._ended(delivery, outcome, octets, since, error)

    def will_retry(self, error: BaseException | None, attempt: int, delay: float) -> None:
        """A send was refused for now, and will be tried again."""
        self.retries += 1
        _log.info("%s: attempt %d, another one in %.3g seconds", self._server, attempt, delay)
        if self._observer is not None:
            now = time.time()
            self._emit(
                RetryEvent(
                    server=self._server, started=now, seconds=delay, error=error, attempt=attempt
                )
            )

    def again(self, reason: str) -> None:
        """A message that was not sent goes over another connection."""
        _log.info("%s: %s", self._server, reason)

    def lets_in_fewer(self, allowed: int) -> None:
        _log.info("%s lets in no more than %d connections", self._server, allowed)

    def gone(self, reason: str, since: Since, messages: int, *, is_lost: bool) -> None:
        """A connection is closed."""
        self.lost += is_lost
        level = logging.INFO if is_lost else logging.DEBUG
        _log.log(level, "connection to %s ended: %s", self._server, reason)
        self._tell(CloseEvent, since, reason=reason, is_lost=is_lost, messages=messages)

    def source_failed(self, error: Exception) -> None:
        """What a source has raised when it was not asked for more: no message's error."""
        _log.warning("the source of a message failed when it was closed", exc_info=error)

    def no_goodbye(self, error: SMTPException) -> None:
        _log.debug("%s: no good-bye: %s", self._server, error)

    def _ended(
        self,
        delivery: Delivery[Any],
        outcome: Outcome,
        octets: int | None,
        since: Since,
        error: BaseException | None = None,
    ) -> None:
        self.messages[outcome] += 1
        if self._observer is None:
            return
        self._tell(
            MessageEvent,
            since,
            error,
            delivery=delivery,
            outcome=outcome,
            octets=octets,
            accepted=len(delivery.accepted),
            refused=len(delivery.refused),
        )

    def _tell(
        self,
        kind: type[Event],
        since: Since,
        error: BaseException | None = None,
        **details: Any,
    ) -> None:
        if self._observer is not None:
            self._emit(
                kind(
                    server=self._server,
                    started=since.wall,
                    seconds=since.seconds,
                    error=error,
                    **details,
                )
            )

    def _emit(self, event: Event) -> None:
        assert self._observer is not None
        try:
            self._observer(event)
        except Exception:  # noqa: BLE001 - the user's code raises anything, and costs no message
            _log.exception("the observer failed")


_OUTCOMES: tuple[Outcome, ...] = ("accepted", "refused", "not_sent", "in_doubt")
