"""What is known of each of several, which mostly is the same of all.

Of the recipients of one message it nearly always is, from the beginning of a send to its end. So
it is there once, and to change it for fifty costs what it costs for one. There is a fact for each
only from where they differ to where they do not any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

F = TypeVar("F")


class Facts(Generic[F]):
    """A fact for each of some keys."""

    __slots__ = ("_each", "common", "keys")

    def __init__(self, fact: F) -> None:
        self.keys: tuple[str, ...] = ()
        """Those of which it is known, given before anything else is noted."""
        self.common: F | None = fact
        """The fact, if it is the same of all."""
        self._each: dict[str, F] = {}

    def note(self, keys: Collection[str], fact: F) -> None:
        """This is known now of some of the keys, or of all; of each that is named, once."""
        if len(keys) == len(self.keys):
            self.common = fact
            return
        if self.common is not None:
            self._each = dict.fromkeys(self.keys, self.common)
            self.common = None
        self._each.update(dict.fromkeys(keys, fact))

    def of(self, key: str) -> F:
        """What is known of one of the keys."""
        return self._each[key] if self.common is None else self.common

    def all(self) -> Mapping[str, F]:
        """Each key with its fact."""
        return self._each if self.common is None else dict.fromkeys(self.keys, self.common)
