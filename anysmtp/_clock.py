"""Timeouts: how long the client waits for the network by itself, as a safety net.

The caller's cancel scopes are the timeouts of this library; these are for those who set none. One
cancel scope stands around each call and its deadline moves with each flight, so that waiting
for a lock, for the pool or for the caller's own code is never timed, and a large message
that makes progress never expires.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, ClassVar, TypeVar

import anyio

from .errors import SMTPException, SMTPServerDisconnected, SMTPTimeoutError

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

# The part of its seconds by which a wait may be cut short. To move a deadline takes longer than
# most that is done for a message or a piece of one; those that follow at once need not do it each.
_NEGLIGIBLE = 0.001


@dataclass(frozen=True, slots=True, init=False)
class Timeouts:
    """Seconds of waiting per flight; None: no limit.

    ``command`` and ``data`` are ``default`` unless they are given. As the ``timeout`` of a client
    a bare number stands for ``default`` and ``connect``; it does not shorten ``final``, because a
    client that gives up there has mail in doubt. ValueError for numbers that are not above 0.
    """

    RFC5321: ClassVar[Timeouts]
    """The minimums of RFC 5321 section 4.5.3.2."""

    default: float | None
    """What ``command`` and ``data`` are where they are not given."""
    connect: float | None
    """DNS, TCP, TLS, greeting, EHLO and login, all together; without the time that your own code
    takes to get a token."""
    command: float | None
    """The reply to a command."""
    data: float | None
    """The reply to DATA, and the server taking the next piece of the message."""
    final: float | None
    """The reply to the end of the message."""

    def __init__(
        self,
        default: float | None = 60,
        *,
        connect: float | None = 30,
        command: float | EllipsisType | None = ...,
        data: float | EllipsisType | None = ...,
        final: float | None = 600,
    ) -> None:
        values = {
            "default": default,
            "connect": connect,
            "command": default if isinstance(command, EllipsisType) else command,
            "data": default if isinstance(data, EllipsisType) else data,
            "final": final,
        }
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field.name, values[field.name]))


def timeouts_of(timeout: Timeouts | float | None) -> Timeouts:
    """What the ``timeout`` argument of a client stands for."""
    if isinstance(timeout, Timeouts):
        return timeout
    if timeout is None:
        return Timeouts(None, connect=None, final=None)
    _checked("timeout", timeout)
    return Timeouts(timeout, connect=timeout, final=max(timeout, 600))


def seconds_for(timeouts: Timeouts, verb: str) -> float | None:
    """Seconds for the reply to a command of the state tables."""
    if verb in (".", "BDAT LAST"):
        return timeouts.final
    if verb == "greeting":
        return timeouts.connect
    return timeouts.data if verb == "DATA" else timeouts.command


def _checked(name: str, seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} is a number of seconds or None, not {seconds!r}")
    if not seconds > 0:
        raise ValueError(f"{name} must be above 0 seconds, not {seconds!r}")
    return seconds


DEFAULT = Timeouts()
Timeouts.RFC5321 = Timeouts(300, connect=300, command=300, data=180, final=600)


class Clock:
    """The cancel scope around one call; entered once.

    Leaving it by its own deadline raises SMTPTimeoutError; by `abort`, SMTPServerDisconnected. An
    expiry or cancellation of the caller's passes through, also when both come together.
    """

    __slots__ = (
        "_aborted",
        "_held",
        "_is_fresh",
        "_is_running",
        "_scope",
        "_seconds",
        "_server",
        "_started",
        "began",
        "hint",
        "waiting_for",
    )

    def __init__(self, server: str, seconds: float | None = None) -> None:
        """``seconds``: those of the first flight, if it may well leave at once: they run already,
        and the deadline need not be moved for it.
        """
        self._server = server
        self._held = False
        self._is_running = self._is_fresh = seconds is not None
        self._aborted: str | None = None
        self.waiting_for: str = ""
        """What the seconds are for."""
        self._seconds: float = seconds or 0.0
        self.began: float = anyio.current_time()
        """When it was made, in the event loop's time."""
        self._started: float = self.began
        self._scope = anyio.CancelScope(
            deadline=math.inf if seconds is None else self.began + seconds
        )
        self.hint: str = ""
        """What to tell the user if the deadline passes."""

    def start(self, seconds: float | None, waiting_for: str) -> None:
        """From now on, so many seconds for this; no effect while the clock is held."""
        self.waiting_for = waiting_for
        if self._is_fresh and seconds == self._seconds:
            self._is_fresh = False
        elif seconds is None:
            self.stop()
        elif not self._held:
            now = anyio.current_time()
            is_same = self._is_running and seconds == self._seconds
            if is_same and now - self._started < seconds * _NEGLIGIBLE:
                return
            self._is_fresh = False
            self._started, self._seconds = now, seconds
            self._is_running = True
            self._scope.deadline = now + seconds

    def stop(self) -> None:
        """What follows is not timed."""
        # The seconds are kept: a deadline that has just passed may be felt only after this.
        if self._is_running and not self._held:
            self._is_running = self._is_fresh = False
            self._scope.deadline = math.inf

    def hold(self, seconds: float | None, waiting_for: str) -> None:
        """So many seconds for all that follows until `release`, which may be several flights."""
        self.start(seconds, waiting_for)
        self._held = True

    def release(self) -> None:
        self._held = False
        self.stop()

    @property
    def has_expired(self) -> bool:
        """Whether the deadline has passed, or the call was aborted: what waits is cancelled."""
        return self._scope.cancel_called

    async def untimed(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work of the caller's; what is left of the deadline is left afterwards too."""
        left = self._scope.deadline - anyio.current_time()
        self._scope.deadline = math.inf
        try:
            return await work()
        finally:
            self._scope.deadline = anyio.current_time() + left

    def abort(self, reason: str) -> None:
        """End the call now: what waits in it is cancelled."""
        self._aborted = reason
        self._scope.cancel()

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What it returns says less: trio's says yes where there was no exception at all.
        self._scope.__exit__(exc_type, exc, traceback)
        if self._scope.cancelled_caught:
            raise self._error() from None

    def _error(self) -> SMTPException:
        if self._aborted is not None:
            return SMTPServerDisconnected(
                self._aborted, server=self._server, connection_closed=True
            )
        return SMTPTimeoutError(
            f"nothing came within {self._seconds:g} seconds{self.hint}",
            server=self._server,
            command=self.waiting_for,
            connection_closed=True,
        )
