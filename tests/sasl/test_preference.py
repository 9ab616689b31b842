"""Which mechanisms a user name and a password are good for, and which of them are tried."""

from __future__ import annotations

import pytest

from anysmtp.sasl import Context, Plain, ScramSHA1, ScramSHA1Plus, choose, from_password
from anysmtp.sasl import _choice as choice

STRONGEST_FIRST = [
    "SCRAM-SHA-512-PLUS",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-512",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "CRAM-MD5",
    "PLAIN",
    "LOGIN",
]
WITHOUT_SCRAM = STRONGEST_FIRST[6:]


def names(username: str = "tim", password: str = "tanstaaf") -> list[str]:
    return [mechanism.name for mechanism in from_password(username, password)]


def test_the_strongest_comes_first() -> None:
    assert names() == STRONGEST_FIRST


@pytest.mark.parametrize(
    ("username", "password"),
    [("tim", "\U0001f511"), ("\U0001f511", "x"), ("", "x"), ("tim", "\u0627\u0031")],
)
def test_what_saslprep_prohibits_is_for_the_others(username: str, password: str) -> None:
    assert names(username, password) == WITHOUT_SCRAM


def test_without_md5_there_is_no_cram_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(key: bytes, message: bytes) -> bytes:
        raise ValueError("[digital envelope routines] unsupported")

    monkeypatch.setattr(choice, "keyed_md5", forbidden)
    assert names() == [name for name in STRONGEST_FIRST if name != "CRAM-MD5"]


def test_what_no_mechanism_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^control character in password$"):
        from_password("tim", "a\nb")


@pytest.mark.parametrize("kind", ["tls-unique", "tls-server-end-point"])
def test_what_is_bound_to_the_channel_needs_a_channel(kind: str) -> None:
    offered = ("PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS")
    mechanisms = from_password("tim", "tanstaaf")
    assert [m.name for m in choose(mechanisms, Context(offered=offered))] == [
        "SCRAM-SHA-1",
        "PLAIN",
    ]
    bound = Context(offered=offered, channel_bindings={kind: b"x"})
    assert [m.name for m in choose(mechanisms, bound)] == [
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-1",
        "PLAIN",
    ]
    other = Context(offered=offered, channel_bindings={"tls-exporter": b"x"})
    assert choose(mechanisms, other)[0].name == "SCRAM-SHA-1"


def test_the_callers_order_counts_and_not_the_servers() -> None:
    mechanisms = [Plain("tim", "x"), ScramSHA1Plus("tim", "x"), ScramSHA1("tim", "x")]
    context = Context(offered=("SCRAM-SHA-1", "PLAIN"))
    assert choose(mechanisms, context) == [mechanisms[0], mechanisms[2]]
    assert choose(mechanisms, Context()) == []
    assert choose([], context) == []
