"""The trace of a connection: each line as it leaves and as it is read, in the log ``anysmtp.wire``.

It is for people who look for what went wrong, so nothing of it is made unless somebody looks on.
Secrets are not in it: what a command or a reply shows is made by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ._protocol._commands import Command
from ._protocol._session import Awaited

_log = logging.getLogger("anysmtp.wire")


class Trace:
    """What is shown of one connection."""

    __slots__ = ("_server", "is_on")

    def __init__(self, server: str) -> None:
        self._server = server
        self.is_on = False
        """Whether somebody looks on. It is asked with each flight, and holds until the next one."""
        self.look()

    def look(self) -> bool:
        """Ask whether somebody looks on, from here to the replies to what leaves now."""
        self.is_on = _log.isEnabledFor(logging.DEBUG)
        return self.is_on

    def sent(self, commands: Iterable[Command]) -> None:
        """These leave."""
        if self.is_on:
            self._show(">", (command.shown for command in commands))

    def message(self, octets: int | None) -> None:
        """A message leaves."""
        if self.is_on:
            size = "unknown size" if octets is None else f"{octets} octets"
            self._show(">", (f"(a message of {size})",))

    def answered(self, awaited: Awaited) -> None:
        """A reply was read."""
        if self.is_on:
            self._show("<", awaited.shown())

    def _show(self, direction: str, lines: Iterable[str]) -> None:
        for line in lines:
            _log.debug("%s %s %s", self._server, direction, line)
