"""One SMTP session: its phase, and the queue of commands that await a reply.

`send` checks a command against the tables and queues what it awaits; the caller writes the octets
that it returns. `receive` takes what came; `next_reply` pairs one reply with the head of the
queue, and in the same step moves the phase, and hands the reply to whoever planned the command
(its *sink*). So the session, and all that is known about a message, is at every moment what
the octets that were read say, wherever the task that waits for them was stopped.

The commands of a transaction's envelope are one entry in the queue, a *flight*. Nearly always the
server says yes to all of it, and then `settle` takes it off as a whole, with one step for the phase
and one word to the planner. Any other flight is taken apart, reply by reply; what comes of it is
the same. So one of many like it is queued *folded*, by its shape alone: its commands are made when
it is taken apart, which seldom happens.

A reply that nobody awaits is a breach, except 421, with which a server may end a session at
any time (RFC 5321 section 3.8). So is a reply to the end of the data that says yes before
the end was written; one that says no ends the transfer.

What several tasks have sent is one queue, in which each command names its *owner*; an entry whose
owner has gone away is an orphan, whose reply is read all the same, for those behind it.

A broken session stays broken: `broken` says why, and nothing can be sent in it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, TypeAlias

from .._reply import Reply
from ..errors import SMTPProtocolError
from . import _commands, _states
from ._commands import Command
from ._extensions import Extensions
from ._folded import Shape
from ._parser import ReplyParser

Sink: TypeAlias = Callable[[Reply], None]

# The phases in which what is written next is no command.
_IN_THE_MIDDLE = ("body", "auth")


class Awaited:
    """A command that was sent, with those in front of it in the same flight, and its reply."""

    __slots__ = (
        "command",
        "front",
        "mails",
        "octets",
        "owner",
        "reached",
        "reply",
        "sink",
        "start",
        "take_yes",
        "unfold",
        "written",
    )

    start: _states.Phase
    """The phase in which a flight is answered if all before it succeeds."""
    reached: _states.Phase
    """Where it leads if it succeeds too."""
    mails: int
    """How many of it are MAIL."""

    def __init__(
        self,
        command: Command,
        sink: Sink | None,
        owner: object,
        octets: int,
    ) -> None:
        self.command = command
        self.reply: Reply | None = None
        self.sink = sink
        self.owner = owner
        """Who waits for the reply; None once nobody does."""
        self.octets = octets
        """What was written of a message with the command, which the reply acknowledges."""
        self.written = True
        """False while the message, whose end is the command, is still going out."""
        self.front: deque[tuple[Command, Sink | None]] | None = None
        """Those of the same flight whose replies come before."""
        self.take_yes: Sink | None = None
        """Told the last reply, instead of each sink each, where all say yes; None once some are
        in, or where each must be looked at."""
        self.unfold: Callable[[], object] | None = None
        """Puts the commands and sinks of a folded flight in their places."""

    @property
    def next_command(self) -> Command:
        """The command whose reply is next."""
        return self.front[0][0] if self.front else self.command

    @property
    def succeeded(self) -> bool:
        """Whether the reply is there and says yes."""
        return self.reply is not None and self.is_success(self.reply)

    def close(self, reply: Reply) -> None:
        """The reply is there; nobody is held any more who holds this."""
        self.reply = reply
        self.sink = self.take_yes = self.owner = self.front = self.unfold = None

    def shown(self) -> list[str]:
        """The reply for people and logs, by lines. A challenge is not shown: servers may repeat in
        it what they were told."""
        assert self.reply is not None
        if self.command.row.is_challenged and self.reply.is_intermediate:
            return [f"{self.reply.code} ***"]
        return self.reply.written()

    def is_success(self, reply: Reply) -> bool:
        """Whether this reply would say yes: by its first digit (RFC 5321 section 4.2.1)."""
        return reply.code // 100 == self.command.row.success


class Session:
    """The state of one SMTP session on one connection."""

    __slots__ = (
        "_ahead",
        "_mails",
        "_parser",
        "_phase",
        "awaited",
        "awaits",
        "blamed",
        "broken",
        "domains",
        "extensions",
        "goodbye",
        "may_have_transaction",
        "out_of_step",
        "refused_in_a_row",
        "unanswered",
    )

    is_lmtp: ClassVar[bool] = False

    def __init__(self) -> None:
        self._parser = ReplyParser()
        self.awaited: deque[Awaited] = deque()
        """The commands whose replies are owed by the server, in their order, by flights."""
        self.awaits = 0
        """How many replies are owed by the server."""
        self._phase: _states.Phase = "connected"
        self._ahead: _states.Phase = "connected"  # once all that is awaited has succeeded
        self._mails = 0  # how many of those awaited are MAIL
        self.unanswered = 0
        """Octets of messages that were written with commands whose replies have not come."""
        self.blamed: Awaited | None = None
        """Whose reply was next when the last one was looked for."""
        self.extensions = Extensions()
        self.broken: str | None = None
        """Why nothing can be sent any more."""
        self.goodbye: Reply | None = None
        """The server's 421, once it has sent one."""
        self.out_of_step = False
        """Whether what the server says from here on may answer something that is no command."""
        self.may_have_transaction = False
        """Whether the next transaction must be preceded by RSET."""
        self.domains: set[str] = set()
        """The domains of recipients so far, where the server limits their number (RFC 9422)."""
        self.refused_in_a_row = 0
        """Transactions for which the server took no recipient, since it last took one."""
        self.send(_commands.GREETING)

    @property
    def phase(self) -> _states.Phase:
        """What the replies so far have led to."""
        return self._phase

    @property
    def head(self) -> Awaited | None:
        """The command whose reply is next in line."""
        return self.awaited[0] if self.awaited else None

    @property
    def last(self) -> Awaited | None:
        """The command whose reply will be the last of those that are awaited."""
        return self.awaited[-1] if self.awaited else None

    @property
    def may_be_followed_now(self) -> bool:
        """Whether another command may be sent before the last one's reply (RFC 2920)."""
        if not self.awaited:
            return True
        return self.extensions.pipelining and self.awaited[-1].command.row.may_be_followed

    @property
    def owners(self) -> Iterator[object]:
        """Who waits, in the order of the replies; one who waits for several is named for each."""
        return (awaited.owner for awaited in self.awaited if awaited.owner is not None)

    @property
    def is_quiet(self) -> bool:
        """Whether the session is between two commands, with nothing owed by either side."""
        if self.awaited or self._phase in _IN_THE_MIDDLE:
            return False
        return self._parser.is_empty

    @property
    def is_as_new(self) -> bool:
        """Whether a transaction may begin, and nothing that was before it is of any matter."""
        return not self.may_have_transaction and self._is_untroubled("ready")

    @property
    def wants_message(self) -> bool:
        """Whether the server waits for a message, and nothing that was before it is of any
        matter."""
        return self._is_untroubled("body")

    def _is_untroubled(self, phase: _states.Phase) -> bool:
        return (
            self._phase == phase
            and not (self.awaited or self.refused_in_a_row)
            and self.broken is None
            and self.goodbye is None
            and not self.out_of_step
            and self._parser.is_empty
        )

    @property
    def can_be_followed(self) -> bool:
        """Whether the session will be between two commands once all that is awaited has come,
        whatever it says."""
        if not self.awaited:
            return self._phase not in _IN_THE_MIDDLE
        last = self.awaited[-1]
        return last.written and not last.command.row.asks_for_more

    def send(
        self,
        command: Command,
        sink: Sink | None = None,
        owner: object = None,
        octets: int = 0,
    ) -> Awaited:
        """Queue a command, whose ``line`` the caller now writes, and whatever goes with it.

        RuntimeError if the command cannot be sent now; then nothing has changed.
        """
        awaited = Awaited(command, sink, owner, octets)
        last_row = self.awaited[-1].command.row if self.awaited else None
        self._ahead = self._reached_by(command, self._start(), last_row)
        if command.row.opens:
            self._mails += 1
            self.may_have_transaction = True
        self.awaited.append(awaited)
        self.awaits += 1
        self.unanswered += octets
        return awaited

    def send_flight(
        self,
        flight: Sequence[tuple[Command, Sink | None]],
        owner: object = None,
        octets: int = 0,
        take_yes: Sink | None = None,
    ) -> Awaited:
        """Queue several commands as one entry, whose reply is the last one's.

        ``take_yes`` is told the last reply, and no sink any, where the server says yes to all.
        RuntimeError as with `send`.
        """
        queue = self.awaited
        start = phase = self._ahead if queue else self._phase
        mails, before, last_row = 0, queue[-1].command.row if queue else None, None
        for command, _ in flight:
            row = command.row
            # Another RCPT leads nowhere else than the one before.
            if row is not last_row:
                phase = self._reached_by(command, phase, before)
                before = last_row = row
            mails += row.opens
        awaited = Awaited(*flight[-1], owner, octets)
        awaited.front = deque(flight)
        awaited.front.pop()
        awaited.take_yes, awaited.mails = take_yes, mails
        awaited.start, awaited.reached = start, phase
        self._ahead = phase
        if mails:
            self._mails += mails
            self.may_have_transaction = True
        self.awaited.append(awaited)
        self.awaits += len(flight)
        self.unanswered += octets
        return awaited

    @property
    def may_fold(self) -> bool:
        """Whether flights can be sent folded: behind another one, and with no refusals to heed."""
        is_plain = not (self.is_lmtp or self.refused_in_a_row or self.extensions.limits)
        is_behind = self.may_have_transaction and self.awaited and self._ahead == "ready"
        return bool(is_plain and is_behind and self.may_be_followed_now)

    def send_folded(
        self,
        shape: Shape,
        owner: object,
        octets: int,
        take_yes: Sink,
        unfold: Callable[[], object],
    ) -> Awaited:
        """Queue a flight of this shape as `send_flight` does, while `may_fold`."""
        awaited = Awaited(shape.last, None, owner, octets)
        awaited.front = shape.front
        awaited.take_yes, awaited.unfold, awaited.mails = take_yes, unfold, 1
        awaited.start, awaited.reached = "ready", shape.reached
        self._ahead = shape.reached
        self._mails += 1
        self.awaited.append(awaited)
        self.awaits += shape.replies
        self.unanswered += octets
        return awaited

    def begin_body(
        self,
        sink: Sink,
        owner: object = None,
        chunk: Command | None = None,
    ) -> Awaited:
        """The message goes out from here on; a refusal may come before its end does.

        ``chunk`` is a BDAT that it follows. The caller sets ``written`` before it writes the end.
        """
        start = self._start()
        awaited = self.send(chunk or _commands.END_OF_DATA, sink, owner)
        awaited.take_yes = sink
        awaited.start, awaited.reached, awaited.mails = start, self._ahead, 0
        awaited.written = False
        return awaited

    def forsake(self, owner: object) -> None:
        """This owner waits no more: what he awaits is read for those behind him."""
        for awaited in self.awaited:
            if awaited.owner is owner:
                awaited.owner = None

    def receive(self, data: bytes) -> None:
        self._parser.feed(data)

    def only_yes(self, data: bytes, count: int, success: int) -> Reply | None:
        """The last of so many replies that say yes, if data is these and no more.

        For who has told the session nothing of what he sends; nor is it told of the replies.
        """
        return self._parser.only_yes(data, count, success)

    def next_reply(self) -> Awaited | None:
        """Pair one reply with the command that awaits it, or None until more was received.

        SMTPProtocolError if what was received is no reply, or not one to this command: the one
        that `blamed` is then.
        """
        queue = self.awaited
        if queue and (unfold := queue[0].unfold) is not None and not self._parser.is_empty:
            unfold()
        self.blamed = queue[0] if queue else None
        if self.out_of_step or (reply := self._parser.next_reply()) is None:
            return None
        if reply.code == 421:
            self.goodbye = reply
        if not queue:
            if reply.code != 421:
                raise SMTPProtocolError("a reply to no command", reply=reply)
            return None
        awaited = queue[0]
        if awaited.front:
            awaited = _first_of(awaited)
        else:
            queue.popleft()
        self.awaits -= 1
        self.unanswered -= awaited.octets
        row = awaited.command.row
        if row.opens:
            self._mails -= 1
        if reply.code // 100 == row.success:
            self._succeed(awaited, row, reply)
        else:
            self._fail(awaited, row, reply)
        sink = awaited.sink
        awaited.close(reply)
        if sink is not None:
            sink(reply)
        return awaited

    def settle(self) -> bool:
        """Take the flights off the front of the queue to which the server has said yes throughout.

        What it said otherwise, or has yet to say, is left to `next_reply`: whether there is any.
        """
        queue = self.awaited
        while queue and (take_yes := (flight := queue[0]).take_yes) is not None:
            row, count = flight.command.row, 1 + len(flight.front or ())
            if self._phase != flight.start or self.out_of_step or not flight.written:
                return True
            if (reply := self._parser.next_yes(count, row.success)) is None:
                return True
            queue.popleft()
            self.awaits -= count
            self.unanswered -= flight.octets
            self._mails -= flight.mails
            self._phase = flight.reached
            if row.ends:
                self.may_have_transaction = self._mails > 0
            flight.close(reply)
            take_yes(reply)
        return not self._parser.is_empty

    def encrypted(self) -> None:
        """TLS was put on: what was known from before is forgotten (RFC 3207 section 4.2)."""
        self.extensions = Extensions()

    def _start(self) -> _states.Phase:
        """The phase in which the next command is answered, as far as can be foreseen."""
        return self._ahead if self.awaited else self._phase

    def _reached_by(
        self, command: Command, phase: _states.Phase, last: _states.Row | None
    ) -> _states.Phase:
        """Where a command leads if it succeeds. RuntimeError if it cannot be sent now."""
        if last is not None and not last.may_be_followed:
            raise RuntimeError(f"{command.verb} before the reply to {last.name}")
        if self.broken or self.goodbye:
            raise RuntimeError(f"{command.verb} on a connection that is closed")
        reached = _states.NEXT[phase].get(command.row.name)
        if reached is None:
            raise RuntimeError(f"{command.verb} is not possible now: the session is in {phase!r}")
        return reached

    def _succeed(self, awaited: Awaited, row: _states.Row, reply: Reply) -> None:
        """Move the phase as a yes says."""
        if not awaited.written:
            raise SMTPProtocolError("accepted before the end of the message", reply=reply)
        # Behind a refused MAIL a server may still say yes to RCPT: the phase stays.
        phase = self._phase
        self._phase = row.always_reached or _states.NEXT[phase].get(row.name, phase)
        if row.ends:
            # The next transaction may have been opened in the same flight.
            self.may_have_transaction = self._mails > 0
        if row.changes_extensions:
            self.extensions = Extensions(reply) if row.name == "EHLO" else Extensions()

    def _fail(self, awaited: Awaited, row: _states.Row, reply: Reply) -> None:
        """Move the phase as anything but a yes says."""
        if row.is_challenged and reply.is_intermediate:
            self._phase = "auth"
        elif reply.code < 400 and row.name != "other":
            raise SMTPProtocolError(
                f"not a reply to {awaited.command.shown}",
                reply=reply,
                command=awaited.command.shown,
            )
        elif self._phase in ("body", "auth"):
            self._phase = "ready"
        elif row.is_chunk and self._phase in ("rcpt", "chunks"):
            # Without a recipient the refusal is about that, and the chunk was read.
            self.out_of_step = reply.code in _states.READS_CHUNKS_AS_COMMANDS


def _first_of(flight: Awaited) -> Awaited:
    """The next command of a flight, on its own: the flight has been answered in part now."""
    assert flight.front
    flight.take_yes = None
    command, sink = flight.front.popleft()
    return Awaited(command, sink, flight.owner, 0)
