"""LMTP (RFC 2033): where it differs from SMTP.

It greets with LHLO. And the end of a message is answered once for each recipient that was accepted
before it, in their order (section 4.2), for BDAT LAST as well as for the dot; a DATA or BDAT
without such a recipient is answered once. So each recipient has a fact of its own, and where the
connection dies in between, only those are in doubt whose reply has not come.

What a session awaits stays one entry in its queue until the last of these replies, so whoever
waits for it, reads for others or has gone away sees no difference.
"""

from __future__ import annotations

from typing import ClassVar

from .._delivery import Outcome
from .._reply import Reply
from ..errors import SMTPProtocolError, SMTPRecipientsRefused
from . import _commands, _states
from ._session import Awaited, Session
from ._transaction import End, Transaction

_FINAL = (".", "BDAT LAST")


class LMTPSession(Session):
    """A session in which the end of a message has several replies."""

    __slots__ = ("_owed",)

    is_lmtp: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._owed = 0  # replies to the end of the message: as many as recipients were accepted

    def next_reply(self) -> Awaited | None:
        """Pair one reply with the command that awaits it, or with a part of that."""
        queue = self.awaited
        if self._owed > 1 and queue and queue[0].written:
            head = queue[0]
            if head.command.row.name in _FINAL and not head.front:
                return self._next_of_several(head)
        pair = super().next_reply()
        if pair is not None:
            self._count(pair)
        return pair

    def settle(self) -> bool:
        """Nothing: each recipient that is accepted counts, so the replies are taken one by one."""
        return True

    def _next_of_several(self, head: Awaited) -> Awaited | None:
        """The reply for one recipient; the last one's is the one that the queue waits for."""
        self.blamed = head
        if (reply := self._parser.next_reply()) is None:
            return None
        if reply.code == 421:
            self.goodbye = reply
        if not head.is_success(reply) and reply.code < 400:
            raise SMTPProtocolError(f"not a reply to {head.command.shown}", reply=reply)
        self._owed -= 1
        part = Awaited(head.command, None, head.owner, 0)
        part.reply = reply
        # The end of a message always has one.
        assert head.sink is not None
        head.sink(reply)
        return part

    def _count(self, pair: Awaited) -> None:
        name = pair.command.row.name
        if name == "MAIL":
            self._owed = 0
        elif name == "RCPT":
            self._owed += pair.succeeded

    def _fail(self, awaited: Awaited, row: _states.Row, reply: Reply) -> None:
        super()._fail(awaited, row, reply)
        # 552 is somebody's full mailbox here: the chunk was read.
        self.out_of_step = False


class LMTPTransaction(Transaction):
    """A transaction of which each recipient learns his own outcome."""

    __slots__ = ()

    @property
    def end(self) -> End:
        """What follows the envelope: without a recipient a lone dot would have no reply."""
        end = super().end
        return "hang up" if end == "lone dot" else end

    @property
    def is_settled(self) -> bool:
        """Whether the server has said what becomes of the message, to everybody."""
        is_whole = not self._is_handed_over or len(self._finals) == len(self._taken)
        return is_whole and super().is_settled

    def take_final(self, reply: Reply) -> None:
        """The reply for the next recipient; or, before the end was out, for the message."""
        if not self._is_handed_over:
            super().take_final(reply)
            return
        key = self._taken[len(self._finals)]
        self._finals.append(reply)
        if self._is_late:
            outcome: Outcome = "accepted" if reply.is_positive else "refused"
            self._ledger.learn((key,), outcome, reply, self._epoch)
            return
        self._ledger.settle((key,), reply)
        if len(self._finals) == len(self._taken):
            self._leave_over(self._too_many)
            if not any(final.is_positive for final in self._finals):
                refused = dict(zip(self._taken, self._finals, strict=True))
                self._refusal = SMTPRecipientsRefused(
                    {**self._rcpt_refused, **refused}, command=_commands.END_OF_DATA.shown
                )

    def _take_chunk(self, reply: Reply) -> None:
        if not self._taken:
            super()._take_chunk(reply)
            return
        if not self._finals:
            # Whatever it refused before: a server that answers for recipients has the message.
            self._refusal = None
        self.take_final(reply)
