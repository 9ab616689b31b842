"""The pool: who gets a connection, in which order, and that every claim is given back."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from anysmtp._pool import Claim, Pool


def claim(pool: Pool[str], holder: object, woken: list[object] | None = None) -> Claim[str]:
    """A claim that writes its holder down when it is granted."""
    granted = [] if woken is None else woken
    return pool.claim(holder, lambda: granted.append(holder))


def test_a_claim_is_granted_at_once_while_there_is_room() -> None:
    pool, woken = Pool[str](2), list[object]()
    claims = [claim(pool, holder, woken) for holder in "abc"]
    assert woken == ["a", "b"]
    assert [one.is_granted for one in claims] == [True, True, False]
    assert [one.connection for one in claims] == [None, None, None]
    assert (pool.idle, pool.in_use, pool.waiting) == (0, 2, 1)


def test_those_who_wait_are_served_in_their_order() -> None:
    pool, woken = Pool[str](1), list[object]()
    first = claim(pool, "a", woken)
    second, third = claim(pool, "b", woken), claim(pool, "c", woken)
    pool.release(first, "one")
    assert woken == ["a", "b"]
    assert second.connection == "one"
    pool.release(second, None)
    assert woken == ["a", "b", "c"]
    assert third.connection is None


def test_the_connection_used_last_is_used_first() -> None:
    pool = Pool[str](3)
    for one, connection in [(claim(pool, holder), f"of {holder}") for holder in "abc"]:
        pool.release(one, connection)
    assert [claim(pool, holder).connection for holder in "xyz"] == ["of c", "of b", "of a"]


def test_a_closed_connection_makes_room() -> None:
    pool = Pool[str](1)
    pool.release(claim(pool, "a"), None)
    assert (pool.idle, pool.in_use) == (0, 0)
    assert claim(pool, "b").is_granted


def test_who_gives_up_waiting_is_not_served() -> None:
    pool, woken = Pool[str](1), list[object]()
    first, second, third = (claim(pool, holder, woken) for holder in "abc")
    pool.withdraw(second)
    pool.release(first, "one")
    assert woken == ["a", "c"]
    assert third.connection == "one"


def test_who_gives_up_what_he_was_granted_passes_it_on() -> None:
    pool, woken = Pool[str](1), list[object]()
    first, second, third = (claim(pool, holder, woken) for holder in "abc")
    pool.release(first, "one")
    assert second.is_granted
    pool.withdraw(second)
    assert woken == ["a", "b", "c"]
    assert third.connection == "one"
    pool.withdraw(third)
    assert (pool.idle, pool.in_use, pool.waiting) == (1, 0, 0)


def test_who_holds_all_connections_does_not_wait_for_himself() -> None:
    pool = Pool[str](2)
    held = [claim(pool, "a"), claim(pool, "a")]
    with pytest.raises(RuntimeError, match="holds the last connection and asks for another"):
        claim(pool, "a")
    assert (pool.in_use, pool.waiting) == (2, 0)
    for one in held:
        pool.release(one, None)
    assert pool.in_use == 0


def test_who_holds_one_of_several_may_wait_for_another() -> None:
    pool = Pool[str](2)
    other = [claim(pool, "a"), claim(pool, "b")][1]
    waiting = claim(pool, "a")
    pool.release(other, "one")
    assert waiting.connection == "one"


def test_it_is_known_who_holds_a_connection() -> None:
    pool = Pool[str](1)
    held = claim(pool, "a")
    assert pool.is_held_by("a")
    assert not pool.is_held_by("b")
    pool.release(held, "one")
    assert not pool.is_held_by("a")


def test_draining_takes_the_idle_and_names_the_others() -> None:
    pool = Pool[str](3)
    used, opening, idle = (claim(pool, holder) for holder in "abc")
    used.connection = "used"
    pool.release(idle, "idle")
    assert pool.drain(in_use=True) == ["idle", "used"]
    assert (pool.idle, pool.in_use) == (0, 2)
    pool.release(opening, "opened")
    assert pool.drain() == ["opened"]
    assert pool.drain() == []


class PoolMachine(RuleBasedStateMachine):
    """Claims, releases and withdrawals in any order, against a model of a queue and a stack."""

    claims = Bundle("claims")
    capacity = 3

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool[int](self.capacity)
        self.woken: list[int] = []
        self.opened = 0
        self.queue: list[Claim[int]] = []
        self.held: list[Claim[int]] = []
        self.stack: list[int] = []

    @rule(target=claims, holder=st.integers(0, 3))
    def ask(self, holder: int) -> Claim[int] | None:
        full = len(self.held) == self.capacity
        number = self.opened = self.opened + 1
        try:
            asked = self.pool.claim(holder, lambda: self.woken.append(number))
        except RuntimeError:
            assert full
            assert {one.holder for one in self.held} == {holder}
            assert number not in self.woken
            return None
        assert not full or {one.holder for one in self.held} != {holder}
        self.queue.append(asked)
        self.serve()
        assert (number in self.woken) is asked.is_granted
        return asked

    @rule(done=consumes(claims), is_alive=st.booleans())
    def give_back(self, done: Claim[int] | None, is_alive: bool) -> None:
        if done is None:
            return
        if done not in self.held:
            self.queue.remove(done)
            self.pool.withdraw(done)
            return
        if done.connection is None and is_alive:
            self.opened += 1
            done.connection = self.opened
        self.held.remove(done)
        if is_alive:
            assert done.connection is not None
            self.stack.append(done.connection)
        self.pool.release(done, done.connection if is_alive else None)
        self.serve()

    @rule(done=consumes(claims))
    def withdraw(self, done: Claim[int] | None) -> None:
        if done is None:
            return
        if done in self.held:
            self.held.remove(done)
            self.stack += [] if done.connection is None else [done.connection]
        else:
            self.queue.remove(done)
        self.pool.withdraw(done)
        self.serve()

    @rule()
    def drain(self) -> None:
        assert self.pool.drain() == self.stack
        self.stack.clear()

    def serve(self) -> None:
        """The model: first come first served, with the connection that was used last."""
        while self.queue and len(self.held) < self.capacity:
            served = self.queue.pop(0)
            assert served.is_granted
            assert served.connection == (self.stack.pop() if self.stack else None)
            self.held.append(served)

    @invariant()
    def counts_agree(self) -> None:
        counts = (self.pool.idle, self.pool.in_use, self.pool.waiting)
        assert counts == (len(self.stack), len(self.held), len(self.queue))
        assert self.pool.idle + self.pool.in_use <= self.capacity
        assert not any(one.is_granted for one in self.queue)
        assert len(self.woken) == len(set(self.woken))

    def teardown(self) -> None:
        for one in [*self.queue, *self.held]:
            self.pool.withdraw(one)
        self.pool.drain()
        assert (self.pool.idle, self.pool.in_use, self.pool.waiting) == (0, 0, 0)


TestPoolMachine = PoolMachine.TestCase
