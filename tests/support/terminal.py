"""The command line on a terminal of its own, a pseudo-terminal, with somebody who types.

It is the controlling terminal of the process, as a person's is: passwords are typed without being
shown, and Ctrl-C is a key.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from .cli import command, environment

_PATIENCE = 30.0
_ROWS = 25

# What a terminal takes as one: a sequence that begins with ESC, or a character (ECMA-48).
_PIECES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|.", re.DOTALL)
_UP = re.compile(r"\x1b\[([0-9]+)A")

# A session of its own has no terminal until it takes one.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def drawn(shown: str, width: int = 80) -> list[str]:
    """What is on a screen of this width after all this, as far as the command line goes in it."""
    rows = {0: ""}
    row = column = 0
    for piece in _PIECES.findall(shown):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
        elif piece == "\x1b[2K":
            rows[row] = ""
        elif up := _UP.fullmatch(piece):
            row -= int(up[1])
        elif not piece.startswith("\x1b"):
            if column == width:
                row, column = row + 1, 0
            line = rows.get(row, "").ljust(column)
            rows[row] = line[:column] + piece + line[column + 1 :]
            column += 1
    return [rows.get(number, "").rstrip() for number in range(max(rows) + 1)]


class Terminal:
    """A context manager; `shown` is what the person has seen until now."""

    def __init__(
        self, *arguments: str, variables: Mapping[str, str] | None = None, width: int = 80
    ) -> None:
        self.shown = ""
        self._width = width
        self._variables = {"TERM": "xterm-256color", **(variables or {})}
        self._command = [sys.executable, "-c", _TAKE_TERMINAL, *command(*arguments)]

    def __enter__(self) -> Terminal:
        self._screen, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, self._width, 0, 0))
        given = environment(**self._variables)
        # What says in a terminal's stead how wide it is, or that it has no colours.
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            given.pop(name, None)
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=given,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)

    @property
    def screen(self) -> list[str]:
        """What stands there now: the lines, without what was written over."""
        return drawn(self.shown, self._width)

    @property
    def said(self) -> str:
        """What stands there as one text, in which a line that went on below is whole."""
        return "".join(line.ljust(self._width) for line in self.screen)

    def wait_for(self, text: str | threading.Event) -> None:
        """Wait until this is shown, or until this has happened elsewhere."""
        end = time.monotonic() + _PATIENCE
        while not (text.is_set() if isinstance(text, threading.Event) else text in self.shown):
            if time.monotonic() > end:
                raise TimeoutError(f"it never came; there is {self.shown!r}")
            self._read(0.05)

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._screen, keys.encode())

    def wait_closed(self) -> int:
        """Wait for the end of the command, and return its exit code."""
        end = time.monotonic() + _PATIENCE
        while self._read(0.5):
            if time.monotonic() > end:
                raise TimeoutError(f"it does not end; there is {self.shown!r}")
        return self._process.wait(_PATIENCE)

    def _read(self, seconds: float) -> bool:
        """Take what is shown within this time; False at the end."""
        ready, _, _ = select.select([self._screen], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._screen, 65536)
        except OSError:
            # EIO is how Linux says that nobody holds the other side any more.
            return False
        self.shown += data.decode()
        return bool(data)
