"""The benchmark's own server and STARTTLS: what comes too early, or together with the handshake."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest

from benchmarks.sink import HOST, Sink
from support.tls import Certificates

READ = 65536
PATIENCE = 30.0


@pytest.fixture(scope="module")
def port(certificates: Certificates) -> Iterator[int]:
    with Sink(certificates.server_file) as sink:
        yield sink.ports["starttls"]


@pytest.fixture
def client(port: int) -> Iterator[socket.socket]:
    """A connection that was greeted."""
    with socket.create_connection((HOST, port), timeout=PATIENCE) as client:
        client.recv(READ)
        yield client


class Tunnel:
    """TLS over a socket, which sends when it is told to."""

    def __init__(self, client: socket.socket, context: ssl.SSLContext) -> None:
        self._client = client
        self._read, self._written = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._read, self._written, server_hostname="localhost")

    def shake_hands(self) -> None:
        """All but the sending of its last bytes."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._exchange()
            self.shake_hands()

    def ask(self, command: bytes) -> bytes:
        self._tls.write(command)
        return self._reply()

    def _reply(self) -> bytes:
        try:
            return self._tls.read(READ)
        except ssl.SSLWantReadError:
            self._exchange()
            return self._reply()

    def _exchange(self) -> None:
        self._client.sendall(self._written.read())
        self._read.write(self._client.recv(READ))


def test_a_command_that_comes_with_the_end_of_the_handshake_is_answered_encrypted(
    client: socket.socket, certificates: Certificates
) -> None:
    client.sendall(b"STARTTLS\r\n")
    assert client.recv(READ).startswith(b"220 ")
    tunnel = Tunnel(client, certificates.client)
    tunnel.shake_hands()
    assert tunnel.ask(b"EHLO client\r\n").endswith(b"250 AUTH PLAIN\r\n")
    assert tunnel.ask(b"NOOP\r\n").startswith(b"250 ")


def test_a_command_that_comes_with_starttls_is_not_answered(client: socket.socket) -> None:
    client.sendall(b"STARTTLS\r\nEHLO injected\r\n")
    try:
        received = client.recv(READ)
    except ConnectionResetError:
        received = b""
    assert received == b""
