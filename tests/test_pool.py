"""The pool: who gets a connection, in which order, how many there are, and that every claim is
given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from anysmtp._pool import FIRST_PAUSE, LONGEST_PAUSE, OPENED_AT_ONCE, Claim, Pool

T = TypeVar("T")


def ask(
    pool: Pool[str],
    holder: object,
    woken: list[object] | None = None,
    *,
    is_first: bool = False,
    is_fresh: bool = False,
    may_share: bool = False,
) -> Claim[str]:
    """A claim that writes its holder down when it is granted."""
    granted = [] if woken is None else woken
    return pool.claim(
        lambda: granted.append(holder),
        lambda: holder,
        holder=holder,
        is_first=is_first,
        is_fresh=is_fresh,
        may_share=may_share,
    )


def open_one(pool: Pool[str], holder: object, connection: str = "") -> Claim[str]:
    """A claim that was granted an empty slot, and has opened a connection in it."""
    claim = ask(pool, holder)
    assert claim.is_granted
    assert claim.connection is None
    pool.opened(claim, connection or f"of {holder}")
    return claim


def keep(pool: Pool[str], *claims: Claim[str], now: float = 0) -> None:
    for claim in claims:
        pool.release(claim, now, keep=True)


def drop(pool: Pool[str], *claims: Claim[str]) -> None:
    for claim in claims:
        pool.release(claim, 0, keep=False)


def counts(pool: Pool[str]) -> dict[str, int]:
    """What of the pool's state is not nothing."""
    found = {name: getattr(pool, name) for name in ("open", "idle", "in_use", "granted", "waiting")}
    return {name: count for name, count in found.items() if count}


# Who is served


def test_a_claim_is_granted_at_once_while_there_is_room() -> None:
    pool, woken = Pool[str](2), list[object]()
    claims = [ask(pool, holder, woken) for holder in "abc"]
    assert woken == ["a", "b"]
    assert [one.is_granted for one in claims] == [True, True, False]
    assert [one.connection for one in claims] == [None, None, None]
    assert counts(pool) == {"in_use": 2, "granted": 2, "waiting": 1}
    assert pool.next is claims[2]


def test_those_who_wait_are_served_in_their_order() -> None:
    pool, woken = Pool[str](1), list[object]()
    first = open_one(pool, "a", "one")
    second, third = ask(pool, "b", woken), ask(pool, "c", woken)
    keep(pool, first)
    assert woken == ["b"]
    assert second.connection == "one"
    drop(pool, second)
    assert woken == ["b", "c"]
    assert third.connection is None
    assert pool.next is None


def test_who_has_waited_before_waits_in_front() -> None:
    pool, woken = Pool[str](1), list[object]()
    first = open_one(pool, "a")
    ask(pool, "b", woken)
    ask(pool, "again", woken, is_first=True)
    keep(pool, first)
    assert woken == ["again"]


def test_the_connection_used_last_is_used_first() -> None:
    pool = Pool[str](3)
    keep(pool, *(open_one(pool, holder) for holder in "abc"))
    assert [ask(pool, holder).connection for holder in "xyz"] == ["of c", "of b", "of a"]


def test_an_idle_connection_is_used_before_another_one_is_opened() -> None:
    pool = Pool[str](2)
    keep(pool, open_one(pool, "a", "one"))
    used = ask(pool, "b")
    assert used.connection == "one"
    assert used.slot is not None
    assert used.slot.was_used


def test_who_wants_a_fresh_connection_opens_one_while_there_is_room() -> None:
    pool = Pool[str](2)
    keep(pool, open_one(pool, "a", "one"))
    assert ask(pool, "b", is_fresh=True).connection is None
    assert counts(pool) == {"open": 1, "idle": 1, "in_use": 1, "granted": 1}


def test_without_room_for_a_fresh_one_the_idle_one_is_replaced() -> None:
    pool = Pool[str](1)
    keep(pool, open_one(pool, "a", "one"))
    claim = ask(pool, "b", is_fresh=True)
    had = [claim.connection]
    pool.opening(claim)
    had.append(claim.connection)
    assert pool.open == 0
    pool.opened(claim, "two")
    assert [*had, claim.connection] == ["one", None, "two"]
    assert claim.slot is not None
    assert not claim.slot.was_used


def test_a_closed_connection_makes_room() -> None:
    pool = Pool[str](1)
    drop(pool, open_one(pool, "a"))
    assert counts(pool) == {}
    assert ask(pool, "b").is_granted


def test_who_gives_up_waiting_is_not_served() -> None:
    pool, woken = Pool[str](1), list[object]()
    first = open_one(pool, "a", "one")
    second, third = ask(pool, "b", woken), ask(pool, "c", woken)
    pool.withdraw(second, 0)
    keep(pool, first)
    assert woken == ["c"]
    assert third.connection == "one"


def test_who_gives_up_what_he_was_granted_passes_it_on() -> None:
    pool, woken = Pool[str](1), list[object]()
    first = open_one(pool, "a", "one")
    second, third = ask(pool, "b", woken), ask(pool, "c", woken)
    keep(pool, first)
    assert second.is_granted
    pool.withdraw(second, 0)
    assert woken == ["b", "c"]
    assert third.connection == "one"
    pool.withdraw(third, 0)
    assert counts(pool) == {"open": 1, "idle": 1}


def test_who_gives_up_before_he_has_opened_a_connection_leaves_none() -> None:
    pool, woken = Pool[str](1), list[object]()
    first, second = ask(pool, "a"), ask(pool, "b", woken)
    pool.withdraw(first, 0)
    assert woken == ["b"]
    pool.withdraw(second, 0)
    assert counts(pool) == {}


def test_to_give_up_twice_changes_nothing() -> None:
    pool = Pool[str](1)
    held, waiting = open_one(pool, "a"), ask(pool, "b")
    for claim in (waiting, waiting, held, held):
        pool.withdraw(claim, 0)
    assert counts(pool) == {"open": 1, "idle": 1}


def test_who_holds_all_connections_does_not_wait_for_himself() -> None:
    pool = Pool[str](2)
    held = [ask(pool, "a"), ask(pool, "a")]
    with pytest.raises(RuntimeError, match="holds the last connection and asks for another"):
        ask(pool, "a")
    assert counts(pool) == {"in_use": 2, "granted": 2}
    drop(pool, *held)
    assert counts(pool) == {}


def test_those_who_hold_all_connections_do_not_wait_for_each_other() -> None:
    pool = Pool[str](2)
    held, waiting = [open_one(pool, "a"), open_one(pool, "b")], ask(pool, "a")
    with pytest.raises(RuntimeError, match="holds the last connection"):
        ask(pool, "b")
    keep(pool, held[1])
    assert waiting.connection == "of b"


def test_who_holds_one_of_several_may_wait_for_another() -> None:
    pool = Pool[str](2)
    open_one(pool, "a")
    other, waiting = open_one(pool, "b", "one"), ask(pool, "a")
    keep(pool, other)
    assert waiting.connection == "one"


def test_it_is_known_who_holds_a_connection() -> None:
    pool = Pool[str](1)
    held = open_one(pool, "a")
    assert pool.is_held_by("a")
    assert not pool.is_held_by("b")
    keep(pool, held)
    assert not pool.is_held_by("a")


# Sharing


def test_where_there_is_room_a_connection_is_shared() -> None:
    roomy = {"one"}
    pool = Pool[str](1, has_room=roomy.__contains__)
    first, second = open_one(pool, "a", "one"), ask(pool, "b", may_share=True)
    assert second.connection == "one"
    assert counts(pool) == {"open": 1, "in_use": 1, "granted": 2}
    roomy.clear()
    third = ask(pool, "c", may_share=True)
    assert not third.is_granted
    keep(pool, first)
    assert not third.is_granted
    keep(pool, second)
    assert third.connection == "one"


@pytest.mark.parametrize(("is_fresh", "may_share"), [(False, False), (True, True)])
def test_not_everybody_shares(is_fresh: bool, may_share: bool) -> None:
    pool = Pool[str](1, has_room=lambda connection: True)
    open_one(pool, "a")
    assert not ask(pool, "b", is_fresh=is_fresh, may_share=may_share).is_granted


def test_nobody_shares_what_is_not_open_yet() -> None:
    pool = Pool[str](1, has_room=lambda connection: True)
    first, second = ask(pool, "a"), ask(pool, "b", may_share=True)
    assert not second.is_granted
    pool.opened(first, "one")
    assert second.connection == "one"


def test_one_connection_more_is_preferred_to_sharing() -> None:
    pool = Pool[str](2, has_room=lambda connection: True)
    open_one(pool, "a")
    assert ask(pool, "b", may_share=True).connection is None


def test_the_last_one_to_leave_says_what_becomes_of_the_connection() -> None:
    pool = Pool[str](1, has_room=lambda connection: True)
    first, second = open_one(pool, "a", "one"), ask(pool, "b", may_share=True)
    drop(pool, first)
    assert counts(pool) == {"open": 1, "in_use": 1, "granted": 1}
    keep(pool, second)
    assert counts(pool) == {"open": 1, "idle": 1}


def test_behind_one_who_gives_up_another_may_share() -> None:
    pool = Pool[str](1, has_room=lambda connection: True)
    open_one(pool, "a", "one")
    alone, sharing = ask(pool, "b"), ask(pool, "c", may_share=True)
    assert not sharing.is_granted
    pool.withdraw(alone, 0)
    assert sharing.connection == "one"


def test_the_first_in_line_may_ride_along() -> None:
    pool, woken = Pool[str](2), list[object]()
    open_one(pool, "a", "one")
    last = open_one(pool, "b", "two")
    rider = ask(pool, "c", woken, may_share=True)
    assert pool.next is rider
    pool.board(rider, "two")
    assert woken == ["c"]
    assert rider.connection == "two"
    assert counts(pool) == {"open": 2, "in_use": 2, "granted": 3}
    keep(pool, last, rider)
    assert counts(pool) == {"open": 2, "idle": 1, "in_use": 1, "granted": 1}


# How many are opened at once


def test_only_a_few_are_opened_at_once_until_as_many_are_there() -> None:
    pool = Pool[str](50)
    claims = [ask(pool, number) for number in range(50)]
    opened = 0
    waves: list[int] = []
    while opened < 50:
        wave = [one for one in claims if one.is_granted and one.connection is None]
        waves.append(len(wave))
        for claim in wave:
            opened += 1
            pool.opened(claim, f"number {opened}")
    assert waves[0] == OPENED_AT_ONCE
    assert max(waves) == 20
    assert sum(waves) == 50


def test_one_is_opened_first_while_it_is_not_known_whether_a_login_works() -> None:
    pool = Pool[str](8, opens_one_first=True)
    claims = [ask(pool, number) for number in range(8)]
    assert [one.is_granted for one in claims] == [True, *[False] * 7]
    pool.opened(claims[0], "one")
    assert not pool.opens_one_first
    assert sum(one.is_granted for one in claims) == 1 + OPENED_AT_ONCE


def test_if_the_first_login_fails_the_next_one_tries() -> None:
    pool, woken = Pool[str](8, opens_one_first=True), list[object]()
    claims = [ask(pool, holder, woken) for holder in "abc"]
    pool.withdraw(claims[0], 0)
    assert woken == ["a", "b"]


# What the server allows


def test_a_server_that_lets_in_no_more_is_asked_for_no_more() -> None:
    pool, woken = Pool[str](20), list[object]()
    served = [open_one(pool, holder) for holder in "abc"]
    over = ask(pool, "d", woken)
    assert pool.refused(over, 0)
    assert pool.allowed == 3
    assert not over.is_granted
    assert counts(pool) == {"open": 3, "in_use": 3, "granted": 3, "waiting": 1}
    keep(pool, served[0])
    assert over.connection == "of a"
    assert woken == ["d", "d"]


def test_who_was_refused_keeps_his_place_in_the_line() -> None:
    pool, woken = Pool[str](2), list[object]()
    served, over = open_one(pool, "a"), ask(pool, "b")
    ask(pool, "c", woken)
    ask(pool, "again", woken, is_first=True)
    assert pool.refused(over, 0)
    keep(pool, served)
    assert woken == ["again"]
    assert not over.is_granted


def test_who_was_refused_takes_what_there_is() -> None:
    """Also one who wanted a fresh connection: the server has no other for him."""
    pool = Pool[str](2)
    keep(pool, open_one(pool, "a", "one"))
    fresh = ask(pool, "b", is_fresh=True)
    had = fresh.connection
    assert pool.refused(fresh, 0)
    assert (had, fresh.connection) == (None, "one")
    assert not fresh.is_fresh


def test_who_was_refused_while_he_holds_another_one_takes_what_there_is() -> None:
    pool = Pool[str](3)
    open_one(pool, "a")
    other, fresh = open_one(pool, "b", "one"), ask(pool, "a")
    keep(pool, other)
    assert pool.refused(fresh, 0)
    assert fresh.connection == "one"


def test_a_server_that_lets_in_nobody_has_refused() -> None:
    pool = Pool[str](3)
    only = ask(pool, "a")
    assert not pool.refused(only, 0)
    assert pool.allowed == 3
    pool.withdraw(only, 0)
    assert counts(pool) == {}


def test_who_was_refused_does_not_wait_for_himself() -> None:
    pool = Pool[str](3)
    held, over = open_one(pool, "a"), ask(pool, "a")
    assert not pool.refused(over, 0)
    assert over.is_granted
    assert over.connection is None
    pool.withdraw(over, 0)
    drop(pool, held)
    assert counts(pool) == {}


def test_who_holds_the_last_connection_that_is_allowed_does_not_wait_for_himself() -> None:
    """The other one, for whom it waited, was taken away by the server."""
    pool = Pool[str](2)
    open_one(pool, "a")
    other, waiting = open_one(pool, "b"), ask(pool, "a")
    pool.lower(1, 0)
    drop(pool, other)
    # One more than allowed is asked for: the server's word on it is better than none.
    assert waiting.is_granted


def test_lowering_leaves_one() -> None:
    pool = Pool[str](3)
    pool.lower(0, 0)
    assert pool.allowed == 1
    pool.lower(2, 0)
    assert pool.allowed == 1


def test_refusals_are_counted_until_all_connections_are_allowed_again() -> None:
    pool = Pool[str](2)
    assert pool.refusals == 0
    pool.lower(1, 0)
    pool.lower(1, 0)
    assert pool.refusals == 2
    pool.took_message(FIRST_PAUSE)
    assert not pool.is_lowered
    pool.lower(1, FIRST_PAUSE)
    assert pool.refusals == 1


def test_what_is_open_above_what_is_allowed_is_not_replaced() -> None:
    pool = Pool[str](3)
    claims = [open_one(pool, holder) for holder in "abc"]
    pool.lower(2, 0)
    waiting = ask(pool, "d")
    drop(pool, claims[0])
    assert not waiting.is_granted
    drop(pool, claims[1])
    assert waiting.is_granted


def take(pool: Pool[str], messages: int, now: float) -> int:
    for _ in range(messages):
        pool.took_message(now)
    return pool.allowed


def test_as_messages_are_taken_one_more_is_tried() -> None:
    pool, woken = Pool[str](4), list[object]()
    for holder in "ab":
        open_one(pool, holder)
    assert pool.refused(ask(pool, "c", woken), 0)
    woken.clear()
    assert take(pool, 100, FIRST_PAUSE - 1) == 2
    assert take(pool, 1, FIRST_PAUSE) == 3
    assert woken == ["c"]
    assert take(pool, 100, FIRST_PAUSE * 2 - 1) == 3
    assert take(pool, 1, FIRST_PAUSE * 2) == 4
    assert take(pool, 100, FIRST_PAUSE * 9) == 4


def test_not_before_each_connection_has_taken_one() -> None:
    pool = Pool[str](9)
    pool.lower(5, 0)
    assert take(pool, 4, LONGEST_PAUSE) == 5
    assert take(pool, 1, LONGEST_PAUSE) == 6


def test_the_pause_doubles_with_each_refusal_up_to_a_limit() -> None:
    pool = Pool[str](2)
    now, pauses = 0.0, list[float]()
    for _ in range(8):
        pool.lower(1, now)
        seconds = FIRST_PAUSE
        while take(pool, 1, now + seconds) == 1:
            seconds += FIRST_PAUSE
        pauses.append(seconds)
        now += seconds
    assert pauses == [10, 20, 40, 80, 160, 320, LONGEST_PAUSE, LONGEST_PAUSE]


def test_when_all_that_are_allowed_are_let_in_the_pause_is_short_again() -> None:
    pool = Pool[str](2)
    pool.lower(1, 0)
    pool.lower(1, 0)
    drop(pool, open_one(pool, "a"))
    pool.lower(1, 100)
    assert take(pool, 1, 100 + FIRST_PAUSE) == 2


# What is taken out


def test_what_was_idle_for_too_long_is_taken_out() -> None:
    pool = Pool[str](3, keepalive=60)
    claims = [open_one(pool, holder) for holder in "abc"]
    for now, claim in zip((0, 10, 20), claims, strict=True):
        keep(pool, claim, now=now)
    assert pool.expired(60) == []
    assert pool.expired(71) == ["of a", "of b"]
    assert counts(pool) == {"open": 1, "idle": 1}
    assert pool.expired(71) == []
    assert pool.expired(81) == ["of c"]
    assert pool.expired(10**6) == []


def test_without_a_limit_an_idle_connection_is_kept() -> None:
    pool = Pool[str](1)
    keep(pool, open_one(pool, "a"))
    assert pool.expired(10**9) == []


def test_draining_takes_the_idle_and_not_the_others() -> None:
    pool = Pool[str](3)
    open_one(pool, "a", "used")
    opening, idle = ask(pool, "b"), open_one(pool, "c", "idle")
    keep(pool, idle)
    assert pool.connections() == ["used", "idle"]
    assert pool.drain() == ["idle"]
    assert pool.connections() == ["used"]
    assert counts(pool) == {"open": 1, "in_use": 2, "granted": 2}
    pool.opened(opening, "opened")
    keep(pool, opening)
    assert pool.drain() == ["opened"]
    assert pool.drain() == []


# Everything in any order


@dataclass(eq=False)
class Wish:
    """One claim as the model knows it."""

    number: int
    holder: int
    is_first: bool
    is_fresh: bool
    may_share: bool
    claim: Claim[int]

    @property
    def place(self) -> int:
        """Where it stands in the line."""
        return self.number - 10**9 if self.is_first else self.number


class PoolMachine(RuleBasedStateMachine):
    """Whatever may be done, in any order; the model judges each step by the rules.

    The model is a line, a stack of idle connections, a set of those who open one, and who uses
    which connection. It decides nothing: it looks at who was woken, in which order and with
    what, and says whether that was right, and whether somebody was forgotten.
    """

    @initialize(
        capacity=st.integers(1, 8),
        keepalive=st.sampled_from([None, 30]),
        opens_one_first=st.booleans(),
    )
    def start(self, capacity: int, keepalive: float | None, opens_one_first: bool) -> None:
        self.roomy: set[int] = set()
        self.pool = Pool[int](
            capacity,
            keepalive=keepalive,
            opens_one_first=opens_one_first,
            has_room=self.roomy.__contains__,
        )
        self.capacity = self.allowed = capacity
        self.keepalive = keepalive
        self.opens_one_first = opens_one_first
        self.now = 0.0
        self.numbers = 0
        self.woken: list[int] = []
        self.line: list[Wish] = []
        self.opening: list[Wish] = []
        self.users: dict[int, list[Wish]] = {}
        self.idle: list[tuple[int, float]] = []
        self.messages = 0
        self.lowered = 0.0

    # What the model can say.

    @property
    def served(self) -> list[Wish]:
        return [*self.opening, *(wish for users in self.users.values() for wish in users)]

    @property
    def free(self) -> list[Wish]:
        """Those served whose task can do something: it does not wait for another connection."""
        waiting = {wish.holder for wish in self.line}
        return [wish for wish in self.served if wish.holder not in waiting]

    @property
    def total(self) -> int:
        return len(self.opening) + len(self.users) + len(self.idle)

    def one_may_be_opened(self) -> bool:
        there = len(self.users) + len(self.idle)
        at_once = 1 if self.opens_one_first else max(OPENED_AT_ONCE, there)
        return self.total < self.allowed and len(self.opening) < at_once

    def everybody_waits(self) -> bool:
        return bool(self.served) and not self.free

    def new_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def judge(self) -> None:
        """Look at who was served since the last time, and at who was not."""
        for number in self.woken:
            # The holders of all connections, who wait for each other, may be given one more.
            is_needed = self.everybody_waits() and self.total < self.capacity
            wish = self.line.pop(0)
            assert wish.number == number, "not first come first served"
            self.seat(wish, is_needed=is_needed)
        self.woken.clear()
        if self.line:
            assert not self.idle
            assert not self.one_may_be_opened()

    def seat(self, wish: Wish, *, is_needed: bool) -> None:
        connection = wish.claim.connection
        may_open, idle = self.one_may_be_opened(), [one for one, _ in self.idle]
        if connection is None:
            assert may_open or is_needed
            assert wish.is_fresh or not idle
            self.opening.append(wish)
        elif connection in idle:
            assert idle[-1] == connection
            assert not (wish.is_fresh and may_open)
            self.idle.pop()
            self.users[connection] = [wish]
        else:
            assert connection in self.roomy
            assert wish.may_share
            assert not wish.is_fresh
            assert not may_open
            assert not idle
            self.users[connection].append(wish)

    def unseat(self, wish: Wish, *, kept: bool) -> None:
        """One who was served is not any more."""
        if wish in self.opening:
            self.opening.remove(wish)
            return
        [connection] = [one for one, users in self.users.items() if wish in users]
        self.users[connection].remove(wish)
        if not self.users[connection]:
            del self.users[connection]
            self.roomy.discard(connection)
            if kept:
                self.idle.append((connection, self.now))

    def stand_in_line(self, wish: Wish) -> None:
        self.line.append(wish)
        self.line.sort(key=lambda one: one.place)

    # What may be done.

    @rule(count=st.integers(2, 9), share=st.booleans())
    def several_ask(self, count: int, share: bool) -> None:
        for holder in range(10, 10 + count):
            self.ask(holder, first=False, fresh=False, share=share)

    @rule(holder=st.integers(0, 9), first=st.booleans(), fresh=st.booleans(), share=st.booleans())
    def ask(self, holder: int, first: bool, fresh: bool, share: bool) -> None:
        """A task asks for a connection, unless it waits for one already."""
        if any(wish.holder == holder for wish in (*self.line, *self.opening)):
            return
        number = self.new_number()
        try:
            claim = self.pool.claim(
                lambda: self.woken.append(number),
                lambda: holder,
                holder=holder,
                is_first=first,
                is_fresh=fresh,
                may_share=share,
            )
        except RuntimeError:
            assert number not in self.woken
            assert self.served
            assert {wish.holder for wish in self.free} <= {holder}
            self.judge()
            return
        assert claim.is_granted is (number in self.woken)
        self.stand_in_line(Wish(number, holder, first, fresh, share, claim))
        self.judge()
        assert claim.is_granted or not self.everybody_waits()

    def choose(self, among: list[T], index: int) -> T | None:
        return among[index % len(among)] if among else None

    @precondition(lambda self: self.opening)
    @rule(index=st.integers(0, 9), count=st.integers(1, 5))
    def opened(self, index: int, count: int) -> None:
        for _ in range(count):
            if wish := self.choose(self.opening, index):
                connection = self.new_number()
                self.opening.remove(wish)
                self.users[connection] = [wish]
                self.opens_one_first = False
                self.pool.opened(wish.claim, connection)
                assert not self.pool.opens_one_first
                self.judge()

    @precondition(lambda self: self.users)
    @rule(index=st.integers(0, 9))
    def open_another(self, index: int) -> None:
        alone = [users[0] for users in self.users.values() if len(users) == 1]
        if wish := self.choose([one for one in self.free if one in alone], index):
            self.unseat(wish, kept=False)
            self.opening.append(wish)
            self.pool.opening(wish.claim)
            self.judge()

    @precondition(lambda self: self.opening)
    @rule(index=st.integers(0, 9))
    def refused(self, index: int) -> None:
        wish = self.opening[index % len(self.opening)]
        others = self.total - 1
        may_wait = self.pool.refused(wish.claim, self.now)
        if others:
            self.opening.remove(wish)
            self.stand_in_line(wish)
            self.was_lowered(others)
        if may_wait:
            wish.is_fresh = False
            self.judge()
            assert wish.claim.is_granted or not self.everybody_waits()
        else:
            assert wish.claim.is_granted
            assert wish.claim.connection is None
            if others:
                assert self.everybody_waits()
                assert not self.idle
                self.line.remove(wish)
                self.opening.append(wish)
            self.woken.clear()
            self.give_back(wish, kept=False)

    @rule(allowed=st.integers(0, 8))
    def lower(self, allowed: int) -> None:
        self.pool.lower(allowed, self.now)
        self.was_lowered(allowed)
        self.judge()

    def was_lowered(self, allowed: int) -> None:
        self.allowed = max(1, min(allowed, self.allowed))
        self.messages = 0
        self.lowered = self.now

    @rule(messages=st.integers(1, 5))
    def took_messages(self, messages: int) -> None:
        for _ in range(messages):
            self.messages += 1
            self.pool.took_message(self.now)
            is_raised = self.pool.allowed > self.allowed
            is_due = self.messages >= self.allowed
            if is_raised:
                assert is_due
                assert self.now >= self.lowered + FIRST_PAUSE
                self.allowed, self.messages, self.lowered = self.allowed + 1, 0, self.now
            else:
                is_late = self.now >= self.lowered + LONGEST_PAUSE
                assert self.allowed == self.capacity or not (is_due and is_late)
            self.judge()

    @precondition(lambda self: self.users)
    @rule(index=st.integers(0, 9), count=st.integers(1, 5), kept=st.booleans())
    def release(self, index: int, count: int, kept: bool) -> None:
        for _ in range(count):
            if wish := self.choose([one for one in self.free if one not in self.opening], index):
                self.give_back(wish, kept=kept)

    def give_back(self, wish: Wish, *, kept: bool) -> None:
        self.unseat(wish, kept=kept)
        self.pool.release(wish.claim, self.now, keep=kept)
        self.judge()

    @precondition(lambda self: self.line or self.served)
    @rule(index=st.integers(0, 9), in_line=st.booleans())
    def withdraw(self, index: int, in_line: bool) -> None:
        if wish := self.choose(self.line if in_line else self.free, index):
            self.go_away(wish)

    def go_away(self, wish: Wish) -> None:
        if wish in self.line:
            self.line.remove(wish)
        else:
            self.unseat(wish, kept=wish.claim.connection is not None)
        self.pool.withdraw(wish.claim, self.now)
        self.judge()

    @precondition(lambda self: self.users and self.line)
    @rule(index=st.integers(0, 9))
    def board(self, index: int) -> None:
        connection, first = [*self.users][index % len(self.users)], self.line[0]
        if first.is_fresh or not first.may_share:
            return
        assert self.pool.next is first.claim
        self.line.remove(first)
        self.users[connection].append(first)
        self.pool.board(first.claim, connection)
        assert self.woken.pop(0) == first.number
        self.judge()

    @precondition(lambda self: self.users)
    @rule(index=st.integers(0, 9))
    def room_comes_or_goes(self, index: int) -> None:
        self.roomy ^= {[*self.users][index % len(self.users)]}

    @rule(seconds=st.sampled_from([1, FIRST_PAUSE, 31, LONGEST_PAUSE]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.idle)
    @rule()
    def expired(self) -> None:
        limit = float("inf") if self.keepalive is None else self.keepalive
        old = [(one, since) for one, since in self.idle if self.now - since > limit]
        self.idle = [one for one in self.idle if one not in old]
        assert self.pool.expired(self.now) == [connection for connection, _ in old]
        self.judge()

    @precondition(lambda self: self.idle)
    @rule()
    def drain(self) -> None:
        assert self.pool.drain() == [connection for connection, _ in self.idle]
        self.idle.clear()
        self.judge()

    @precondition(lambda self: not self.opening)
    @rule()
    def a_login_failed(self) -> None:
        self.pool.opens_one_first = self.opens_one_first = True

    # What is true at any time.

    @invariant()
    def the_counts_are_right(self) -> None:
        pool = self.pool
        assert pool.allowed == self.allowed
        assert pool.open == len(self.users) + len(self.idle)
        assert pool.idle == len(self.idle)
        assert pool.in_use == len(self.users) + len(self.opening)
        assert pool.granted == len(self.served)
        assert pool.waiting == len(self.line)
        assert pool.in_use + pool.idle <= self.capacity
        assert sorted(pool.connections()) == sorted([*self.users, *(one for one, _ in self.idle)])

    @invariant()
    def nobody_is_lost(self) -> None:
        assert self.woken == []
        assert not any(wish.claim.is_granted for wish in self.line)
        assert all(wish.claim.is_granted for wish in self.served)
        assert all(wish.claim.connection is None for wish in self.opening)
        for connection, users in self.users.items():
            assert all(wish.claim.connection == connection for wish in users)
        assert all(self.pool.is_held_by(wish.holder) for wish in self.served)
        assert self.pool.next is (self.line[0].claim if self.line else None)

    def teardown(self) -> None:
        """When everybody has gone, nothing is left."""
        if not hasattr(self, "pool"):
            return
        while wish := self.choose([*self.line, *self.served], 0):
            self.go_away(wish)
        self.drain()
        self.the_counts_are_right()
        assert self.pool.in_use + self.pool.open + self.pool.waiting + self.pool.granted == 0


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=300, stateful_step_count=40)
