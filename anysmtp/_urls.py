"""URLs of servers and proxies: what they say, as values.

What is wrong with a URL is said in words that do not repeat it: it may have a password, and where
one was written that is not percent-encoded, any part of the URL may be a part of the password.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ._endpoint import Proxy, checked_hostname, checked_port
from ._grammar import CONTROLS
from ._tls import Encryption

if TYPE_CHECKING:
    from ._settings import Options, TLSMode

T = TypeVar("T")

# The schemes of `from_url`, and what each says of ``tls``.
_SCHEMES: Mapping[str, TLSMode | None] = {
    "smtp": None,
    "smtp+starttls": "starttls",
    "smtps": "implicit",
    "smtp+unix": None,
}
_LMTP_SCHEMES: Mapping[str, TLSMode | None] = {"lmtp": None, "lmtp+unix": None}
# The keys of its query: how each is read, and what that takes.
_QUERY: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "local_hostname": (str, "a name"),
    "timeout": (float, "a number of seconds"),
    "require_all": ({"true": True, "false": False}.__getitem__, "true or false"),
    "pipelining": (str, "auto, eager or off"),
    "chunking": (str, "auto, always or off"),
    "proxy": (str, "a URL"),
    "fingerprint": (str, "sha256: and hexadecimal digits"),
}
# The schemes of a proxy, and the port of each where the URL has none.
_PROXIES: Mapping[str, int] = {
    "socks5": 1080,
    "socks5h": 1080,
    "socks4a": 1080,
    "http": 80,
    "https": 443,
}
# RFC 1929 section 2: a length is one octet.
_MAX_SOCKS_LOGIN = 255


class _URLError(ValueError):
    """What is wrong with a URL, in words that do not repeat it."""


def from_url(url: str, *, is_lmtp: bool = False) -> tuple[str, int | None, Options]:
    """A URL as hostname, port and options. A ValueError never shows it."""
    schemes = _LMTP_SCHEMES if is_lmtp else _SCHEMES
    return _read("a server", lambda parts: _server(parts, schemes), url)


def proxy_from_url(url: str, tls_context: ssl.SSLContext | None = None) -> Proxy:
    """A proxy from its URL; the context is for the proxy itself. A ValueError never shows it."""
    return _read("a proxy", lambda parts: _proxy(parts, tls_context), url)


def _read(whose: str, read: Callable[[SplitResult], T], url: str) -> T:
    if not isinstance(url, str):
        raise TypeError(f"the URL of {whose} is a str, not {type(url).__name__}")
    try:
        # `urlsplit` would take some of them out without a word.
        if CONTROLS.search(url):
            raise _URLError("it has a control character")
        return read(urlsplit(url))
    except ValueError as error:
        reason = str(error) if type(error) is _URLError else "it cannot be parsed"
        raise ValueError(f"not the URL of {whose}: {reason}") from None


def _server(
    parts: SplitResult, schemes: Mapping[str, TLSMode | None]
) -> tuple[str, int | None, Options]:
    if parts.scheme not in schemes:
        raise _URLError(f"the scheme is one of {', '.join(schemes)}")
    options: Options = {}
    if (tls := schemes[parts.scheme]) is not None:
        options["tls"] = tls
    query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    if {key for key, _ in query} - set(_QUERY):
        raise _URLError(f"the query has a key that is none of {', '.join(_QUERY)}")
    for key, value in query:
        if key in options:
            raise _URLError(f"the query has {key} twice")
        read, kind = _QUERY[key]
        try:
            cast("dict[str, Any]", options)[key] = read(value)
        except (ValueError, KeyError):
            raise _URLError(f"{key} in the query is {kind}") from None
    if parts.username is not None:
        options["username"] = unquote(parts.username)
    if parts.password is not None:
        options["password"] = unquote(parts.password)
    hostname = unquote(parts.hostname or "")
    if parts.scheme.endswith("+unix"):
        if not parts.path.startswith("/") or parts.fragment:
            raise _URLError("the path of a unix socket starts with /, and there is no fragment")
        options["connectable"] = PurePath(unquote(parts.path))
        hostname = hostname or "localhost"
    elif parts.path not in ("", "/") or parts.fragment or not hostname:
        raise _URLError(
            "it has a host, a port and a query, no path and no fragment (in a password / is %2F "
            "and # is %23)"
        )
    # Checked here, where what is wrong with it is not shown: it may be a password that got there.
    return checked_hostname(hostname), parts.port, options


def _proxy(parts: SplitResult, tls_context: ssl.SSLContext | None) -> Proxy:
    if parts.scheme not in _PROXIES:
        raise _URLError(f"the scheme is one of {', '.join(_PROXIES)}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or not parts.hostname:
        raise _URLError(
            "it has a host and a port, no path, no query and no fragment (in a password / is %2F, "
            "? is %3F and # is %23)"
        )
    username = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    _check_login(parts.scheme, username, password)
    return Proxy(
        scheme=parts.scheme,
        hostname=checked_hostname(unquote(parts.hostname)),
        port=checked_port(_PROXIES[parts.scheme] if parts.port is None else parts.port),
        username=username,
        password=password or "",
        encryption=Encryption(tls_context) if parts.scheme == "https" else None,
    )


def _check_login(scheme: str, username: str | None, password: str | None) -> None:
    """What each protocol can carry as user name and password."""
    if CONTROLS.search(f"{username}{password}"):
        raise _URLError("there is a control character in the user name or password")
    if scheme == "socks4a" and password is not None:
        raise _URLError("socks4a has a user name, but no password")
    if scheme.startswith("socks5") and username is not None:
        # RFC 1929 section 2: 1 to 255 octets; an empty password is what some proxies take.
        lengths = len(username.encode()), len((password or "").encode())
        if not lengths[0] or max(lengths) > _MAX_SOCKS_LOGIN:
            raise _URLError(f"user name and password have 1 to {_MAX_SOCKS_LOGIN} octets each")
    if scheme.startswith("http") and ":" in (username or ""):
        # RFC 7617 section 2: the first colon ends the user name.
        raise _URLError("a user name cannot have a colon")
