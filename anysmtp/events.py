"""What a client tells an observer: values, one for each thing that has happened.

``SMTP(..., observer=function)`` has the function called with each event as it ends, in the task in
which it happened, so that what is current there (a span, a context variable) is its parent. It must
not wait. An exception that it raises is logged, and changes nothing.

    Event
    ├── ConnectEvent   a connection was opened, or could not be
    ├── TLSEvent       a TLS handshake
    ├── LoginEvent     a login
    ├── MessageEvent   a send has ended, whatever became of it
    ├── RetryEvent     a send will be tried again
    └── CloseEvent     a connection is gone
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ._delivery import Delivery, Outcome

__all__ = [
    "CloseEvent",
    "ConnectEvent",
    "Event",
    "LoginEvent",
    "MessageEvent",
    "Observer",
    "RetryEvent",
    "TLSEvent",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened, from when to when."""

    server: str
    """The server, as ``"smtp.example.com:587"``."""
    started: float
    """When it began, in seconds since the epoch (``time.time()``)."""
    seconds: float
    """How long it took, by a clock that is never set back."""
    error: BaseException | None = None
    """Why it failed, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectEvent(Event):
    """A connection was opened, from the name look-up to the login; or could not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSEvent(Event):
    """A TLS handshake."""

    version: str | None = None
    """The version, as ``"TLSv1.3"``."""
    cipher: str | None = None
    """The cipher's name."""
    is_resumed: bool = False
    """Whether a session of an earlier connection was taken up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginEvent(Event):
    """A login (RFC 4954)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEvent(Event):
    """A send has ended, with all of its transactions and attempts."""

    delivery: Delivery[Any]
    """What became of it, recipient by recipient."""
    outcome: Outcome
    """The worst of its recipients' outcomes."""
    octets: int | None = None
    """The size of the message, where it came to be serialised."""
    accepted: int = 0
    """For how many recipients the server has it."""
    refused: int = 0
    """For how many it was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent(Event):
    """A send will be tried again; ``seconds`` is how long it will wait before that."""

    attempt: int
    """Which attempt has failed, the first one being 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseEvent(Event):
    """A connection is gone; ``seconds`` is how long it was open."""

    reason: str
    """Why, in words; never with an address."""
    is_lost: bool
    """Whether that was not the client's own decision."""
    messages: int
    """How many mail transactions were begun on it."""


Observer: TypeAlias = Callable[[Event], None]
"""What is called with each event."""
