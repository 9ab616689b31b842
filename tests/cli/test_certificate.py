"""A certificate is taken apart, whatever it looks like."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from anysmtp.cli._certificate import Certificate, read_certificate

START, END = datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 4, 1, tzinfo=timezone.utc)


def make(*names: x509.GeneralName) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.example.test")])
    issuer = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Trust, Inc.")])
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), 1, START, END)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def read(der: bytes) -> Certificate:
    found = read_certificate(der)
    assert found is not None
    return found


def test_it_has_what_a_person_asks_for() -> None:
    found = read(make(x509.DNSName("*.example.test"), x509.IPAddress(ip_address("::1"))))
    assert found.subject == "CN=mail.example.test"
    assert found.issuer == r"O=Trust\, Inc."
    assert found.names == ("*.example.test", "::1")
    assert (found.not_before, found.not_after) == (START, END)
    assert len(bytes.fromhex(found.sha256)) == 32


def test_a_name_in_the_subject_is_no_name() -> None:
    assert read(make()).names == ()


@pytest.mark.parametrize(
    ("left", "days"),
    [(timedelta(days=3, hours=1), 3), (timedelta(hours=1), 0), (timedelta(hours=-1), -1)],
)
def test_it_knows_how_long_it_is_good_for(left: timedelta, days: int) -> None:
    assert read(make()).days_left(END - left) == days


def test_what_is_no_certificate_is_none(tmp_path: Path) -> None:
    whole = trustme.CA().cert_pem.bytes()
    assert read_certificate(b"") is None
    assert read_certificate(whole) is None
    assert read_certificate(make()[:-1]) is None
