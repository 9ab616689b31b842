"""SCRAM by the examples of its RFCs, and a server that cheats."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp import SMTPAuthenticationError
from anysmtp.sasl import (
    MAX_ITERATIONS,
    Context,
    Exchange,
    Scram,
    ScramSHA1,
    ScramSHA1Plus,
    ScramSHA256,
    ScramSHA256Plus,
    ScramSHA512,
    ScramSHA512Plus,
)
from anysmtp.sasl import _scram as scram

scramp: Any = import_module("scramp")  # which has no types

CONTEXT = Context(offered=("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"))
ENDS: dict[str, bytes] = {"tls-unique": b"u" * 12, "tls-server-end-point": b"e" * 32}
PLUS = Context(
    offered=("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-512-PLUS"), channel_bindings=ENDS
)
# RFC 5802 section 5 and RFC 7677 section 3: client-first, server-first, client-final, server-final.
RFC5802 = (
    "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)
PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
RFC7677 = (
    "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=" + PROOF,
    "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)
NONCES: dict[type[Scram], str] = {
    ScramSHA1: "fyko+d2lbbFgONRv9qkxdawL",
    ScramSHA256: "rOprNGfwEbeRWgbNEkqO",
}
EXAMPLES: list[tuple[type[Scram], tuple[str, str, str, str]]] = [
    (ScramSHA1, RFC5802),
    (ScramSHA256, RFC7677),
]


def example(kind: type[Scram]) -> Exchange:
    """The example's exchange, which is not random."""
    return scram._ScramExchange(kind("user", "pencil"), CONTEXT, nonce=NONCES[kind])


@pytest.mark.parametrize(("kind", "said"), EXAMPLES)
def test_it_says_what_its_rfc_has_it_say(
    kind: type[Scram], said: tuple[str, str, str, str]
) -> None:
    exchange = example(kind)
    assert exchange.initial_response() == said[0].encode()
    assert exchange.step(said[1].encode()) == said[2].encode()
    assert exchange.step(said[3].encode()) == b""
    exchange.finish()
    assert exchange.step(b"") is None


def server_for(mechanism: Scram, context: Context, kind: str | None) -> Any:
    """scramp's server side, on the other end of the same channel."""
    made = scramp.ScramMechanism(mechanism.name)
    secrets = made.make_auth_info(mechanism.password)
    binding = None if kind is None else (kind, context.channel_bindings[kind])

    def look_up(username: str) -> Any:
        return secrets

    return made.make_server(look_up, channel_binding=binding)


def converse(exchange: Exchange, server: Any) -> str:
    """An exchange that goes well, up to the server's yes; the client's first message."""
    first = exchange.initial_response()
    assert first is not None
    server.set_client_first(first.decode())
    final = exchange.step(server.get_server_first().encode())
    assert final is not None
    server.set_client_final(final.decode())
    assert exchange.step(server.get_server_final().encode()) == b""
    exchange.finish()
    return first.decode()


@pytest.mark.parametrize("kind", [ScramSHA1, ScramSHA256, ScramSHA512])
@pytest.mark.parametrize("username", ["user", "jörg", "a=b,c", "\u2168"])
def test_a_server_and_it_convince_each_other(kind: type[Scram], username: str) -> None:
    mechanism = kind(username, "pässwörd")
    first = converse(mechanism.start(CONTEXT), server_for(mechanism, CONTEXT, None))
    assert first.startswith("n,,n=")


@pytest.mark.parametrize("kind", [ScramSHA1Plus, ScramSHA256Plus, ScramSHA512Plus])
@pytest.mark.parametrize("binding", ENDS)
def test_both_see_the_same_channel(kind: type[Scram], binding: str) -> None:
    mechanism = kind("user", "pencil")
    context = Context(offered=PLUS.offered, channel_bindings={binding: ENDS[binding]})
    first = converse(mechanism.start(context), server_for(mechanism, context, binding))
    assert first.startswith(f"p={binding},,")


def test_the_binding_that_every_server_has_is_preferred() -> None:
    exchange = ScramSHA256Plus("user", "pencil").start(PLUS)
    assert (exchange.initial_response() or b"").startswith(b"p=tls-unique,,")


@pytest.mark.parametrize("kind", [ScramSHA1Plus, ScramSHA256Plus, ScramSHA512Plus])
def test_whoever_sits_between_is_found_out(kind: type[Scram]) -> None:
    mechanism = kind("user", "pencil")
    server = server_for(mechanism, Context(channel_bindings={"tls-unique": b"other"}), "tls-unique")
    exchange = mechanism.start(PLUS)
    server.set_client_first((exchange.initial_response() or b"").decode())
    final = exchange.step(server.get_server_first().encode()) or b""
    with pytest.raises(scramp.ScramException, match="channel bindings don't match"):
        server.set_client_final(final.decode())


@pytest.mark.parametrize(
    ("offered", "bindings", "header"),
    [
        # RFC 5802 section 6: "y" where only the client can bind, "n" where it cannot or may not.
        (("SCRAM-SHA-256",), ENDS, b"y,,"),
        (("SCRAM-SHA-256",), {}, b"n,,"),
        (("SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"), ENDS, b"n,,"),
        (("SCRAM-SHA-256",), {"tls-exporter": b"x"}, b"n,,"),
    ],
)
def test_a_list_of_mechanisms_that_was_changed_on_the_way_is_found_out(
    offered: tuple[str, ...], bindings: dict[str, bytes], header: bytes
) -> None:
    context = Context(offered=offered, channel_bindings=bindings)
    exchange = ScramSHA256("user", "pencil").start(context)
    assert (exchange.initial_response() or b"").startswith(header)


@pytest.mark.parametrize(
    "signature", [b"v=AAAA", b"v=", b"", b"x", b"v=\xc3\xa4", b"v=6rriTRBi23WpRR/wtup+mMhU"]
)
def test_a_signature_that_is_wrong_is_an_error(signature: bytes) -> None:
    exchange = example(ScramSHA256)
    exchange.initial_response()
    exchange.step(RFC7677[1].encode())
    with pytest.raises(SMTPAuthenticationError, match="the server broke the rules of SCRAM"):
        exchange.step(signature)
    with pytest.raises(SMTPAuthenticationError, match="do not trust it"):
        exchange.finish()


def test_a_yes_without_a_signature_is_not_believed() -> None:
    exchange = example(ScramSHA256)
    for step in (
        exchange.initial_response,
        lambda: exchange.step(RFC7677[1].encode()),
        # An error, which the server takes back.
        lambda: exchange.step(b"e=invalid-proof"),
    ):
        assert step() is not None
        with pytest.raises(SMTPAuthenticationError, match="do not trust it"):
            exchange.finish()


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (f"{MAX_ITERATIONS + 1}", "asks for 2000001 iterations of SCRAM; more than 2000000 are"),
        ("9" * 4000, "asks for 99999999999999999999 iterations"),
        ("4095", "rules of SCRAM"),
        ("0", "rules of SCRAM"),
        ("-5000", "rules of SCRAM"),
        ("5e3", "rules of SCRAM"),
        ("", "rules of SCRAM"),
    ],
)
def test_the_server_cannot_make_the_client_work_without_end(count: str, message: str) -> None:
    exchange = example(ScramSHA256)
    exchange.initial_response()
    first = RFC7677[1].replace("i=4096", f"i={count}")
    with pytest.raises(SMTPAuthenticationError, match=message):
        exchange.step(first.encode())


def test_the_count_cannot_be_hidden() -> None:
    exchange = example(ScramSHA256)
    exchange.initial_response()
    with pytest.raises(SMTPAuthenticationError, match=r"rules of SCRAM|iterations of SCRAM"):
        exchange.step(f"{RFC7677[1]},i=9999999".encode())


@given(st.binary(max_size=200) | st.text("rsiev=,0123456789/+aZ", max_size=80).map(str.encode))
def test_garbage_is_the_servers_fault(garbage: bytes) -> None:
    exchange = example(ScramSHA256)
    exchange.initial_response()
    with pytest.raises(SMTPAuthenticationError):
        exchange.step(garbage)


@given(st.text("rsiev=,0123456789/+aZ", max_size=40), st.integers(0, 90), st.integers(0, 90))
def test_a_first_message_that_was_damaged_is_the_servers_fault_or_none(
    noise: str, start: int, end: int
) -> None:
    exchange = example(ScramSHA1)
    exchange.initial_response()
    damaged = RFC5802[1][:start] + noise + RFC5802[1][end:]
    with suppress(SMTPAuthenticationError):
        exchange.step(damaged.encode())


def test_a_name_that_is_empty_or_cannot_be_prepared_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^the username is empty$"):
        ScramSHA256("\u00ad", "pencil")
    with pytest.raises(ValueError, match=r"^password has a character that stringprep"):
        ScramSHA256("user", "\U0001f511")


def test_it_runs_in_a_thread_where_its_package_is_imported_too() -> None:
    assert ScramSHA256("user", "pencil").start(CONTEXT).is_slow
    code = """if True:
        import sys, anysmtp
        anysmtp.sasl.from_password("user", "pencil")[0].start(anysmtp.sasl.Context())
        print(*sorted({"scramp", "asn1crypto", "spnego"} & {*sys.modules}))
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
