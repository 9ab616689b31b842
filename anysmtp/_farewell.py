"""How connections that nobody needs any more come to their end, several at once.

With QUIT (RFC 5321 section 4.1.1.10) where there is time for it, without where there is none.
Either way all of them are closed when this returns or raises, cancellation included.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import anyio

from . import _dialogue
from ._channel import Channel
from ._clock import Clock
from ._tasks import UngroupedTasks
from .errors import SMTPException

# Seconds for QUIT on all connections together, when a client is closed.
_QUIT_TIMEOUT = 2.0


async def quit_all(channels: Sequence[Channel], reason: str) -> None:
    """QUIT on all of them at once; then, or after two seconds, close them."""
    try:
        with anyio.move_on_after(_QUIT_TIMEOUT):
            async with UngroupedTasks() as group:
                for channel in channels:
                    group.start_soon(_quit, channel)
    finally:
        await close_all(channels, reason)


async def close_all(channels: Sequence[Channel], reason: str) -> None:
    """Close each of them, also where this is cancelled in a way that no shield stops."""
    # Nothing is sent on any of them from here on, though closing them takes a while.
    for channel in channels:
        channel.drop(reason)
    async with AsyncExitStack() as stack:
        for channel in channels:
            stack.push_async_callback(channel.close, reason)


async def _quit(channel: Channel) -> None:
    try:
        async with channel.turn():
            with Clock(channel.link.server) as clock:
                await _dialogue.quit_now(channel, clock)
    except SMTPException as error:
        channel.monitor.no_goodbye(error)
