"""What is known of a message from earlier runs, and what that means for this one.

What was accepted is never sent again. What is in doubt, and what was refused for good, is sent
again only on request; what was refused for now, or not sent, is. All of this is by recipient,
because a message can be accepted for one and refused for another.

A message that was edited is another message, but with the same purpose. Where nobody has its
earlier form, or may have it, it is sent as if it were new; else it is left alone, and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .. import Delivery, Outcome, Reply

State: TypeAlias = Literal["accepted", "changed", "refused", "not_sent", "in_doubt"]


@dataclass(frozen=True, slots=True)
class Fact:
    """What became of a message for one recipient."""

    outcome: Outcome
    reply: Reply | None = None


Facts: TypeAlias = Mapping[str, Fact]


@dataclass(frozen=True, slots=True)
class Past:
    """A message of an earlier run."""

    key: str
    name: str
    digest: bytes
    is_under_way: bool = False
    """Whether the run ended without knowing what became of it: it was killed."""
    facts: Facts = field(default_factory=dict[str, Fact])
    """By recipient; there are none if nothing else is known than that it was under way."""

    @property
    def in_doubt(self) -> bool:
        return self.is_under_way or self._has("in_doubt")

    @property
    def state(self) -> State:
        """The worst of it."""
        if self.in_doubt:
            return "in_doubt"
        if self._has("refused"):
            return "refused"
        return "accepted" if self.facts and not self._has("not_sent") else "not_sent"

    def _has(self, outcome: Outcome) -> bool:
        return any(fact.outcome == outcome for fact in self.facts.values())


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is sent again on request."""

    in_doubt: bool = False
    refused: bool = False

    def left_to_do(self, past: Past | None, digest: bytes) -> Todo | State:
        """What is to be sent of a message, or how it stands."""
        if past is None:
            return Todo()
        is_edited = past.digest != digest
        if is_edited and any(fact.outcome == "accepted" for fact in past.facts.values()):
            return "in_doubt" if past.in_doubt else "changed"
        if is_edited and (self.in_doubt or not past.in_doubt):
            return Todo()
        if past.is_under_way and not past.facts:
            return Todo() if self.in_doubt else "in_doubt"
        asked = tuple(address for address, fact in past.facts.items() if self._may_ask(fact))
        return Todo(asked, past.facts) if asked else past.state

    def _may_ask(self, fact: Fact) -> bool:
        if fact.outcome == "refused":
            is_for_now = fact.reply is not None and fact.reply.is_transient
            return self.refused or is_for_now
        return fact.outcome == "not_sent" or (fact.outcome == "in_doubt" and self.in_doubt)


@dataclass(frozen=True, slots=True)
class Todo:
    """Send it."""

    recipients: tuple[str, ...] | None = None
    """To these; None: to all that it is for."""
    facts: Facts = field(default_factory=dict[str, Fact])
    """What is known already."""


def facts_of(delivery: Delivery[object]) -> dict[str, Fact]:
    """What a send has come to."""
    return {
        **{address: Fact("accepted", reply) for address, reply in delivery.accepted.items()},
        **{address: Fact("refused", reply) for address, reply in delivery.refused.items()},
        **{address: Fact("not_sent") for address in delivery.not_sent},
        **{address: Fact("in_doubt") for address in delivery.in_doubt},
    }
