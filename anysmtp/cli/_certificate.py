"""A server's certificate, taken apart to be shown.

ssl takes apart only what it has verified, and what did not verify is what people want to look at.
So the DER is read here, by cryptography, and nothing is judged: that is ssl's part.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a person asks of a certificate."""

    subject: str
    """Distinguished names are written as RFC 4514 has it."""
    names: tuple[str, ...]
    """The host names and addresses that it is for; those in the subject do not count (RFC 9525)."""
    issuer: str
    not_before: datetime
    not_after: datetime
    sha256: str
    """The fingerprint, in hexadecimal."""

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires; negative after that."""
        return (self.not_after - now).days


def read_certificate(der: bytes) -> Certificate | None:
    """Take a certificate apart; None if it is too odd for that, though TLS took it."""
    # Imported here, because no other command needs it.
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        certificate = x509.load_der_x509_certificate(der)
        return Certificate(
            certificate.subject.rfc4514_string(),
            _names(certificate),
            certificate.issuer.rfc4514_string(),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            certificate.fingerprint(SHA256()).hex(),
        )
    except ValueError:
        return None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    names = found.value
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *map(str, addresses))
