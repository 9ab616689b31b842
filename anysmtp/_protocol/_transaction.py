"""One mail transaction: from a `Job` and what the server offers to flights, and from replies to
what is known about each recipient.

Theory of operation. A *flight* is what the client writes before it must wait; each costs one round
trip. `flight()` gives the commands of the next one, each with what its reply is told to, and is
asked again when all of these replies have come; an empty flight means that the envelope is settled,
and `end` says what follows: the message, a lone dot, nothing, or the end of the connection.

    server offers          flights of one message
    ---------------------  --------------------------------------------------------------
    nothing                MAIL . RCPT . RCPT . DATA . message
    PIPELINING             RSET MAIL RCPT RCPT DATA . message      (RFC 2920 section 3.1)
    PIPELINING, CHUNKING,  RSET MAIL RCPT RCPT BDAT LAST message   (RFC 3030 section 2)
      and the user's "eager"

Where BDAT carries a message that is not eager, its envelope's replies are waited for, and the
message follows its command line at once.

DATA may ride with the envelope because the message itself waits for its 354: the policy on
refusals is applied before the message leaves. With ``require_all`` DATA waits for the envelope's
replies, since once a server has said 354 a transaction can only be given up by closing the
connection. A 354 for which no recipient is left is answered by a lone dot (section 3.1 there), and
its final reply means nothing. If the server has recipients all the same, behind a RSET or MAIL that
it refused, the dot would send them an empty message: then the connection is closed.

An eager transaction is all in one flight, message and end included, so all of its recipients are
in doubt from then on, and a reply can only make that better.

Every reply moves the `Ledger` in the same step. A 421, and 554 to RSET, are not about this message:
its recipients are left not_sent, and `is_stale` is set. 554 to MAIL can mean either ("no more mail
on this connection", or this sender): it is a refusal, and sets `is_stale`, so that it is
believed only on a connection that is new. So is a 530: a connection that had been logged in is
replaced by one that will be.

A transaction has as many recipients as the server takes in one: by its LIMITS (RFC 9422), and by a
452 behind the first ones (RFC 5321 section 4.5.3.1.10). The others are left over, in the ledger,
for a next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Literal, TypeAlias

from .._delivery import Ledger, Outcome
from .._envelope import Content, Job, Mailbox, Stream
from .._parameters import Parameter
from .._reply import Reply
from ..errors import (
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from . import _commands
from ._commands import Command
from ._demands import mail_parameters, rcpt_parameters
from ._extensions import Extensions
from ._session import Sink

End: TypeAlias = Literal["message", "lone dot", "hang up", "nothing"]
Pipelining: TypeAlias = Literal["auto", "eager", "off"]
Chunking: TypeAlias = Literal["auto", "always", "off"]

# Unread replies of 512 octets must fit the 64 KiB that a socket takes at the least, or client and
# server both wait for the other to read (RFC 2920 section 3.1).
MAX_FLIGHT = 128
# Servers count errors and hang up (Postfix after 20, RFC 5321 section 7.8 allows it); DATA without
# a recipient is one more each time.
PATIENCE = 3
# Octets of a message that is sent before its envelope is answered: little is lost where that is
# refused, and it fits the buffers of a socket, so that writing it does not wait.
EAGER_SIZE = 32768


_PARAMETERS: Callable[[Mailbox], Sequence[Parameter]] = attrgetter("parameters")


class Transaction:
    """The plan of one transaction and the meaning of its replies.

    SMTPNotSupported or SMTPMessageTooLarge, before anything is planned, if the server does not
    offer what the job needs. SMTPServerDisconnected if none of its recipients may be named on
    this connection any more, with ``domains``, those that were named before.
    """

    __slots__ = (
        "_data",
        "_data_rides",
        "_epoch",
        "_finals",
        "_is_handed_over",
        "_is_whole",
        "_job",
        "_ledger",
        "_login_is_missing",
        "_mail",
        "_pipelining",
        "_plan",
        "_rcpt_refused",
        "_rcpts",
        "_recipients",
        "_refusal",
        "_refused_behind",
        "_rest",
        "_server_has_recipients",
        "_taken",
        "_too_many",
        "chunk",
        "is_chunked",
        "is_eager",
        "is_stale",
        "is_utf8",
        "take_yes",
        "wears_out",
    )

    def __init__(
        self,
        job: Job,
        content: Content | Stream,
        extensions: Extensions,
        ledger: Ledger,
        *,
        reset_first: bool,
        pipelining: Pipelining = "auto",
        chunking: Chunking = "auto",
        refused_in_a_row: int = 0,
        domains: set[str] | None = None,
        is_tls_verified: bool = False,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._epoch = ledger.epoch
        self._is_handed_over = False
        parameters, self.is_utf8 = mail_parameters(
            job, content, extensions, is_tls_verified=is_tls_verified
        )
        self._recipients, self._rest = _one_transaction(job, extensions.limits, domains)
        self._mail = _commands.mail(self._path(job.sender), parameters)
        self._pipelining = pipelining != "off" and extensions.pipelining
        self._data_rides = self._pipelining and not job.require_all and refused_in_a_row < PATIENCE
        may_be_chunked = extensions.chunking and chunking != "off"
        self.is_eager = pipelining == "eager" and may_be_chunked and self._is_short(content)
        """Whether the message goes out with its envelope, in one flight."""
        self.is_chunked = self.is_eager or (extensions.chunking and _is_chunked(job, chunking))
        """Whether BDAT carries the message."""
        self.chunk = (
            _commands.bdat(content.size, is_last=True)
            if self.is_chunked and content.size is not None
            else None
        )
        """The command that the whole of the message follows at once."""
        # RFC 4954 section 6. Where STARTTLS is on offer, 530 asks for that (RFC 3207 section 4).
        self._login_is_missing = {535} if extensions.starttls else {530, 535}
        self._plan = self._planned(reset_first)
        self._is_whole = self._pipelining and len(self._plan) <= MAX_FLIGHT
        self.take_yes: Sink | None = None
        """What the last of the replies to the flight means, if all of them say yes."""
        self._rcpts: Iterator[Mailbox] = iter(self._recipients)
        self._taken: list[str] = []
        self._too_many: list[str] = []
        self._rcpt_refused: dict[str, Reply] = {}
        self._refused_behind: dict[str, Reply] = {}
        self._server_has_recipients = False
        self._data: Reply | None = None
        self._finals: list[Reply] = []
        self._refusal: SMTPException | None = None
        self.is_stale = False
        """Whether the connection, and not the message, was refused."""
        self.wears_out = False
        """Whether the connection is of no further use all the same."""

    def flight(self) -> list[tuple[Command, Sink]]:
        """The commands to write now; empty when the envelope is settled."""
        plan = self._plan
        self.take_yes = None
        if self._is_whole:
            return self._whole_flight()
        flight: list[tuple[Command, Sink]] = []
        limit = MAX_FLIGHT if self._pipelining else 1
        while self._refusal is None and plan and len(flight) < limit:
            if plan[0][0] is _commands.DATA and not self._data_may_go(riding=bool(flight)):
                break
            flight.append(plan.popleft())
        return flight

    def _whole_flight(self) -> list[tuple[Command, Sink]]:
        """The first one, with every recipient."""
        self._is_whole = False
        self.take_yes = self._take_yes
        behind = [] if self.is_chunked or self._data_rides else [self._plan.pop()]
        flight = list(self._plan)
        self._plan = deque(behind)
        return flight

    @property
    def end(self) -> End:
        """What follows the envelope."""
        if self.is_chunked and not self.is_eager:
            return "message" if self._may_go() else "nothing"
        if self._data is None or not self._data.is_intermediate:
            return "nothing"
        if self._refusal is None and self._taken:
            return "message"
        return "hang up" if self._server_has_recipients else "lone dot"

    @property
    def goodbye(self) -> SMTPException | None:
        """The server's word that it takes nothing more on this connection."""
        return self._refusal if isinstance(self._refusal, SMTPServerDisconnected) else None

    @property
    def is_settled(self) -> bool:
        """Whether the server has said what becomes of the message."""
        return bool(self._finals)

    @property
    def took_nobody(self) -> bool:
        """Whether the server refused the sender or every recipient."""
        return not self._taken

    def hand_over(self) -> None:
        """The end of the message is about to leave."""
        keys = [r.given for r in self._recipients] if self.is_eager else self._taken
        self._is_handed_over = True
        self._ledger.hand_over(keys)

    def take_final(self, reply: Reply) -> None:
        """The reply to the message; or a refusal while it is going out."""
        self._finals.append(reply)
        if self._is_late:
            outcome: Outcome = "accepted" if reply.is_positive else "refused"
            self._ledger.learn(self._taken, outcome, reply, self._epoch)
            return
        self._ledger.settle(self._taken, reply)
        if reply.is_positive:
            self._leave_over(self._too_many)
            return
        self._refusal = SMTPDataError(reply, command=_commands.END_OF_DATA.shown)
        # Whether a server that refuses a chunk has read it is not to be relied on.
        self.wears_out = self.is_chunked
        # The server's word on the message itself holds for the others too.
        self._refuse(self._rest, reply)

    def result(self) -> Reply:
        """The final reply; or the refusal, raised."""
        if self._refusal is None and not self._taken:
            self._leave_over(())
            self._refusal = SMTPRecipientsRefused(self._rcpt_refused)
        if self._refusal is not None:
            raise self._refusal
        return self._finals[-1]

    def _is_short(self, content: Content | Stream) -> bool:
        """Whether one flight may have the message and its envelope, with RSET, MAIL and BDAT."""
        is_small = not isinstance(content, Stream) and content.size <= EAGER_SIZE
        return is_small and self._data_rides and len(self._recipients) + 3 <= MAX_FLIGHT

    def _planned(self, reset_first: bool) -> deque[tuple[Command, Sink]]:
        """Every command of the envelope, with what its reply means."""
        plan: deque[tuple[Command, Sink]] = deque()
        if reset_first:
            plan.append((_commands.RSET, self._take_rset))
        plan.append((self._mail, self._take_mail))
        plan.extend(zip(self._rcpts_of_all(), repeat(self._take_rcpt)))
        if not self.is_chunked:
            plan.append((_commands.DATA, self._take_data))
        elif self.is_eager and self.chunk is not None:
            plan.append((self.chunk, self._take_chunk))
        return plan

    def _rcpts_of_all(self) -> Iterable[Command]:
        """Every RCPT; where they ask for nothing, and are few, as they were made before."""
        recipients = self._recipients
        is_plain = not (self.is_utf8 or self._job.rcpt_options) and len(recipients) < MAX_FLIGHT
        if is_plain and not any(map(_PARAMETERS, recipients)):
            return _commands.plain_rcpts(tuple([box.ascii or box.utf8 for box in recipients]))
        return map(self._rcpt, recipients)

    def _rcpt(self, recipient: Mailbox) -> Command:
        path = self._path(recipient)
        if not recipient.parameters and not self._job.rcpt_options:
            return _commands.plain_rcpt(path)
        return _commands.rcpt(path, rcpt_parameters(self._job, recipient))

    def _path(self, mailbox: Mailbox | None) -> str:
        if mailbox is None:
            return ""
        return mailbox.utf8 if self.is_utf8 else mailbox.ascii or mailbox.utf8

    def _data_may_go(self, *, riding: bool) -> bool:
        """Whether DATA may be written: behind the envelope, or when its replies are all there."""
        return self._data_rides if riding else self._may_go()

    def _may_go(self) -> bool:
        """Whether the message is to be sent to those whom the server took."""
        if self._job.require_all and self._rcpt_refused:
            self._refusal = self._refusal or SMTPRecipientsRefused(self._rcpt_refused)
        return bool(self._taken) and self._refusal is None

    def _take_rset(self, reply: Reply) -> None:
        """RSET cannot fail a message, but a server may answer it with a good-bye.

        Any other no is left to the server's word on MAIL, if that is on its way already.
        """
        if reply.code in _GOODBYE:
            self._hang_up(reply, "RSET")
        elif not reply.is_positive and not self._pipelining:
            self._hang_up(reply, "RSET", "the server does not end the transaction before this one")

    def _take_mail(self, reply: Reply) -> None:
        if reply.code < 300 or self._refusal is not None:
            return
        self.is_stale = reply.code in _GOODBYE or reply.code in self._login_is_missing
        if reply.code == 421:
            self._hang_up(reply, self._mail.shown)
            return
        self._refuse([recipient.given for recipient in self._job.recipients], reply)
        if reply.code in self._login_is_missing:
            message = "the server wants a login"
            self._refusal = SMTPAuthenticationError(message, reply=reply, command=self._mail.shown)
        else:
            self._refusal = SMTPSenderRefused(reply, command=self._mail.shown)

    def _take_rcpt(self, reply: Reply) -> None:
        """Replies come in the order of the recipients."""
        mailbox = next(self._rcpts)
        is_positive = reply.code < 300
        self._server_has_recipients |= is_positive
        if is_positive and (self.is_eager or self._refusal is None):
            self._taken.append(mailbox.given)
        if is_positive:
            return
        if self._refusal is not None:
            # It may be for what was refused before; unless the message is taken all the same.
            self._refused_behind[mailbox.given] = reply
            return
        self._rcpt_refused[mailbox.given] = reply
        self._refuse((mailbox.given,), reply)
        if reply.code == 421:
            self._hang_up(reply, self._rcpt(mailbox).shown)
        elif _is_too_many(reply) and self._taken:
            self._too_many.append(mailbox.given)

    def _take_yes(self, reply: Reply) -> None:
        """The server has said yes to MAIL and to each RCPT, and this to what came behind them."""
        self._server_has_recipients = True
        self._taken += [recipient.given for recipient in self._recipients]
        if reply.is_intermediate:
            self._data = reply
        elif self.is_eager:
            self._take_chunk(reply)

    def _take_data(self, reply: Reply) -> None:
        self._data = reply
        if reply.is_intermediate or self._refusal is not None or not self._taken:
            return
        if reply.code == 421:
            self._hang_up(reply, "DATA")
        else:
            self._refuse((*self._taken, *self._rest), reply)
            self._refusal = SMTPDataError(reply, command="DATA")

    def _take_chunk(self, reply: Reply) -> None:
        """The reply to the whole message; without a recipient it means nothing."""
        if self._refusal is not None and not reply.is_positive:
            self._take_back()
            return
        if not self._taken:
            return
        # Whatever it refused before: a server that says yes to this has the message.
        self._refusal = None
        for key, refusal in self._refused_behind.items():
            self._refuse((key,), refusal)
        self.take_final(reply)

    @property
    def _is_late(self) -> bool:
        """Whether the send that this was for has ended, or has gone on to something else."""
        return self._epoch != self._ledger.epoch

    def _refuse(self, keys: Sequence[str], reply: Reply) -> None:
        if not self._is_late:
            self._ledger.refuse(keys, reply)
        elif self._is_handed_over:
            self._ledger.learn(keys, "refused", reply, self._epoch)

    def _take_back(self) -> None:
        keys = (recipient.given for recipient in self._recipients)
        self._ledger.take_back(keys, self._epoch)

    def _leave_over(self, too_many: Sequence[str]) -> None:
        self._ledger.left_over = (*too_many, *self._rest)

    def _hang_up(
        self, reply: Reply, command: str, reason: str = "the server closes the connection"
    ) -> None:
        """The server ends the session: what it has not refused by name was not sent.

        A message that is out already is in doubt as long as a reply to it may come.
        """
        if self.is_eager and reply.code == 421:
            self._take_back()
        self.is_stale = True
        self._refusal = SMTPServerDisconnected(
            reason,
            reply=reply,
            command=command,
            connection_closed=True,
        )


# RFC 5321 section 3.8: 421 ends a session. 554 to RSET or MAIL is Exim's and others' way to say
# that this connection has had enough ("Too many nonmail commands").
_GOODBYE = (421, 554)


def _is_chunked(job: Job, chunking: Chunking) -> bool:
    """Whether BDAT carries a message that is not eager (RFC 3030): where nothing else can, where it
    saves the wait for 354, or always. Some servers get it wrong, so not without a reason.
    """
    return job.is_binary or chunking == "always" or (chunking == "auto" and job.require_all)


def _is_too_many(reply: Reply) -> bool:
    """Whether a recipient was refused because of those before it (RFC 5321 section 4.5.3.1.10).

    That section has 452, and 552 from old servers. Both have other meanings, which an enhanced
    status code tells apart (RFC 3463: X.5.3); without one, to ask again costs one transaction.
    """
    return reply.code in (452, 552) and (reply.enhanced or "x.5.3")[1:] == ".5.3"


def _one_transaction(
    job: Job, limits: Mapping[str, int], domains: set[str] | None
) -> tuple[tuple[Mailbox, ...], tuple[str, ...]]:
    """The recipients that a transaction may have by the server's LIMITS, and the keys of the rest.

    RCPTMAX counts recipients in a transaction, RCPTDOMAINMAX their domains in the whole session.
    SMTPNotSupported where it must have them all.
    """
    if not limits:
        return job.recipients, ()
    count, most_domains = limits.get("RCPTMAX"), limits.get("RCPTDOMAINMAX")
    if count is None and (most_domains is None or domains is None):
        return job.recipients, ()
    seen: set[str] = {*domains} if domains is not None else set()
    chosen: list[Mailbox] = []
    rest: list[str] = []
    for recipient in job.recipients:
        domain = recipient.utf8.rpartition("@")[2].lower()
        is_one_too_many = domains is not None and len(seen) == most_domains and domain not in seen
        if len(chosen) == count or is_one_too_many:
            rest.append(recipient.given)
        else:
            chosen.append(recipient)
            seen.add(domain)
    if not chosen:
        raise SMTPServerDisconnected("the server takes no other domain on this connection")
    if rest and (job.require_all or job.is_one_shot):
        reason = "require_all needs them" if job.require_all else "the message can be read only"
        raise SMTPNotSupported(
            f"the server takes {len(chosen)} of the {len(job.recipients)} recipients in one "
            f"transaction, and {reason} {'in one' if job.require_all else 'once'}"
        )
    if domains is not None:
        domains |= seen
    return tuple(chosen), tuple(rest)
