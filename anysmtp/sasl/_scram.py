"""SCRAM (RFC 5802, RFC 7677; with SHA-512 draft-melnikov-scram-sha-512), by the scramp package.

The server gets a proof that the client knows the password, and proves that it knows it too; neither
learns anything that would do for another login. The -PLUS forms prove as well that both ends
see the same TLS channel, so that nobody sits between them, whoever vouches for him.

scramp is imported when a login begins, in the worker thread in which the whole exchange runs: the
import takes 80 ms, the derivation of the key as long as the server asks for. What scramp does not
have: an identity to act as, and the channel binding tls-exporter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from ..errors import SMTPAuthenticationError
from ._base import Context, Exchange, Mechanism, prepared
from ._stringprep import saslprep

# Servers have 4096 to 20000 iterations, OWASP recommends up to 1,300,000 (Password Storage Cheat
# Sheet, 2023, for SHA-1). Two million are one or two seconds of a processor; scramp's own limits
# are ten million above, and below the 4096 of RFC 7677 section 4.
MAX_ITERATIONS = 2_000_000
_ITERATIONS = re.compile(r"(?:^|,)i=([0-9]+)(?:,|$)")

# RFC 5802 section 6.1: a server that binds at all can tls-unique, where there is one (TLS 1.2). RFC
# 9266 puts tls-exporter in its place in TLS 1.3, for which see above.
_BINDINGS = cast("tuple[str, ...]", ("tls-unique", "tls-server-end-point"))


@dataclass(frozen=True, slots=True, repr=False)
class Scram(Mechanism):
    """What the SCRAM mechanisms share: a user name and a password, prepared by SASLprep.

    ValueError for control characters, for those that SASLprep prohibits, and for an empty name.
    """

    username: str
    password: str

    needs_encryption = False
    proof = "user name or password"

    def __post_init__(self) -> None:
        if not saslprep("username", prepared("username", self.username)):
            raise ValueError("the username is empty")
        saslprep("password", prepared("password", self.password))

    def start(self, context: Context) -> Exchange:
        return _ScramExchange(self, context)


@dataclass(frozen=True, slots=True, repr=False)
class ScramSHA1(Scram):
    """SCRAM-SHA-1 (RFC 5802)."""

    name = "SCRAM-SHA-1"


@dataclass(frozen=True, slots=True, repr=False)
class ScramSHA256(Scram):
    """SCRAM-SHA-256 (RFC 7677)."""

    name = "SCRAM-SHA-256"


@dataclass(frozen=True, slots=True, repr=False)
class ScramSHA512(Scram):
    """SCRAM-SHA-512 (draft-melnikov-scram-sha-512)."""

    name = "SCRAM-SHA-512"


@dataclass(frozen=True, slots=True, repr=False)
class ScramSHA1Plus(Scram):
    """SCRAM-SHA-1-PLUS (RFC 5802): SCRAM-SHA-1 with channel binding."""

    name = "SCRAM-SHA-1-PLUS"
    binds_to = _BINDINGS


@dataclass(frozen=True, slots=True, repr=False)
class ScramSHA256Plus(Scram):
    """SCRAM-SHA-256-PLUS (RFC 7677): SCRAM-SHA-256 with channel binding."""

    name = "SCRAM-SHA-256-PLUS"
    binds_to = _BINDINGS


@dataclass(frozen=True, slots=True, repr=False)
class ScramSHA512Plus(Scram):
    """SCRAM-SHA-512-PLUS: SCRAM-SHA-512 with channel binding."""

    name = "SCRAM-SHA-512-PLUS"
    binds_to = _BINDINGS


class _ScramExchange(Exchange):
    """client-first, client-final, and the server's signature, without which nothing is believed."""

    is_slow = True

    def __init__(self, mechanism: Scram, context: Context, *, nonce: str | None = None) -> None:
        self._mechanism = mechanism
        self._binding = _channel_binding(mechanism, context)
        self._nonce = nonce
        self._client: Any = None
        self._challenges = 0
        self._is_proven = False

    def initial_response(self) -> bytes | None:
        # It takes the strongest of the names that it is given: only the one that was chosen.
        self._client = _scramp().ScramClient(
            [self._mechanism.name],
            self._mechanism.username,
            self._mechanism.password,
            channel_binding=self._binding,
            c_nonce=self._nonce,
        )
        first: str = self._client.get_client_first()
        return first.encode()

    def step(self, challenge: bytes) -> bytes | None:
        self._challenges += 1
        try:
            # Nothing that a server says here has other characters, but for extensions and errors.
            message = challenge.decode("ascii")
            if self._challenges == 1:
                return self._prove(message)
            if self._challenges == 2:
                return self._verify(message)
        except (_scramp().ScramException, UnicodeDecodeError) as error:
            reason = f"the server broke the rules of SCRAM: {error}"
            raise SMTPAuthenticationError(reason) from error
        return None

    def finish(self) -> None:
        if not self._is_proven:
            raise SMTPAuthenticationError(
                "the server said that the login worked, and did not prove that it knows the "
                "password: do not trust it"
            )

    def _prove(self, server_first: str) -> bytes:
        """server-first is nonce, salt and iterations, whose number the server may choose."""
        found = _ITERATIONS.search(server_first)
        if found and (len(found[1]) > 9 or int(found[1]) > MAX_ITERATIONS):
            raise SMTPAuthenticationError(
                f"the server asks for {found[1][:20]} iterations of SCRAM; more than "
                f"{MAX_ITERATIONS} are an attack"
            )
        self._client.set_server_first(server_first)
        final: str = self._client.get_client_final()
        return final.encode()

    def _verify(self, server_final: str) -> bytes:
        """server-final is the signature, or an error, behind which the server says 535."""
        if not server_final.startswith("e="):
            self._client.set_server_final(server_final)
            self._is_proven = True
        return b""


def _scramp() -> Any:
    """The package, which has no types."""
    return import_module("scramp")


def _channel_binding(mechanism: Scram, context: Context) -> tuple[str, bytes] | None:
    """What scramp makes the GS2 header of (RFC 5802 section 6).

    Beside a mechanism without -PLUS it means "y": that the client could bind, and believes that
    the server cannot; the server breaks off if it can, and somebody has changed what it offers.
    """
    bindings = context.channel_bindings
    found = next(((kind, bindings[kind]) for kind in _BINDINGS if kind in bindings), None)
    server_binds = any(name.endswith("-PLUS") for name in context.offered)
    return None if server_binds and not mechanism.binds_to else found
