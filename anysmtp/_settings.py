"""Each option of a client, declared, validated and documented once.

`Options` is the declaration: every front end (`SMTP`, `send`) takes these keywords and documents
them by pointing here. `settle` turns what a caller wrote into `Settings`, which is what the
rest of the client reads: checked, frozen, with the defaults that depend on each other worked
out. Wrong input is a ValueError or TypeError here, before anything is opened.
"""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from anyio.abc import ByteStreamConnectable

from . import _clock, sasl
from ._attempts import Retry
from ._book import no_such_option
from ._clock import Timeouts, timeouts_of
from ._endpoint import Endpoint, Proxy, checked_hostname, checked_port
from ._grammar import LOCAL_HOSTNAME
from ._protocol._transaction import Chunking, Pipelining
from ._signing import Signer, Signers, signers_of
from ._urls import proxy_from_url
from ._wishes import wrong_type
from .events import Observer

TLSMode: TypeAlias = Literal["auto", "implicit", "starttls", "opportunistic", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of a server a client uses. ValueError for numbers that make no sense."""

    max_connections: int = 3
    """How many connections there are at most. One that is idle is used before another is opened,
    and a server that lets in fewer is asked for fewer."""
    max_messages_per_connection: int | None = None
    """After how many messages a connection is replaced; None: when the server says so (MAILMAX,
    RFC 9422)."""
    keepalive_expiry: float | None = 60
    """After how many idle seconds a connection is not used again, and is closed when the client is
    used next; None: never."""
    rate: tuple[int, float] | None = None
    """How many messages may begin in any span of so many seconds: ``(30, 60)``; the others wait."""

    def __post_init__(self) -> None:
        _checked_count("max_connections", self.max_connections)
        if self.max_messages_per_connection is not None:
            _checked_count("max_messages_per_connection", self.max_messages_per_connection)
        if self.keepalive_expiry is not None:
            _checked_seconds("keepalive_expiry", self.keepalive_expiry, "and finite (None: never)")
        if self.rate is not None:
            if not _is_pair(self.rate):
                raise TypeError(f"rate is (messages, seconds), not {self.rate!r}")
            _checked_count("the first of rate", self.rate[0])
            _checked_seconds("the second of rate", self.rate[1])


class Options(TypedDict, total=False):
    """The keyword options of a client. All are optional."""

    tls: TLSMode
    """How the connection is encrypted. ``"auto"`` (the default): port 465 implicit; over a network
    STARTTLS where it is offered, and required on port 587 or with credentials; on loopback and
    unix sockets only when the login needs it. ``"implicit"``: TLS from the first octet (RFC 8314).
    ``"starttls"``: required (RFC 3207). ``"opportunistic"``: encrypts where STARTTLS is offered,
    without verifying unless a ``tls_context`` is given (RFC 7435), and refuses credentials.
    ``"off"``. In every other mode the certificate and its name are verified."""

    tls_context: ssl.SSLContext | None
    """What to verify by, and the client's certificate; see `create_tls_context`. The default,
    the system's authorities, is loaded once per client, in a worker thread."""

    fingerprint: str | Iterable[str] | None
    """The certificate that the server must have, or several of which one, by ``"sha256:"`` and the
    hexadecimal digits of its SHA-256, colons between them or not. It stands in place of the
    authorities; with a ``tls_context`` both are asked. TLS is required then, whatever ``tls``."""

    username: str | None
    """For the login: the client picks the strongest mechanism that the server offers."""

    password: str | None
    """For the login; together with ``username``."""

    auth: sasl.Mechanism | Sequence[sasl.Mechanism] | None
    """For the login instead of ``username``: mechanisms in order of preference."""

    allow_plaintext_auth: bool
    """Whether a secret may cross a network unencrypted; False by default."""

    local_hostname: str | None
    """What EHLO says of this host: a domain or an address literal. The default is
    ``socket.gethostname()`` if it has a dot, else the socket's address. Never a DNS look-up."""

    source_address: str | tuple[str, int] | None
    """The local address to connect from: a host, or host and port."""

    proxy: str | None
    """The URL of a proxy to connect through: ``socks5://`` (names are looked up here),
    ``socks5h://`` (the proxy looks them up), ``socks4a://``, ``http://`` or ``https://`` (CONNECT;
    the latter speaks TLS with the proxy too), with user name and password percent-encoded. TLS with
    the mail server runs inside. Needs the extra ``proxy``; ImportError without it."""

    proxy_tls_context: ssl.SSLContext | None
    """What to verify an ``https://`` proxy by; by default the system's authorities."""

    connectable: ByteStreamConnectable | os.PathLike[str] | None
    """What to connect through instead of TCP: the path of a unix socket, or anything of anyio's
    that connects to a byte stream. ``hostname`` is the server's name then, and ``port`` only
    selects the rule for ``tls``."""

    timeout: Timeouts | float | None
    """Seconds of waiting for the network, a safety net below the caller's own scopes; see
    `Timeouts`. 60 by default, 30 for the connection, 600 for the reply to a message. A number
    does not shorten the latter. None: no limit."""

    require_all: bool | None
    """Whether a message goes to all recipients or to nobody. By default it goes to those that the
    server takes."""

    add_missing_headers: bool
    """Whether message objects that lack Date and Message-ID are sent with them; True by default."""

    pipelining: Pipelining
    """``"auto"`` (the default): commands are sent in groups where the server offers PIPELINING
    (RFC 2920). ``"off"``: one at a time. ``"eager"``: where the server offers CHUNKING too, a small
    message leaves with its envelope, before that is answered, and several are on their way at
    once; all of these are in doubt if the connection is lost. Not with ``require_all``."""

    chunking: Chunking
    """Whether BDAT carries a message, where the server offers CHUNKING (RFC 3030), or DATA.
    ``"auto"`` (the default): BDAT where it saves a round trip, which is with ``require_all`` and
    where messages are eager, for some servers get it wrong. ``"always"``, ``"off"``; what is
    ``binary`` goes by BDAT in any case."""

    limits: Limits
    """How many connections, and how many messages; see `Limits`."""

    sign: Signers | None
    """Who signs each message, called in a worker thread with the octets that would be sent: such
    as an `anysmtp.dkim.DKIMSigner`."""

    retry: Retry | None
    """Whether and when messages that were refused for now are sent again; not by default."""

    observer: Observer | None
    """A function that is called with each event of `anysmtp.events`, for metrics and traces."""


# What stands in place of options that other libraries have.
_INSTEAD = {
    "timeouts": "timeout",
    "max_connections": "limits=Limits(max_connections=...)",
    "rate": "limits=Limits(rate=...)",
    "use_tls": "tls='implicit'",
    "start_tls": "tls='starttls', 'auto' or 'off'",
    "validate_certs": "tls_context=create_tls_context(validate_certs=...)",
    "cert_bundle": "tls_context=create_tls_context(cafile=...)",
    "client_cert": "tls_context=create_tls_context(client_cert=...)",
    "client_key": "tls_context=create_tls_context(client_key=...)",
    "socket_path": "connectable=pathlib.Path(...)",
    "sock": "connectable=, or SMTPConnection on a stream",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options come to."""

    endpoint: Endpoint
    is_lmtp: bool
    tls: TLSMode
    tls_context: ssl.SSLContext | None
    pins: frozenset[str]
    mechanisms: tuple[sasl.Mechanism, ...]
    allow_plaintext_auth: bool
    local_hostname: str | None
    timeouts: Timeouts
    require_all: bool
    add_missing_headers: bool
    pipelining: Pipelining
    chunking: Chunking
    limits: Limits
    retry: Retry | None
    signers: tuple[Signer, ...]
    observer: Observer | None

    @property
    def are_of_each(self) -> bool:
        """Whether each message has something done to it, or asked for it."""
        return bool(self.signers) or self.require_all

    @property
    def sends_letters(self) -> bool:
        """Whether a message by itself may go as a letter, if it is one."""
        is_usual = self.pipelining == "auto" and self.chunking != "always"
        return is_usual and not (self.is_lmtp or self.are_of_each or self.limits.rate is not None)


def settle(hostname: str, port: int | None, options: Options, *, is_lmtp: bool = False) -> Settings:
    """Check the options, and work out what depends on what."""
    if unknown := set(options) - set(Options.__annotations__):
        raise no_such_option(unknown, Options, _INSTEAD)
    tls = _one_of("tls", options.get("tls", "auto"), TLSMode)
    pipelining = _one_of("pipelining", options.get("pipelining", "auto"), Pipelining)
    chunking = _one_of("chunking", options.get("chunking", "auto"), Chunking)
    context = _instance("tls_context", options.get("tls_context"), ssl.SSLContext)
    mechanisms = _mechanisms(options)
    if tls == "off" and context is not None:
        raise ValueError("a tls_context is of no use with tls='off'")
    if (pins := _pins(options.get("fingerprint"))) and tls in ("off", "opportunistic"):
        raise ValueError(f"a fingerprint demands TLS, tls={tls!r} does not")
    if tls == "opportunistic" and mechanisms:
        raise ValueError("tls='opportunistic' may be no encryption at all: no login with it")
    if is_lmtp:
        _check_lmtp_port(port, options)
    elif port is None:
        port = _default_port(tls, bool(mechanisms))
    return Settings(
        endpoint=_endpoint(hostname, None if port is None else checked_port(port), options),
        is_lmtp=is_lmtp,
        tls="implicit" if tls == "auto" and port == 465 else tls,
        tls_context=context,
        pins=pins,
        mechanisms=mechanisms,
        allow_plaintext_auth=_flag("allow_plaintext_auth", options, False),
        local_hostname=_local_hostname(options.get("local_hostname")),
        timeouts=timeouts_of(options.get("timeout", _clock.DEFAULT)),
        require_all=_flag("require_all", options, False),
        add_missing_headers=_flag("add_missing_headers", options, True),
        pipelining=pipelining,
        chunking=chunking,
        limits=_instance("limits", options.get("limits"), Limits) or Limits(),
        retry=_instance("retry", options.get("retry"), Retry),
        signers=signers_of(options.get("sign") or ()),
        observer=_function("observer", options.get("observer")),
    )


def _function(name: str, value: Any) -> Any:
    if value is None:
        return None
    if not callable(value):
        raise TypeError(f"{name} is a function, not {value!r}")
    if iscoroutinefunction(value) or iscoroutinefunction(value.__call__):
        raise TypeError(f"{name} is a function, not an async one: nobody would await it")
    return value


def _is_pair(value: Any) -> bool:
    match value:
        case (_, _):
            return isinstance(value, tuple)
        case _:
            return False


def _checked_count(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} is a number, not {number!r}")
    if number < 1:
        raise ValueError(f"{name} is 1 or more, not {number}")


def _checked_seconds(name: str, seconds: Any, hint: str = "and finite") -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} is a number of seconds, not {seconds!r}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} is above 0 seconds {hint}, not {seconds!r}")


def _one_of(name: str, value: Any, choices: Any) -> Any:
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}")
    return value


def _instance(name: str, value: Any, kind: type) -> Any:
    if value is not None and not isinstance(value, kind):
        raise wrong_type(name, kind, type(value).__name__)
    return value


def _flag(name: str, options: Mapping[str, Any], default: bool) -> bool:
    """No truth values of other types: ``allow_plaintext_auth="no"`` must not mean yes."""
    value = _instance(name, options.get(name), bool)
    return default if value is None else bool(value)


def _mechanisms(options: Options) -> tuple[sasl.Mechanism, ...]:
    username, password = options.get("username"), options.get("password")
    auth = options.get("auth")
    if username is None and password is None:
        if auth is None:
            return ()
        mechanisms = (auth,) if isinstance(auth, sasl.Mechanism) else tuple(auth)
        if not all(isinstance(mechanism, sasl.Mechanism) for mechanism in mechanisms):
            raise TypeError("auth is a mechanism of anysmtp.sasl, or several of them")
        if not mechanisms:
            raise ValueError("auth has no mechanism: leave it out for no login")
        return mechanisms
    if auth is not None:
        raise ValueError("auth stands instead of username and password, not beside them")
    if username is None or password is None:
        missing = "username" if username is None else "password"
        raise ValueError(f"{missing} is missing: username and password come together")
    return sasl.from_password(username, password)


def _check_lmtp_port(port: int | None, options: Options) -> None:
    if port is None and options.get("connectable") is None:
        raise ValueError(
            "LMTP has no port of its own: port=, or the path of a unix socket as connectable="
        )
    if port == 25:
        # RFC 2033 section 5.
        raise ValueError("port 25 is SMTP's, and not for LMTP")


# Colons between the octets are how openssl and others write it.
_FINGERPRINT = re.compile(r"sha256:((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.IGNORECASE)


def _pins(given: Any) -> frozenset[str]:
    """Fingerprints as `TLSInfo` has them."""
    if given is None:
        return frozenset()
    several = (given,) if isinstance(given, str) else tuple(given)
    if not several:
        raise ValueError("fingerprint has none: leave it out to trust the authorities")
    return frozenset(map(_pin, several))


def _pin(fingerprint: Any) -> str:
    if not isinstance(fingerprint, str):
        raise TypeError(f"a fingerprint is a str, not {type(fingerprint).__name__}")
    if (found := _FINGERPRINT.fullmatch(fingerprint)) is None:
        raise ValueError(f"not sha256: and 64 hexadecimal digits: {fingerprint!r}")
    return "sha256:" + found[1].replace(":", "").lower()


def _default_port(tls: TLSMode, has_credentials: bool) -> int:
    """RFC 8314 section 3: submission is 465 or 587; 25 is relay between servers."""
    if tls == "implicit":
        return 465
    return 587 if tls == "starttls" or (tls == "auto" and has_credentials) else 25


def _endpoint(hostname: str, port: int | None, options: Options) -> Endpoint:
    connectable, proxy = options.get("connectable"), _proxy(hostname, options)
    if connectable is not None:
        if proxy is not None:
            raise ValueError("a proxy is reached over TCP: there is no connectable with it")
        if not isinstance(connectable, (ByteStreamConnectable, os.PathLike)):
            raise TypeError(
                f"connectable is a pathlib.Path or a ByteStreamConnectable, not {connectable!r}"
            )
        if options.get("source_address") is not None:
            raise ValueError("source_address is for TCP, not for a connectable")
    return Endpoint(
        hostname=checked_hostname(hostname),
        port=port,
        connectable=connectable,
        source_address=_source_address(options.get("source_address")),
        proxy=proxy,
    )


# Which library speaks with which proxy.
_LIBRARIES = {"socks5": "socksio", "socks5h": "socksio", "socks4a": "socksio"}


def _proxy(hostname: str, options: Options) -> Proxy | None:
    """The proxy, if it can take the client to this server."""
    url = options.get("proxy")
    context = _instance("proxy_tls_context", options.get("proxy_tls_context"), ssl.SSLContext)
    proxy = None if url is None else proxy_from_url(url, context)
    if context is not None and (proxy is None or proxy.encryption is None):
        raise ValueError("a proxy_tls_context is for a proxy whose URL begins with https://")
    if proxy is None:
        return None
    library = _LIBRARIES.get(proxy.scheme, "h11")
    if importlib.util.find_spec(library) is None:
        raise ImportError(
            f"a proxy of {proxy.scheme}:// needs {library}: pip install 'anysmtp[proxy]'"
        )
    if "%" in hostname or (proxy.scheme == "socks4a" and ":" in hostname):
        raise ValueError(f"{proxy.scheme}:// cannot carry the address {hostname}")
    return proxy


def _source_address(source: Any) -> tuple[str, int | None] | None:
    """The host, and the port if it is to be a certain one; 0 is any."""
    if source is None:
        return None
    match source:
        case str() as host:
            port = 0
        case (host, port):
            pass
        case _:
            raise TypeError(f"source_address is a host, or a host and a port, not {source!r}")
    return checked_hostname(host), checked_port(port) if port else None


def _local_hostname(name: Any) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not LOCAL_HOSTNAME.fullmatch(name):
        raise ValueError(f"local_hostname is a domain or an address literal, not {name!r}")
    return name
