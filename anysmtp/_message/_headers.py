"""The envelope that the header fields of a message ask for.

RFC 5322 section 3.6.2: the sender is the one mailbox of Sender, else of From; section 3.6.3: the
recipients are those of To, Cc and Bcc. When the message is resent (section 3.6.6) the Resent-
fields take the place of all of these. Several blocks of them stand one above the other and
only their order could tell which is the latest; other programs reorder fields, so two blocks
are refused, as smtplib does.

Sender and recipients are looked for separately, because the caller may have given one of them;
what is not needed is not read, and cannot be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.message import Message

from .._envelope import Mailbox
from ._addresses import parse_list, unique
from ._fields import text_of

# A block has each of these at most once (RFC 5322 section 3.6), so that one which occurs twice is
# the sign of two blocks. smtplib looks at Resent-Date alone, which is often forgotten.
RESENT_FIELDS = frozenset(
    "resent-" + name for name in ("date", "from", "sender", "to", "cc", "bcc", "message-id")
)
_FIELDS = RESENT_FIELDS | {"from", "sender", "to", "cc", "bcc"}


def sender_of(message: Message) -> Mailbox:
    """The sender by the header fields; ValueError if they do not name exactly one."""
    prefix, fields = _block(message)
    for name in (f"{prefix}Sender", f"{prefix}From"):
        if values := fields.get(name.lower()):
            mailboxes = _mailboxes_in(name, values)
            if len(mailboxes) == 1:
                return mailboxes[0]
            raise ValueError(
                f"{len(mailboxes)} addresses in {name} and one sender needed: "
                f"set {prefix}Sender or give the argument sender"
            )
    raise ValueError(f"no sender: set {prefix}From or give the argument sender")


def recipients_of(message: Message) -> tuple[Mailbox, ...]:
    """The recipients by the header fields, each once; ValueError if there are none."""
    prefix, fields = _block(message)
    names = [f"{prefix}{name}" for name in ("To", "Cc", "Bcc")]
    found = [box for name in names for box in _mailboxes_in(name, fields.get(name.lower(), ()))]
    if not found:
        raise ValueError(f"no recipients in {', '.join(names)}: give the argument recipients")
    return unique(found)


def _mailboxes_in(name: str, values: Iterable[object]) -> list[Mailbox]:
    """The mailboxes in all fields of one name; ValueError for what is malformed."""
    try:
        return [found for value in values for found in parse_list(text_of(value))]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _block(message: Message) -> tuple[str, dict[str, list[object]]]:
    """What the names of the fields start with that make the envelope, and the fields by name."""
    fields: dict[str, list[object]] = {}
    for name, value in message.raw_items():
        key = name.lower()
        if key in _FIELDS:
            fields.setdefault(key, []).append(value)
    if RESENT_FIELDS.isdisjoint(fields):
        return "", fields
    resent = RESENT_FIELDS & fields.keys()
    if twice := sorted(name.title() for name in resent if len(fields[name]) > 1):
        raise ValueError(
            f"several blocks of Resent- fields ({', '.join(twice)} occurs more than once): "
            "give the arguments sender and recipients"
        )
    return "Resent-", fields
