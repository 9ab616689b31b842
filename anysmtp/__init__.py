"""anysmtp: an SMTP client for structured concurrency, under asyncio and trio."""

from __future__ import annotations

from . import errors, events, sasl
from ._attempts import Retry
from ._client import LMTP, SMTP, Borrowed
from ._clock import Timeouts
from ._connection import SMTPConnection
from ._delivery import Delivery, Outcome
from ._envelope import (
    AddressLike,
    Envelope,
    Mail,
    RawMessage,
    Receipt,
    Recipient,
    Recipients,
)
from ._mailer import Mailer, SendOptions
from ._many import SendMany
from ._parameters import DSN, DeliverBy, Notify
from ._protocol._extensions import Extensions
from ._reply import Reply
from ._send import SendAloneOptions, send
from ._settings import Limits, Options, TLSMode
from ._signing import Signer
from ._statistics import Statistics
from ._tls import TLSInfo, create_tls_context
from ._version import __version__
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
