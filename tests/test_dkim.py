"""DKIM signatures, verified by dkimpy."""

from __future__ import annotations

import base64
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from anysmtp._message import parse_address
from anysmtp.dkim import DKIMSigner
from anysmtp.testing import ScriptedServer
from support.clients import SENDER, on_memory
from support.letters import letter
from support.postfix import Postfix

pytestmark = pytest.mark.anyio

DOMAIN = "example.test"
# It has no types.
dkim: Any = importlib.import_module("dkim")
RAW = b"From: a@example.test\r\nTo: b@example.test\r\nSubject: hello\r\n\r\nhello\r\n"


class Key:
    """A private key, and the record in the DNS that tells the public one."""

    def __init__(self, kind: str) -> None:
        private = (
            generate_private_key(65537, 1024) if kind == "rsa" else Ed25519PrivateKey.generate()
        )
        pem_format = PrivateFormat.TraditionalOpenSSL if kind == "rsa" else PrivateFormat.PKCS8
        self.pem = private.private_bytes(Encoding.PEM, pem_format, NoEncryption())
        self.pkcs8 = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = private.public_key()
        if kind == "rsa":
            octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
            seed = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
            self.seed = base64.b64encode(seed)
        self.record = f"v=DKIM1; k={kind}; p=".encode() + base64.b64encode(octets)


@pytest.fixture(scope="module")
def keys() -> dict[str, Key]:
    return {kind: Key(kind) for kind in ("rsa", "ed25519")}


def verified(message: bytes, keys: dict[str, Key]) -> list[bool]:
    """Whether each signature in a message holds, from the top; its selector is the kind of key."""

    def record(name: bytes, timeout: int = 5) -> bytes:
        selector, _, domain = name.decode().partition("._domainkey.")
        assert domain.rstrip(".") == DOMAIN
        return keys[selector].record

    count = message.lower().count(b"dkim-signature:")
    return [dkim.DKIM(message).verify(number, dnsfunc=record) for number in range(count)]


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@pytest.mark.parametrize("canonicalization", [("relaxed", "relaxed"), ("simple", "simple")])
def test_a_signature_verifies(kind: str, canonicalization: Any, keys: dict[str, Key]) -> None:
    sign = DKIMSigner(DOMAIN, kind, keys[kind].pem, canonicalization=canonicalization)
    signed = sign(RAW)
    assert signed.endswith(RAW)
    assert f"a={kind}-sha256".encode() in signed
    assert verified(signed, keys) == [True]
    with pytest.raises(dkim.ValidationError):
        verified(signed.replace(b"\r\n\r\nhello", b"\r\n\r\nHello"), keys)


def test_keys_are_taken_as_they_come(keys: dict[str, Key], tmp_path: Path) -> None:
    path = tmp_path / "mail.private"
    path.write_bytes(keys["rsa"].pem)
    rsa: list[Any] = [keys["rsa"].pem, keys["rsa"].pkcs8, keys["rsa"].pem.decode(), path]
    ed25519: list[Any] = [keys["ed25519"].pem, keys["ed25519"].seed, keys["ed25519"].seed.decode()]
    for kind, given in (("rsa", rsa), ("ed25519", ed25519)):
        for key in given:
            assert verified(DKIMSigner(DOMAIN, kind, key)(RAW), keys) == [True]


def test_what_is_signed_can_be_chosen(keys: dict[str, Key]) -> None:
    sign = DKIMSigner(
        DOMAIN, "rsa", keys["rsa"].pem, headers=["From", "To", "Cc"], identity="@sub.example.test"
    )
    signed = sign(RAW)
    field = b"".join(signed.partition(b"\r\nFrom:")[0].split())
    assert b"h=from:to:cc;" in field
    assert b"i=@sub.example.test;" in field
    assert verified(signed, keys) == [True]


@pytest.mark.parametrize(
    "key",
    [
        b"",
        "x",
        b"\xff",
        "\ud800 a key",
        base64.b64encode(b"short"),
        "-----BEGIN A KEY-----\nAA==\n-----END A KEY-----",
    ],
)
def test_what_is_no_key_is_an_error_that_does_not_show_it(key: Any) -> None:
    with pytest.raises(ValueError, match="the key is n") as caught:
        DKIMSigner(DOMAIN, "rsa", key)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_key_in_the_wrong_place_is_in_no_error(keys: dict[str, Key]) -> None:
    key = keys["rsa"].pem.decode()
    for arguments in ((key, "s", key), (DOMAIN, key, "s")):
        with pytest.raises(ValueError, match=r"^(domain|selector) is a name in the DNS") as caught:
            DKIMSigner(*arguments)
        assert caught.value.__cause__ is caught.value.__context__ is None
    with pytest.raises(TypeError, match=r"the key is bytes, a str or a path, not bytearray$"):
        DKIMSigner(DOMAIN, "s", bytearray(key.encode()))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("domain", ["straße.example", "Faß.de", "ａ.test"])
def test_a_domain_is_read_as_in_addresses(domain: str, keys: dict[str, Key]) -> None:
    mailbox = parse_address(f"a@{domain}").ascii
    assert mailbox is not None
    name = mailbox.removeprefix("a@")
    sign = DKIMSigner(domain, "ſ", keys["rsa"].pem, identity=f"@grün.{domain}")
    assert repr(sign) == f"<DKIMSigner s._domainkey.{name} rsa-sha256>"
    field = b"".join(sign(RAW).partition(b"\r\nFrom:")[0].split())
    assert f"d={name};i=@xn--grn-ioa.{name};".encode() in field


def _arguments(keys: dict[str, Key], options: dict[str, Any]) -> dict[str, Any]:
    return {"domain": DOMAIN, "selector": "s", "key": keys["rsa"].pem, **options}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"domain": ""}, "domain is a name"),
        ({"domain": "a b"}, "domain is a name"),
        ({"domain": "x.test."}, "domain is a name"),
        ({"domain": "x.test\r\nBcc: e@vil"}, "domain is a name"),
        ({"domain": "[127.0.0.1]"}, "domain is a name"),
        ({"domain": "☃.test"}, "domain is a name"),
        ({"domain": "localhost"}, "top level"),
        ({"domain": "a" * 62 + ".test"}, "67 octets at the most"),
        ({"selector": ""}, "selector is a name"),
        ({"selector": "a;b"}, "selector is a name"),
        ({"selector": "a" * 34 + "." + "b" * 34}, "67 octets at the most"),
        ({"identity": ""}, "identity is an address"),
        ({"identity": DOMAIN}, "identity is an address"),
        ({"identity": f"a b@{DOMAIN}"}, "identity is an address"),
        ({"identity": "@"}, "identity is a name"),
        ({"identity": f"@{DOMAIN}\r\nBcc: e@vil"}, "identity is an address"),
        ({"identity": "@other.test"}, "or below it"),
        ({"identity": f"@not{DOMAIN}"}, "or below it"),
        ({"identity": "@test"}, "or below it"),
        ({"headers": []}, "without From"),
        ({"headers": ["Subject"]}, "without From"),
        ({"headers": ["From", "a;b"]}, "no name of a field"),
        ({"headers": ["From", "a:b"]}, "no name of a field"),
        ({"headers": ["From", ""]}, "no name of a field"),
        ({"headers": ["From", "Return-Path"]}, "return-path, which must not be signed"),
        ({"canonicalization": ("relaxd", "simple")}, "'relaxed' or 'simple'"),
        ({"canonicalization": ("relaxed",)}, "'relaxed' or 'simple'"),
        ({"canonicalization": "relaxed/simple"}, "'relaxed' or 'simple'"),
    ],
)
def test_what_no_signature_can_name_is_an_error_at_once(
    options: dict[str, Any], reason: str, keys: dict[str, Key]
) -> None:
    with pytest.raises(ValueError, match=reason):
        DKIMSigner(**_arguments(keys, options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"domain": None}, "a domain is a str, not NoneType"),
        ({"selector": b"s"}, "a domain is a str, not bytes"),
        ({"headers": "From"}, "headers are several names"),
        ({"headers": ["From", b"To"]}, "headers are several names"),
    ],
)
def test_what_is_of_another_type_is_an_error_at_once(
    options: dict[str, Any], reason: str, keys: dict[str, Key]
) -> None:
    with pytest.raises(TypeError, match=reason):
        DKIMSigner(**_arguments(keys, options))


@pytest.mark.parametrize(
    ("identity", "written"),
    [
        ("ann@Example.TEST", b"ann@example.test"),
        ('"a;b c="@example.test', b'"a=3Bb=20c=3D"@example.test'),
        ("jörg@example.test", b"j=C3=B6rg@example.test"),
        ("a" * 54 + "@example.test", b"a" * 54 + b"@example.test"),
    ],
)
def test_a_signature_with_an_identity_verifies(
    identity: str, written: bytes, keys: dict[str, Key]
) -> None:
    """RFC 6376 section 2.11 has what would end the tag, and what is not ASCII, in octets."""
    signed = DKIMSigner(DOMAIN, "rsa", keys["rsa"].pem, identity=identity)(RAW)
    assert b"i=" + written + b";" in signed
    assert verified(signed, keys) == [True]


def test_a_signer_shows_where_its_key_is_looked_for(keys: dict[str, Key]) -> None:
    sign = DKIMSigner(DOMAIN, "mail", keys["rsa"].pem)
    assert repr(sign) == "<DKIMSigner mail._domainkey.example.test rsa-sha256>"


def test_without_dkimpy_it_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Key]
) -> None:
    monkeypatch.setitem(sys.modules, "dkim", None)
    with pytest.raises(ModuleNotFoundError):
        DKIMSigner(DOMAIN, "mail", keys["rsa"].pem)


async def test_what_leaves_is_signed_by_both(keys: dict[str, Key]) -> None:
    signers = [DKIMSigner(DOMAIN, kind, keys[kind].pem) for kind in keys]
    async with ScriptedServer() as server, on_memory(server, sign=signers) as smtp:
        await smtp.send_message(letter(), sender=SENDER, recipients="b@x.test")
    assert verified(server.messages[0].raw, keys) == [True, True]


async def test_what_postfix_has_stored_verifies(keys: dict[str, Key], postfix: Postfix) -> None:
    from anysmtp import SMTP

    recipient = postfix.address()
    signers = [DKIMSigner(DOMAIN, kind, keys[kind].pem) for kind in keys]
    async with SMTP(postfix.host, postfix.ports["plain"], sign=signers) as smtp:
        await smtp.send_message(letter(), sender="a@example.test", recipients=recipient)
    stored = await postfix.wait_for(recipient)
    assert verified(stored.data, keys) == [True, True]
