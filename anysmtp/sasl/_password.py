"""PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login) and CRAM-MD5 (RFC 2195).

The first two give the server the password itself. CRAM-MD5 gives it a keyed hash of the password
and a challenge, which a listener can try passwords on at the speed of MD5; so it crosses a network
in clear no more than they do. All three use the octets of what was typed, not a prepared form: see
`_stringprep`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from ._base import Context, Exchange, Mechanism, prepared

_PROOF = "user name or password"


@dataclass(frozen=True, slots=True, repr=False)
class Plain(Mechanism):
    """PLAIN (RFC 4616). ``authzid`` is whom to act as, where that is not the user himself.

    ValueError for control characters.
    """

    username: str
    password: str
    authzid: str = ""

    name = "PLAIN"
    proof = _PROOF

    def __post_init__(self) -> None:
        prepared("authzid", self.authzid)
        prepared("username", self.username)
        prepared("password", self.password)

    def start(self, context: Context) -> Exchange:
        return Scripted(f"{self.authzid}\0{self.username}\0{self.password}")


@dataclass(frozen=True, slots=True, repr=False)
class Login(Mechanism):
    """LOGIN: for servers that offer nothing else. ValueError for control characters."""

    username: str
    password: str

    name = "LOGIN"
    proof = _PROOF

    def __post_init__(self) -> None:
        prepared("username", self.username)
        prepared("password", self.password)

    def start(self, context: Context) -> Exchange:
        # The challenges are not compared to anything: servers word them differently, and a
        # client that asked for LOGIN says its name first and its password second.
        return Scripted(self.username, self.password)


@dataclass(frozen=True, slots=True, repr=False)
class CramMD5(Mechanism):
    """CRAM-MD5 (RFC 2195). ValueError for control characters."""

    username: str
    password: str

    name = "CRAM-MD5"
    proof = _PROOF

    def __post_init__(self) -> None:
        prepared("username", self.username)
        prepared("password", self.password)

    def start(self, context: Context) -> Exchange:
        return _Hashed(self.username, self.password)


class Scripted(Exchange):
    """Speaks first, and says one thing more at each challenge, whatever that is."""

    def __init__(self, *script: str) -> None:
        self._script = list(script)

    def initial_response(self) -> bytes | None:
        return self._script.pop(0).encode()

    def step(self, challenge: bytes) -> bytes | None:
        return self._script.pop(0).encode() if self._script else None


class _Hashed(Exchange):
    """Answers one challenge, and no second one."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password: str | None = password

    def step(self, challenge: bytes) -> bytes | None:
        if self._password is None:
            return None
        digest = keyed_md5(self._password.encode(), challenge)
        self._password = None
        return f"{self._username} {digest.hex()}".encode()


def keyed_md5(key: bytes, message: bytes) -> bytes:
    """HMAC-MD5. ValueError where this machine's policy (FIPS) forbids MD5."""
    return hmac.digest(key, message, "md5")
