"""What application code asks for, `Mailer`, and what every one of ours has in common.

The road of a message: checked, and taken as a snapshot, at the moment of the call; serialised, in
a worker thread where that takes long; then handed to `_deliver`, which is where a client and a
connection differ. Wrong input raises before anything is sent. The caller's `Delivery` is written
on every way out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from email.message import Message
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

import anyio
from anyio import to_thread

from ._attempts import Attempts, Retry
from ._delivery import Delivery, cancelled, ledger_of
from ._envelope import (
    AddressLike,
    Content,
    Envelope,
    Job,
    Mail,
    Mailbox,
    RawMessage,
    Receipt,
    Recipients,
    Stream,
)
from ._message import (
    BinaryContent,
    RawContent,
    estimate_size,
    message_id_of,
    needs_utf8,
    parse_recipients,
    parse_sender,
    prepare,
    recipients_of,
    sender_of,
    serialise,
    utf8_address_in,
    why_fixed,
)
from ._monitor import Monitor, Since
from ._parameters import DSN
from ._signing import Signer, Signers, signed, signers_of
from ._sources import SourceFailed, StreamContent, content_of, in_memory
from ._wishes import NO_WISHES, given, one, wishes_of
from .errors import SMTPException

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._delivery import Ledger

T = TypeVar("T")

# Octets from which the work on a message is done in a worker thread, about 2 ms of it: a busy event
# loop waits longer for a thread's result than for less.
_IN_THREAD = 4 * 1024 * 1024


class SendOptions(TypedDict, total=False):
    """The keyword options of one send. All are optional."""

    mail_options: Iterable[str]
    """Parameters of the MAIL command as they stand in it, such as ``"RET=HDRS"``."""

    rcpt_options: Iterable[str]
    """Parameters of each RCPT command, such as ``"NOTIFY=NEVER"``."""

    dsn: DSN | None
    """What the sender wants to be told about the delivery (RFC 3461)."""

    binary: bool
    """Whether attachments travel as raw octets; see `Envelope`."""

    allow_long_lines: bool
    """Whether lines of more than 998 octets are sent as they are; see `Envelope`."""

    sign: Signers | None
    """Who signs the message, such as an `anysmtp.dkim.DKIMSigner`; ``()``: nobody; None: as the
    client has it."""

    envelope: Envelope | None
    """Sender, recipients and what is seldom asked for, as a value of its own."""

    require_all: bool | None
    """Whether the message goes to all recipients or to nobody; None: as the client has it."""

    delivery: Delivery[Any] | None
    """What becomes of the message is written here; one that was used before resumes."""


_SEND_OPTIONS = frozenset(SendOptions.__annotations__)
# Frozen, so it can stand for all that is not given.
_NO_ENVELOPE = Envelope()

# What stands in place of options that the methods of other libraries have.
_INSTEAD = {"timeout": "a cancel scope around the call, such as anyio.fail_after()"}


class Mailer(Protocol):
    """What application code asks for: a client, one connection, or a test's double."""

    async def send_message(
        self,
        message: Message,
        /,
        *,
        sender: AddressLike | None = None,
        recipients: Recipients | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt:
        """Send a message object; see `SMTP.send_message`."""
        ...

    async def sendmail(
        self,
        sender: AddressLike,
        recipients: Recipients,
        message: RawMessage,
        /,
        **options: Unpack[SendOptions],
    ) -> Receipt:
        """Send a raw message; see `SMTP.sendmail`."""
        ...


class BaseMailer(ABC):
    """The two ways to send, on top of `_deliver`."""

    _monitor: Monitor
    _require_all = False
    _signers: tuple[Signer, ...] = ()
    _add_missing_headers = True
    _retry: Retry | None = None
    _pause: Callable[[float], Awaitable[None]] = staticmethod(anyio.sleep)

    async def send_message(
        self,
        message: Message,
        /,
        *,
        sender: AddressLike | None = None,
        recipients: Recipients | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt:
        """Send a message object of ``email.message``, with any policy.

        Sender and recipients come from its header fields (RFC 5322 section 3.6) unless they are
        given: Sender before From; To, Cc and Bcc; the Resent- fields instead where there
        are any. Bcc and Resent-Bcc do not leave; Date and Message-ID are added where they are
        missing. Parts that the server cannot take as they are, for octets above 127 or lines of
        more than 998, are sent in base64, unless they are signed. The object itself is not touched,
        and may be changed as soon as the call has begun. For the keyword options see `SendOptions`.

        The Receipt says who was refused; SMTPRecipientsRefused is raised if all were.
        SMTPSenderRefused and SMTPDataError if the server does not take the message;
        SMTPNotSupported and SMTPMessageTooLarge if it never would. After these the connection
        goes on. SMTPServerDisconnected, SMTPTimeoutError and SMTPProtocolError end it; a client
        that has to connect may raise whatever `SMTP.connect` does. ValueError before anything is
        sent, for malformed addresses, no sender, no recipients, or two blocks of Resent- fields.

        Cancelled or timed out, the message is not sent, or in doubt if its end had left; the
        ``delivery`` says which. Its connection is closed then, unless others send on it: they read
        what is not waited for any more.
        """
        if not isinstance(message, Message):
            raise TypeError(
                f"a message object is needed, not {type(message).__name__} (sendmail takes text "
                "and bytes)"
            )
        asked = Asked(
            options, sender, recipients, require_all=self._require_all, signers=self._signers
        )
        with self._admitted(), asked.book_for_object(message, self._monitor) as book:
            job = await book.job_of_object(message, add_missing_headers=self._add_missing_headers)
            return await book.send(job, self)

    async def sendmail(
        self,
        sender: AddressLike,
        recipients: Recipients,
        message: RawMessage,
        /,
        **options: Unpack[SendOptions],
    ) -> Receipt:
        """Send a raw message as it is, but for its line ends: they become CRLF.

        ``sender`` is required; ``""`` is the null reverse-path (RFC 5321 section 4.5.5), None a
        TypeError. Nothing is added to the message, and no header field is taken out. For the
        keyword options see `SendOptions`; for the result, the exceptions and cancellation
        `send_message`. SMTPNotSupported if the message has octets above 127 and the server does
        not take those (RFC 6152): a message object can be sent to it. ValueError for a line of more
        than 998 octets (RFC 5321 section 4.5.3.1.6), unless ``allow_long_lines``.
        """
        _required(sender, recipients)
        asked = Asked(
            options, sender, recipients, require_all=self._require_all, signers=self._signers
        )
        with self._admitted(), asked.book(self._monitor) as book:
            job = await book.job_of_raw(message)
            return await book.send(job, self)

    def _asked(
        self, options: SendOptions, sender: AddressLike | None, recipients: Recipients | None
    ) -> Asked:
        return Asked(
            options, sender, recipients, require_all=self._require_all, signers=self._signers
        )

    def _admitted(self) -> AbstractContextManager[object]:
        """Stands around a whole send, serialising included. RuntimeError if there can be none."""
        return nullcontext()

    @property
    def _is_over(self) -> bool:
        """Whether nothing can be sent any more, however often it is tried."""
        return False

    async def _entered(self, mail: Mail[Any], book: Book) -> Job:
        """What a mail of `send_many` comes to, once its book is open."""
        if isinstance(mail.message, Message):
            return await book.job_of_object(
                mail.message, add_missing_headers=self._add_missing_headers
            )
        return await book.job_of_raw(mail.message)

    @abstractmethod
    async def _deliver(self, job: Job, ledger: Ledger) -> None:
        """Send the job in one transaction, writing what becomes of it in the ledger.

        Or raise why nobody has it.
        """


async def raw_content(
    message: RawMessage, *, binary: bool = False, allow_long_lines: bool = False
) -> RawContent | BinaryContent | StreamContent:
    """A raw message as content; ``binary``: with its octets as they are.

    TypeError for other types, ValueError for lone surrogates and for lines that are too long.
    """
    if not isinstance(message, (bytes, bytearray, memoryview, str)):
        return await content_of(message, binary=binary, allow_long_lines=allow_long_lines)
    # What the caller can change while a thread works on it is copied now.
    raw = message if isinstance(message, (bytes, str)) else bytes(message)
    return await _run(lambda: in_memory(raw, binary, allow_long_lines), len(raw) > _IN_THREAD)


def no_such_option(unknown: set[str], options: type, instead: Mapping[str, str]) -> TypeError:
    """What to raise for keywords that are not among the options; some have something instead."""
    names = (f"{n} (instead: {instead[n]})" if n in instead else n for n in sorted(unknown))
    return TypeError(
        f"no option of this name: {', '.join(names)}; there are "
        f"{', '.join(options.__annotations__)}"
    )


class Asked:
    """What a send asks for, its arguments and its ``envelope`` together."""

    def __init__(
        self,
        options: SendOptions,
        sender: AddressLike | None = None,
        recipients: Recipients | None = None,
        *,
        require_all: bool,
        signers: tuple[Signer, ...] = (),
    ) -> None:
        if not _SEND_OPTIONS.issuperset(options):
            unknown = set(options) - _SEND_OPTIONS
            raise no_such_option(unknown, SendOptions, _INSTEAD)
        envelope = given("envelope", options, Envelope)
        self.wishes = wishes_of(options, envelope)
        envelope = envelope or _NO_ENVELOPE
        self._sender: AddressLike | None = one("sender", sender, envelope.sender)
        self._recipients: Recipients | None = one("recipients", recipients, envelope.recipients)
        self.delivery: Delivery[Any] = given("delivery", options, Delivery) or Delivery()
        chosen = given("require_all", options, bool)
        self.require_all = require_all if chosen is None else chosen
        sign = options.get("sign")
        self.signers = signers if sign is None else signers_of(sign)

    def book_for_object(self, message: Message, monitor: Monitor) -> Book:
        """What the caller did not give comes from the header fields."""
        mailbox = sender_of(message) if self._sender is None else parse_sender(self._sender)
        if self._recipients is None:
            return Book(self, monitor, mailbox, recipients_of(message))
        return Book(self, monitor, mailbox, parse_recipients(self._recipients))

    def book(self, monitor: Monitor) -> Book:
        if self._sender is None or self._recipients is None:
            raise TypeError("a raw message is sent with a sender and recipients")
        sender = parse_sender(self._sender)
        return Book(self, monitor, sender, parse_recipients(self._recipients))


class Book:
    """One send's entry in a Delivery: opened before all else, closed on every way out."""

    def __init__(
        self,
        asked: Asked,
        monitor: Monitor,
        sender: Mailbox | None,
        recipients: tuple[Mailbox, ...],
    ) -> None:
        if asked.wishes is not NO_WISHES:
            recipients = asked.wishes.of_each(recipients)
        self._asked = asked
        self._monitor = monitor
        self._since = Since()
        self._sender = sender
        self.delivery = asked.delivery
        self.ledger = ledger_of(asked.delivery)
        if self.ledger.is_new:
            self._recipients = recipients
            return
        if self.ledger.phase != "done":
            raise RuntimeError("the delivery is used by a send that has not ended")
        keys = self.ledger.retry_keys()
        self._recipients = tuple(r for r in recipients if r.given in keys)
        if not self._recipients:
            raise ValueError(
                "none of the delivery's retry_recipients is among the recipients as given here"
                if keys
                else "there is nobody left whom the message may be sent to again"
            )

    async def job_of_object(self, message: Message, *, add_missing_headers: bool) -> Job:
        """A message object, serialised: in a worker thread where that takes long."""
        utf8 = self._needs_utf8() or needs_utf8(message)
        prepared = prepare(
            message,
            sender=self._sender,
            add_missing_headers=add_missing_headers,
            message_id=self.ledger.message_id,
        )
        in_thread = estimate_size(message) > _IN_THREAD
        wishes, signers = self._asked.wishes, self._asked.signers

        async def serialised(*, seven_bit: bool = False) -> Content:
            def work() -> Content:
                content = serialise(
                    prepared.message,
                    seven_bit=seven_bit,
                    utf8=utf8,
                    binary=wishes.is_binary,
                    allow_long_lines=wishes.allow_long_lines,
                )
                return signed(content, signers) if signers else content

            return await _run(work, in_thread or bool(signers))

        content = await serialised()
        return self._job(
            content,
            prepared.message_id,
            downgrade=lambda: serialised(seven_bit=True),
            fixed=why_fixed(prepared.message) if content.is_8bit else None,
            utf8_address=utf8_address_in(message) if content.is_utf8 else None,
        )

    async def job_of_raw(self, message: RawMessage) -> Job:
        wishes = self._asked.wishes
        content = await raw_content(
            message, binary=wishes.is_binary, allow_long_lines=wishes.allow_long_lines
        )
        signers = self._asked.signers
        if isinstance(content, StreamContent):
            if signers:
                raise TypeError("a message that is to be signed is a message object, or in memory")
            return self._job(content, content.message_id)
        if signers:
            unsigned = content
            content = await _run(lambda: signed(unsigned, signers), True)
        return self._job(content, message_id_of(content.header_section()))

    async def send(self, job: Job, mailer: BaseMailer) -> Receipt:
        """Send it, in as many transactions and attempts as it takes."""
        attempts = Attempts(job, self.ledger, mailer._retry)
        while True:
            error: SMTPException | None = None
            failure: Exception | None = None
            try:
                await mailer._deliver(attempts.job, self.ledger)
            except SMTPException as caught:
                error = caught
            except SourceFailed as failed:
                failure = failed.error
            if failure is not None:
                raise failure
            if not self.goes_on(attempts, error, is_over=error is not None and mailer._is_over):
                return self.close(attempts)
            if attempts.delay:
                await mailer._pause(attempts.delay)
            attempts.begin()

    def goes_on(self, attempts: Attempts, error: SMTPException | None, *, is_over: bool) -> bool:
        """A transaction has ended; whether there is another one, after ``attempts.delay``.

        ``is_over``: the client was closed, and tries nothing again.
        """
        tries = attempts.tries
        is_another = attempts.another(error, is_over=is_over)
        if attempts.tries > tries:
            self._monitor.will_retry(error, tries, attempts.delay)
        return is_another

    def close(self, attempts: Attempts) -> Receipt:
        """The send has ended: its Receipt, or why there is none."""
        receipt = attempts.receipt()
        self.ledger.finish(receipt)
        keys = [recipient.given for recipient in self._recipients]
        octets = self.ledger.bytes_total
        self._monitor.accepted(receipt, keys, octets, self.delivery, self._since)
        return receipt

    def _needs_utf8(self) -> bool:
        """Whether an address of the envelope can only be written in UTF-8 (RFC 6531)."""
        boxes = (self._sender, *self._recipients)
        return any(box is not None and box.ascii is None for box in boxes)

    def _job(
        self,
        content: Content | Stream,
        message_id: str | None,
        downgrade: Callable[[], Awaitable[Content]] | None = None,
        fixed: str | None = None,
        utf8_address: str | None = None,
    ) -> Job:
        self.ledger.message_id = message_id
        asked, wishes = self._asked, self._asked.wishes
        return Job(
            sender=self._sender,
            recipients=self._recipients,
            content=content,
            downgrade=downgrade,
            fixed=fixed,
            utf8_address=utf8_address,
            mail_parameters=wishes.mail_parameters,
            mail_options=wishes.mail_options,
            rcpt_options=wishes.rcpt_options,
            require_all=asked.require_all,
            message_id=message_id,
        )

    def __enter__(self) -> Self:
        keys = [recipient.given for recipient in self._recipients]
        self.ledger.start(keys, all_or_nobody=self._asked.require_all)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None or self.ledger.phase == "done":
            return
        if isinstance(exc, SMTPException):
            exc.delivery = self.delivery
        # Cancellation is for the task that it is meant for; it is not kept.
        is_error = isinstance(exc, Exception)
        self.ledger.finish(exc if is_error else cancelled(self.delivery, self.ledger.outcome))
        ledger = self.ledger
        self._monitor.failed_to_send(
            exc, ledger.outcome, ledger.bytes_total, self.delivery, self._since
        )


def _required(sender: Any, recipients: Any) -> None:
    """TypeError for None, by which a forgotten variable would have an envelope's fill in."""
    if None in (sender, recipients):
        parse_sender(sender)
        parse_recipients(recipients)


async def _run(work: Callable[[], T], in_thread: bool) -> T:
    """Work on a message that nobody else holds: a thread that is left behind harms nobody."""
    return await to_thread.run_sync(work, abandon_on_cancel=True) if in_thread else work()
