"""tls-server-end-point, with the certificates that another library makes and reads."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from anysmtp.sasl import server_end_point

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example.test")])
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())

# 1.2.840.113549.1.1.11 and what stands for MD5 and SHA-1 there; 1.2.840.10045.4.3.2 and .4.1.
SHA256_RSA, MD5_RSA, SHA1_RSA = (
    bytes.fromhex(f"06092a864886f70d0101{last}") for last in ("0b", "04", "05")
)


def certificate(key: Any, algorithm: Any, **how: Any) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1))
    )
    return builder.sign(key, algorithm, **how).public_bytes(Encoding.DER)


@pytest.mark.parametrize("key", [RSA, EC], ids=["RSA", "ECDSA"])
@pytest.mark.parametrize("name", ["sha224", "sha256", "sha384", "sha512"])
def test_the_hash_is_that_of_the_signature(key: Any, name: str) -> None:
    der = certificate(key, getattr(hashes, name.upper())())
    assert server_end_point(der) == hashlib.new(name, der).digest()


@pytest.mark.parametrize("weak", [MD5_RSA, SHA1_RSA])
def test_a_weak_hash_is_replaced_by_sha_256(weak: bytes) -> None:
    # No library signs so any more.
    der = certificate(RSA, hashes.SHA256()).replace(SHA256_RSA, weak)
    assert server_end_point(der) == hashlib.sha256(der).digest()


def test_a_signature_that_names_no_hash_has_no_binding() -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    assert server_end_point(certificate(RSA, hashes.SHA256(), rsa_padding=pss)) is None
    assert server_end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x30\x82" + tail))
def test_what_is_no_certificate_has_no_binding(garbage: bytes) -> None:
    assert server_end_point(garbage) is None


@pytest.mark.parametrize("length", range(0, 700, 7))
def test_a_certificate_that_is_cut_off_does_no_harm(length: int) -> None:
    server_end_point(certificate(EC, hashes.SHA256())[:length])
