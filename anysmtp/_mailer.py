"""What application code asks for, `Mailer`, and what every one of ours has in common.

The road of a message: checked, and taken as a snapshot, at the moment of the call (`_book`); then
handed to `_deliver`, which is where a client and a connection differ, as often as it takes. Wrong
input raises before anything is sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from email.message import Message
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from ._attempts import Retry
from ._book import Asked, Book, SendOptions, end_before_it_began
from ._envelope import (
    AddressLike,
    Job,
    Mail,
    RawMessage,
    Receipt,
    Recipients,
)
from ._letters import Letter, Letters
from ._message import parse_recipients, parse_sender
from ._monitor import Monitor
from ._parcel import Parcel
from ._signing import Signer
from ._sources import SourceFailed
from .errors import SMTPException

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


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
    _letters: Letters | None = None
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
        try:
            if not isinstance(message, Message):
                raise TypeError(
                    f"a message object is needed, not {type(message).__name__} (sendmail takes "
                    "text and bytes)"
                )
            if not options and (letter := self._letter(message, sender, recipients)) is not None:
                return await self._send_letter(letter)
            asked = self._asked(options, sender, recipients)
            with self._admitted(), Parcel(self._monitor, self._retry) as parcel:
                book = parcel.open(asked.book_for_object(message, self._monitor))
                parcel.begin(
                    await book.job_of_object(message, add_missing_headers=self._add_missing_headers)
                )
                return await self._send(parcel)
        except Exception as error:
            end_before_it_began(options, error)
            raise

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
        than 998 octets (RFC 5321 section 4.5.3.1.6), unless ``allow_long_lines``, and for a message
        without an octet, such as a file that was read before. What a source of yours raises leaves
        as it is, with nothing sent. Cancelled while a pipe is silent, it leaves behind the thread
        that reads it, which takes what comes next, and ends.
        """
        try:
            _required(sender, recipients)
            if not options and (letter := self._letter(message, sender, recipients)) is not None:
                return await self._send_letter(letter)
            asked = self._asked(options, sender, recipients)
            with self._admitted(), Parcel(self._monitor, self._retry) as parcel:
                book = parcel.open(asked.book(self._monitor))
                parcel.begin(await book.job_of_raw(message))
                return await self._send(parcel)
        except Exception as error:
            end_before_it_began(options, error)
            raise

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

    def _letter(
        self, message: Any, sender: AddressLike | None, recipients: Recipients | None
    ) -> Letter | None:
        """The message as a letter, if it is one and may go as one."""
        return None if self._letters is None else self._letters.letter(message, sender, recipients)

    async def _send_letter(self, letter: Letter) -> Receipt:
        with self._admitted(), Parcel(self._monitor, self._retry) as parcel:
            parcel.begin_at_once(letter)
            return await self._send(parcel)

    async def _send(self, parcel: Parcel) -> Receipt:
        """Send it, in as many transactions and attempts as it takes."""
        while True:
            error: SMTPException | None = None
            failure: BaseException | None = None
            try:
                await self._deliver(parcel)
            except SMTPException as caught:
                # The time may be up for a write behind the server's word on the message.
                if not parcel.is_settled:
                    error = caught
            except SourceFailed as failed:
                failure = failed.error
            if failure is not None:
                raise failure
            if parcel.letter is not None:
                parcel.accept()
                return parcel.delivery.result()
            book, attempts = parcel.book, parcel.attempts
            if not book.goes_on(attempts, error, is_over=error is not None and self._is_over):
                return book.close(attempts)
            if attempts.delay:
                await self._pause(attempts.delay)
            attempts.begin()

    @abstractmethod
    async def _deliver(self, parcel: Parcel) -> None:
        """Send it in one transaction, writing what becomes of it; or raise why nobody has it."""


def _required(sender: Any, recipients: Any) -> None:
    """TypeError for None, by which a forgotten variable would have an envelope's fill in."""
    if None in (sender, recipients):
        parse_sender(sender)
        parse_recipients(recipients)
