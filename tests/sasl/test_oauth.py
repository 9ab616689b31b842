"""XOAUTH2 and OAUTHBEARER: the token, and what a server says that does not want it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp.sasl import Context, OAuthBearer, TokenMechanism, XOAuth2

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
CONTEXT = Context("server.example.com", 587, token=TOKEN)
BOTH: list[TokenMechanism] = [
    XOAuth2("user@example.com", TOKEN),
    OAuthBearer("user@example.com", TOKEN),
]
each_mechanism = pytest.mark.parametrize("mechanism", BOTH, ids=lambda m: m.name)


def test_oauthbearer_says_what_rfc_7628_has_it_say() -> None:
    # Section 4.1 of RFC 7628, for SMTP: the same as for IMAP, with port 587.
    said = OAuthBearer("user@example.com", TOKEN).start(CONTEXT).initial_response()
    assert said is not None
    assert b64encode(said) == (
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9NTg3AWF1dGg9QmVhcmVy"
        b"IHZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )


def test_xoauth2_says_what_google_has_it_say() -> None:
    token = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"
    said = XOAuth2("someuser@example.com", token).start(replace(CONTEXT, token=token))
    assert said.initial_response() == b64decode(
        "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhk"
        "SFJoZG1semRHRXVZMjl0Q2cBAQ=="
    )


def test_oauthbearer_leaves_out_what_is_not_known_and_escapes_the_name() -> None:
    said = OAuthBearer("a,b=c", "t").start(Context("h", token="t")).initial_response()
    assert said == b"n,a=a=2Cb=3Dc,\x01host=h\x01auth=Bearer t\x01\x01"


@pytest.mark.parametrize(("mechanism", "dummy"), [(BOTH[0], b""), (BOTH[1], b"\x01")])
def test_an_error_is_answered_once_and_kept(mechanism: TokenMechanism, dummy: bytes) -> None:
    exchange = mechanism.start(CONTEXT)
    exchange.initial_response()
    # The answer to a token that is not valid in the examples of RFC 7628 section 4.
    error = b64decode(
        "eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NoZW1lcyI6ImJlYXJlciBtYWMiLCJzY29wZSI6Imh0dHBzOi8v"
        "bWFpbC5leGFtcGxlLmNvbS8ifQ=="
    )
    assert exchange.step(error) == dummy
    assert exchange.details == {
        "status": "invalid_token",
        "schemes": "bearer mac",
        "scope": "https://mail.example.com/",
    }
    assert exchange.step(b"") is None


@pytest.mark.parametrize(
    "challenge",
    [b"", b"no", b"[1]", b'"x"', b"{", b"\xff\xfe", b"[" * 9000, b'{"a":' * 2000, b"1" * 9000],
)
@each_mechanism
def test_an_error_that_is_no_json_object_is_answered_too(
    mechanism: TokenMechanism, challenge: bytes
) -> None:
    exchange = mechanism.start(CONTEXT)
    assert exchange.step(challenge) is not None
    assert exchange.details is None


@given(st.recursive(st.text() | st.integers() | st.none(), lambda j: st.dictionaries(st.text(), j)))
def test_whatever_object_the_server_sends_is_kept(said: object) -> None:
    exchange = BOTH[0].start(CONTEXT)
    exchange.step(json.dumps(said).encode())
    assert exchange.details == (said if isinstance(said, dict) else None)


async def get_token() -> str:
    raise AssertionError("an exchange fetches nothing")


@pytest.mark.parametrize("kind", [XOAuth2, OAuthBearer])
def test_a_token_is_text_or_something_that_gets_it(kind: type[XOAuth2] | type[OAuthBearer]) -> None:
    assert kind("u", get_token, refresh=get_token).refresh is get_token
    with pytest.raises(ValueError, match=r"^the token is empty$"):
        kind("u", "")
    with pytest.raises(ValueError, match=r"^token of more than 9000 octets$"):
        kind("u", "x" * 9001)
    with pytest.raises(TypeError, match=r"^token is a str, not int$"):
        kind("u", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"^refresh is an async function$"):
        kind("u", "t", refresh="t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@each_mechanism
def test_a_token_that_was_fetched_is_looked_at_too(mechanism: TokenMechanism) -> None:
    with pytest.raises(ValueError, match=r"^control character in token$"):
        mechanism.start(Context(token="a\x01auth=Bearer b"))
    with pytest.raises(ValueError, match=r"^the token is empty$"):
        mechanism.start(Context(token=""))
    with pytest.raises(TypeError, match=r"^the context has no token$"):
        mechanism.start(Context())
