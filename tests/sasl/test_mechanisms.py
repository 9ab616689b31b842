"""Every mechanism says what its RFC has it say; and what they all have in common."""

from __future__ import annotations

import pickle
from base64 import b64decode
from collections.abc import Callable

import pytest

from anysmtp.sasl import (
    Anonymous,
    Context,
    CramMD5,
    Exchange,
    External,
    Gssapi,
    Login,
    Mechanism,
    Ntlm,
    OAuthBearer,
    Plain,
    ScramSHA1,
    ScramSHA1Plus,
    ScramSHA256,
    ScramSHA256Plus,
    ScramSHA512,
    ScramSHA512Plus,
    Spnego,
    XOAuth2,
)

CONTEXT = Context("mail.example.test", 587, token="tanstaaf")
MECHANISMS: list[Mechanism] = [
    Anonymous("tanstaaf"),
    CramMD5("tim", "tanstaaf"),
    External("tanstaaf"),
    Gssapi("tim", "tanstaaf"),
    Login("tim", "tanstaaf"),
    Ntlm("tim", "tanstaaf"),
    OAuthBearer("tim", "tanstaaf"),
    Plain("tim", "tanstaaf"),
    ScramSHA1("tim", "tanstaaf"),
    ScramSHA1Plus("tim", "tanstaaf"),
    ScramSHA256("tim", "tanstaaf"),
    ScramSHA256Plus("tim", "tanstaaf"),
    ScramSHA512("tim", "tanstaaf"),
    ScramSHA512Plus("tim", "tanstaaf"),
    Spnego("tim", "tanstaaf"),
    XOAuth2("tim", "tanstaaf"),
]
each_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda m: m.name)

# Whether a listener learns nothing that he can use, and what the channel must give.
IN_CLEAR = {"ANONYMOUS", "EXTERNAL", "GSSAPI", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"}


@pytest.mark.parametrize(
    ("mechanism", "said"),
    [
        # The examples of RFC 4616 section 4.
        (Plain("tim", "tanstaaftanstaaf"), b"\0tim\0tanstaaftanstaaf"),
        (Plain("Kurt", "xipj3plmq", "Ursel"), b"Ursel\0Kurt\0xipj3plmq"),
        # RFC 4954 section 4.1.
        (Plain("test", "1234", "test"), b64decode("dGVzdAB0ZXN0ADEyMzQ=")),
        # What was typed: U+00AA is not made an "a".
        (Plain("\u00aa", "pässwörd"), "\0\u00aa\0pässwörd".encode()),
        # RFC 4505 section 4, RFC 4422 appendix A.2.
        (Anonymous("sirhc"), b64decode("c2lyaGM=")),
        (Anonymous(), b""),
        (External("fred@example.com"), b"fred@example.com"),
        (External(), b""),
    ],
)
def test_it_says_all_at_once(mechanism: Mechanism, said: bytes) -> None:
    exchange = mechanism.start(CONTEXT)
    assert exchange.initial_response() == said
    assert exchange.step(b"") is None
    exchange.finish()


@pytest.mark.parametrize("challenge", [b"Password:", b"Password\0", b"", b"\xff"])
def test_login_says_the_name_first_and_the_password_when_asked(challenge: bytes) -> None:
    exchange = Login("jörg", "pässwörd").start(CONTEXT)
    assert exchange.initial_response() == "jörg".encode()
    assert exchange.step(challenge) == "pässwörd".encode()
    assert exchange.step(challenge) is None
    exchange.finish()


def test_cram_md5_hashes_the_challenge() -> None:
    # RFC 2195 section 3.
    exchange = CramMD5("tim", "tanstaaftanstaaf").start(CONTEXT)
    assert exchange.initial_response() is None
    response = exchange.step(b"<1896.697170952@postoffice.reston.mci.net>")
    assert response == b"tim b913a602c7eda7a495b4e6e7334d3890"


def test_cram_md5_hashes_one_challenge_only() -> None:
    exchange = CramMD5("tim", "tanstaaf").start(CONTEXT)
    exchange.step(b"first")
    assert exchange.step(b"second") is None


@each_mechanism
def test_nothing_of_it_is_shown(mechanism: Mechanism) -> None:
    shown = f"{mechanism!r} {mechanism} {mechanism.start(CONTEXT)!r} {[mechanism]} {CONTEXT!r}"
    assert "tansta" not in shown
    assert repr(mechanism) == f"<{type(mechanism).__name__} ***>"


@each_mechanism
def test_it_is_a_value_that_does_not_change(mechanism: Mechanism) -> None:
    assert pickle.loads(pickle.dumps(mechanism)) == mechanism
    assert hash(mechanism) == hash(mechanism)
    for name in ("username", "authzid", "trace", "name", "more"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(mechanism, name, "other")


@each_mechanism
def test_each_login_starts_anew(mechanism: Mechanism) -> None:
    first, second = (mechanism.start(CONTEXT) for _ in range(2))
    assert first is not second


@each_mechanism
def test_what_may_cross_a_network_in_clear_is_known(mechanism: Mechanism) -> None:
    bound = mechanism.name.endswith("-PLUS")
    assert (not mechanism.needs_encryption) == (mechanism.name in IN_CLEAR or bound)
    assert bool(mechanism.binds_to) == bound


def test_equal_credentials_of_two_mechanisms_are_two_values() -> None:
    mechanisms = [m for m in MECHANISMS if isinstance(m, (ScramSHA1, ScramSHA256, ScramSHA1Plus))]
    assert len(set(mechanisms)) == 3


BAD: list[tuple[str, Callable[[str], Mechanism]]] = [
    ("username", lambda bad: Plain(bad, "x")),
    ("password", lambda bad: Plain("x", bad)),
    ("authzid", lambda bad: Plain("x", "x", bad)),
    ("username", lambda bad: Login(bad, "x")),
    ("password", lambda bad: Login("x", bad)),
    ("username", lambda bad: CramMD5(bad, "x")),
    ("password", lambda bad: CramMD5("x", bad)),
    ("username", lambda bad: ScramSHA256(bad, "x")),
    ("password", lambda bad: ScramSHA256("x", bad)),
    ("username", lambda bad: XOAuth2(bad, "x")),
    ("token", lambda bad: XOAuth2("x", bad)),
    ("username", lambda bad: OAuthBearer(bad, "x")),
    ("token", lambda bad: OAuthBearer("x", bad)),
    ("authzid", External),
    ("trace", Anonymous),
    ("username", Spnego),
    ("password", lambda bad: Ntlm("x", bad)),
    ("hostname", lambda bad: Gssapi(hostname=bad)),
    ("authzid", lambda bad: Gssapi(authzid=bad)),
]


@pytest.mark.parametrize("control", [*map(chr, range(32)), "\x7f"])
@pytest.mark.parametrize(("name", "make"), BAD)
def test_no_credential_has_a_control_character(
    name: str, make: Callable[[str], Mechanism], control: str
) -> None:
    with pytest.raises(ValueError, match=f"^control character in {name}$"):
        make(f"tanst{control}aaf")


@pytest.mark.parametrize(("name", "make"), BAD)
def test_a_credential_that_has_no_utf_8_is_an_error(
    name: str, make: Callable[[str], Mechanism]
) -> None:
    with pytest.raises(ValueError, match=f"^{name} cannot be encoded as UTF-8$") as caught:
        make("tanst\ud800aaf")
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("name", "make"), BAD)
def test_a_credential_that_is_no_text_is_an_error(name: str, make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=f"^{name} is a str, not bytes$"):
        make(b"tanstaaf")


def test_anonymous_has_a_short_trace_of_plain_words() -> None:
    Anonymous("x" * 255)
    with pytest.raises(ValueError, match=r"^trace of 256 characters, 255 allowed$"):
        Anonymous("x" * 256)
    with pytest.raises(ValueError, match=r"^trace has a character that stringprep"):
        Anonymous("sirhc\ue000")


class Own(Mechanism):
    name = "OWN"

    def start(self, context: Context) -> Exchange:
        return Silent()


class Silent(Exchange):
    def step(self, challenge: bytes) -> bytes | None:
        return None


def test_a_mechanism_of_ones_own_needs_a_name_and_an_exchange_that_steps() -> None:
    own = Own()
    exchange = own.start(CONTEXT)
    assert exchange.initial_response() is None
    assert exchange.step(b"") is None
    exchange.finish()
    assert not exchange.is_slow
    assert own.needs_encryption
    assert repr(own) == "<Own ***>"
