"""The first flight of a transaction where all that it takes is known beforehand.

Most messages ask for nothing, and go to a server that offers PIPELINING. What they write is MAIL,
RCPT and DATA, and a 250 to each and a 354 is what is awaited. These need no `Transaction`, which
is there for all that may come otherwise; one that is made when something does begins with the same
flight, octet by octet.
"""

from __future__ import annotations

from functools import lru_cache

from .._envelope import Content, Job, Stream
from . import _commands
from ._demands import mail_parameters, needs_downgrade
from ._extensions import Extensions
from ._transaction import MAX_FLIGHT, Chunking


class LoneFlight:
    """What leaves before anything is awaited, and for whom."""

    __slots__ = ("keys", "mail", "octets")

    def __init__(self, mail: str, octets: bytes, keys: list[str]) -> None:
        self.mail = mail
        """MAIL, as it is shown."""
        self.octets = octets
        self.keys = keys
        """The recipients, as they were given."""


def lone_flight(
    job: Job, content: Content | Stream, extensions: Extensions, chunking: Chunking
) -> LoneFlight | None:
    """The flight; None where more than that has to be planned, or may be.

    SMTPNotSupported and SMTPMessageTooLarge as from a `Transaction`.
    """
    sender = "" if job.sender is None else job.sender.ascii
    if (
        sender is None
        or not extensions.pipelining
        or extensions.limits
        or chunking == "always"
        or job.require_all
        or job.mail_parameters
        or job.rcpt_options
        or len(job.recipients) + 2 > MAX_FLIGHT
        or needs_downgrade(content, extensions)
    ):
        return None
    parameters, is_utf8 = mail_parameters(job, content, extensions, is_tls_verified=False)
    if is_utf8:
        return None
    paths = [mailbox.ascii for mailbox in job.recipients if not mailbox.parameters]
    if len(paths) < len(job.recipients) or None in paths:
        return None
    mail = _commands.plain_mail(sender, *parameters)
    octets = b"".join((mail.line, _rcpts(tuple(paths)), _commands.DATA.line))
    return LoneFlight(mail.shown, octets, [mailbox.given for mailbox in job.recipients])


@lru_cache(maxsize=8)
def _rcpts(paths: tuple[str, ...]) -> bytes:
    """The octets of RCPT for each: the same lists come again and again."""
    return b"".join([command.line for command in _commands.plain_rcpts(paths)])
