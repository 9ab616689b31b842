"""One send: what it asks for, the message made ready, and its entry in a Delivery.

`Asked` is the call, checked; a `Book` is open from there to the end of the send, and is what
makes the caller's Delivery true on every way out. In between it makes the `Job`: the message as a
snapshot of the moment of the call, serialised, in a worker thread where that takes long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from email.message import Message
from typing import Any, TypedDict, TypeVar

from anyio import to_thread

from ._attempts import Attempts
from ._delivery import Delivery, cancelled, ledger_of
from ._envelope import (
    AddressLike,
    Content,
    Envelope,
    Job,
    Mailbox,
    RawMessage,
    Receipt,
    Recipients,
    Stream,
)
from ._message import (
    BinaryContent,
    Plain,
    RawContent,
    estimate_size,
    needs_utf8,
    parse_recipients,
    parse_sender,
    prepare,
    read_plain,
    recipients_of,
    sender_of,
    serialise,
    utf8_address_in,
    why_fixed,
)
from ._monitor import Monitor, Since
from ._parameters import DSN, is_seven_bit
from ._signing import Signer, Signers, signed, signers_of
from ._sources import StreamContent, content_of, in_memory, read_whole
from ._wishes import NO_WISHES, given, one, wishes_of
from .errors import SMTPException

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
_INSTEAD = {
    "timeout": "a cancel scope around the call, such as anyio.fail_after()",
    **dict.fromkeys(("from_addr", "from_address"), "sender"),
    **dict.fromkeys(("to", "cc", "bcc", "to_addr", "to_addrs", "to_addresses"), "recipients"),
}


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
        self._sender: AddressLike | None = sender
        self._recipients: Recipients | None = recipients
        self.require_all = require_all
        self.signers = signers
        self.wishes = NO_WISHES
        self.delivery: Delivery[Any]
        if not options:
            self.delivery = Delivery()
            return
        if not _SEND_OPTIONS.issuperset(options):
            unknown = set(options) - _SEND_OPTIONS
            raise no_such_option(unknown, SendOptions, _INSTEAD)
        envelope = given("envelope", options, Envelope)
        self.wishes = wishes_of(options, envelope)
        envelope = envelope or _NO_ENVELOPE
        self._sender = one("sender", sender, envelope.sender)
        self._recipients = one("recipients", recipients, envelope.recipients)
        self.delivery = given("delivery", options, Delivery) or Delivery()
        chosen = given("require_all", options, bool)
        if chosen is not None:
            self.require_all = chosen
        sign = options.get("sign")
        if sign is not None:
            self.signers = signers_of(sign)

    def book_for_object(self, message: Message, monitor: Monitor) -> Book:
        """What the caller did not give comes from the header fields."""
        is_for_more = self.wishes.is_binary or self.signers
        plain = None if is_for_more else read_plain(message)
        sender, recipients = self._sender, self._recipients
        if sender is not None:
            mailbox = parse_sender(sender)
        else:
            mailbox = sender_of(message) if plain is None else plain.sender()
        if recipients is not None:
            mailboxes = parse_recipients(recipients)
        else:
            mailboxes = recipients_of(message) if plain is None else plain.recipients()
        return Book(self, monitor, mailbox, mailboxes, plain)

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
        plain: Plain | None = None,
        since: Since | None = None,
    ) -> None:
        if asked.wishes is not NO_WISHES:
            recipients = asked.wishes.of_each(recipients)
        self._asked = asked
        self._monitor = monitor
        self._since = since or Since()
        self._sender = sender
        self._plain = plain
        self.delivery = asked.delivery
        self.ledger = ledger_of(asked.delivery)
        self._recipients = recipients if self.ledger.is_new else self._left_of(recipients)
        self._keys = [recipient.given for recipient in self._recipients]

    def _left_of(self, recipients: tuple[Mailbox, ...]) -> tuple[Mailbox, ...]:
        """Those whom a delivery that was used before may still be sent to."""
        if self.ledger.phase != "done":
            raise RuntimeError("the delivery is used by a send that has not ended")
        keys = self.ledger.retry_keys()
        left = tuple(recipient for recipient in recipients if recipient.given in keys)
        if not left:
            raise ValueError(
                "none of the delivery's retry_recipients is among the recipients as given here"
                if keys
                else "there is nobody left whom the message may be sent to again"
            )
        return left

    async def job_of_object(self, message: Message, *, add_missing_headers: bool) -> Job:
        """A message object, serialised: in a worker thread where that takes long."""
        if self._plain is not None and self.ledger.message_id is None:
            written = self._plain.written(self._sender, add_missing_headers=add_missing_headers)
            if written is not None:
                return self._job(*written)
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
                return self._signed(content.chunks()) if signers else content

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
        binary, allow_long_lines = wishes.is_binary, wishes.allow_long_lines
        content: RawContent | BinaryContent | StreamContent
        if isinstance(message, (bytes, str)) and len(message) <= _IN_THREAD:
            content = in_memory(message, binary, allow_long_lines)
        else:
            content = await raw_content(message, binary=binary, allow_long_lines=allow_long_lines)
        if self._asked.signers:
            # There is no signature before all of it was read.
            pieces = await read_whole(
                content, self._monitor.source_failed, takes_8bit=True, takes_utf8=True
            )
            content = await _run(lambda: self._signed(pieces), True)
        if isinstance(content, StreamContent):
            return self._job(content, content.message_id)
        return self._job(content, content.message_id())

    def _signed(self, pieces: Iterable[bytes]) -> RawContent | BinaryContent:
        asked, wishes = self._asked, self._asked.wishes
        return signed(
            pieces,
            asked.signers,
            binary=wishes.is_binary,
            allow_long_lines=wishes.allow_long_lines,
        )

    def goes_on(self, attempts: Attempts, error: SMTPException | None, *, is_over: bool) -> bool:
        """A transaction has ended; whether there is another one, after ``attempts.delay``.

        ``is_over``: the client was closed, and tries nothing again.
        """
        tries = attempts.tries
        is_another = attempts.another(error, is_over=is_over)
        if attempts.tries > tries:
            self._monitor.will_retry(error, tries, attempts.delay)
        return is_another

    def is_settled(self, job: Job) -> bool:
        """Whether the server has the message, and has said so, for all whom it did not refuse."""
        return self.ledger.is_settled(recipient.given for recipient in job.recipients)

    def close(self, attempts: Attempts) -> Receipt:
        """The send has ended: its Receipt, or why there is none."""
        return self.end(attempts.receipt())

    def end(self, receipt: Receipt) -> Receipt:
        """The send has ended with this."""
        self.ledger.finish(receipt)
        octets = self.ledger.bytes_total
        self._monitor.accepted(receipt, self._keys, octets, self.delivery, self._since)
        return receipt

    def _needs_utf8(self) -> bool:
        """Whether an address of the envelope can only be written in UTF-8 (RFC 6531)."""
        boxes = self._recipients if self._sender is None else (self._sender, *self._recipients)
        return None in [box.ascii for box in boxes]

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
        if content.is_8bit and is_seven_bit(wishes.mail_options):
            raise ValueError("BODY=7BIT contradicts the message, which has octets above 127")
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

    def open(self) -> None:
        """The send begins."""
        self.ledger.start(self._keys, all_or_nobody=self._asked.require_all)

    def fail(self, error: BaseException) -> None:
        """It ends with this error, or with this cancellation; unless it has ended before."""
        ledger = self.ledger
        if ledger.phase == "done":
            return
        if isinstance(error, SMTPException):
            error.delivery = self.delivery
        # Cancellation is for the task that it is meant for; it is not kept.
        is_error = isinstance(error, Exception)
        ledger.finish(error if is_error else cancelled(self.delivery, ledger.outcome))
        self._monitor.failed_to_send(
            error, ledger.outcome, ledger.bytes_total, self.delivery, self._since
        )


def end_before_it_began(options: SendOptions, error: Exception) -> None:
    """Wrong input is an end too, and the Delivery says so, unless another send has used it."""
    delivery: object = options.get("delivery")
    if isinstance(delivery, Delivery) and (ledger := ledger_of(delivery)).is_new:
        ledger.finish(error)


async def _run(work: Callable[[], T], in_thread: bool) -> T:
    """Work on a message that nobody else holds: a thread that is left behind harms nobody."""
    return await to_thread.run_sync(work, abandon_on_cancel=True) if in_thread else work()


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
