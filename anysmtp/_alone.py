"""A message that is alone on its connection, and to which the server says yes.

Nearly every message is that, so there is a short way for it: two writes, two reads, and a look at
what was read. The session, its queue of replies and a transaction are told nothing, for nobody
would ask them: on a connection that is quiet the holder of the turn is the only one who writes and
reads, from his first octet to the reply to his last.

Whatever comes otherwise, be it another reply, a half of one, an error, a cancellation, or somebody
who wants to ride along, ends the short way. It says what it has come to, and the general way
goes on from there (`Sending`) once it was told the same that it would have seen. Nothing is
awaited between the two; and what is known of a message is written on both in the same steps. So it
is the same at each await, whichever way it takes.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from anyio.lowlevel import checkpoint_if_cancelled

from ._channel import Channel
from ._envelope import Content, Job, Stream
from ._letters import Letter
from ._protocol._body import END, stuffed
from ._protocol._commands import END_OF_DATA
from ._protocol._extensions import Extensions
from ._protocol._folded import Cover, cover_of, is_taken
from ._protocol._transaction import MAX_FLIGHT
from ._reply import Reply
from ._transfer import ONE_WRITE
from ._turns import Turn


@dataclass(frozen=True, slots=True)
class Stopped:
    """How far a message came on the short way, and what stopped it."""

    answer: bytes | None
    """The replies to its envelope, where all of them said yes."""
    is_handed_over: bool
    """Whether its end has left, or was about to."""
    is_torn: bool
    """Whether ``heard`` is the end of a write that did not return."""
    heard: bytes | BaseException | None
    """What was read and was not the expected, or what an await has raised; None: somebody else has
    to be seen to, or the session is broken."""


class Told(Protocol):
    """Where it is written how far a message has come: the server may have it, or a part of it."""

    bytes_sent: int

    def hand_over(self, recipients: Collection[str], /) -> None: ...


def may_go_alone(channel: Channel) -> bool:
    """Whether the holder of the turn has the channel for himself, and it was left in order.

    An LMTP server answers the end of a message for each recipient: that takes a transaction.
    """
    return (
        channel.is_undisturbed
        and not channel.is_worn
        and channel.session.is_as_new
        and not channel.session.is_lmtp
        and not channel.turns.is_anybody_next
    )


def cover_for(job: Job, content: Content | Stream, extensions: Extensions) -> Cover | None:
    """The envelope of a message that is short, and needs no more than that, in front of DATA."""
    if (
        isinstance(content, Stream)
        or content.size > ONE_WRITE
        or job.require_all
        or job.mail_parameters
        or job.mail_options
        or job.rcpt_options
        or not _fits(len(job.recipients), content, extensions)
    ):
        return None
    return cover_of(job.sender, job.recipients)


def _fits(recipients: int, content: Content, extensions: Extensions) -> bool:
    """Whether the server takes the message as it is, behind an envelope in one write."""
    return (
        recipients + 2 <= MAX_FLIGHT
        and extensions.pipelining
        and not extensions.limits
        and is_taken(content, extensions)
    )


async def send_letter(
    channel: Channel, turn: Turn, letter: Letter, told: Told
) -> Reply | Stopped | None:
    """Send a letter; None, and nothing has happened, if that cannot be. See `send_alone`."""
    await checkpoint_if_cancelled()
    cover, content = letter.cover, letter.content
    if not (may_go_alone(channel) and _fits(len(cover.keys), content, channel.session.extensions)):
        return None
    return await send_alone(channel, turn, cover, content, letter.whole, told)


async def send_alone(
    channel: Channel,
    turn: Turn,
    cover: Cover,
    content: Content,
    message: bytes,
    told: Told,
) -> Reply | Stopped:
    """Send a message; what the server says that has taken it, if it says nothing but yes."""
    session, link, timeouts, clock = channel.session, channel.link, channel.timeouts, turn.clock
    assert clock is not None
    stream, keys = link.stream, cover.keys
    channel.messages += 1
    flight = cover.flight(content, session.extensions, is_behind=False)
    answer: bytes | None = None
    is_handed_over, is_writing = False, True
    clock.start(timeouts.command, "MAIL")
    try:
        await stream.send(flight)
        is_writing = False
        link.acknowledge_at_once()
        # The server is at work now, so that this takes no time.
        body = stuffed(message) + END
        heard = await stream.receive()
        if session.only_yes(heard, len(keys) + 2, 3) is None:
            return Stopped(None, False, False, heard)
        answer = heard
        await checkpoint_if_cancelled()
        if session.broken is not None or channel.turns.is_anybody_next:
            return Stopped(answer, False, False, None)
        clock.start(timeouts.final, END_OF_DATA.shown)
        told.hand_over(keys)
        is_handed_over = is_writing = True
        await stream.send(body)
        is_writing = False
        told.bytes_sent += len(message)
        heard = await stream.receive()
        final = session.only_yes(heard, 1, 2)
    except BaseException as error:  # noqa: BLE001 - it is raised where the general way goes on
        return Stopped(answer, is_handed_over, is_writing, error)
    return final or Stopped(answer, True, False, heard)


@contextmanager
def telling(channel: Channel, turn: Turn) -> Generator[None, None, None]:
    """Stands around telling the session what was written and read without it, by this turn.

    It may have been broken since, but not before; and the clock has run since it was written.
    """
    session, timer = channel.session, channel.timer
    broken, session.broken = session.broken, None
    timer.run_ahead()
    try:
        yield
    finally:
        timer.go_on(turn)
        session.broken = broken
