"""The arguments of a client: kept as attributes, and checked against each other.

Every one may be given again to ``connect()``, and some to ``starttls()``; what is given there is
kept for later, as aiosmtplib does it.
"""

from __future__ import annotations

import re
import socket
import ssl

from anyio import to_thread

from ... import create_tls_context
from .typing import Default, SMTPTokenGenerator, SocketPathType

SMTP_PORT = 25
SMTP_TLS_PORT = 465
SMTP_STARTTLS_PORT = 587
DEFAULT_TIMEOUT = 60

# In the place of these two, None says nothing.
_NONE_IS_NOTHING = {"use_tls", "validate_certs"}
# Attributes that aiosmtplib does not show.
_PRIVATE = {
    "username": "_username",
    "password": "_password",
    "oauth_token_generator": "_oauth_token_generator",
    "start_tls": "_start_tls",
}
_NO_NAME = re.compile(r"[\s\x00-\x1f\x7f]")


class Configured:
    """What a client was told, and what follows from it."""

    hostname: str | None
    port: int | None
    local_hostname: str | None
    source_address: tuple[str, int] | None
    timeout: float | None
    use_tls: bool
    validate_certs: bool
    client_cert: str | None
    client_key: str | None
    tls_context: ssl.SSLContext | None
    cert_bundle: str | None
    socket_path: SocketPathType | None
    sock: socket.socket | None

    def __init__(
        self,
        *,
        hostname: str | None = None,
        port: int | None = None,
        username: str | bytes | None = None,
        password: str | bytes | None = None,
        oauth_token_generator: SMTPTokenGenerator | None = None,
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        use_tls: bool = False,
        start_tls: bool | None = None,
        validate_certs: bool = True,
        client_cert: str | None = None,
        client_key: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        cert_bundle: str | None = None,
        socket_path: SocketPathType | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        """Nothing is connected to yet. ValueError for arguments that contradict each other.

        ``timeout`` is in seconds, for each call that is not given one. ``use_tls`` encrypts from
        the first octet; ``start_tls`` is True for STARTTLS, False for none and for a login in
        clear, None for STARTTLS where the server offers it. ``cert_bundle`` is trusted beside the
        system's authorities. ``sock`` is a connected socket, and is closed with the connection.
        """
        self.hostname = hostname
        self.port = port
        self._username = username
        self._password = password
        self._oauth_token_generator = oauth_token_generator
        self.local_hostname = local_hostname
        self.source_address = source_address
        self.timeout = timeout
        self.use_tls = use_tls
        self._start_tls = start_tls
        self.validate_certs = validate_certs
        self.client_cert = client_cert
        self.client_key = client_key
        self.tls_context = tls_context
        self.cert_bundle = cert_bundle
        self.socket_path = socket_path
        self.sock = sock
        self._check()
        self._start_afresh()

    def _start_afresh(self) -> None:
        """For what else a client knows, in a class that knows more."""

    @property
    def server_port(self) -> int:
        """The port that was asked for, or the one that the kind of encryption has."""
        if self.port is not None:
            return self.port
        if self.use_tls:
            return SMTP_TLS_PORT
        return SMTP_STARTTLS_PORT if self._start_tls else SMTP_PORT

    def _update(self, **given: object) -> None:
        """Keep what was said, and check it all again."""
        for name, value in given.items():
            if value is Default.token or (value is None and name in _NONE_IS_NOTHING):
                continue
            setattr(self, _PRIVATE.get(name, name), value)
        self._check()

    def _check(self) -> None:
        has_socket = self.sock is not None or self.socket_path is not None
        has_generator = self._oauth_token_generator is not None
        for reason, is_so in {
            "not both, a password and an oauth_token_generator": (
                self._password is not None and has_generator
            ),
            "not both, use_tls and start_tls": self.use_tls and bool(self._start_tls),
            "not both, a tls_context and a client_cert": (
                self.tls_context is not None and self.client_cert is not None
            ),
            "not both, a sock and a socket_path": (
                self.sock is not None and self.socket_path is not None
            ),
            "a sock or a socket_path has no port": has_socket and self.port is not None,
            "use_tls on a sock or a socket_path needs the hostname of the certificate": (
                has_socket and self.use_tls and self.hostname is None
            ),
            "a line end in hostname": re.search(r"[\r\n]", self.hostname or "") is not None,
        }.items():
            if is_so:
                raise ValueError(reason)
        if self.local_hostname is not None:
            self.local_hostname = checked_local_hostname(self.local_hostname)

    async def _get_tls_context(self) -> ssl.SSLContext:
        if self.tls_context is not None:
            return self.tls_context
        return await to_thread.run_sync(self._make_tls_context)

    def _make_tls_context(self) -> ssl.SSLContext:
        context = create_tls_context(
            validate_certs=bool(self.validate_certs),
            client_cert=self.client_cert,
            client_key=None if self.client_cert is None else self.client_key,
        )
        if self.cert_bundle is not None:
            # Beside the system's authorities; `cafile` would take their place.
            context.load_verify_locations(cafile=self.cert_bundle)
        return context


def checked_local_hostname(name: str) -> str:
    """A name for EHLO without the blanks around it. ValueError if it is more than one word."""
    name = name.strip()
    if not name or _NO_NAME.search(name):
        raise ValueError(f"local_hostname is one word, not {name!r}")
    return name
