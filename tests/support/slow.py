"""A message object whose serialising waits until it may go on, in whatever thread that is."""

from __future__ import annotations

import threading
from email.message import EmailMessage
from email.policy import EmailPolicy
from types import TracebackType
from typing import Any, cast

from anyio import to_thread

from .bench import RECIPIENTS
from .clients import SENDER


class _Policy(EmailPolicy):
    """Tells a `SlowMessage` where it is folded."""

    owner: SlowMessage | None = None

    def fold_binary(self, name: str, value: Any) -> bytes:
        assert self.owner is not None
        self.owner.folded()
        return super().fold_binary(name, value)


class SlowMessage:
    """``with SlowMessage() as slow``: ``slow.message`` is serialised once `go_on` was called.

    Large enough for a worker thread, unless ``size`` says otherwise. Leaving the block lets the
    thread go in any case.
    """

    def __init__(self, size: int = 200_000) -> None:
        # Policies take any attribute that their class has, which their types do not know.
        policy: _Policy = cast("Any", _Policy)(owner=self)
        self.message = EmailMessage(policy)
        for name, value in {"From": SENDER, "To": RECIPIENTS[0], "Subject": "slow"}.items():
            self.message[name] = value
        self.message.set_content(("x" * 70 + "\n") * (size // 71))
        self.threads: set[int] = set()
        """The threads in which it was serialised."""
        self._started = threading.Event()
        self._may_go_on = threading.Event()

    def folded(self) -> None:
        self.threads.add(threading.get_ident())
        self._started.set()
        assert self._may_go_on.wait(10)

    async def wait_started(self) -> None:
        """Wait until somebody has begun to serialise it."""
        assert await to_thread.run_sync(self._started.wait, 10)

    def go_on(self) -> None:
        self._may_go_on.set()

    def __enter__(self) -> SlowMessage:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.go_on()
