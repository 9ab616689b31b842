"""Whether a client is open, and what is still under way in it.

Every call of a client stands in a `Call`: a clock that is registered here, so that closing the
client can end it. A clean end waits until nothing is under way, lets in nothing new, and leaves
nothing behind; an abort ends every call at once. A client belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
from anyio import lowlevel

from ._bell import Bell
from ._clock import Clock
from .errors import SMTPServerDisconnected

if TYPE_CHECKING:
    from typing_extensions import Self

State: TypeAlias = Literal["new", "open", "closing", "closed"]


class Lifecycle:
    """The state of one client, from its making to its end."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.state: State = "new"
        self._calls: set[Call] = set()
        self._admitted = Admitted(self)
        self._sends = 0
        self._reason = ""
        self.insides: list[object] = []
        """The tasks that are inside a `send_many` of the client."""
        self._ended = Bell()
        self._loop: lowlevel.EventLoopToken | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing can be done any more, not even for what was let in."""
        return self.state == "closed"

    def check_loop(self) -> None:
        """RuntimeError in another event loop than the first one."""
        loop = lowlevel.current_token()
        if self._loop is None:
            self._loop = loop
        elif self._loop != loop:
            raise RuntimeError("the client belongs to another event loop: make one for this loop")

    def check_state(self) -> None:
        """RuntimeError if the client lets in nothing new."""
        if self.state in ("closing", "closed"):
            raise RuntimeError("the client is closed: make a new one")

    def check_open(self) -> None:
        """RuntimeError if it lets in nothing new, or nothing of this event loop."""
        self.check_state()
        self.check_loop()

    def admit(self) -> Admitted:
        """Stands around a send from its beginning: a clean end waits for it."""
        self.check_open()
        return self._admitted

    def call(self, *, admitted: bool = False, seconds: float | None = None) -> Call:
        """Stands around a call; ``admitted``, if it is part of a send that was let in before.

        For ``seconds`` see `Clock`.
        """
        if not admitted:
            self.check_open()
        elif self.state == "closed":
            raise SMTPServerDisconnected(
                self._reason, server=self.server, outcome="not_sent", connection_closed=True
            )
        return Call(self, seconds)

    async def pause(self, seconds: float) -> None:
        """Wait between two attempts of a send that was let in; an abort ends that too."""
        with self.call(admitted=True):
            await anyio.sleep(seconds)

    async def wait_until_quiet(self, is_in_use: Callable[[], bool]) -> None:
        """Wait until nothing is under way, and nothing is in use."""
        while self._sends or self._calls or is_in_use():
            await self._ended.wait()

    def abort(self, reason: str) -> None:
        """Nothing goes on: what waits in a call is cancelled."""
        self.state = "closed"
        self._reason = reason
        for call in self._calls:
            call.abort(reason)

    def notify(self) -> None:
        """Tell whoever waits for the end to look again."""
        if self.state not in ("new", "open"):
            self._ended.ring()


class Call(Clock):
    """The clock of one call of a client, which the client's end stops."""

    __slots__ = ("_life",)

    def __init__(self, life: Lifecycle, seconds: float | None) -> None:
        super().__init__(life.server, seconds)
        self._life = life

    def __enter__(self) -> Self:
        self._life._calls.add(self)
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._life._calls.discard(self)
        self._life.notify()
        super().__exit__(exc_type, exc, traceback)


class Admitted:
    """Stands around sends that are under way, any number of them."""

    __slots__ = ("_life",)

    def __init__(self, life: Lifecycle) -> None:
        self._life = life

    def __enter__(self) -> None:
        self._life._sends += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._life._sends -= 1
        self._life.notify()
