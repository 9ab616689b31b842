"""PLAIN and LOGIN: what they say, and that they do not show it."""

from __future__ import annotations

import pickle

import pytest

from anysmtp.sasl import Login, Mechanism, Plain

MECHANISMS: list[Mechanism] = [Plain("tim", "tanstaaf"), Login("tim", "tanstaaf")]
each_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda m: m.name)
CONTROLS = [*map(chr, range(32)), "\x7f"]


@pytest.mark.parametrize(
    ("mechanism", "said"),
    [
        # The examples of RFC 4616 section 4.
        (Plain("tim", "tanstaaftanstaaf"), b"\0tim\0tanstaaftanstaaf"),
        (Plain("Kurt", "xipj3plmq", "Ursel"), b"Ursel\0Kurt\0xipj3plmq"),
        (Plain("jörg", "pässwörd"), "\0jörg\0pässwörd".encode()),
        (Plain("", ""), b"\0\0"),
    ],
)
def test_plain_says_all_at_once(mechanism: Plain, said: bytes) -> None:
    exchange = mechanism.start()
    assert exchange.initial_response() == said
    assert exchange.step(b"") is None
    exchange.finish()


@pytest.mark.parametrize("challenge", [b"Password:", b"Password\0", b"", b"\xff"])
def test_login_says_the_name_first_and_the_password_when_asked(challenge: bytes) -> None:
    exchange = Login("jörg", "pässwörd").start()
    assert exchange.initial_response() == "jörg".encode()
    assert exchange.step(challenge) == "pässwörd".encode()
    assert exchange.step(challenge) is None
    exchange.finish()


@each_mechanism
def test_each_login_starts_anew(mechanism: Mechanism) -> None:
    said = [mechanism.start().initial_response() for _ in range(2)]
    assert said[0] == said[1]


@each_mechanism
def test_the_password_is_not_shown(mechanism: Mechanism) -> None:
    shown = f"{mechanism!r} {mechanism} {mechanism.start()!r} {[mechanism]}"
    assert "tanstaaf" not in shown
    assert repr(mechanism) == f"<{type(mechanism).__name__} ***>"


@each_mechanism
def test_whoever_listens_learns_the_password(mechanism: Mechanism) -> None:
    assert mechanism.needs_encryption
    assert mechanism.name == type(mechanism).__name__.upper()


@each_mechanism
def test_it_is_a_value_that_does_not_change(mechanism: Mechanism) -> None:
    assert pickle.loads(pickle.dumps(mechanism)) == mechanism
    with pytest.raises(AttributeError):
        mechanism.name = "OTHER"


@pytest.mark.parametrize("control", CONTROLS)
def test_no_credential_has_a_control_character(control: str) -> None:
    bad = f"secret{control}word"
    for make, name in (
        (lambda: Plain(bad, "x"), "username"),
        (lambda: Plain("x", bad), "password"),
        (lambda: Plain("x", "x", bad), "authzid"),
        (lambda: Login(bad, "x"), "username"),
        (lambda: Login("x", bad), "password"),
    ):
        with pytest.raises(ValueError, match=f"^control character in {name}$"):
            make()


@pytest.mark.parametrize("kind", [Plain, Login])
def test_a_credential_that_is_no_text_is_an_error(kind: type[Plain] | type[Login]) -> None:
    with pytest.raises(TypeError, match=r"^password is a str, not bytes$"):
        kind("tim", b"tanstaaf")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^username cannot be encoded as UTF-8$") as caught:
        kind("tim\ud800", "tanstaaf")
    assert caught.value.__suppress_context__
