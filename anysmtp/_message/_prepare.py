"""A message made ready to be serialised, while the caller's object stays as it is.

Bcc and Resent-Bcc never leave (RFC 5322 section 3.6.3 grants several ways; this is the one that
tells nobody). Date and Message-ID are added where they are missing (RFC 6409 section 8
lets a submission server do so; not each does), but not to a message that is resent: there they are
its author's (RFC 5322 section 3.6.6).
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timezone
from email.message import Message
from email.utils import format_datetime
from functools import lru_cache
from typing import NamedTuple

from .._envelope import Mailbox
from ._addresses import domain_of
from ._fields import text_of
from ._headers import RESENT_FIELDS, sender_of
from ._snapshot import set_fields, snapshot

_BLIND = frozenset(("bcc", "resent-bcc"))


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
    fields = list(prepared.raw_items())
    names = [name.lower() for name, _ in fields]
    if not RESENT_FIELDS.isdisjoint(names):
        add_missing_headers = False
    if not _BLIND.isdisjoint(names):
        fields = [field for field, name in zip(fields, names, strict=True) if name not in _BLIND]
        names = [name for name in names if name not in _BLIND]
    # Added raw, as the parser does: to parse the two takes longer than all the rest here.
    if add_missing_headers and "date" not in names:
        fields.append(("Date", date_of(now)))
    if "message-id" in names:
        message_id = text_of(fields[names.index("message-id")][1]) or None
    elif add_missing_headers:
        message_id = message_id or new_message_id(message, sender)
        fields.append(("Message-ID", message_id))
    else:
        message_id = None
    set_fields(prepared, fields)
    return Prepared(prepared, message_id)


def date_of(now: datetime | None) -> str:
    """A Date: by default the local time, with its zone."""
    moment = now or datetime.now(timezone.utc).replace(microsecond=0)
    return format_datetime(moment) if now else _local_date(moment)


@lru_cache(maxsize=1)
def _local_date(moment: datetime) -> str:
    """Messages of one second have one date."""
    return format_datetime(moment.astimezone())


def new_message_id(message: Message, sender: Mailbox | None) -> str:
    """An identifier that is unique (RFC 5322 section 3.6.4), and says nothing.

    It is short enough for a line of 78 beside most domains.
    """
    return f"<{os.urandom(16).hex()}@{_id_domain(message, sender)}>"


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
