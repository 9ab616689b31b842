"""One mail transaction: from a `Job` and what the server offers to flights, and from replies to
what is known about each recipient.

Theory of operation. A *flight* is what the client writes before it must wait; each costs one
round trip. `flight()` gives the commands of the next one, and is asked again when all their
replies have been taken; an empty flight means that the envelope is settled, and `end` says what
follows: the message, a lone dot, nothing, or the end of the connection.

    server offers   flights of one message
    --------------  --------------------------------------------------------------
    nothing         MAIL . RCPT . RCPT . DATA . message
    PIPELINING      RSET MAIL RCPT RCPT DATA . message          (RFC 2920 section 3.1)

DATA may ride with the envelope because the message itself waits for its 354: the policy on
refusals is applied before the message leaves. With ``require_all`` DATA waits for the envelope's
replies, since once a server has said 354 a transaction can only be given up by closing the
connection. A 354 for which no recipient is left is answered by a lone dot (section 3.1 there), and
its final reply means nothing. If the server has recipients all the same, behind a RSET or MAIL that
it refused, the dot would send them an empty message: then the connection is closed.

Every reply goes through `take`, in the order of the commands, whatever the earlier ones said; each
moves the `Ledger` in the same step. A 421, and 554 to RSET, are not about this message: its
recipients are left not_sent, and `is_stale` is set. 554 to MAIL can mean either ("no more mail on
this connection", or this sender): it is a refusal, and sets `is_stale`, so that it is
believed only on a connection that is new. So is a 530: a connection that had been logged in is
replaced by one that will be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

from .._delivery import Ledger
from .._envelope import Content, Job, Mailbox, Receipt
from .._reply import Reply
from ..errors import (
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from . import _commands
from ._commands import Command
from ._extensions import Extensions

End: TypeAlias = Literal["message", "lone dot", "hang up", "nothing"]

# Unread replies of 512 octets must fit the 64 KiB that a socket takes at the least, or client and
# server both wait for the other to read (RFC 2920 section 3.1).
MAX_FLIGHT = 128
# Servers count errors and hang up (Postfix after 20, RFC 5321 section 7.8 allows it); DATA without
# a recipient is one more each time.
PATIENCE = 3


class Transaction:
    """The plan of one transaction and the meaning of its replies.

    SMTPNotSupported or SMTPMessageTooLarge, before anything is planned, if the server does not
    offer what the job needs.
    """

    def __init__(
        self,
        job: Job,
        content: Content,
        extensions: Extensions,
        ledger: Ledger,
        *,
        reset_first: bool,
        pipelining: bool = True,
        refused_in_a_row: int = 0,
    ) -> None:
        self._job = job
        self._ledger = ledger
        parameters = _mail_parameters(job, content, extensions)
        asks_for_utf8 = any(parameter.upper() == "SMTPUTF8" for parameter in parameters)
        self._utf8 = asks_for_utf8 and extensions.smtputf8
        sender = "" if job.sender is None else self._path(job.sender)
        self._mail = _commands.mail(sender, parameters)
        self._pipelining = pipelining and extensions.pipelining
        self._data_rides = self._pipelining and not job.require_all and refused_in_a_row < PATIENCE
        # RFC 4954 section 6. Where STARTTLS is on offer, 530 asks for that (RFC 3207 section 4).
        self._login_is_missing = {535} if extensions.starttls else {530, 535}
        self._plan = self._planned(reset_first)
        self._awaited: deque[Callable[[Reply], None]] = deque()
        self._taken: list[str] = []
        self._rcpt_refused: dict[str, Reply] = {}
        self._server_has_recipients = False
        self._data: Reply | None = None
        self._final: Reply | None = None
        self._refusal: SMTPException | None = None
        self.is_stale = False
        """Whether the connection, and not the message, was refused."""

    def flight(self) -> list[Command]:
        """The commands to write now; empty when the envelope is settled."""
        flight: list[Command] = []
        limit = MAX_FLIGHT if self._pipelining else 1
        while self._refusal is None and self._plan and len(flight) < limit:
            command, take = self._plan[0]
            if command is _commands.DATA and not self._data_may_go(riding=bool(flight)):
                break
            self._plan.popleft()
            self._awaited.append(take)
            flight.append(command)
        return flight

    @property
    def end(self) -> End:
        """What follows the envelope."""
        if self._data is None or not self._data.is_intermediate:
            return "nothing"
        if self._refusal is None and self._taken:
            return "message"
        return "hang up" if self._server_has_recipients else "lone dot"

    @property
    def has_hung_up(self) -> bool:
        """Whether the server takes nothing more on this connection."""
        return isinstance(self._refusal, SMTPServerDisconnected)

    @property
    def took_nobody(self) -> bool:
        """Whether the server refused the sender or every recipient."""
        return not self._taken

    def take(self, reply: Reply) -> None:
        """The next reply to a command of a flight."""
        self._awaited.popleft()(reply)

    def hand_over(self) -> None:
        """The end of the message is about to leave."""
        self._ledger.hand_over(self._taken)

    def take_final(self, reply: Reply) -> None:
        """The reply to the message; or a refusal while it is going out."""
        self._final = reply
        self._ledger.settle(self._taken, reply)
        if not reply.is_positive:
            self._refusal = SMTPDataError(reply, command=_commands.END_OF_DATA.shown)

    def result(self, server: str) -> Receipt:
        """The Receipt; or the refusal, raised."""
        if self._refusal is None and not self._taken:
            self._refusal = SMTPRecipientsRefused(self._rcpt_refused)
        if self._refusal is not None:
            raise self._refusal
        assert self._final is not None
        return Receipt(
            reply=self._final,
            replies=(self._final,),
            accepted=self._ledger.replies("accepted"),
            refused=self._ledger.replies("refused"),
            message_id=self._job.message_id,
            server=server,
        )

    def _planned(self, reset_first: bool) -> deque[tuple[Command, Callable[[Reply], None]]]:
        """Every command of the envelope, with what its reply means."""
        plan: deque[tuple[Command, Callable[[Reply], None]]] = deque()
        if reset_first:
            plan.append((_commands.RSET, self._take_rset))
        plan.append((self._mail, self._take_mail))
        for recipient in self._job.recipients:
            rcpt = _commands.rcpt(self._path(recipient), self._job.rcpt_options)
            plan.append((rcpt, self._take_rcpt(recipient.given, rcpt)))
        plan.append((_commands.DATA, self._take_data))
        return plan

    def _path(self, mailbox: Mailbox) -> str:
        if self._utf8 or mailbox.ascii is None:
            return mailbox.utf8
        return mailbox.ascii

    def _data_may_go(self, *, riding: bool) -> bool:
        """Whether DATA may be written: behind the envelope, or when its replies are all there."""
        if riding:
            return self._data_rides
        if self._job.require_all and self._rcpt_refused:
            self._refusal = SMTPRecipientsRefused(self._rcpt_refused)
        return bool(self._taken) and self._refusal is None

    def _take_rset(self, reply: Reply) -> None:
        """RSET cannot fail a message, but a server may answer it with a good-bye."""
        if reply.code in _GOODBYE:
            self._hang_up(reply, "RSET")

    def _take_mail(self, reply: Reply) -> None:
        if reply.is_positive or self._refusal is not None:
            return
        self.is_stale = reply.code in _GOODBYE or reply.code in self._login_is_missing
        if reply.code == 421:
            self._hang_up(reply, self._mail.shown)
            return
        self._ledger.refuse((recipient.given for recipient in self._job.recipients), reply)
        if reply.code in self._login_is_missing:
            message = "the server wants a login"
            self._refusal = SMTPAuthenticationError(message, reply=reply, command=self._mail.shown)
        else:
            self._refusal = SMTPSenderRefused(reply, command=self._mail.shown)

    def _take_rcpt(self, key: str, command: Command) -> Callable[[Reply], None]:
        def take(reply: Reply) -> None:
            self._server_has_recipients |= reply.is_positive
            if self._refusal is not None:
                return
            if reply.is_positive:
                self._taken.append(key)
                return
            self._rcpt_refused[key] = reply
            self._ledger.refuse((key,), reply)
            if reply.code == 421:
                self._hang_up(reply, command.shown)

        return take

    def _take_data(self, reply: Reply) -> None:
        self._data = reply
        if reply.is_intermediate or self._refusal is not None or not self._taken:
            return
        if reply.code == 421:
            self._hang_up(reply, "DATA")
        else:
            self._ledger.refuse(self._taken, reply)
            self._refusal = SMTPDataError(reply, command="DATA")

    def _hang_up(self, reply: Reply, command: str) -> None:
        """The server ends the session: what it has not refused by name was not sent."""
        self.is_stale = True
        self._refusal = SMTPServerDisconnected(
            "the server closes the connection",
            reply=reply,
            command=command,
            connection_closed=True,
        )


# RFC 5321 section 3.8: 421 ends a session. 554 to RSET or MAIL is Exim's and others' way to say
# that this connection has had enough ("Too many nonmail commands").
_GOODBYE = (421, 554)


def needs_downgrade(content: Content, extensions: Extensions) -> bool:
    """Whether the server takes the message only in 7bit (RFC 6152 section 3)."""
    return content.is_8bit and not extensions.eight_bit_mime


def _mail_parameters(job: Job, content: Content, extensions: Extensions) -> list[str]:
    """The parameters of MAIL: the caller's own, and those that he did not give."""
    given = {option.partition("=")[0].upper() for option in job.mail_options}
    parameters: list[str] = []
    if "SIZE" in extensions and "SIZE" not in given:
        parameters.append(f"SIZE={content.size}")
    if extensions.size is not None and content.size > extensions.size:
        raise SMTPMessageTooLarge(
            f"the message has {content.size} octets, the server takes {extensions.size}"
        )
    if content.is_8bit:
        if not extensions.eight_bit_mime:
            raise SMTPNotSupported(
                "the message has octets above 127 and the server does not offer 8BITMIME"
            )
        if "BODY" not in given:
            parameters.append("BODY=8BITMIME")
    if (reason := _needs_utf8(job, content)) is not None:
        if not extensions.smtputf8:
            raise SMTPNotSupported(f"{reason} and the server does not offer SMTPUTF8")
        if "SMTPUTF8" not in given:
            parameters.append("SMTPUTF8")
    return [*parameters, *job.mail_options]


def _needs_utf8(job: Job, content: Content) -> str | None:
    """Why the transaction must use SMTPUTF8 (RFC 6531 section 3.4), if it must."""
    for mailbox in (job.sender, *job.recipients):
        if mailbox is not None and mailbox.ascii is None:
            return f"the local part of {mailbox.given} is not ASCII"
    return "the header section is not ASCII" if content.is_utf8 else None
