"""A certificate authority for the tests, and whatever contexts they want of it.

The servers are called `SERVER_NAMES`. Everything is made when it is first asked for, and once.
"""

from __future__ import annotations

import ssl
import warnings
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path

import trustme

SERVER_NAMES = ("localhost", "127.0.0.1", "::1", "mail.example.test", "smtp.example.com")


class Certificates:
    """Contexts and files; the files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def ca(self) -> trustme.CA:
        return trustme.CA()

    @cached_property
    def server(self) -> ssl.SSLContext:
        """For a server that is called `SERVER_NAMES`."""
        return _server_context(self.server_file)

    @cached_property
    def server_tls12(self) -> ssl.SSLContext:
        """The same, with TLS 1.2 at most."""
        context = _server_context(self.server_file)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    @cached_property
    def server_asking(self) -> ssl.SSLContext:
        """The same, and it wants a certificate of the client."""
        context = _server_context(self.server_file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.cafile)
        return context

    @cached_property
    def server_misnamed(self) -> ssl.SSLContext:
        """For a server that is not called `SERVER_NAMES`."""
        return self._server_like("misnamed.pem", self.ca.issue_cert("elsewhere.example.org"))

    @cached_property
    def server_expired(self) -> ssl.SSLContext:
        """Its certificate was good in 2001."""
        return self.server_of_2001(*SERVER_NAMES)

    @cached_property
    def server_expired_and_misnamed(self) -> ssl.SSLContext:
        """It was good in 2001, for another server."""
        return self.server_of_2001("old.example.org")

    def server_of_2001(self, *names: str) -> ssl.SSLContext:
        """For a server of these names, in 2001; made anew each time."""
        start, end = (datetime(2001, month, 1, tzinfo=timezone.utc) for month in (1, 2))
        certificate = self.ca.issue_cert(*names, not_before=start, not_after=end)
        return self._server_like("old.pem", certificate)

    @cached_property
    def server_not_yet_valid(self) -> ssl.SSLContext:
        """Its certificate will be good in 2900."""
        start, end = (datetime(2900, month, 1, tzinfo=timezone.utc) for month in (1, 2))
        certificate = self.ca.issue_cert(*SERVER_NAMES, not_before=start, not_after=end)
        return self._server_like("not-yet.pem", certificate)

    def server_expiring(self, days: int) -> ssl.SSLContext:
        """Its certificate is good for so many days; made anew each time."""
        end = datetime.now(timezone.utc) + timedelta(days=days, hours=1)
        certificate = self.ca.issue_cert(*SERVER_NAMES, not_after=end)
        return self._server_like("expiring.pem", certificate)

    @cached_property
    def server_old(self) -> ssl.SSLContext:
        """It speaks TLS 1.1 at most, which no client takes any more."""
        context = _server_context(self.server_file)
        # It is the client's floor that is tested; this one's would be the same.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        return context

    @cached_property
    def server_untrusted(self) -> ssl.SSLContext:
        """Its certificate is of an authority that nobody knows."""
        return self._server_like("untrusted.pem", trustme.CA().issue_cert(*SERVER_NAMES))

    def server_named(self, *names: str) -> ssl.SSLContext:
        """For a server of these names; made anew each time."""
        return self._server_like("named.pem", self.ca.issue_cert(*names))

    def _server_like(self, name: str, certificate: trustme.LeafCert) -> ssl.SSLContext:
        pem = certificate.private_key_and_cert_chain_pem
        return _server_context(self._write(name, pem.bytes()))

    @cached_property
    def client(self) -> ssl.SSLContext:
        """Trusts the authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.cafile))

    @cached_property
    def client_certified(self) -> ssl.SSLContext:
        """The same, with a certificate of its own."""
        context = ssl.create_default_context(cafile=str(self.cafile))
        context.load_cert_chain(self.client_cert, self.client_key)
        return context

    @cached_property
    def cafile(self) -> Path:
        """The authority's certificate."""
        return self._write("ca.pem", self.ca.cert_pem.bytes())

    @cached_property
    def server_file(self) -> Path:
        """The server's key, its certificate, and what leads to the authority."""
        pem = self.ca.issue_cert(*SERVER_NAMES).private_key_and_cert_chain_pem
        return self._write("server.pem", pem.bytes())

    @cached_property
    def client_cert(self) -> Path:
        pem = self._client_certificate.cert_chain_pems[0]
        return self._write("client-cert.pem", pem.bytes())

    @cached_property
    def client_key(self) -> Path:
        return self._write("client-key.pem", self._client_certificate.private_key_pem.bytes())

    @cached_property
    def _client_certificate(self) -> trustme.LeafCert:
        return self.ca.issue_cert("client@example.test")

    def _write(self, name: str, pem: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(pem)
        return path


def _server_context(key_and_chain: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(key_and_chain)
    return context
