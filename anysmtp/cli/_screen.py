"""What a command prints: results on standard output, everything else on standard error.

What a server says can be anything, and a terminal obeys what it is sent. So all text passes
`printable` on its way out.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import click
from rich.console import Console
from rich.text import Text

from .. import Reply

# What holds the dialogue, and the line for each connection.
_LOGGER = logging.getLogger("anysmtp")


class Screen:
    """The two streams of a command; styles appear on terminals that have them."""

    def __init__(self) -> None:
        self._output = Console(soft_wrap=True)
        self._errors = Console(soft_wrap=True, stderr=True)

    @property
    def live(self) -> Console | None:
        """Where something that moves can be shown; None if nobody would see it move."""
        is_live = self._errors.is_terminal and not self._errors.is_dumb_terminal
        return self._errors if is_live else None

    def say(self, text: str = "", style: str = "") -> None:
        """A line of the result."""
        self._output.print(Text(printable(text), style))

    def complain(self, text: str, style: str = "bold red") -> None:
        """A line about what went wrong, or is only of interest to who watches."""
        self._errors.print(Text(printable(text), style))


def printable(text: str) -> str:
    """Text that does nothing to a terminal but stand there."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Mapping[str, object]) -> None:
    """The result for machines: one object, in ASCII."""
    click.echo(json.dumps(value, indent=2))


def reply_for_json(reply: Reply) -> Mapping[str, object]:
    """A reply in a result for machines."""
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text}


@contextmanager
def dialogue_shown(screen: Screen, wanted: bool) -> Generator[None]:
    """Show what client and server say to each other, with the milliseconds since the beginning.

    Secrets are stars already in what is logged.
    """
    if not wanted:
        yield
        return
    handler, level = _Dialogue(screen), _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


class _Dialogue(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._start = time.perf_counter()

    def emit(self, record: logging.LogRecord) -> None:
        milliseconds = (time.perf_counter() - self._start) * 1000
        self._screen.complain(f"{milliseconds:9.1f} ms  {record.getMessage()}", "dim")
