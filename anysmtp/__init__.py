"""anysmtp: an SMTP client for structured concurrency, under asyncio and trio.

What a program uses of this is imported when it is first used (PEP 562): a program that imports it
and sends nothing pays nothing, and one that logs in nowhere has no mechanisms.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from . import errors, events, sasl
    from ._attempts import Retry
    from ._book import SendOptions
    from ._client import LMTP, SMTP, Borrowed
    from ._clock import Timeouts
    from ._connection import SMTPConnection
    from ._delivery import Delivery, Outcome
    from ._envelope import AddressLike, Envelope, Mail, RawMessage, Receipt, Recipient, Recipients
    from ._mailer import Mailer
    from ._many import SendMany
    from ._parameters import DSN, DeliverBy, Notify
    from ._protocol._extensions import Extensions
    from ._reply import Reply
    from ._send import SendAloneOptions, send
    from ._settings import Limits, Options, TLSMode
    from ._signing import Signer
    from ._statistics import Statistics
    from ._tls import TLSInfo, create_tls_context
    from .errors import (
        SMTPAuthenticationError,
        SMTPConnectError,
        SMTPDataError,
        SMTPException,
        SMTPHeloError,
        SMTPMessageTooLarge,
        SMTPNotSupported,
        SMTPProtocolError,
        SMTPProxyError,
        SMTPRecipientsRefused,
        SMTPResponseException,
        SMTPSenderRefused,
        SMTPServerDisconnected,
        SMTPTimeoutError,
        SMTPTLSError,
    )

__all__ = [
    "AddressLike",
    "Borrowed",
    "DSN",
    "DeliverBy",
    "Delivery",
    "Envelope",
    "Extensions",
    "LMTP",
    "Limits",
    "Mail",
    "Mailer",
    "Notify",
    "Options",
    "Outcome",
    "RawMessage",
    "Receipt",
    "Recipient",
    "Recipients",
    "Reply",
    "Retry",
    "SMTP",
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPConnection",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPMessageTooLarge",
    "SMTPNotSupported",
    "SMTPProtocolError",
    "SMTPProxyError",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPTLSError",
    "SMTPTimeoutError",
    "SendAloneOptions",
    "SendMany",
    "SendOptions",
    "Signer",
    "Statistics",
    "TLSInfo",
    "TLSMode",
    "Timeouts",
    "__version__",
    "create_tls_context",
    "errors",
    "events",
    "sasl",
    "send",
]

_PLACES = {
    "_attempts": ("Retry",),
    "_client": (
        "Borrowed",
        "LMTP",
        "SMTP",
    ),
    "_clock": ("Timeouts",),
    "_connection": ("SMTPConnection",),
    "_delivery": (
        "Delivery",
        "Outcome",
    ),
    "_envelope": (
        "AddressLike",
        "Envelope",
        "Mail",
        "RawMessage",
        "Receipt",
        "Recipient",
        "Recipients",
    ),
    "_book": ("SendOptions",),
    "_mailer": ("Mailer",),
    "_many": ("SendMany",),
    "_parameters": (
        "DSN",
        "DeliverBy",
        "Notify",
    ),
    "_protocol._extensions": ("Extensions",),
    "_reply": ("Reply",),
    "_send": (
        "SendAloneOptions",
        "send",
    ),
    "_settings": (
        "Limits",
        "Options",
        "TLSMode",
    ),
    "_signing": ("Signer",),
    "_statistics": ("Statistics",),
    "_tls": (
        "TLSInfo",
        "create_tls_context",
    ),
    "errors": (
        "SMTPAuthenticationError",
        "SMTPConnectError",
        "SMTPDataError",
        "SMTPException",
        "SMTPHeloError",
        "SMTPMessageTooLarge",
        "SMTPNotSupported",
        "SMTPProtocolError",
        "SMTPProxyError",
        "SMTPRecipientsRefused",
        "SMTPResponseException",
        "SMTPSenderRefused",
        "SMTPServerDisconnected",
        "SMTPTLSError",
        "SMTPTimeoutError",
    ),
}
_PLACE_OF = {name: module for module, names in _PLACES.items() for name in names}


if not TYPE_CHECKING:  # pragma: no branch - what does not come here does not run
    # A type checker that saw this would take any name for one of ours.
    def __getattr__(name: str) -> object:
        if name in _PLACE_OF:
            found: object = getattr(importlib.import_module(f".{_PLACE_OF[name]}", __name__), name)
        elif name in __all__:
            found = importlib.import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
