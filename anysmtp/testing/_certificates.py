"""A certificate authority for the length of some tests, made by trustme."""

from __future__ import annotations

import ssl
from functools import cached_property
from typing import Any

# What a test's server may be called, beside the names that it is given.
_NAMES = ("localhost", "127.0.0.1", "::1", "mail.example.test")


class Certificates:
    """TLS contexts for servers and clients of tests, of an authority that nobody else knows.

    The server's certificate is good for ``localhost``, the loopback addresses,
    ``mail.example.test`` and the ``names`` given here. ImportError if trustme is not installed.
    """

    def __init__(self, *names: str) -> None:
        import trustme

        self._authority = trustme.CA()
        self._names = (*_NAMES, *names)

    @cached_property
    def server(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Any: trustme takes pyOpenSSL's contexts too, whose types are not installed.
        certificate: Any = self._authority.issue_cert(*self._names)
        certificate.configure_cert(context)
        return context

    @cached_property
    def client(self) -> ssl.SSLContext:
        """For a client: it trusts the authority, and nobody else."""
        return ssl.create_default_context(cadata=self.pem)

    @property
    def pem(self) -> str:
        """The authority's certificate, for an application that reads it from a file."""
        return self._authority.cert_pem.bytes().decode()
