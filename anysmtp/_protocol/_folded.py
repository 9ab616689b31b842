"""Flights that leave without a plan: octets that were made without commands.

Most messages ask for nothing but addresses, and the server says yes to all of each. So the octets
of such a flight are put together from a `Cover`, which many messages may share, and if others'
replies are to be told from its own, the session is told its `Shape`. A flight that is answered
otherwise is unfolded: planned as a `Transaction` after all, whose commands come to the same octets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from .._envelope import Content, Mailbox
from .._reply import Reply
from . import _commands, _states
from ._commands import Command
from ._extensions import Extensions

Part: TypeAlias = tuple[Command, Callable[[Reply], None] | None]


class Shape(NamedTuple):
    """What a folded flight is but for its particulars: RSET, an envelope, and what is behind it."""

    front: deque[Part]
    """The first one of it is in its place; the others are only counted."""
    last: Command
    reached: _states.Phase
    replies: int


@lru_cache(maxsize=256)
def shape_of(recipients: int, *, is_eager: bool) -> Shape:
    """A flight with RSET, MAIL, so many RCPT, and DATA; or BDAT LAST, if it is eager."""
    last = _commands.LAST_CHUNK if is_eager else _commands.DATA
    front: deque[Part] = deque()
    front.extend([(_commands.RSET, None)] * (2 + recipients))
    return Shape(front, last, _states.NEXT["rcpt"][last.row.name], len(front) + 1)


class Cover:
    """An envelope that asks for nothing but addresses in ASCII, as it is written."""

    __slots__ = ("_mail", "_rcpts", "keys", "recipients", "sender")

    def __init__(self, sender: Mailbox | None, recipients: tuple[Mailbox, ...]) -> None:
        """See `cover_of`."""
        self.sender = sender
        self.recipients = recipients
        self.keys = [recipient.given for recipient in recipients]
        path = "" if sender is None else sender.ascii or ""
        self._mail = _commands.plain_mail(path).line[:-2]
        self._rcpts = _rcpts(tuple([recipient.ascii or "" for recipient in recipients]))

    def flight(
        self, content: Content, extensions: Extensions, *, is_behind: bool, is_eager: bool = False
    ) -> bytes:
        """The commands of a transaction, behind another one or not, as octets; see `shape_of`."""
        size = content.size
        reset = b"RSET\r\n" if is_behind else b""
        parameters = b" SIZE=%d" % size if extensions.takes_size else b""
        if content.is_8bit:
            parameters += b" BODY=8BITMIME"
        last = b"BDAT %d LAST\r\n" % size if is_eager else b"DATA\r\n"
        return b"".join((reset, self._mail, parameters, self._rcpts, last))


@lru_cache(maxsize=8)
def _rcpts(paths: tuple[str, ...]) -> bytes:
    """The end of MAIL's line, and RCPT for each: the same lists come again and again."""
    return b"\r\n" + b"".join([command.line for command in _commands.plain_rcpts(paths)])


def cover_of(sender: Mailbox | None, recipients: tuple[Mailbox, ...]) -> Cover | None:
    """The envelope as a `Cover`, if it is one."""
    if sender is not None and sender.ascii is None:
        return None
    for recipient in recipients:
        if recipient.ascii is None or recipient.parameters:
            return None
    return Cover(sender, recipients)


def is_taken(content: Content, extensions: Extensions) -> bool:
    """Whether the server takes the message as it is, with no more than a `Cover` says."""
    if content.is_utf8 or (content.is_8bit and not extensions.eight_bit_mime):
        return False
    return extensions.size is None or content.size <= extensions.size
