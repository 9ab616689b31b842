"""What a TLS stream gives to bind a login to."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from anysmtp._tls import channel_bindings
from anysmtp.sasl import server_end_point
from support.tls import Certificates


class FakeTLS:
    """An ssl object of some Python's."""

    def __init__(self, version: str, certificate: bytes | None, **bindings: bytes) -> None:
        self._version = version
        self._certificate = certificate
        self._bindings = bindings

    def version(self) -> str:
        return self._version

    def get_channel_binding(self, kind: str) -> bytes | None:
        return self._bindings.get(kind.replace("-", "_"))

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._certificate


class FakeStream(ByteStream):
    def __init__(self, tls: FakeTLS | None) -> None:
        self._tls = tls

    async def send(self, item: bytes) -> None:
        raise NotImplementedError

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise NotImplementedError

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {} if self._tls is None else {TLSAttribute.ssl_object: lambda: self._tls}


@pytest.fixture
def certificate(certificates: Certificates) -> bytes:
    """The server's, as it comes over the wire."""
    found = x509.load_pem_x509_certificates(certificates.server_file.read_bytes())[0]
    return found.public_bytes(Encoding.DER)


def test_without_tls_there_is_nothing() -> None:
    assert channel_bindings(FakeStream(None)) == {}


def test_tls_1_2_has_its_own_and_the_certificate(certificate: bytes) -> None:
    stream = FakeStream(FakeTLS("TLSv1.2", certificate, tls_unique=b"u"))
    assert channel_bindings(stream) == {
        "tls-unique": b"u",
        "tls-server-end-point": server_end_point(certificate),
    }


def test_tls_1_3_has_no_unique_one_though_openssl_gives_something(certificate: bytes) -> None:
    stream = FakeStream(FakeTLS("TLSv1.3", certificate, tls_unique=b"u"))
    assert set(channel_bindings(stream)) == {"tls-server-end-point"}


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_python_that_exports_is_made_use_of(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl, "CHANNEL_BINDING_TYPES", ["tls-unique", "tls-exporter"])
    stream = FakeStream(FakeTLS(version, None, tls_exporter=b"e"))
    assert channel_bindings(stream) == {"tls-exporter": b"e"}


def test_a_certificate_that_names_no_hash_is_nothing_to_bind_to() -> None:
    stream = FakeStream(FakeTLS("TLSv1.3", b"no certificate"))
    assert channel_bindings(stream) == {}
