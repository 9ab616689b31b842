"""A message made ready to be serialised, while the caller's object stays as it is.

Bcc and Resent-Bcc never leave (RFC 5322 section 3.6.3 grants several ways; this is the one that
tells nobody). Date and Message-ID are added where they are missing (RFC 6409 section 8
lets a submission server do so; not each does), but not to a message that is resent: there they are
its author's (RFC 5322 section 3.6.6).
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from email.message import Message
from email.utils import format_datetime, localtime, make_msgid
from typing import NamedTuple

from .._envelope import Mailbox
from ._addresses import domain_of
from ._fields import text_of, values
from ._headers import is_resent, sender_of
from ._snapshot import snapshot


class Prepared(NamedTuple):
    """A snapshot without Bcc, for `serialise`, and the Message-ID that it has."""

    message: Message
    message_id: str | None


def prepare(
    message: Message,
    *,
    sender: Mailbox | None,
    add_missing_headers: bool = True,
    message_id: str | None = None,
    now: datetime | None = None,
) -> Prepared:
    """Take a snapshot of a message, without Bcc and with what is missing.

    ``sender`` is the envelope's, whose domain a new Message-ID has; ``message_id`` is used in place
    of a new one when a send is resumed; ``now`` is the Date, by default the local time.
    """
    prepared = snapshot(message)
    del prepared["Bcc"]
    del prepared["Resent-Bcc"]
    if add_missing_headers and not is_resent(message):
        # Set raw, as the parser does: to parse the two takes longer than all the rest here.
        if "Date" not in prepared:
            prepared.set_raw("Date", format_datetime(now or localtime()))
        if "Message-ID" not in prepared:
            identifier = message_id or make_msgid(domain=_id_domain(message, sender))
            prepared.set_raw("Message-ID", identifier)
    found = next(values(prepared, "Message-ID"), None)
    return Prepared(prepared, None if found is None else text_of(found) or None)


def _id_domain(message: Message, sender: Mailbox | None) -> str:
    """The sender's domain; never the name of this host, which is nobody's business.

    RFC 5322 section 3.6.4 asks for a domain that makes the identifier unique; the random part
    does that.
    """
    if sender is None:
        # The null reverse-path says nothing, and From need not be well-formed for it.
        with contextlib.suppress(ValueError):
            sender = sender_of(message)
    return (sender and domain_of(sender)) or "localhost"
