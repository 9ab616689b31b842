"""DKIM signatures (RFC 6376) for the ``sign`` option, by dkimpy: ``pip install anysmtp[dkim]``.

::

    signer = DKIMSigner("example.com", "mail", Path("mail.private"))
    async with anysmtp.SMTP("mail.example.com", sign=signer) as smtp:
        ...

A server that verifies looks for the public key in the TXT record of
``mail._domainkey.example.com``.

All that a signature names is checked when the signer is made: what is wrong there is wrong for each
message. No error has the key, nor the error that it comes from.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from ._grammar import DOT_STRING, FIELD_NAME, QUOTED_STRING
from ._message import parse_domain

__all__ = ["Canonicalization", "DKIMSigner"]

Canonicalization = Literal["relaxed", "simple"]

_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----(.*?)-----END \1-----", re.DOTALL)
# RFC 8410 section 7: what stands in front of the 32 octets of an Ed25519 key in PKCS #8.
_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
# Octets of a tag's value. dkimpy breaks a longer one in two, as RFC 6376 section 3.5 permits for no
# name, and the signature would not verify.
_MAX_VALUE = 67
# RFC 6376 section 2.11: dkim-safe-char = %x21-3A / %x3C / %x3E-7E, and hex-octet for all others.
_NOT_SAFE = re.compile(rb"[^!-:<>-~]")


class DKIMSigner:
    """Signs each message with one key: a function from a message to the signed message.

    ``domain`` and ``selector`` say where its public half is; what is not ASCII becomes A-labels, as
    in addresses (RFC 8616). ``key`` is the private one, or the path of its file, which is read
    here: RSA in PEM for rsa-sha256; Ed25519 in PEM, or its 32 octets in base64, for ed25519-sha256
    (RFC 8463).

    ``headers`` are the names of the fields to sign, From among them (RFC 6376 section 5.4), those
    that a message does not have included (so that nobody can add them); by default dkimpy's choice,
    which has every field that RFC 6376 section 5.4.1 recommends and the message has.
    ``canonicalization`` is of header and body; ``identity`` the agent or user (the ``i=`` tag,
    section 3.5), as ``"ann@example.com"`` or ``"@sub.example.com"`` in the domain or below it,
    ``@domain`` by default.

    ModuleNotFoundError where dkimpy is not installed (or PyNaCl, for Ed25519); ValueError for a key
    that is none, and for whatever a signature cannot name; OSError for a file that cannot be read.
    Several signers together make several signatures. One may be called in several threads at once.
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
        self._domain = _name("domain", domain)
        if b"." not in self._domain:
            # RFC 6376 section 3.5: domain-name = sub-domain 1*("." sub-domain)
            raise ValueError("domain is no domain of the top level")
        self._selector = _name("selector", selector)
        self._headers = None if headers is None else _fields(headers, dkim.DKIM.SHOULD_NOT)
        self._canonicalization = _canonicalization(canonicalization)
        self._identity = _identity(f"@{domain}" if identity is None else identity, self._domain)
        if max(map(len, (self._selector, self._identity))) > _MAX_VALUE:
            raise ValueError(f"selector and identity have {_MAX_VALUE} octets at the most")
        self._key, self._algorithm = _key_of(_octets_of(key))
        if self._algorithm == b"ed25519-sha256":
            # It is missed now, and not when a message is sent.
            importlib.import_module("nacl.signing")

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


def _name(option: str, given: str) -> bytes:
    """A name in the DNS. What is none may be a key in the wrong place, and is not shown."""
    with suppress(ValueError):
        return parse_domain(given).encode()
    raise ValueError(f"{option} is a name in the DNS, which was not given")


def _fields(given: Iterable[str], unwanted: Iterable[bytes]) -> list[bytes]:
    """Names of fields, as the ``h=`` tag has them."""
    names = tuple(given)
    if isinstance(given, str) or not all(isinstance(name, str) for name in names):
        raise TypeError("headers are several names of fields, as ['From', 'To', 'Subject']")
    for name in names:
        if not FIELD_NAME.fullmatch(name) or ";" in name:
            raise ValueError(
                f"headers has {name!r}, which is no name of a field that can be signed"
            )
    fields = [name.lower().encode() for name in names]
    if b"from" not in fields:
        raise ValueError("headers is without From, which is always signed (RFC 6376 section 5.4)")
    if refused := set(fields).intersection(unwanted):
        # They are added, changed or taken out on the way.
        raise ValueError(f"headers has {refused.pop().decode()}, which must not be signed")
    return fields


def _canonicalization(given: Iterable[str]) -> tuple[bytes, ...]:
    pair = tuple(given)
    if len(pair) != 2 or not all(each in get_args(Canonicalization) for each in pair):
        raise ValueError(
            "canonicalization is 'relaxed' or 'simple', of header and body each, as in "
            f"('relaxed', 'simple'), not {given!r}"
        )
    return tuple(each.encode() for each in pair)


def _identity(given: str, domain: bytes) -> bytes:
    """RFC 6376 section 3.5: i= is [ Local-part ] "@" domain-name, in d= or below it."""
    local, at, below = given.rpartition("@")
    if not at or (local and not (DOT_STRING.fullmatch(local) or QUOTED_STRING.fullmatch(local))):
        raise ValueError(f"identity is an address, or @ and a domain, not {given!r}")
    name = _name("identity", below)
    if not (b"." + name).endswith(b"." + domain):
        raise ValueError(f"identity is in {domain.decode()} or below it, which {given!r} is not")
    safe = _NOT_SAFE.sub(lambda found: b"=%02X" % found[0][0], local.encode())
    return safe + b"@" + name


def _octets_of(key: bytes | str | PathLike[str]) -> bytes:
    if isinstance(key, PathLike):
        return Path(key).read_bytes()
    if isinstance(key, str):
        # What is beyond ASCII is in no key, and an error of encoding would have it all.
        return key.encode("ascii", "replace")
    if not isinstance(key, bytes):
        raise TypeError(f"the key is bytes, a str or a path, not {type(key).__name__}")
    return key


def _key_of(given: bytes) -> tuple[bytes, bytes]:
    """The key as dkimpy takes it, and the algorithm that it is for."""
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
    with suppress(crypto.UnparsableKeyError):
        crypto.parse_pem_private_key(pem)
        return
    raise ValueError("the key is no RSA key in PEM")


def _decoded(text: bytes) -> bytes:
    with suppress(binascii.Error):
        return base64.b64decode(b"".join(text.split()), validate=True)
    raise ValueError("the key is not in base64")
