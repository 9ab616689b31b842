"""GSSAPI (RFC 4752: Kerberos), GSS-SPNEGO (RFC 4178) and NTLM ([MS-SMTPNTLM]), by pyspnego.

The extra ``spnego`` brings that package; Kerberos needs its own extra ``kerberos`` besides, but on
Windows. They are imported in the worker thread in which the exchange runs: a ticket may have
to be fetched from a server of its own, and nothing here waits for that by itself.

No security layer is asked for, since the connection has TLS (RFC 4954 section 4 allows one).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SMTPAuthenticationError
from ._base import Context, Exchange, Mechanism, prepared

if TYPE_CHECKING:
    from spnego import ContextProxy

# RFC 4752 section 3.1: a bit mask of security layers and a maximum size of messages in them.
_NO_LAYER = 1
_NO_MESSAGES = b"\0\0\0"


@dataclass(frozen=True, slots=True, repr=False)
class Spnego(Mechanism):
    """GSS-SPNEGO: Kerberos, or NTLM where there is no ticket.

    Without ``username`` and ``password`` the credentials are those of the user who runs the
    program (``kinit``). ``hostname`` is the server's name in its principal, where that is
    not the name that the client connects to. ImportError without the extra ``spnego``; ValueError
    for control characters.
    """

    username: str | None = None
    password: str | None = None
    hostname: str | None = None

    name = "GSS-SPNEGO"
    protocol = "negotiate"
    """What pyspnego calls it."""
    settles_layer = False
    """Whether it ends with what is said about a security layer (RFC 4752 section 3.1)."""

    def __post_init__(self) -> None:
        for name in ("username", "password", "hostname"):
            if (value := getattr(self, name)) is not None:
                prepared(name, value)
        if importlib.util.find_spec("spnego") is None:
            raise ImportError(f"{self.name} needs pyspnego: pip install 'anysmtp[spnego]'")

    def start(self, context: Context) -> Exchange:
        return _SpnegoExchange(self, context)


@dataclass(frozen=True, slots=True, repr=False)
class Ntlm(Spnego):
    r"""NTLM, with a user name as ``DOMAIN\ann`` or ``ann@example.com``; see `Spnego`."""

    name = "NTLM"
    protocol = "ntlm"


@dataclass(frozen=True, slots=True, repr=False)
class Gssapi(Spnego):
    """GSSAPI: Kerberos. ``authzid`` is whom to act as, where it is not the user; see `Spnego`."""

    authzid: str = ""

    name = "GSSAPI"
    needs_encryption = False
    protocol = "kerberos"
    settles_layer = True

    def __post_init__(self) -> None:
        Spnego.__post_init__(self)
        prepared("authzid", self.authzid)


class _SpnegoExchange(Exchange):
    """Tokens back and forth until both sides have what they need; then the security layer, of which
    the client wants none. GSSAPI has to speak of it; Dovecot does in GSS-SPNEGO too.
    """

    is_slow = True

    def __init__(self, mechanism: Spnego, context: Context) -> None:
        self._mechanism = mechanism
        self._context = context
        self._security: ContextProxy | None = None
        self._is_settled = False

    def initial_response(self) -> bytes | None:
        return self._next(None)

    def step(self, challenge: bytes) -> bytes | None:
        assert self._security is not None
        if not self._security.complete:
            return self._next(challenge)
        return None if self._is_settled else self._settle(self._security, challenge)

    def finish(self) -> None:
        if self._security is None or not self._security.complete:
            raise SMTPAuthenticationError("the server said yes before it had proved who it is")
        if self._mechanism.settles_layer and not self._is_settled:
            raise SMTPAuthenticationError(f"the server said yes before the end of {self._name}")

    @property
    def _name(self) -> str:
        return self._mechanism.name

    def _next(self, token: bytes | None) -> bytes:
        import spnego

        mechanism = self._mechanism
        try:
            if self._security is None:
                self._security = spnego.client(
                    mechanism.username,
                    mechanism.password,
                    hostname=mechanism.hostname or self._context.hostname,
                    service=self._context.service,
                    protocol=mechanism.protocol,
                    context_req=spnego.ContextReq.mutual_auth | spnego.ContextReq.integrity,
                )
            return self._security.step(token) or b""
        # What it raises for the octets of a strange server is nowhere written.
        except Exception as error:
            raise SMTPAuthenticationError(f"{self._name}: {error}") from error

    def _settle(self, security: ContextProxy, challenge: bytes) -> bytes:
        self._is_settled = True
        authzid = getattr(self._mechanism, "authzid", "")
        answer = bytes((_NO_LAYER,)) + _NO_MESSAGES + authzid.encode()
        try:
            offer = security.unwrap(challenge).data
            wrapped = security.wrap(answer, encrypt=False).data
        except Exception as error:
            raise SMTPAuthenticationError(f"{self._name}: {error}") from error
        if len(offer) != 4 or not offer[0] & _NO_LAYER:
            raise SMTPAuthenticationError("the server wants a security layer inside of TLS")
        return wrapped
