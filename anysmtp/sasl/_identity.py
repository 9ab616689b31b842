"""EXTERNAL (RFC 4422 appendix A) and ANONYMOUS (RFC 4505): logins without a secret.

EXTERNAL says "you know already who I am": from the client's certificate (``client_cert`` of
`create_tls_context`), or from the user at the other end of a unix socket.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Context, Exchange, Mechanism, prepared
from ._password import Scripted
from ._stringprep import trace

# RFC 4505 section 2: token = 1*255TCHAR.
_MAX_TRACE = 255


@dataclass(frozen=True, slots=True, repr=False)
class External(Mechanism):
    """EXTERNAL. ``authzid`` is whom to act as, where that is not whom the certificate names.

    ValueError for control characters.
    """

    authzid: str = ""

    name = "EXTERNAL"
    needs_encryption = False
    proof = "certificate"

    def __post_init__(self) -> None:
        prepared("authzid", self.authzid)

    def start(self, context: Context) -> Exchange:
        return Scripted(self.authzid)


@dataclass(frozen=True, slots=True, repr=False)
class Anonymous(Mechanism):
    """ANONYMOUS. ``trace`` tells the server's operator who it is: an address, or any words.

    ValueError for control and other odd characters, and for more than 255.
    """

    trace: str = ""

    name = "ANONYMOUS"
    needs_encryption = False
    proof = "guest"

    def __post_init__(self) -> None:
        trace(prepared("trace", self.trace))
        if len(self.trace) > _MAX_TRACE:
            raise ValueError(f"trace of {len(self.trace)} characters, {_MAX_TRACE} allowed")

    def start(self, context: Context) -> Exchange:
        return Scripted(self.trace)
