"""Where a server is and how to get there, as values that were checked when they were made."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from anyio.abc import ByteStreamConnectable

if TYPE_CHECKING:
    from ._tls import Encryption


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy on the way to the server."""

    scheme: str
    hostname: str
    port: int
    username: str | None = field(repr=False)
    password: str = field(repr=False)
    encryption: Encryption | None
    """What TLS with the proxy itself is done by; None without."""

    def __str__(self) -> str:
        """Its URL, without a user."""
        return f"{self.scheme}://{authority(self.hostname, self.port)}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, and how to get there."""

    hostname: str
    port: int | None
    connectable: ByteStreamConnectable | os.PathLike[str] | None = None
    source_address: tuple[str, int | None] | None = None
    proxy: Proxy | None = None

    def __str__(self) -> str:
        if isinstance(self.connectable, os.PathLike):
            return os.fspath(self.connectable)
        return authority(self.hostname, self.port)


def authority(host: str, port: int | None) -> str:
    """Host and port as in a URL."""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port is None else f"{bracketed}:{port}"


def checked_port(port: Any) -> int:
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port is an int, not {port!r}")
    if not 0 < port < 65536:
        raise ValueError(f"port is from 1 to 65535, not {port}")
    return port


# As much as a resolver may be asked: letters of any script, digits, hyphens, underscores, dots.
# RFC 1035 section 2.3.4 has 255 octets for a name, the root's included.
_MAX_HOST = 254
_HOST = re.compile(r"[\w-]+(?:\.[\w-]+)*\.?")


def checked_hostname(hostname: Any) -> str:
    if not isinstance(hostname, str):
        raise TypeError(f"hostname is a str, not {type(hostname).__name__}")
    if "://" in hostname:
        # It is not repeated: there may be a password in it.
        raise ValueError("hostname is a name or an address, and not a URL: from_url() takes one")
    bare = hostname[1:-1] if hostname[:1] == "[" and hostname[-1:] == "]" else hostname
    if _HOST.fullmatch(bare) and len(bare) <= _MAX_HOST:
        return bare
    try:
        ip_address(bare.partition("%")[0])
    except ValueError:
        hint = "; the port is an argument of its own" if ":" in bare else ""
        raise ValueError(f"not a host name or address: {hostname!r}{hint}") from None
    if not bare.isprintable():
        raise ValueError(f"control character in {hostname!r}")
    return bare
