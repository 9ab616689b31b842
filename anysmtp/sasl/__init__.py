"""SASL mechanisms for SMTP AUTH (RFC 4954): credentials, and the exchanges made from them.

A `Mechanism` is frozen credentials. Each login starts a fresh `Exchange` from it, which turns the
server's challenges into responses and does no I/O; so many connections can log in at once with
one value. Write your own by subclassing both.

The secrets in a mechanism are not shown by its ``repr``.
"""

from __future__ import annotations

from ._base import Context, Exchange, Mechanism, TokenMechanism
from ._binding import server_end_point
from ._choice import choose, from_password
from ._identity import Anonymous, External
from ._oauth import OAuthBearer, XOAuth2
from ._password import CramMD5, Login, Plain
from ._scram import (
    MAX_ITERATIONS,
    Scram,
    ScramSHA1,
    ScramSHA1Plus,
    ScramSHA256,
    ScramSHA256Plus,
    ScramSHA512,
    ScramSHA512Plus,
)
from ._spnego import Gssapi, Ntlm, Spnego

__all__ = [
    "Anonymous",
    "Context",
    "CramMD5",
    "Exchange",
    "External",
    "Gssapi",
    "Login",
    "MAX_ITERATIONS",
    "Mechanism",
    "Ntlm",
    "OAuthBearer",
    "Plain",
    "Scram",
    "ScramSHA1",
    "ScramSHA1Plus",
    "ScramSHA256",
    "ScramSHA256Plus",
    "ScramSHA512",
    "ScramSHA512Plus",
    "Spnego",
    "TokenMechanism",
    "XOAuth2",
    "choose",
    "from_password",
    "server_end_point",
]
