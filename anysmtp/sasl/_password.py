"""PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login): the password itself, in clear."""

from __future__ import annotations

from dataclasses import dataclass, field

from ._base import Exchange, Mechanism, prepared


@dataclass(frozen=True, slots=True, repr=False)
class Plain(Mechanism):
    """PLAIN (RFC 4616). ``authzid`` is whom to act as, where that is not the user himself.

    ValueError for control characters.
    """

    username: str
    password: str
    authzid: str = ""
    name: str = field(default="PLAIN", init=False)
    needs_encryption: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        prepared("authzid", self.authzid)
        prepared("username", self.username)
        prepared("password", self.password)

    def start(self) -> Exchange:
        return _Scripted(f"{self.authzid}\0{self.username}\0{self.password}")


@dataclass(frozen=True, slots=True, repr=False)
class Login(Mechanism):
    """LOGIN: for servers that offer nothing else. ValueError for control characters."""

    username: str
    password: str
    name: str = field(default="LOGIN", init=False)
    needs_encryption: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        prepared("username", self.username)
        prepared("password", self.password)

    def start(self) -> Exchange:
        # The challenges are not compared to anything: servers word them differently, and a
        # client that asked for LOGIN says its name first and its password second.
        return _Scripted(self.username, self.password)


class _Scripted(Exchange):
    """Speaks first, and says one thing more at each challenge, whatever that is."""

    def __init__(self, *script: str) -> None:
        self._script = list(script)

    def initial_response(self) -> bytes | None:
        return self._script.pop(0).encode()

    def step(self, challenge: bytes) -> bytes | None:
        return self._script.pop(0).encode() if self._script else None
