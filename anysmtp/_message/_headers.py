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

from collections import Counter
from email.message import Message

from .._envelope import Mailbox
from ._addresses import parse_list, unique
from ._fields import text_of, values

# A block has each of these at most once (RFC 5322 section 3.6), so that one which occurs twice is
# the sign of two blocks. smtplib looks at Resent-Date alone, which is often forgotten.
_RESENT_FIELDS = frozenset(
    "resent-" + name for name in ("date", "from", "sender", "to", "cc", "bcc", "message-id")
)


def sender_of(message: Message) -> Mailbox:
    """The sender by the header fields; ValueError if they do not name exactly one."""
    prefix = _block(message)
    for name in (f"{prefix}Sender", f"{prefix}From"):
        if name in message:
            mailboxes = mailboxes_in(message, name)
            if len(mailboxes) == 1:
                return mailboxes[0]
            raise ValueError(
                f"{len(mailboxes)} addresses in {name} and one sender needed: "
                f"set {prefix}Sender or give the argument sender"
            )
    raise ValueError(f"no sender: set {prefix}From or give the argument sender")


def recipients_of(message: Message) -> tuple[Mailbox, ...]:
    """The recipients by the header fields, each once; ValueError if there are none."""
    prefix = _block(message)
    names = [f"{prefix}{name}" for name in ("To", "Cc", "Bcc")]
    found = [mailbox for name in names for mailbox in mailboxes_in(message, name)]
    if not found:
        raise ValueError(f"no recipients in {', '.join(names)}: give the argument recipients")
    return unique(found)


def is_resent(message: Message) -> bool:
    """Whether there are Resent- fields, in one block or in several."""
    return any(name.lower() in _RESENT_FIELDS for name in message)


def mailboxes_in(message: Message, name: str) -> list[Mailbox]:
    """The mailboxes in all fields of one name; ValueError for what is malformed."""
    try:
        return [found for value in values(message, name) for found in parse_list(text_of(value))]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _block(message: Message) -> str:
    """What the names of the fields start with that make the envelope."""
    names = Counter(name.lower() for name in message)
    resent = _RESENT_FIELDS & names.keys()
    if twice := sorted(name.title() for name in resent if names[name] > 1):
        raise ValueError(
            f"several blocks of Resent- fields ({', '.join(twice)} occurs more than once): "
            "give the arguments sender and recipients"
        )
    return "Resent-" if resent else ""
