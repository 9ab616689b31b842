"""Jobs for tests of those who plan and count, and never look at the message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from anysmtp._envelope import Job, Mailbox


@dataclass(frozen=True)
class Octets:
    """A message of which only the measures count."""

    size: int = 100
    is_8bit: bool = False
    is_utf8: bool = False

    def chunks(self) -> Iterator[bytes]:
        raise AssertionError("nobody reads the message")

    def whole(self) -> None:
        """Nobody reads it in one piece either."""


def mailbox(address: str) -> Mailbox:
    return Mailbox(address, address, address if address.isascii() else None)


def job(*recipients: str, **more: Any) -> Job:
    """A message from ``a@x``, to ``b@x`` and ``c@x`` unless others are given."""
    to = tuple(map(mailbox, recipients or ("b@x", "c@x")))
    return replace(Job(mailbox("a@x"), to, Octets()), **more)
