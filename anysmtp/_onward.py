"""Folded messages that are alone on their channel, each with the envelope of the next.

The short way (`_alone`) for a stream: one write and one read for each message, of which the session
is told nothing as long as the server says yes. At anything else, be it another reply, a half of
one, an error, a cancellation, or nobody who follows, the session is told in one step what it has
missed, and the message that was stopped goes on as any other (`Folded.deliver`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from anyio.lowlevel import checkpoint_if_cancelled

from ._alone import telling
from ._channel import Channel
from ._protocol._body import END, stuffed
from ._protocol._commands import DATA, END_OF_DATA
from ._protocol._session import Awaited, Session
from ._reply import Reply
from ._turns import Turn

if TYPE_CHECKING:
    from ._folding import Folded, Folding


class Stopped(NamedTuple):
    """A message whose end is out, or was about to be, when something stopped it."""

    end: Awaited
    """What its end awaits."""
    heard: bytes | BaseException
    """What was read and was not the expected, or what an await has raised."""
    is_torn: bool
    """Whether that is the end of a write that did not return."""


async def send_on(folding: Folding, first: Folded) -> None:
    """Send messages, from one whose envelope was accepted to one that comes no further like this.

    That one has the turn then, or the next one has, whose envelope has left with it.
    """
    channel, call = folding.channel, folding.call
    session, link = channel.session, channel.link
    folded, yes = first, first.awaited.reply
    follower: Folded | None = None
    try:
        while (letter := folding.next_alone()) is not None:
            await checkpoint_if_cancelled()
            message = folded.letter.whole
            flight = letter.cover.flight(letter.content, session.extensions, is_behind=True)
            follower = folding.take_aboard(Turn(call, folding))
            folded.hand_over()
            call.start(channel.timeouts.final, END_OF_DATA.shown)
            heard: bytes | BaseException
            is_writing = True
            try:
                await link.stream.send(stuffed(message) + END + flight)
                is_writing = False
                link.acknowledge_at_once()
                heard = await link.stream.receive()
            except BaseException as error:  # noqa: BLE001 - it is raised where the general way goes on
                heard = error
            replies = _only_yes(session, heard, len(letter.cover.keys) + 3)
            if replies is None:
                end = _tell(channel, folded, follower)
                folded.stopped = Stopped(end, heard, is_writing)
                return
            final, yes = replies
            sent, folded, follower = folded, follower, None
            folding.took(sent, final)
    finally:
        channel.turns.holder = (follower or folded).turn
        if folded is not first:
            assert yes is not None
            folded.awaited = Awaited(DATA, None, None, 0)
            folded.awaited.close(yes)


def _only_yes(
    session: Session, heard: bytes | BaseException, count: int
) -> tuple[Reply, Reply] | None:
    """The replies to the end of a message and to the end of an envelope, with none but yes."""
    if isinstance(heard, BaseException):
        return None
    end = heard.find(b"\n") + 1
    final = session.only_yes(heard[:end], 1, 2)
    last = None if final is None else session.only_yes(heard[end:], count, 3)
    return None if final is None or last is None else (final, last)


def _tell(channel: Channel, folded: Folded, follower: Folded) -> Awaited:
    """Tell the session what was written; what the end of the message awaits."""
    with telling(channel, folded.turn):
        end = channel.begin_body(len(folded.letter.whole), folded.take_final)
        channel.end_body(end, folded.turn)
        follower.queue(channel.session, 0)
    return end
