"""Which mechanisms a login uses, and in which order: what the server offers, the connection allows
and the caller prefers.
"""

from __future__ import annotations

from collections.abc import Iterable

from ._base import Context, Mechanism
from ._password import CramMD5, Login, Plain, keyed_md5
from ._scram import (
    Scram,
    ScramSHA1,
    ScramSHA1Plus,
    ScramSHA256,
    ScramSHA256Plus,
    ScramSHA512,
    ScramSHA512Plus,
)

_SCRAM: tuple[type[Scram], ...] = (
    ScramSHA512Plus,
    ScramSHA256Plus,
    ScramSHA1Plus,
    ScramSHA512,
    ScramSHA256,
    ScramSHA1,
)


def from_password(username: str, password: str) -> tuple[Mechanism, ...]:
    """The mechanisms that a user name and a password are enough for, the strongest first.

    Strong is what the other end, or whoever poses as it, does not learn: first what is bound to
    the channel, then what keeps the password here, by its hash; the password itself comes last.
    Left out is what cannot be used with these two: SCRAM where SASLprep prohibits a
    character, CRAM-MD5 where this machine has no MD5.
    """
    # In front, because it checks what all of them check.
    plain = Plain(username, password)
    return (
        *_scram(username, password),
        *((CramMD5(username, password),) if _has_md5() else ()),
        plain,
        # The same with a round trip more.
        Login(username, password),
    )


def choose(mechanisms: Iterable[Mechanism], context: Context) -> list[Mechanism]:
    """Those that the server offers and the channel can do, in the order that they have."""
    return [
        mechanism
        for mechanism in mechanisms
        if mechanism.name in context.offered
        and (
            not mechanism.binds_to
            or any(kind in context.channel_bindings for kind in mechanism.binds_to)
        )
    ]


def _scram(username: str, password: str) -> tuple[Mechanism, ...]:
    try:
        return tuple(kind(username, password) for kind in _SCRAM)
    except ValueError:
        return ()


def _has_md5() -> bool:
    try:
        keyed_md5(b"", b"")
    except ValueError:
        return False
    return True
