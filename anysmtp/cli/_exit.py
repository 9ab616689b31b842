"""The exit codes: what a script wants to tell apart, in one number.

Of several messages, or several recipients, the worst decides. Worst is what is in doubt, because it
must not be sent again without a thought; then what the server refused, which needs another message,
recipient or login; then what was not sent, which can be tried again as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from .. import (
    Delivery,
    SMTPAuthenticationError,
    SMTPException,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
)


class Exit(IntEnum):
    """See docs/cli.rst, where each is explained."""

    OK = 0
    TROUBLE = 1
    USAGE = 2
    REFUSED = 3
    IN_DOUBT = 4
    UNREACHABLE = 5
    INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


_FROM_WORST = (Exit.IN_DOUBT, Exit.REFUSED, Exit.UNREACHABLE, Exit.USAGE, Exit.OK)
# The server's no, although some of these are said before it is asked: what it does not offer, or
# declares too large, it would not take.
_A_NO = (
    SMTPAuthenticationError,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
)


def of_error(error: Exception) -> Exit:
    """The exit code for what ended a conversation."""
    if isinstance(error, (ValueError, TypeError)):
        return Exit.USAGE
    said_no = isinstance(error, SMTPException) and error.reply is not None
    return Exit.REFUSED if said_no or isinstance(error, _A_NO) else Exit.UNREACHABLE


def of_delivery(delivery: Delivery[None], error: Exception | None) -> Exit:
    """The exit code for one message, with what its send raised."""
    if delivery.in_doubt:
        return Exit.IN_DOUBT
    if delivery.refused:
        return Exit.REFUSED
    if error is not None:
        return of_error(error)
    return Exit.OK if delivery.accepted and not delivery.not_sent else Exit.UNREACHABLE


def worst(codes: Iterable[Exit]) -> Exit:
    """What one number says of them all."""
    return min(codes, key=_FROM_WORST.index)
