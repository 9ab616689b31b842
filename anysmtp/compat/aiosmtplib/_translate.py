"""From anysmtp's values to aiosmtplib's: replies, receipts and errors.

The one place that says which exception is which. What has the server's reply becomes a response
exception with its code; what has none is told in words. Tables, looked through in order, the more
special classes first.
"""

from __future__ import annotations

import anyio

from ... import Receipt, Reply, errors
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
    SMTPTLSError,
)
from .response import SMTPResponse
from .typing import SMTPStatus

_WITH_REPLY: tuple[tuple[type[errors.SMTPException], type[SMTPResponseException]], ...] = (
    (errors.SMTPConnectError, SMTPConnectResponseError),
    (errors.SMTPHeloError, SMTPHeloError),
    (errors.SMTPDataError, SMTPDataError),
    (errors.SMTPAuthenticationError, SMTPAuthenticationError),
    (errors.SMTPResponseException, SMTPResponseException),
    # STARTTLS that was refused, as opposed to a handshake that failed.
    (errors.SMTPTLSError, SMTPResponseException),
)
_IN_WORDS: tuple[tuple[type[errors.SMTPException], type[SMTPException]], ...] = (
    (errors.SMTPConnectError, SMTPConnectError),
    (errors.SMTPServerDisconnected, SMTPServerDisconnected),
    (errors.SMTPTimeoutError, SMTPReadTimeoutError),
    (errors.SMTPTLSError, SMTPTLSError),
    (errors.SMTPNotSupported, SMTPNotSupported),
    (errors.SMTPException, SMTPException),
)

# What opening a stream, and TLS on it, may raise. UnicodeError: a host name that is none.
OPENING_ERRORS = (OSError, UnicodeError, anyio.EndOfStream, anyio.BrokenResourceError)


def response_of(reply: Reply) -> SMTPResponse:
    """A reply as aiosmtplib has it: the blanks around each line are gone."""
    return SMTPResponse(reply.code, "\n".join(line.strip(" \t\r") for line in reply.lines))


def result_of(receipt: Receipt) -> tuple[dict[str, SMTPResponse], str]:
    """What aiosmtplib returns for a message: who was refused, and the server's last word."""
    refused = {address: response_of(reply) for address, reply in receipt.refused.items()}
    return refused, response_of(receipt.reply).message


def translated(error: errors.SMTPException, sender: str | None = None) -> SMTPException:
    """The exception that aiosmtplib would raise; ``sender`` is the one that MAIL was asked for."""
    if isinstance(error, errors.SMTPRecipientsRefused):
        return SMTPRecipientsRefused(
            [
                SMTPRecipientRefused(*response_of(reply), address)
                for address, reply in error.refused.items()
            ]
        )
    if isinstance(error, errors.SMTPProtocolError):
        return SMTPResponseException(SMTPStatus.invalid_response.value, str(error))
    if isinstance(error, errors.SMTPMessageTooLarge):
        # Where aiosmtplib sends the size with MAIL, and is refused by this code (RFC 1870
        # section 6.1), nothing is sent here.
        code = SMTPStatus.storage_exceeded.value
        return SMTPSenderRefused(code, str(error), sender or "")
    if error.reply is not None:
        response = response_of(error.reply)
        if (command := error.command or "").startswith("MAIL FROM:"):
            # Whatever anysmtp makes of it: a 530 is a login that is missing, a 421 a goodbye.
            return SMTPSenderRefused(*response, _path(command) if sender is None else sender)
        for theirs, ours in _WITH_REPLY:
            if isinstance(error, theirs):
                return ours(*response)
    return next(ours(str(error)) for theirs, ours in _IN_WORDS if isinstance(error, theirs))


def opening_error(error: Exception, where: str) -> SMTPConnectError:
    """Why there is no stream; one of `OPENING_ERRORS`."""
    # anyio wraps what the system said, the first of several addresses' too.
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, TimeoutError):
        return SMTPConnectTimeoutError(f"Timed out connecting to {where}: {cause}")
    return SMTPConnectError(f"Error connecting to {where}: {str(cause) or type(cause).__name__}")


def _path(command: str) -> str:
    """The reverse-path in a MAIL command."""
    return command.partition("<")[2].rpartition(">")[0]
