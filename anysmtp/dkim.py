"""DKIM signatures (RFC 6376) for the ``sign`` option, by dkimpy: ``pip install anysmtp[dkim]``.

::

    signer = DKIMSigner("example.com", "mail", Path("mail.private"))
    async with anysmtp.SMTP("mail.example.com", sign=signer) as smtp:
        ...

A server that verifies looks for the public key in the TXT record of
``mail._domainkey.example.com``.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import re
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Literal

__all__ = ["Canonicalization", "DKIMSigner"]

Canonicalization = Literal["relaxed", "simple"]

_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----(.*?)-----END \1-----", re.DOTALL)
# RFC 8410 section 7: what stands in front of the 32 octets of an Ed25519 key in PKCS #8.
_ED25519 = bytes.fromhex("302e020100300506032b657004220420")


class DKIMSigner:
    """Signs each message with one key: a function from a message to the signed message.

    ``domain`` and ``selector`` say where its public half is. ``key`` is the private one, or the
    path of its file, which is read here: RSA in PEM for rsa-sha256; Ed25519 in PEM, or its 32
    octets in base64, for ed25519-sha256 (RFC 8463).

    ``headers`` are the names of the fields to sign, those that a message does not have included
    (so that nobody can add them); by default dkimpy's choice, which has every field that RFC 6376
    section 5.4.1 recommends and the message has. ``canonicalization`` is of header and body;
    ``identity`` the agent or user (the ``i=`` tag), ``@domain`` by default.

    ModuleNotFoundError where dkimpy is not installed (or PyNaCl, for Ed25519); ValueError for a key
    that is none; OSError for a file that cannot be read. Several signers together make several
    signatures.
    """

    def __init__(
        self,
        domain: str,
        selector: str,
        key: bytes | str | PathLike[str],
        *,
        headers: Iterable[str] | None = None,
        canonicalization: tuple[Canonicalization, Canonicalization] = ("relaxed", "relaxed"),
        identity: str | None = None,
    ) -> None:
        dkim: Any = importlib.import_module("dkim")
        self._sign: Callable[..., bytes] = dkim.sign
        self._domain = domain.encode("idna" if not domain.isascii() else "ascii")
        self._selector = selector.encode("ascii")
        octets = Path(key).read_bytes() if isinstance(key, PathLike) else key
        self._key, self._algorithm = _key_of(octets.encode() if isinstance(octets, str) else octets)
        if self._algorithm == b"ed25519-sha256":
            # It is missed now, and not when a message is sent.
            importlib.import_module("nacl.signing")
        self._headers = None if headers is None else [name.lower().encode() for name in headers]
        self._canonicalization = tuple(each.encode("ascii") for each in canonicalization)
        self._identity = None if identity is None else identity.encode()

    def __call__(self, message: bytes) -> bytes:
        """The message with a DKIM-Signature field in front of it."""
        field = self._sign(
            message,
            self._selector,
            self._domain,
            self._key,
            identity=self._identity,
            canonicalize=self._canonicalization,
            signature_algorithm=self._algorithm,
            include_headers=self._headers,
        )
        return field + message

    def __repr__(self) -> str:
        where = f"{self._selector.decode()}._domainkey.{self._domain.decode()}"
        return f"<DKIMSigner {where} {self._algorithm.decode()}>"


def _key_of(given: bytes) -> tuple[bytes, bytes]:
    """The key as dkimpy takes it, and the algorithm that it is for. The key is in no error."""
    if (pem := _PEM.search(given)) is None:
        octets = _decoded(given)
    else:
        octets = _decoded(pem[2])
        if not octets.startswith(_ED25519):
            _check_rsa(given)
            return given, b"rsa-sha256"
        octets = octets.removeprefix(_ED25519)
    if len(octets) != 32:
        raise ValueError("the key is neither RSA in PEM nor Ed25519")
    return base64.b64encode(octets), b"ed25519-sha256"


def _check_rsa(pem: bytes) -> None:
    crypto: Any = importlib.import_module("dkim.crypto")
    try:
        crypto.parse_pem_private_key(pem)
    except crypto.UnparsableKeyError:
        raise ValueError("the key is no RSA key in PEM") from None


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise ValueError("the key is not in base64") from None
