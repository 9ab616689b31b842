"""What every mechanism is: frozen credentials, and a fresh exchange from them for each login."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .._grammar import CONTROLS

Token: TypeAlias = str | Callable[[], Awaitable[str]]
"""An OAuth access token, or what gets one: an async function without arguments."""

Refresh: TypeAlias = Callable[[], Awaitable[str]]
"""What gets another token after the server refused one."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a connection knows at the moment of a login, for the exchange."""

    hostname: str = "localhost"
    """The server's name, as the client was given it."""
    port: int | None = None
    """The server's TCP port; None if it is not known, or there is none."""
    service: str = "smtp"
    """The service name of the protocol (RFC 4954 section 4)."""
    offered: tuple[str, ...] = ()
    """The mechanisms that the server's last EHLO reply offers, in its order."""
    channel_bindings: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    """What identifies the TLS channel, by the type of channel binding (RFC 5056); empty without
    TLS. The types are ``tls-unique``, ``tls-server-end-point`` (RFC 5929) and ``tls-exporter``
    (RFC 9266), each where there is one."""
    token: str | None = field(default=None, repr=False)
    """The token that was fetched for this login, for a `TokenMechanism`."""


class Exchange(ABC):
    """One login under way: challenge in, response out, no I/O (RFC 4422 section 3).

    What goes in and comes out are octets, before and after base64. Each method may raise
    SMTPAuthenticationError, which closes the connection.
    """

    is_slow: bool = False
    """Whether the methods take long, and are called in a worker thread."""

    details: Mapping[str, Any] | None = None
    """What the server said about its refusal, for the exception."""

    def initial_response(self) -> bytes | None:
        """What the client says first; None if the server begins."""
        return None

    @abstractmethod
    def step(self, challenge: bytes) -> bytes | None:
        """The response to a challenge; None to give up the exchange (``*``)."""

    def finish(self) -> None:
        """Called after the server said that the login worked; raises if it must not be believed."""
        return


class Mechanism(ABC):
    """Credentials for one SASL mechanism; made to be shared, and never changed."""

    # So that a frozen dataclass with slots has no dictionary in which a name could be overridden.
    __slots__ = ()

    name: str
    """As in the server's AUTH line, in upper case."""

    needs_encryption: bool = True
    """Whether whoever can listen learns something that he can use."""

    binds_to: tuple[str, ...] = ()
    """The types of channel binding of which it needs one, the best first; none: it needs none."""

    proof: str = "credentials"
    """What the server checks, in the words of an error message."""

    @abstractmethod
    def start(self, context: Context) -> Exchange:
        """Begin one login."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} ***>"


class TokenMechanism(Mechanism):
    """A mechanism whose secret is a token, which the connection fetches before each login."""

    __slots__ = ()

    token: Token
    """The token, or an async function that gets it."""

    refresh: Refresh | None
    """Called once, after the server refused the token; with what it returns there is one more
    try."""

    proof = "token"


# RFC 4954 section 4 has 12288 octets of base64 for a response, in which PLAIN puts three of them.
# A token stands there nearly alone.
_MAX_CREDENTIAL = 3000
MAX_TOKEN = 9000


def prepared(name: str, value: str, limit: int = _MAX_CREDENTIAL) -> str:
    """Check one credential. ValueError for control characters; it never shows the value."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {type(value).__name__}")
    if CONTROLS.search(value):
        raise ValueError(f"control character in {name}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} cannot be encoded as UTF-8") from None
    if size > limit:
        raise ValueError(f"{name} of more than {limit} octets")
    return value
