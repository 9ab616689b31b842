"""Which mechanism a login uses: what the server offers and the caller prefers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ._base import Mechanism
from ._password import Login, Plain


def from_password(username: str, password: str) -> tuple[Mechanism, ...]:
    """The mechanisms that a user name and a password are enough for, the best first."""
    return (Plain(username, password), Login(username, password))


def choose(mechanisms: Iterable[Mechanism], offered: Sequence[str]) -> list[Mechanism]:
    """Those mechanisms that the server offers, in the caller's order of preference."""
    return [mechanism for mechanism in mechanisms if mechanism.name in offered]
