"""The server's side of every SASL mechanism, for a `ScriptedServer`.

Each is made with what its server knows (`USER` and his `SECRET`) by libraries that are not this
one: scramp and pyspnego have server sides of their own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import spnego
import spnego.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from anysmtp.testing import Transcript
from anysmtp.testing._state import Mechanism, Steps

from .tls import Certificates

USER = "ann@example.test"
SECRET = "tr0ub4dor&3-Zq8vK1"

ERROR = {"status": "invalid_token", "schemes": "bearer", "scope": "mail"}
"""What the server says of a token that it does not want."""

SCRAM = [f"SCRAM-SHA-{size}{plus}" for plus in ("-PLUS", "") for size in (512, 256, 1)]
STRONGEST_FIRST = [*SCRAM, "CRAM-MD5", "PLAIN", "LOGIN"]
"""What a user name and a password are good for."""

scramp: Any = import_module("scramp")  # which has no types


def server_side(
    certificates: Certificates,
    folder: Path,
    *,
    tokens: Callable[[str], bool] = lambda token: token == SECRET,
) -> Mapping[str, Mechanism]:
    """All of them, by name; ``tokens`` says which token is good."""
    accounts = folder / "accounts"
    accounts.write_text(f"EXAMPLE:{USER}:{SECRET}\nEXAMPLE:ann:{SECRET}\n")
    end_point = _end_point(certificates.server_file)
    return {
        **{name: _scram(name, end_point) for name in SCRAM},
        "CRAM-MD5": _cram_md5,
        "PLAIN": _plain,
        "LOGIN": _login,
        "XOAUTH2": _bearer(rf"user={USER}\x01auth=Bearer (.*)\x01\x01", b"", tokens),
        "OAUTHBEARER": _bearer(
            rf"n,a={USER},\x01host=[^\x01]+\x01(?:port=[0-9]+\x01)?auth=Bearer (.*)\x01\x01",
            b"\x01",
            tokens,
        ),
        "EXTERNAL": _external,
        "ANONYMOUS": _anonymous,
        "NTLM": _spnego("ntlm"),
        "GSS-SPNEGO": _spnego("negotiate"),
    }


def _plain(_: Transcript) -> Steps:
    said = yield b""
    return USER if said == f"\0{USER}\0{SECRET}".encode() else None


def _login(_: Transcript) -> Steps:
    username = yield b"User Name\0"
    password = yield b"Password\0"
    return USER if (username, password) == (USER.encode(), SECRET.encode()) else None


def _cram_md5(_: Transcript) -> Steps:
    challenge = b"<1896.697170952@mail.example.test>"
    said = yield challenge
    digest = hmac.new(SECRET.encode(), challenge, hashlib.md5).hexdigest()
    return USER if said == f"{USER} {digest}".encode() else None


def _scram(name: str, end_point: bytes) -> Mechanism:
    made = scramp.ScramMechanism(name)
    secrets = made.make_auth_info(SECRET)

    def look_up(username: str) -> Any:
        return secrets if username == USER else None

    def steps(record: Transcript) -> Steps:
        binding = None
        if name.endswith("-PLUS"):
            # What RFC 5802 section 6.1 wants of a server, and where that is not defined the other.
            unique = record.tls_unique if record.tls_version == "TLSv1.2" else None
            binding = ("tls-unique", unique) if unique else ("tls-server-end-point", end_point)
        server = made.make_server(look_up, channel_binding=binding)
        try:
            server.set_client_first((yield b"").decode())
            server.set_client_final((yield server.get_server_first().encode()).decode())
            yield server.get_server_final().encode()
        except scramp.ScramException:
            return None
        return USER

    return steps


def _bearer(message: str, dummy: bytes, tokens: Callable[[str], bool]) -> Mechanism:
    def steps(_: Transcript) -> Steps:
        found = re.fullmatch(message, (yield b"").decode())
        if found and tokens(found[1]):
            return USER
        answer = yield json.dumps(ERROR).encode()
        assert answer == dummy
        return None

    return steps


def _external(record: Transcript) -> Steps:
    authzid = (yield b"").decode()
    return authzid or USER if record.client_certificate is not None else None


def _anonymous(_: Transcript) -> Steps:
    yield b""
    return "anonymous"


def _spnego(protocol: str) -> Mechanism:
    def steps(_: Transcript) -> Steps:
        server: Any = spnego.server(protocol=protocol)
        said = yield b""
        while not server.complete:
            try:
                challenge = server.step(said)
            except spnego.exceptions.SpnegoError:
                return None
            if challenge is not None:
                said = yield challenge
        return USER

    return steps


def _end_point(server_file: Path) -> bytes:
    found = x509.load_pem_x509_certificates(server_file.read_bytes())[0]
    assert found.signature_hash_algorithm is not None
    return found.fingerprint(hashes.SHA256())
