"""aiosmtplib's exceptions: its names, attributes, arguments and built-in bases.

::

    SMTPException                       message
    ├─ SMTPServerDisconnected           the connection was lost, or there is none  (ConnectionError)
    │  └─ SMTPTLSError                  STARTTLS was agreed on and failed            (ssl.SSLError)
    ├─ SMTPConnectError                 no connection came about                   (ConnectionError)
    ├─ SMTPTimeoutError                 the timeout of a call                         (TimeoutError)
    │  ├─ SMTPConnectTimeoutError       of connect(); an SMTPConnectError too
    │  └─ SMTPReadTimeoutError          of anything else
    ├─ SMTPNotSupported                 the server does not offer what is needed
    ├─ SMTPRecipientsRefused            recipients: an SMTPRecipientRefused for each
    └─ SMTPResponseException            code, message: the server's reply
       ├─ SMTPConnectResponseError      the greeting; an SMTPConnectError too
       ├─ SMTPHeloError                 EHLO and HELO
       ├─ SMTPAuthenticationError       AUTH
       ├─ SMTPSenderRefused             MAIL; sender
       ├─ SMTPRecipientRefused          RCPT; recipient
       └─ SMTPDataError                 DATA, or the message

The ``__cause__`` of one that a call raises is anysmtp's, which says more: what became of each
recipient, and whether the message may be sent again.
"""

from __future__ import annotations

import ssl
from typing import Any

__all__ = [
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPConnectResponseError",
    "SMTPConnectTimeoutError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupported",
    "SMTPReadTimeoutError",
    "SMTPRecipientRefused",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPTimeoutError",
]


class SMTPException(Exception):
    """Anything below."""

    message: str

    def __init__(self, message: str, /) -> None:
        # Not through OSError's own, which would read two arguments as an error number and a text.
        self.args: tuple[Any, ...] = (message,)
        self.message = message


class SMTPServerDisconnected(SMTPException, ConnectionError):
    """The connection was lost, or there is none."""


class SMTPTLSError(SMTPServerDisconnected, ssl.SSLError):
    """The handshake after STARTTLS failed; aiosmtplib lets the ssl.SSLError itself through."""


class SMTPConnectError(SMTPException, ConnectionError):
    """No connection came about."""


class SMTPTimeoutError(SMTPException, TimeoutError):
    """A call took longer than its timeout; the connection is closed."""


class SMTPConnectTimeoutError(SMTPTimeoutError, SMTPConnectError):
    """``connect()`` took longer than its timeout."""


class SMTPReadTimeoutError(SMTPTimeoutError):
    """A call took longer than its timeout on a connection that was there."""


class SMTPNotSupported(SMTPException):
    """The server does not offer what is needed."""


class SMTPResponseException(SMTPException):
    """The server's reply says no."""

    code: int

    def __init__(self, code: int, message: str, /) -> None:
        super().__init__(message)
        self.args: tuple[Any, ...] = (code, message)
        self.code = code


class SMTPConnectResponseError(SMTPResponseException, SMTPConnectError):
    """The server's greeting says no."""


class SMTPHeloError(SMTPResponseException):
    """EHLO or HELO was refused."""


class SMTPDataError(SMTPResponseException):
    """DATA, or the message after it, was refused."""


class SMTPAuthenticationError(SMTPResponseException):
    """The login was refused."""


class SMTPSenderRefused(SMTPResponseException):
    """MAIL was refused."""

    sender: str

    def __init__(self, code: int, message: str, sender: str, /) -> None:
        super().__init__(code, message)
        self.args: tuple[Any, ...] = (code, message, sender)
        self.sender = sender


class SMTPRecipientRefused(SMTPResponseException):
    """RCPT was refused."""

    recipient: str

    def __init__(self, code: int, message: str, recipient: str, /) -> None:
        super().__init__(code, message)
        self.args: tuple[Any, ...] = (code, message, recipient)
        self.recipient = recipient


class SMTPRecipientsRefused(SMTPException):
    """The server took the message for no recipient."""

    recipients: list[SMTPRecipientRefused]

    def __init__(self, recipients: list[SMTPRecipientRefused], /) -> None:
        super().__init__(f"{len(recipients)} recipients refused")
        self.args: tuple[Any, ...] = (recipients,)
        self.recipients = recipients
