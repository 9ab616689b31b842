"""What client and server say to each other, one function per conversation.

Each is called by the holder of the channel's turn, under his clock, and leaves the session in a
defined state: after a refusal the connection goes on, after anything worse it is closed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from ._channel import Channel
from ._clock import Clock
from ._envelope import Content, Stream
from ._parameters import says
from ._protocol import _commands
from ._protocol._commands import Command
from ._protocol._demands import check_by_hand, takes_8bit
from ._reply import Reply
from ._sources import chunks_of
from ._tls import Encryption
from ._transfer import Body, send_body
from .errors import (
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPProtocolError,
    SMTPResponseException,
    SMTPTLSError,
    with_outcome,
)


async def ask(channel: Channel, clock: Clock, command: Command) -> Reply:
    """Send one command; its reply, whatever it says."""
    [awaited] = await channel.exchange([command], clock)
    assert awaited.reply is not None
    return awaited.reply


async def demand(
    channel: Channel,
    clock: Clock,
    command: Command,
    refused: type[SMTPResponseException] = SMTPResponseException,
) -> Reply:
    """Send one command that must succeed; its reply, or ``refused`` raised."""
    [awaited] = await channel.exchange([command], clock)
    assert awaited.reply is not None
    if not awaited.succeeded:
        raise located(refused(awaited.reply), channel, command)
    return awaited.reply


def located(error: SMTPException, channel: Channel, command: Command) -> SMTPException:
    """An error of a conversation, with where it comes from."""
    error.server = channel.link.server
    error.command = command.shown
    error.connection_closed = not channel.is_open
    return error


@contextmanager
def locating(channel: Channel, command: Command) -> Generator[None, None, None]:
    """What is found out before a command is sent is located at it."""
    try:
        yield
    except SMTPException as error:
        located(error, channel, command)
        raise


async def greet(channel: Channel, clock: Clock) -> None:
    """Read the server's greeting, if that has not been done (RFC 5321 section 3.1)."""
    if channel.session.phase != "connected":
        return
    if not channel.link.is_encrypted:
        clock.hint = " (a server that expects TLS at once says nothing: tls='implicit')"
    reply = await channel.read_greeting(clock)
    clock.hint = ""
    if not reply.is_positive:
        await channel.break_off("the server does not want to talk")
        raise located(SMTPConnectError(reply=reply), channel, _commands.GREETING)


async def hello(channel: Channel, clock: Clock, local_hostname: str) -> Reply:
    """EHLO; HELO where that is refused (RFC 5321 section 3.2); LHLO in LMTP, and nothing else."""
    if channel.session.is_lmtp:
        return await demand(channel, clock, _commands.lhlo(local_hostname), SMTPHeloError)
    ehlo = _commands.ehlo(local_hostname)
    reply = await ask(channel, clock, ehlo)
    if reply.is_positive:
        return reply
    if not channel.is_open:
        raise located(SMTPHeloError(reply), channel, ehlo)
    return await demand(channel, clock, _commands.helo(local_hostname), SMTPHeloError)


async def start_tls(
    channel: Channel,
    clock: Clock,
    encryption: Encryption,
    local_hostname: str,
    *,
    hint: str = "",
) -> Reply:
    """STARTTLS, the handshake, and EHLO again (RFC 3207); the reply to STARTTLS.

    SMTPNotSupported, with the hint, if the server does not offer it; SMTPTLSError if it refuses or
    fails.
    """
    if not channel.session.extensions.starttls:
        error = SMTPNotSupported(f"the server does not offer STARTTLS{hint}")
        raise located(error, channel, _commands.STARTTLS)
    try:
        reply = await ask(channel, clock, _commands.STARTTLS)
    except SMTPProtocolError as error:
        if channel.session.phase != "greeted":
            raise
        raise channel.spoke_too_soon() from error
    if not reply.is_positive:
        raise located(SMTPTLSError(reply=reply), channel, _commands.STARTTLS)
    await channel.encrypt(encryption)
    await hello(channel, clock, local_hostname)
    return reply


async def data(
    channel: Channel, clock: Clock, content: Content | Stream, mail_options: Iterable[str]
) -> Reply:
    """DATA and a message, behind a MAIL with these options; the reply to its end.

    SMTPDataError; SMTPNotSupported or ValueError for a message that needs another MAIL.
    """
    extensions = channel.session.extensions
    with locating(channel, _commands.DATA):
        check_by_hand(content, mail_options, extensions)
    await demand(channel, clock, _commands.DATA, SMTPDataError)
    final: list[Reply] = []
    left: list[None] = []
    body = Body(
        chunks_of(
            content,
            takes_8bit=takes_8bit(mail_options, extensions),
            takes_utf8=says(mail_options, "SMTPUTF8"),
        ),
        content.size,
        take_final=final.append,
        hand_over=lambda: left.append(None),
        progress=lambda octets: None,
    )
    try:
        await send_body(channel, body, clock)
    except SMTPException as error:
        raise with_outcome(error, "in_doubt" if left else "not_sent") from error.__cause__
    if not final[0].is_positive:
        raise located(SMTPDataError(final[0]), channel, _commands.END_OF_DATA)
    return final[0]


async def quit_now(channel: Channel, clock: Clock) -> Reply:
    """QUIT (RFC 5321 section 4.1.1.10), and close the connection whatever the server says."""
    try:
        return await ask(channel, clock, _commands.QUIT)
    finally:
        await channel.close("the session was ended with QUIT")
