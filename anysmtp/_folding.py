"""Messages of a stream that ride along on a channel with nothing planned: one step for many.

Theory of operation. A plain message is written from its `Cover`, and what it awaits is queued
folded (see `_protocol/_folded`). As long as the server says yes, a `Folded` is all that is known of
it: which reply there is, and whether its end is out. At anything else it is *unfolded*, in the same
step: its book is opened, and a `Sending` takes it up as if the transaction had been its own from
the start. Then it is a message like any other, also in what a cancellation leaves of it.

Where messages are eager, as many board at once as there is room for, behind one turn. Else one
boards, who has the turn of his own from then on; and these go a short way (`_onward`) while nobody
else is on the channel.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ._channel import Channel
from ._item import Item
from ._leases import Leases
from ._letters import Letter
from ._lifecycle import Call
from ._onward import Stopped, send_on
from ._protocol._folded import is_taken, shape_of
from ._protocol._session import Awaited, Session
from ._protocol._transaction import EAGER_SIZE, MAX_FLIGHT
from ._reply import Reply
from ._sending import WINDOW, Sending, refill
from ._transfer import send_at_once
from ._turns import Turn
from .errors import SMTPException

if TYPE_CHECKING:
    from ._crew import Crew


class Folding:
    """Who boards a channel folded; the passenger that stands for all of them."""

    __slots__ = ("_aboard", "_crew", "call", "channel", "is_eager", "is_possible", "leases")

    def __init__(
        self, crew: Crew, aboard: deque[Item], leases: Leases, call: Call, channel: Channel
    ) -> None:
        self._crew = crew
        self._aboard = aboard
        self.leases = leases
        self.call = call
        self.channel = channel
        settings, extensions = leases.settings, channel.session.extensions
        may_be_chunked = extensions.chunking and settings.chunking != "off"
        self.is_eager = settings.pipelining == "eager" and may_be_chunked
        self.is_possible = (
            extensions.pipelining
            and settings.pipelining != "off"
            and leases.pace is None
            and (self.is_eager or not (extensions.chunking and settings.chunking == "always"))
        )
        """Whether messages can be folded by these settings, on this connection."""

    def turn_for(self, item: Item) -> Turn | None:
        """The turn by which this one, and whoever can follow it at once, boards folded."""
        if item.letter is None or not (self._may_board(item.letter) and self.channel.may_fold()):
            return None
        return Turn(self.call, self, _nothing)

    @property
    def needs_turn(self) -> bool:
        """Whether more is to be written once the first flight is answered."""
        return not self.is_eager

    def board(self, channel: Channel, turn: Turn) -> bytes:
        """Take those who are next from the line, and queue what they await; their octets."""
        pieces: list[bytes] = []
        crew, session, is_eager = self._crew, channel.session, self.is_eager
        extensions = session.extensions
        item = crew.following()
        while item is not None and (letter := item.letter) is not None and self._may_board(letter):
            shape = shape_of(len(letter.cover.recipients), is_eager=is_eager)
            octets = letter.content.size if is_eager else 0
            is_room = session.unanswered + octets <= WINDOW or not session.unanswered
            if not is_room or session.awaits + shape.replies > MAX_FLIGHT or channel.is_worn:
                break
            self.take_aboard(turn).queue(session, octets)
            pieces.append(
                letter.cover.flight(letter.content, extensions, is_behind=True, is_eager=is_eager)
            )
            if not is_eager:
                break
            pieces.append(letter.whole)
            item = crew.following()
        return b"".join(pieces)

    def next_alone(self) -> Letter | None:
        """Who follows on the short way, if nobody else, and nothing else, is to be seen to."""
        channel = self.channel
        is_alone = (
            channel.is_undisturbed
            and channel.session.wants_message
            and not channel.turns.are_waited_for
            and not self.leases.pool.waiting
            and not channel.is_worn
        )
        item = self._crew.following() if is_alone else None
        letter = None if item is None else item.letter
        return letter if letter is not None and self._may_board(letter) else None

    def take_aboard(self, turn: Turn) -> Folded:
        """Who is next leaves the line, and goes out folded, with this turn."""
        item = self._crew.leave_line()
        letter = item.letter
        assert letter is not None
        self._aboard.append(item)
        self.channel.messages += 1
        item.turn, turn.has_boarded = turn, True
        item.folded = folded = Folded(item, letter, self)
        return folded

    def took(self, folded: Folded, reply: Reply) -> None:
        """The server has taken the message of the first one aboard."""
        folded.answer = reply
        self._crew.took(self._aboard.popleft(), reply, self.channel.link.server)

    def _may_board(self, letter: Letter) -> bool:
        content = letter.content
        # RSET, MAIL and DATA; and at least one reply is awaited in front of it.
        is_room = len(letter.cover.keys) + 4 <= MAX_FLIGHT
        is_short = content.size <= EAGER_SIZE and is_room
        return is_short and is_taken(content, self.channel.session.extensions)


class Folded:
    """A message on its way, of which nothing is known but yes."""

    __slots__ = (
        "_folding",
        "_has_turn",
        "_item",
        "_sending",
        "_sent",
        "answer",
        "awaited",
        "letter",
        "stopped",
    )

    awaited: Awaited
    """Its first flight."""

    def __init__(self, item: Item, letter: Letter, folding: Folding) -> None:
        self._item = item
        self.letter = letter
        self._folding = folding
        self._has_turn = not folding.is_eager
        self._sending: Sending | None = None
        self._sent: int | None = None
        self.answer: Reply | None = None
        """What the server has said to all of it."""
        self.stopped: Stopped | None = None
        """What has stopped it on the short way, behind its envelope."""

    @property
    def turn(self) -> Turn:
        return self._item.turn

    def queue(self, session: Session, octets: int) -> None:
        """Queue what its first flight awaits, with so many octets of its message."""
        is_eager = self._folding.is_eager
        take_yes = self.take_final if is_eager else _ignore
        shape = shape_of(len(self.letter.cover.keys), is_eager=is_eager)
        self.awaited = session.send_folded(shape, self.turn, octets, take_yes, self.unfold)

    def come_first(self) -> None:
        """It is spoken for from here on, and not with those that boarded behind the same turn."""
        if not self._has_turn:
            self._has_turn = True
            self._item.turn = turn = Turn(self._folding.call)
            turn.has_boarded = True
            self.awaited.owner = self.awaited.owner and turn

    def unfold(self) -> Sending:
        """From here on it is a message like any other."""
        if self._sending is None:
            item, folding = self._item, self._folding
            self.come_first()
            item.folded = None
            self._sending = sending = item.sending_through(folding.leases)
            item.turn.passenger = sending
            sending.take_up(folding.channel, self.awaited, sent=self._sent)
            if self.answer is not None and self.answer is not self.awaited.reply:
                sending.take_final(self.answer)
        return self._sending

    def take_final(self, reply: Reply) -> None:
        """The reply to the whole message; or a refusal while it is going out."""
        if self._sending is None and reply.code < 300:
            self.answer = reply
        else:
            self.unfold().take_final(reply)

    async def deliver(self) -> None:
        """Wait for the replies; and behind a flight that is not eager, send the message."""
        channel, turn, is_eager = self._folding.channel, self._item.turn, self._folding.is_eager
        failure: SMTPException | None = None
        has_begun = False
        try:
            if is_eager:
                await refill(channel, turn)
            if self.awaited.reply is None:
                await channel.wait(self.awaited, turn)
            has_begun = self._sending is None and not is_eager
            if has_begun and self.stopped is None:
                await send_on(self._folding, self)
            if has_begun and self.answer is None:
                await self._finish(channel, turn)
        except SMTPException as error:
            failure = error
        if self.answer is not None:
            channel.session.refused_in_a_row = 0
        elif has_begun or failure is not None:
            self.unfold().conclude(channel, failure)
        else:
            await self.unfold().deliver(channel, turn)

    async def _finish(self, channel: Channel, turn: Turn) -> None:
        """Send the message, or go on from where it was stopped."""
        if self.stopped is None:
            whole = self.letter.whole
            await send_at_once(channel, whole, self.take_final, self.hand_over, turn)
            return
        end, heard, is_torn = self.stopped
        if is_torn and isinstance(heard, BaseException):
            await channel.tear(heard)
        await channel.wait(end, turn, heard)

    def hand_over(self) -> None:
        """The end of the message is about to leave."""
        self._sent = len(self.letter.whole)


def _nothing() -> None:
    """Whoever has boarded has left the line already."""


def _ignore(_: object) -> None:
    """What is known by other means."""
