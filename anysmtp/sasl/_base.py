"""What every mechanism is: frozen credentials, and a fresh exchange from them for each login."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .._grammar import CONTROLS


class Exchange(ABC):
    """One login under way: challenge in, response out, no I/O (RFC 4422 section 3)."""

    def initial_response(self) -> bytes | None:
        """What the client says first; None if the server begins."""
        return None

    @abstractmethod
    def step(self, challenge: bytes) -> bytes | None:
        """The response to a challenge; None to give up the exchange (``*``).

        Octets, before and after base64. May raise SMTPAuthenticationError.
        """

    def finish(self) -> None:
        """Called after the server said that the login worked; raises if it must not be believed.

        SMTPAuthenticationError closes the connection, whatever the server said.
        """
        return


class Mechanism(ABC):
    """Credentials for one SASL mechanism; made to be shared, and never changed."""

    name: str
    """As in the server's AUTH line, in upper case."""

    needs_encryption: bool = True
    """Whether whoever can listen learns something that he can use."""

    @abstractmethod
    def start(self) -> Exchange:
        """Begin one login."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} ***>"


# RFC 4954 section 4 has 12288 octets of base64 for a response, in which PLAIN puts three of them.
_MAX_CREDENTIAL = 3000


def prepared(name: str, value: str) -> str:
    """Check one credential. ValueError for control characters; it never shows the value."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {type(value).__name__}")
    if CONTROLS.search(value):
        raise ValueError(f"control character in {name}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} cannot be encoded as UTF-8") from None
    if size > _MAX_CREDENTIAL:
        raise ValueError(f"{name} of more than {_MAX_CREDENTIAL} octets")
    return value
