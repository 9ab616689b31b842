"""A `ScriptedServer` in a thread, for a client that has an event loop of its own.

It says when a point of its script is met for the first time (`reached`), so that a test can do
something to the client just there.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from anyio.from_thread import start_blocking_portal

from anysmtp.testing import Answer, ScriptedServer


class ThreadedServer:
    """A context manager: the server listens on loopback. The options are those of the server."""

    def __init__(self, *, watched: str | None = None, **options: Any) -> None:
        """``watched``: the point that sets `reached`; what happens there is as `script` has it."""
        self.host = "127.0.0.1"
        self.port = 0
        self.reached = threading.Event()
        self._watched = watched
        self._script: dict[str, Answer] = options.pop("script", {})
        self.server = ScriptedServer(script=self._answer, **options)
        self._stack = ExitStack()

    def __enter__(self) -> ThreadedServer:
        self.portal = self._stack.enter_context(start_blocking_portal())
        self._stack.enter_context(self.portal.wrap_async_context_manager(self.server))
        self.port = self.portal.call(self.server.listen)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)

    def _answer(self, line: str) -> Answer | None:
        if self._watched is not None and line.upper().startswith(self._watched):
            self.reached.set()
        points = [point for point in self._script if line.upper().startswith(point.upper())]
        return self._script[max(points, key=len)] if points else None
