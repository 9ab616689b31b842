"""`Statistics`: the pool's state and the monitor's counts, as one value for the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._monitor import Monitor
from ._pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a client has and has done, at one moment."""

    max_connections: int
    """How many connections there may be, by its `Limits`."""
    allowed_connections: int
    """How many the server is asked for at present; fewer after it has refused some."""
    open_connections: int
    """How many there are."""
    idle_connections: int
    """How many of them nobody uses."""
    sending: int
    """How many sends, and users of `SMTP.connection`, have a connection or are opening one."""
    waiting: int
    """How many wait for one."""
    connections_opened: int
    """How many connections were opened since the client was made."""
    connections_failed: int
    """How many could not be opened."""
    connections_lost: int
    """How many ended by a failure of the network, the server or a cancelled send."""
    messages_accepted: int
    """How many sends ended with all recipients accepted."""
    messages_refused: int
    """How many ended with a recipient refused, and nothing worse."""
    messages_not_sent: int
    """How many ended with a recipient to whom nothing was sent, and nothing worse."""
    messages_in_doubt: int
    """How many ended with a recipient in doubt."""
    retries: int
    """How many attempts were made again, by `Retry`."""


def statistics_of(pool: Pool[Any], monitor: Monitor) -> Statistics:
    """The numbers of this moment."""
    return Statistics(
        max_connections=pool.capacity,
        allowed_connections=pool.allowed,
        open_connections=pool.open,
        idle_connections=pool.idle,
        sending=pool.granted,
        waiting=pool.waiting,
        connections_opened=monitor.opened,
        connections_failed=monitor.failed,
        connections_lost=monitor.lost,
        messages_accepted=monitor.messages["accepted"],
        messages_refused=monitor.messages["refused"],
        messages_not_sent=monitor.messages["not_sent"],
        messages_in_doubt=monitor.messages["in_doubt"],
        retries=monitor.retries,
    )
