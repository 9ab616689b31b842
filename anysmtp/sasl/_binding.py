"""The channel binding tls-server-end-point (RFC 5929 section 4.1): a hash of the certificate.

The hash is that of the certificate's signature, or SHA-256 where that is MD5 or SHA-1. A signature
that does not name its hash so (RSASSA-PSS, EdDSA) leaves the channel binding undefined.

RFC 5280 section 4.1::

    Certificate         ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY OPTIONAL }
"""

from __future__ import annotations

import hashlib

_SEQUENCE = 0x30
_OID = 0x06

# The algorithms of RFC 3279, RFC 4055 and RFC 5758, by the DER of their object identifiers.
_RSA = "2a864886f70d0101"  # 1.2.840.113549.1.1
_ECDSA = "2a8648ce3d04"  # 1.2.840.10045.4
_HASHES = {
    bytes.fromhex(identifier): name
    for identifier, name in {
        f"{_RSA}04": "sha256",  # MD5
        f"{_RSA}05": "sha256",  # SHA-1
        f"{_RSA}0b": "sha256",
        f"{_RSA}0c": "sha384",
        f"{_RSA}0d": "sha512",
        f"{_RSA}0e": "sha224",
        f"{_ECDSA}01": "sha256",  # SHA-1
        f"{_ECDSA}0301": "sha224",
        f"{_ECDSA}0302": "sha256",
        f"{_ECDSA}0303": "sha384",
        f"{_ECDSA}0304": "sha512",
    }.items()
}


def server_end_point(certificate: bytes) -> bytes | None:
    """The channel binding of a certificate (DER); None where it is undefined."""
    try:
        inside, _ = _content(certificate, 0, _SEQUENCE)
        _, behind = _content(certificate, inside, _SEQUENCE)
        algorithm, _ = _content(certificate, behind, _SEQUENCE)
        start, end = _content(certificate, algorithm, _OID)
    except (IndexError, ValueError):
        return None
    name = _HASHES.get(certificate[start:end])
    return None if name is None else hashlib.new(name, certificate).digest()


def _content(der: bytes, start: int, tag: int) -> tuple[int, int]:
    """Where the content of a value starts and ends (X.690 section 8.1)."""
    if der[start] != tag:
        raise ValueError
    length, start = der[start + 1], start + 2
    if length > 0x7F:
        octets = length & 0x7F
        length, start = int.from_bytes(der[start : start + octets], "big"), start + octets
    return start, start + length
