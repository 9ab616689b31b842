"""The public shape of aiosmtplib 5 over `anysmtp.SMTPConnection`: change the import, keep the code.

``from anysmtp.compat import aiosmtplib`` takes the place of ``import aiosmtplib``, and the program
then runs on trio too. The modules are those that aiosmtplib documents, so that ``from
aiosmtplib.errors import ...`` moves in the same way.

It is thin, and knows no SMTP: every command is one of an `anysmtp.SMTPConnection`. Where aiosmtplib
would do what anysmtp must never do, such as a second guess of a password, anysmtp's way is taken;
docs/migrating.rst has the list. The rooms, each on top of those before it:

- `errors`, `response`, `status`, `typing`: the values.
- ``_translate``: anysmtp's errors and replies to aiosmtplib's.
- ``_config``: the arguments, and when they contradict each other.
- ``_stream``: from the arguments to a byte stream.
- ``_session``: connected or not, whose turn it is, and what the server said to EHLO.
- ``_commands``, ``_login``: a method for each command.
- `smtp`, `api`: `SMTP` and `send`.
"""

from __future__ import annotations

from .api import send
from .errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPConnectResponseError,
    SMTPConnectTimeoutError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPReadTimeoutError,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from .response import SMTPResponse
from .smtp import SMTP
from .typing import SMTPStatus, SMTPTokenGenerator

__all__ = [
    "SMTP",
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
    "SMTPResponse",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPStatus",
    "SMTPTimeoutError",
    "SMTPTokenGenerator",
    "send",
]
