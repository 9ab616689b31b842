"""NTLM, GSS-SPNEGO and GSSAPI against pyspnego's own server side.

There is no Kerberos here: the GSSAPI exchange is run on NTLM's tokens, which have all that its
second half needs. tests/servers has a real one.
"""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import spnego
from hypothesis import given
from hypothesis import strategies as st

from anysmtp import SMTPAuthenticationError
from anysmtp.sasl import Context, Exchange, Gssapi, Ntlm, Spnego

CONTEXT = Context("mail.example.test")
NAME, PASSWORD = "EXAMPLE\\tim", "tanstaaftanstaaf"


@dataclass(frozen=True, slots=True, repr=False)
class NtlmInGssapi(Gssapi):
    protocol = "ntlm"


@pytest.fixture(autouse=True)
def _accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = tmp_path / "accounts"
    accounts.write_text(f"EXAMPLE:tim:{PASSWORD}\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(accounts))


def negotiate(exchange: Exchange, server: Any) -> None:
    """Tokens back and forth until the server has what it needs."""
    token = exchange.initial_response()
    while not server.complete:
        challenge = server.step(token)
        if challenge is not None:
            token = exchange.step(challenge)


@pytest.mark.parametrize(
    ("mechanism", "protocol"),
    [(Ntlm(NAME, PASSWORD), "ntlm"), (Spnego(NAME, PASSWORD), "negotiate")],
)
def test_a_server_that_knows_the_password_is_convinced(mechanism: Spnego, protocol: str) -> None:
    server = spnego.server(protocol=protocol)
    exchange = mechanism.start(CONTEXT)
    negotiate(exchange, server)
    assert server.client_principal == NAME
    exchange.finish()
    with pytest.raises(SMTPAuthenticationError, match=f"^{mechanism.name}: "):
        exchange.step(b"more")
    assert exchange.step(b"more") is None


def test_gssapi_wants_no_security_layer() -> None:
    server = spnego.server(protocol="ntlm")
    exchange = NtlmInGssapi(NAME, PASSWORD, authzid="ursel").start(CONTEXT)
    negotiate(exchange, server)
    with pytest.raises(SMTPAuthenticationError, match="before the end of GSSAPI"):
        exchange.finish()
    # RFC 4752 section 3.1: the server can do all three, with messages of up to 65536 octets.
    response = exchange.step(server.wrap(b"\x07\x01\x00\x00", encrypt=False).data)
    assert response is not None
    assert server.unwrap(response).data == b"\x01\x00\x00\x00ursel"
    exchange.finish()
    assert exchange.step(b"more") is None


@pytest.mark.parametrize("offer", [b"\x06\x01\x00\x00", b"\x01", b"", b"\x01\0\0\0\0"])
def test_a_server_that_insists_on_a_security_layer_is_refused(offer: bytes) -> None:
    server = spnego.server(protocol="ntlm")
    exchange = NtlmInGssapi(NAME, PASSWORD).start(CONTEXT)
    negotiate(exchange, server)
    with pytest.raises(SMTPAuthenticationError, match="wants a security layer"):
        exchange.step(server.wrap(offer, encrypt=False).data)


def test_an_offer_that_was_not_signed_is_an_error() -> None:
    exchange = NtlmInGssapi(NAME, PASSWORD).start(CONTEXT)
    negotiate(exchange, spnego.server(protocol="ntlm"))
    with pytest.raises(SMTPAuthenticationError, match=r"^GSSAPI: "):
        exchange.step(b"\x01\x00\x00\x00" * 8)


@pytest.mark.parametrize("mechanism", [Ntlm(NAME, PASSWORD), Spnego(NAME, PASSWORD)])
@pytest.mark.parametrize("challenge", [b"x", b"\xff" * 60, b"NTLMSSP\0\2", b"NTLMSSP\0\2\0\0\0"])
def test_garbage_is_the_servers_fault(mechanism: Spnego, challenge: bytes) -> None:
    exchange = mechanism.start(CONTEXT)
    exchange.initial_response()
    with pytest.raises(SMTPAuthenticationError, match=f"^{mechanism.name}: ") as caught:
        exchange.step(challenge)
    assert PASSWORD not in str(caught.value)


@given(st.binary(max_size=200))
def test_the_server_finds_nothing_that_we_do_not_document(garbage: bytes) -> None:
    for start in (b"", b"NTLMSSP\0\2\0\0\0"):
        exchange = Ntlm(NAME, PASSWORD).start(CONTEXT)
        exchange.initial_response()
        with suppress(SMTPAuthenticationError):
            exchange.step(start + garbage)


@pytest.mark.parametrize("mechanism", [Ntlm(NAME, PASSWORD), NtlmInGssapi(NAME, PASSWORD)])
def test_a_yes_before_the_end_is_not_believed(mechanism: Spnego) -> None:
    exchange = mechanism.start(CONTEXT)
    with pytest.raises(SMTPAuthenticationError, match="before it had proved who it is"):
        exchange.finish()
    exchange.initial_response()
    with pytest.raises(SMTPAuthenticationError, match="before it had proved who it is"):
        exchange.finish()


def test_it_runs_in_a_thread() -> None:
    assert Ntlm().start(CONTEXT).is_slow
    assert Gssapi().start(CONTEXT).is_slow


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        assert name == "spnego"

    monkeypatch.setattr(importlib.util, "find_spec", find_nothing)
    for kind, name in ((Ntlm, "NTLM"), (Gssapi, "GSSAPI"), (Spnego, "GSS-SPNEGO")):
        with pytest.raises(ImportError, match=f"^{name} needs pyspnego: pip install") as caught:
            kind()
        assert "'anysmtp[spnego]'" in str(caught.value)
