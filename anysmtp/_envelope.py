"""The values of one mail transaction: who sends, who receives, what travels, what came of it.

All of them are frozen. An `Envelope` is what a caller asks for, and is checked by the send that it
is given to; after that an address is a `Mailbox`, parsed once, which knows how it is written in
a command with and without SMTPUTF8. A `Job` is a message that is ready to be sent, of which
nothing is checked again; a `Receipt` says that it was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.headerregistry import Address
from email.message import Message
from os import PathLike
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Generic,
    Protocol,
    TypeAlias,
    overload,
)

from ._parameters import (
    BINARY,
    DSN,
    REQUIRETLS,
    DeliverBy,
    Notify,
    Parameter,
    deliver_by_parameter,
    hold_parameter,
    notified,
    notify_parameter,
    orcpt_parameter,
    priority_parameter,
)
from ._reply import Reply
from .errors import SMTPRecipientsRefused

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar

    K = TypeVar("K", default=None)
else:
    from typing import TypeVar

    K = TypeVar("K")

AddressLike: TypeAlias = str | Address
"""``"a@x.example"``, ``"Name <a@x.example>"`` or an ``email.headerregistry.Address``; one each."""


@dataclass(frozen=True, slots=True, init=False)
class Recipient:
    """A recipient of whom the server is asked for more than delivery (DSN, RFC 3461).

    SMTPNotSupported where the server does not offer it. ValueError for what makes no sense.
    """

    address: AddressLike
    """As everywhere; it is parsed by the send."""
    notify: tuple[Notify, ...]
    """What is reported to the sender: some of ``"success"``, ``"failure"`` and ``"delay"``, or
    ``"never"``; none: as the message's `DSN` says."""
    orcpt: str | None
    """Who the message was for at first, for reports: an address, or one with its type, as
    ``"rfc822;ann@example.com"``."""

    def __init__(
        self,
        address: AddressLike,
        *,
        notify: Notify | Iterable[Notify] = (),
        orcpt: str | None = None,
    ) -> None:
        if not isinstance(address, (str, Address)):
            raise TypeError(f"an address is a str or an Address, not {address!r}")
        if orcpt is not None:
            orcpt_parameter(orcpt)
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "notify", notified(notify))
        object.__setattr__(self, "orcpt", orcpt)

    def parameters(self) -> tuple[Parameter, ...]:
        """What it comes to in RCPT."""
        notify = (notify_parameter(self.notify),) if self.notify else ()
        orcpt = () if self.orcpt is None else (orcpt_parameter(self.orcpt),)
        return (*notify, *orcpt)


Recipients: TypeAlias = AddressLike | Recipient | Iterable[AddressLike | Recipient]
"""One recipient or several. A string is one address: ``"a@x, b@x"`` is a ValueError."""


Octets: TypeAlias = bytes | bytearray | memoryview
RawMessage: TypeAlias = (
    Octets | str | PathLike[str] | BinaryIO | Iterable[Octets] | AsyncIterable[Octets]
)
"""A message as it is: header section, blank line, body. A str is text, sent as UTF-8; a file is
open in binary mode, also by `anyio.open_file`, or named by a `pathlib.Path` or an `anyio.Path`;
iterables yield octets. One without an octet is a ValueError."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One parsed address, and how a command carries it (between ``<`` and ``>``)."""

    given: str
    """The address as the caller wrote it: the key in a Receipt and a Delivery."""
    utf8: str
    """As written where the transaction uses SMTPUTF8 (RFC 6531)."""
    ascii: str | None
    """As written without: the domain in A-labels. None if only SMTPUTF8 can carry it."""
    parameters: tuple[Parameter, ...] = ()
    """What RCPT asks for beside."""


class Content(Protocol):
    """The octets of a message, in CRLF lines with a final one, before dot-stuffing."""

    @property
    def size(self) -> int:
        """Octets, as the SIZE parameter counts them (RFC 1870 section 3)."""
        ...

    @property
    def is_8bit(self) -> bool:
        """Whether there are octets above 127."""
        ...

    @property
    def is_utf8(self) -> bool:
        """Whether the header section needs SMTPUTF8."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The octets, in pieces of a size that is good to send."""
        ...

    def whole(self) -> bytes | None:
        """All of them, where they are there in one such piece."""
        ...


class Stream:
    """A message of which nothing is in memory."""

    __slots__ = ()

    size: int | None
    """As a `Content` has it; None: that is not known before it was read."""
    is_8bit: bool | None
    """The same."""
    is_utf8: bool
    """Whether it is known that the header section needs SMTPUTF8."""

    is_one_shot: bool
    """Whether it can be read once only."""
    is_spent: bool
    """Whether it was, and cannot be read again."""


@dataclass(slots=True)
class Job:
    """A message with its envelope, checked and serialised: all that a transaction needs."""

    sender: Mailbox | None
    """The reverse-path; None is the null one, ``<>``."""
    recipients: tuple[Mailbox, ...]
    content: Content | Stream
    downgrade: Callable[[], Awaitable[Content]] | None = None
    """Makes the same message in 7bit, for a server without 8BITMIME; None: it cannot be made."""
    fixed: str | None = None
    """Why its octets must stay as they are, such as ``"it is signed"``; None: they need not."""
    utf8_address: str | None = None
    """An address for which the header section is in UTF-8, where that is known."""
    mail_parameters: tuple[Parameter, ...] = ()
    mail_options: tuple[str, ...] = ()
    rcpt_options: tuple[str, ...] = ()
    require_all: bool = False
    message_id: str | None = None

    @property
    def is_one_shot(self) -> bool:
        """Whether it can be sent in one transaction only."""
        return isinstance(self.content, Stream) and self.content.is_one_shot

    @property
    def is_spent(self) -> bool:
        """Whether it cannot be sent any more."""
        return isinstance(self.content, Stream) and self.content.is_spent

    @property
    def is_binary(self) -> bool:
        """Whether it has octets that are in no lines, which only BDAT carries (RFC 3030)."""
        return BINARY in self.mail_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Who a message is from and to, where that is not what its header fields say; and what seldom
    is asked for.

    Given beside the arguments of the same name it must not contradict them (ValueError). What the
    server does not offer is SMTPNotSupported, with nothing sent.
    """

    sender: AddressLike | None = None
    """The reverse-path, ``""`` for the null one; None: as the header fields say."""
    recipients: Recipients | None = None
    """The forward-paths; None: as the header fields say."""
    dsn: DSN | None = None
    """What the sender wants to be told about the delivery (RFC 3461)."""
    require_tls: bool = False
    """Whether each server on the way must encrypt and verify, or return the message (REQUIRETLS,
    RFC 8689). SMTPTLSError where the connection is not under TLS with a verified certificate."""
    priority: int | None = None
    """From -9 to 9, 0 being what all others have (MT-PRIORITY, RFC 6710)."""
    deliver_by: float | timedelta | datetime | DeliverBy | None = None
    """By when it is to be delivered, or else returned: seconds from the MAIL command, a timedelta,
    or the moment (DELIVERBY, RFC 2852). `DeliverBy` says what else may happen."""
    hold_until: float | timedelta | datetime | None = None
    """Until when the server holds it back: seconds, a timedelta, or the moment (FUTURERELEASE,
    RFC 4865)."""
    binary: bool = False
    """Whether attachments travel as raw octets, a quarter smaller than in base64 (BINARYMIME and
    CHUNKING, RFC 3030). A raw message is sent as it is then, line ends included."""
    allow_long_lines: bool = False
    """Whether a message is sent though it has lines of more than 998 octets (RFC 5321 section
    4.5.3.1.6) that cannot be encoded anew. Otherwise that is a ValueError."""
    mail_options: Iterable[str] = ()
    """Parameters of the MAIL command as they stand in it, such as ``"RET=HDRS"``."""
    rcpt_options: Iterable[str] = ()
    """Parameters of each RCPT command, such as ``"NOTIFY=NEVER"``."""

    def __post_init__(self) -> None:
        if self.dsn is not None and not isinstance(self.dsn, DSN):
            raise TypeError(f"dsn is a DSN, not {self.dsn!r}")
        for name in ("require_tls", "binary", "allow_long_lines"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is a bool, not {getattr(self, name)!r}")
        self.parameters()

    @property
    def is_bare(self) -> bool:
        """Whether it says who, and nothing else."""
        return (
            self.dsn is None
            and not (self.require_tls or self.binary or self.allow_long_lines)
            and self.priority is None
            and self.deliver_by is None
            and self.hold_until is None
            and self.mail_options == ()
            and self.rcpt_options == ()
        )

    def parameters(self) -> tuple[Parameter, ...]:
        """What it comes to in MAIL, but for its DSN."""
        found: list[Parameter] = []
        if self.require_tls:
            found.append(REQUIRETLS)
        if self.priority is not None:
            found.append(priority_parameter(self.priority))
        if self.deliver_by is not None:
            found.append(deliver_by_parameter(self.deliver_by))
        if self.hold_until is not None:
            found.append(hold_parameter(self.hold_until))
        return tuple(found)


class Mail(Generic[K]):
    """A message for `SMTP.send_many`, with its envelope and a key of the caller's.

    A raw message needs an envelope with sender and recipients. Nothing is checked here: what is
    wrong with it is in its Delivery.
    """

    __slots__ = ("envelope", "key", "message")

    message: Message | RawMessage
    envelope: Envelope | None
    key: K
    """Whatever the caller wants to know this message by: `Delivery.key`."""

    @overload
    def __init__(
        self: Mail[None], message: Message | RawMessage, envelope: Envelope | None = None
    ) -> None: ...
    @overload
    def __init__(
        self, message: Message | RawMessage, envelope: Envelope | None = None, *, key: K
    ) -> None: ...
    def __init__(
        self, message: Message | RawMessage, envelope: Envelope | None = None, *, key: Any = None
    ) -> None:
        self.message = message
        self.envelope = envelope
        self.key = key

    def __repr__(self) -> str:
        key = "" if self.key is None else f" {self.key!r}"
        return f"<Mail{key} {type(self.message).__name__}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The server took the message for at least one recipient.

    From here on the message is the server's to deliver (RFC 5321 section 4.2.5); what became of
    the refused recipients is in ``refused``.
    """

    reply: Reply
    """The last word on the message: the reply to the end of the data."""
    replies: tuple[Reply, ...] = field(default=())
    """One per mail transaction, where the message took several."""
    accepted: Mapping[str, Reply]
    """The recipients that have it, as given, with the server's reply to each."""
    refused: Mapping[str, Reply] = field(default_factory=dict[str, Reply])
    """The recipients that do not, as given, with the server's reply to each."""
    message_id: str | None = None
    """The Message-ID of the message, where it is known."""
    server: str = ""
    """The server that took it, as ``"smtp.example.com:587"``."""

    @property
    def retry_recipients(self) -> tuple[str, ...]:
        """The recipients that were refused for now (4yz): another try may work."""
        return tuple(key for key, reply in self.refused.items() if reply.is_transient)

    def raise_for_refused(self) -> Self:
        """Return this receipt, or raise SMTPRecipientsRefused if any recipient was refused.

        Its ``delivery`` knows who has the message: a send that is given it goes to the others.
        """
        if self.refused:
            from ._delivery import delivery_of

            delivery = delivery_of(self)
            raise SMTPRecipientsRefused(self.refused, server=self.server, delivery=delivery)
        return self

    def __str__(self) -> str:
        refused = f", refused for {len(self.refused)}" if self.refused else ""
        return f"{self.server} accepted for {len(self.accepted)}{refused}: {self.reply}"
