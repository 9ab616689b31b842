"""`Outbox`: a client without a server, that keeps what was sent.

What a send comes to is worked out by the same code as in a client: arguments, headers and
serialising, the plan of a transaction, the ledger, retries. In place of a connection there is what
answers each command of the plan at once (`_in_place`). So an outbox has no event loop, opens
nothing and needs no end, and what it says is what a client would have said.

What is to go wrong is in line: each message, at each try, takes the next fault. One that a server
says is said by this one, so that what is known of each recipient is what it would be; any other is
raised as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterable, Sequence
from email.message import Message
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import anyio
from anyio.lowlevel import checkpoint

from .. import SMTP, Delivery, Extensions, Mail, Reply, Retry, SendMany, SendOptions
from .._book import Asked, Book
from .._delivery import ledger_of
from .._lifecycle import Lifecycle
from .._mailer import BaseMailer
from .._monitor import Monitor
from .._parcel import Parcel
from .._protocol._demands import needs_downgrade, takes_8bit
from .._protocol._transaction import Transaction
from .._sources import read_whole
from ..errors import SMTPException, SMTPServerDisconnected
from ..events import Observer
from ._in_place import NAME, NO_CONNECTION, NOTHING, Conversation, Fault, offered
from ._outbox_many import Stream
from ._records import Sent
from ._script import reply_of
from ._state import Settings

if TYPE_CHECKING:
    from typing_extensions import Self

K = TypeVar("K")

_KEYWORDS = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
_LOST = "the connection was lost"


class Outbox(BaseMailer, Sequence[Sent]):
    """Takes the place of an `anysmtp.SMTP` in the tests of an application, and keeps what was sent.

    ``await outbox.send_message(message)`` gives a Receipt, and ``outbox[0]`` is what a server would
    have now, as a `Sent`. Everything about a send is as a client has it: arguments are checked,
    header fields added, deliveries kept; retries too, but that their pauses take no time. `refuse`,
    `fail_next`, `doubt_next` and `stall_next` say what goes wrong.

    ``require_all``, ``add_missing_headers``, ``retry`` and ``observer`` are the options of
    `anysmtp.SMTP`; ``keywords`` is what the server that there is not would say to EHLO, but for
    CHUNKING: a ``binary`` message is SMTPNotSupported.

    It can be entered and closed as a client can, but has no end, and belongs to no event loop. Like
    every sequence it is false while it is empty: an application that was given one asks whether it
    ``is None``.
    """

    def __init__(
        self,
        *,
        require_all: bool = False,
        add_missing_headers: bool = True,
        retry: Retry | None = None,
        observer: Observer | None = None,
        keywords: Sequence[str] = _KEYWORDS,
    ) -> None:
        self._require_all = require_all
        self._add_missing_headers = add_missing_headers
        self._retry = retry
        self._monitor = Monitor(NAME, observer)
        # A message is one value here, not octets on a wire of which chunks could be made.
        without_chunks = [word for word in keywords if word.upper() != "CHUNKING"]
        self._settings = Settings(hostname=NAME, keywords=without_chunks)
        self._extensions = offered(self._settings)
        self._sent: list[Sent] = []
        self._refused: dict[str, Reply] = {}
        self._faults: deque[Fault] = deque()
        self._waiting: list[anyio.Event] = []

    def refuse(self, address: str, reply: Reply | str = "550 5.1.1 no such user") -> None:
        """Refuse this recipient from now on; ``"250 OK"`` takes that back.

        The address is as it stands in a command, in any case. ValueError or TypeError for what is
        no reply.
        """
        if not isinstance(reply, (Reply, str)):
            raise TypeError(f"a reply is a Reply or a str, not {reply!r}")
        self._refused[address.lower()] = reply_of(reply) if isinstance(reply, str) else reply

    def fail_next(self, error: SMTPException, times: int = 1) -> None:
        """Have the next sends, or tries, fail with this error: behind others that were asked for.

        SMTPSenderRefused, SMTPRecipientsRefused and SMTPDataError come about by their replies.
        Any other is raised as it is, and nothing was sent; unless its ``outcome`` is
        ``"in_doubt"``: then the outbox has the message. TypeError for what no client raises.
        """
        if not isinstance(error, SMTPException):
            raise TypeError(f"a client raises an SMTPException object, not {error!r}")
        self._next(Fault.by(error), times)

    def doubt_next(self, times: int = 1) -> None:
        """Have the connection be lost behind the next messages: SMTPServerDisconnected, in doubt.

        The outbox has the message, which the sender cannot know.
        """
        error = SMTPServerDisconnected(_LOST, command="end of data", connection_closed=True)
        self._next(Fault("after", error), times)

    def stall_next(self, times: int = 1, *, after_message: bool = False) -> None:
        """Have the next sends wait for ever, so that a timeout of the caller's ends them.

        Nothing is sent then. With ``after_message`` they wait for the server's last word: the
        outbox has the message, and for the sender it is in doubt.
        """
        self._next(Fault("after" if after_message else "before"), times)

    def clear(self) -> None:
        """Forget what was sent, and what was to go wrong."""
        self._sent.clear()
        self._refused.clear()
        self._faults.clear()

    async def wait(self, count: int = 1) -> None:
        """Wait until so many messages were sent, for an application that sends in the background.

        Bound it with a timeout of your own.
        """
        await checkpoint()
        while len(self) < count:
            # One for each who waits: it belongs to his event loop.
            news = anyio.Event()
            self._waiting.append(news)
            try:
                await news.wait()
            finally:
                self._waiting.remove(news)

    @overload
    def send_many(
        self,
        mails: Iterable[Mail[K]] | AsyncIterable[Mail[K]],
        *,
        ordered: bool = False,
        read_ahead: int = 100,
    ) -> SendMany[K]: ...
    @overload
    def send_many(
        self,
        mails: Iterable[Message] | AsyncIterable[Message],
        *,
        ordered: bool = False,
        read_ahead: int = 100,
    ) -> SendMany[None]: ...
    def send_many(
        self,
        mails: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool = False,
        read_ahead: int = 100,
    ) -> SendMany[Any]:
        """As `anysmtp.SMTP.send_many`, one message after the other: they are always in order."""
        # What a client does not take is said by one, in its words.
        SMTP(NAME).send_many(mails, ordered=ordered, read_ahead=read_ahead)
        # Any: it has what a client's stream has, without being one.
        stream: Any = Stream(mails, self._send_one, read_ahead)
        return SendMany(lambda _: stream, Lifecycle(NAME))

    async def connect(self) -> Extensions:
        """What there is to EHLO; a failure that is next, and one of connecting, is raised here."""
        await checkpoint()
        if self._faults and self._faults[0].when == "connecting":
            await self._faults.popleft().happen("connecting")
        return self._extensions

    async def aclose(self) -> None:
        """Nothing: there is no connection, and the outbox can be used further."""
        await checkpoint()

    async def __aenter__(self) -> Self:
        await checkpoint()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await checkpoint()

    @overload
    def __getitem__(self, index: int) -> Sent: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sent]: ...
    def __getitem__(self, index: int | slice) -> Sent | list[Sent]:
        return self._sent[index]

    def __len__(self) -> int:
        return len(self._sent)

    def __repr__(self) -> str:
        return f"<Outbox {len(self)} sent>"

    def _next(self, fault: Fault, times: int) -> None:
        self._faults.extend([fault] * times)

    async def _pause(self, seconds: float) -> None:
        await checkpoint()

    async def _send_one(self, mail: Any) -> Delivery[Any]:
        """Send one of `send_many`; what keeps it from being sent is in its Delivery."""
        if isinstance(mail, Message):
            mail = Mail(cast("Message", mail))
        delivery = Delivery[Any](key=getattr(mail, "key", None))
        ledger = ledger_of(delivery)
        try:
            with Parcel(self._monitor, self._retry) as parcel:
                book = parcel.open(self._book_of(mail, delivery))
                parcel.begin(await self._entered(mail, book))
                await self._send(parcel)
        except NO_CONNECTION as error:
            # What has become of a recipient all the same has to be told.
            if not any(ledger.keys(what) for what in ("accepted", "refused", "in_doubt")):
                raise error
        except Exception as error:  # noqa: BLE001 - a bad message, however bad, ends no stream
            ledger.finish(error)
        return delivery

    def _book_of(self, mail: Any, delivery: Delivery[Any]) -> Book:
        if not isinstance(mail, Mail):
            raise TypeError(f"a mail is a message object or a Mail, not {type(mail).__name__}")
        options: SendOptions = {"envelope": mail.envelope, "delivery": delivery}
        asked = Asked(options, require_all=self._require_all)
        if isinstance(mail.message, Message):
            return asked.book_for_object(mail.message, self._monitor)
        return asked.book(self._monitor)

    async def _deliver(self, parcel: Parcel) -> None:
        job, ledger = parcel.job, parcel.book.ledger
        fault = self._faults.popleft() if self._faults else NOTHING
        await checkpoint()
        await fault.happen("connecting")
        content = job.content
        if needs_downgrade(content, self._extensions) and job.downgrade is not None:
            content = await job.downgrade()
        conversation = Conversation(self._settings, self._refused, fault)
        try:
            transaction = Transaction(
                *(job, content, self._extensions, ledger),
                reset_first=False,
                is_tls_verified=True,
            )
            ledger.phase, ledger.bytes_total, ledger.server = "envelope", content.size, NAME
            await conversation.take_envelope(transaction)
            if transaction.end == "message":
                pieces = await read_whole(
                    content,
                    self._monitor.source_failed,
                    takes_8bit=takes_8bit(job.mail_options, self._extensions),
                    takes_utf8=transaction.is_utf8,
                )
                raw = b"".join(pieces)
                transaction.hand_over()
                ledger.bytes_sent = len(raw)
                await conversation.take_message(transaction, raw, self._keep)
            transaction.result()
        except SMTPException as error:
            error.server = error.server or NAME
            raise

    def _keep(self, message: Sent) -> None:
        self._sent.append(message)
        for news in self._waiting:
            news.set()
