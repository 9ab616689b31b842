"""Attempts: which transactions a send takes, for whom, and what it comes to in the end."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._attempts import Attempts, Retry
from anysmtp._delivery import Delivery, Ledger, ledger_of
from anysmtp._envelope import Job, Mailbox
from anysmtp._reply import Reply
from anysmtp.errors import (
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from support.jobs import Octets

OK = Reply(250, "ok")
SECOND = Reply(250, "second")
LATER = Reply(450, "later")
FULL = Reply(452, "4.5.3 too many")
NEVER = Reply(550, "never")
LOST = SMTPServerDisconnected("the connection was lost")


class Send:
    """One send, of which the test plays the server."""

    def __init__(
        self, recipients: str = "abc", retry: Retry | None = None, ledger: Ledger | None = None
    ) -> None:
        to = tuple(Mailbox(key, key, key) for key in recipients)
        self.ledger = ledger_of(Delivery()) if ledger is None else ledger
        self.ledger.start(recipients)
        self.job = Job(Mailbox("s", "s", "s"), to, Octets())
        self.attempts = Attempts(self.job, self.ledger, retry)

    @property
    def asked(self) -> str:
        """Whom the next transaction is for."""
        return "".join(recipient.given for recipient in self.attempts.job.recipients)

    def transact(
        self,
        *,
        final: Reply | None = OK,
        accepted: str = "",
        refused: dict[str, Reply] | None = None,
        left_over: str = "",
        error: SMTPException | None = None,
    ) -> bool:
        """One transaction; whether another one follows."""
        for key, reply in (refused or {}).items():
            assert key in self.asked
            self.ledger.refuse(key, reply)
        if accepted:
            assert set(accepted) <= set(self.asked)
            self.ledger.hand_over(accepted)
            if final is not None:
                self.ledger.settle(accepted, final)
        self.ledger.left_over = tuple(left_over)
        return self.attempts.another(error)


# One transaction


def test_a_send_is_one_transaction_as_a_rule() -> None:
    send = Send()
    assert send.asked == "abc"
    assert send.attempts.job is send.job
    assert not send.transact(accepted="ab", refused={"c": LATER})
    receipt = send.attempts.receipt()
    assert receipt.accepted == {"a": OK, "b": OK}
    assert receipt.refused == {"c": LATER}
    assert receipt.replies == (OK,)
    assert send.attempts.tries == 1


@pytest.mark.parametrize(
    "error", [LOST, SMTPSenderRefused(NEVER), SMTPRecipientsRefused({"a": NEVER})]
)
def test_if_nobody_has_it_the_error_says_why(error: SMTPException) -> None:
    send = Send()
    assert not send.transact(error=error)
    with pytest.raises(type(error)) as caught:
        send.attempts.receipt()
    assert caught.value is error


# More recipients than a transaction takes


def test_who_is_left_over_is_in_the_next_transaction() -> None:
    send = Send("abcde")
    assert send.transact(accepted="ab", left_over="cde")
    assert (send.asked, send.attempts.delay) == ("cde", 0)
    assert send.attempts.job == replace(send.job, recipients=send.job.recipients[2:])
    assert send.transact(accepted="cd", final=SECOND, left_over="e")
    assert send.asked == "e"
    assert not send.transact(refused={"e": NEVER}, error=SMTPRecipientsRefused({"e": NEVER}))
    receipt = send.attempts.receipt()
    assert receipt.accepted == {"a": OK, "b": OK, "c": SECOND, "d": SECOND}
    assert receipt.refused == {"e": NEVER}
    assert receipt.replies == (OK, SECOND)
    assert send.attempts.tries == 1


def test_recipients_are_asked_for_in_the_callers_order() -> None:
    send = Send("abcd")
    assert send.transact(accepted="a", refused={"d": FULL}, left_over="dbc")
    assert send.asked == "bcd"
    assert send.ledger.keys("refused") == ("d",)
    send.attempts.begin()
    assert send.ledger.keys("not_sent") == ("b", "c", "d")


def test_if_the_first_group_is_refused_the_next_one_is_asked_for_all_the_same() -> None:
    send = Send("abc")
    error = SMTPRecipientsRefused({"a": NEVER, "b": NEVER})
    assert send.transact(refused={"a": NEVER, "b": NEVER}, left_over="c", error=error)
    assert not send.transact(accepted="c")
    assert send.attempts.receipt().refused == {"a": NEVER, "b": NEVER}


def test_if_all_groups_are_refused_the_error_names_everybody() -> None:
    send = Send("abc")
    first = SMTPRecipientsRefused({"a": NEVER, "b": LATER})
    assert send.transact(refused={"a": NEVER, "b": LATER}, left_over="c", error=first)
    last = SMTPRecipientsRefused({"c": FULL}, server="h:25", connection_closed=True)
    assert not send.transact(refused={"c": FULL}, error=last)
    with pytest.raises(SMTPRecipientsRefused) as caught:
        send.attempts.receipt()
    error = caught.value
    assert error.refused == {"a": NEVER, "b": LATER, "c": FULL}
    assert (error.server, error.connection_closed) == ("h:25", True)


def test_another_error_is_raised_as_it_is() -> None:
    send = Send("ab")
    first = SMTPRecipientsRefused({"a": NEVER})
    assert send.transact(refused={"a": NEVER}, left_over="b", error=first)
    refused = SMTPSenderRefused(NEVER)
    assert not send.transact(refused={"b": NEVER}, error=refused)
    with pytest.raises(SMTPSenderRefused) as caught:
        send.attempts.receipt()
    assert caught.value is refused


@pytest.mark.parametrize("error", [LOST, SMTPTimeoutError("no reply"), SMTPNotSupported("no")])
def test_an_error_that_is_no_refusal_is_raised_though_others_have_it(error: SMTPException) -> None:
    """A receipt would say that somebody was sent to, or refused, of whom that is not known."""
    send = Send("ab")
    assert send.transact(accepted="a", left_over="b")
    assert not send.transact(error=error)
    with pytest.raises(type(error)) as caught:
        send.attempts.receipt()
    assert caught.value is error
    assert send.ledger.replies("accepted") == {"a": OK}
    assert send.ledger.keys("not_sent") == ("b",)


def test_a_receipts_reply_is_one_that_says_yes() -> None:
    """The message that the second group's server refused was taken for the first one."""
    send = Send("ab")
    assert send.transact(accepted="a", left_over="b")
    assert not send.transact(accepted="b", final=NEVER, error=SMTPDataError(NEVER))
    receipt = send.attempts.receipt()
    assert (receipt.accepted, receipt.refused) == ({"a": OK}, {"b": NEVER})
    assert receipt.reply == OK


# Another try


def test_without_being_asked_nothing_is_tried_again() -> None:
    assert not Send().transact(refused={"a": LATER}, error=SMTPRecipientsRefused({"a": LATER}))


def test_whoever_was_refused_for_now_or_not_asked_is_tried_again(no_jitter: None) -> None:
    send = Send("abcd", Retry(3, base=10, factor=3))
    assert send.transact(accepted="a", refused={"b": LATER, "c": NEVER})
    assert (send.asked, send.attempts.delay, send.attempts.tries) == ("bd", 10, 2)
    assert send.transact(accepted="d", refused={"b": LATER})
    assert (send.asked, send.attempts.delay, send.attempts.tries) == ("b", 30, 3)
    assert not send.transact(refused={"b": LATER}, error=SMTPRecipientsRefused({"b": LATER}))
    receipt = send.attempts.receipt()
    assert receipt.accepted == {"a": OK, "d": OK}
    assert receipt.refused == {"b": LATER, "c": NEVER}


def test_the_last_try_may_have_it_for_somebody() -> None:
    send = Send("a", Retry(2))
    assert send.transact(refused={"a": LATER}, error=SMTPRecipientsRefused({"a": LATER}))
    assert not send.transact(accepted="a", final=SECOND)
    assert send.attempts.receipt().accepted == {"a": SECOND}


def test_a_lost_connection_is_tried_again(no_jitter: None) -> None:
    send = Send("ab", Retry(2, base=1))
    assert send.transact(error=LOST)
    assert (send.asked, send.attempts.delay) == ("ab", 1)
    assert not send.transact(error=LOST)
    with pytest.raises(SMTPServerDisconnected):
        send.attempts.receipt()


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        ({"a": NEVER, "b": NEVER}, SMTPRecipientsRefused({"a": NEVER})),
        ({}, SMTPNotSupported("no 8BITMIME")),
        ({"a": LATER}, SMTPAuthenticationError("wrong", reply=Reply(535))),
    ],
)
def test_what_would_fail_again_is_not_tried_again(
    refused: dict[str, Reply], error: SMTPException
) -> None:
    assert not Send("ab", Retry(9)).transact(refused=refused, error=error)


def test_nothing_is_tried_again_while_anybody_is_in_doubt() -> None:
    send = Send("ab", Retry(9))
    assert not send.transact(accepted="a", final=None, refused={"b": LATER}, error=LOST)
    with pytest.raises(SMTPServerDisconnected):
        send.attempts.receipt()
    assert send.ledger.keys("in_doubt") == ("a",)


def test_groups_come_before_tries_and_do_not_count_as_such(no_jitter: None) -> None:
    send = Send("abc", Retry(2, base=10))
    assert send.transact(accepted="a", refused={"b": LATER}, left_over="c")
    assert (send.asked, send.attempts.delay, send.attempts.tries) == ("c", 0, 1)
    assert send.transact(accepted="c")
    assert (send.asked, send.attempts.delay, send.attempts.tries) == ("b", 10, 2)
    assert not send.transact(accepted="b")
    assert send.attempts.receipt().replies == (OK, OK, OK)


def test_without_a_delay_the_next_group_does_not_wait_as_the_try_before_did(
    no_jitter: None,
) -> None:
    send = Send("abc", Retry(2, base=10))
    assert send.transact(error=LOST)
    assert send.attempts.delay == 10
    assert send.transact(accepted="a", left_over="bc")
    assert send.attempts.delay == 0


# A Delivery that is resumed


def resumed(retry: Retry | None = None) -> Send:
    first = Send("ab")
    assert not first.transact(accepted="a", refused={"b": LATER})
    first.ledger.finish(first.attempts.receipt())
    return Send("b", retry, first.ledger)


def test_a_resumed_send_has_a_receipt_if_it_came_to_something() -> None:
    send = resumed()
    assert not send.transact(accepted="b", final=SECOND)
    receipt = send.attempts.receipt()
    assert receipt.accepted == {"a": OK, "b": SECOND}
    assert receipt.replies == (SECOND,)


def test_what_an_earlier_send_came_to_is_no_receipt_for_this_one() -> None:
    send, error = resumed(), SMTPRecipientsRefused({"b": LATER})
    assert not send.transact(refused={"b": LATER}, error=error)
    with pytest.raises(SMTPRecipientsRefused) as caught:
        send.attempts.receipt()
    assert caught.value is error
    assert send.ledger.replies("accepted") == {"a": OK}


# Whatever happens

ENDS = st.sampled_from(["accepted", "refused", "later", "left over", "not sent", "in doubt"])


@given(
    ends=st.lists(st.lists(ENDS, min_size=4, max_size=4), min_size=1, max_size=12),
    attempts=st.integers(1, 4),
)
def test_nobody_who_may_have_it_is_asked_again(ends: list[list[str]], attempts: int) -> None:
    """However the transactions end: the ledger asserts it too."""
    send = Send("abcd", Retry(attempts))
    may_have: set[str] = set()
    for number, ended in enumerate(ends):
        asked = dict(zip(send.asked, ended, strict=False))
        assert may_have.isdisjoint(asked)

        def those(end: str, among: dict[str, str] = asked) -> str:
            return "".join(key for key, its_end in among.items() if its_end == end)

        may_have |= {*those("accepted"), *those("in doubt")}
        send.ledger.hand_over(those("in doubt"))
        goes_on = send.transact(
            accepted=those("accepted"),
            refused=dict.fromkeys(those("refused"), NEVER) | dict.fromkeys(those("later"), LATER),
            left_over=those("left over") if those("accepted") else "",
            error=None if those("accepted") else LOST,
        )
        assert send.attempts.tries <= attempts
        if not goes_on:
            break
        assert number < len("abcd") + attempts
    assert set(send.ledger.replies("accepted")) <= may_have


# Retry


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pause is as long as it can be."""

    def longest(least: float, most: float) -> float:
        assert least <= most
        return most

    monkeypatch.setattr(random, "uniform", longest)


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(), [1, 4, 16, 64, 256, 300, 300]),
        (Retry(base=2, factor=1), [2, 2, 2]),
        (Retry(base=10, factor=10, max_delay=50), [10, 50, 50]),
        (Retry(base=0), [0, 0]),
        (Retry(max_delay=0), [0, 0]),
    ],
)
def test_pauses_grow_up_to_the_longest(retry: Retry, delays: list[float], no_jitter: None) -> None:
    assert [retry.delay(attempt) for attempt in range(1, len(delays) + 1)] == delays


@pytest.mark.parametrize("factor", [4, 4.5])
def test_no_number_of_attempts_is_too_much(factor: float, no_jitter: None) -> None:
    assert Retry(10**6, base=0.5, factor=factor).delay(10**4) == 300


def test_a_random_part_of_up_to_a_half_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return 0.75

    monkeypatch.setattr(random, "uniform", uniform)
    assert Retry(base=8).delay(1) == 6
    assert asked == [(0.5, 1)]
    monkeypatch.undo()
    delays = {Retry(base=8).delay(1) for _ in range(100)}
    assert len(delays) > 50
    assert all(4 <= delay <= 8 for delay in delays)


def test_a_retry_is_a_value() -> None:
    assert Retry() == Retry(3, base=1, factor=4, max_delay=300)
    assert repr(Retry(2)) == "Retry(attempts=2, base=1, factor=4, max_delay=300)"
    with pytest.raises(AttributeError):
        Retry().attempts = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"attempts": 0}, ValueError, "attempts is 1 or more, not 0"),
        ({"attempts": True}, TypeError, "attempts is a number of attempts, not True"),
        ({"attempts": 2.0}, TypeError, r"attempts is a number of attempts, not 2\.0"),
        ({"base": -1}, ValueError, "base is 0 or more, not -1"),
        ({"base": float("nan")}, ValueError, "base is 0 or more, not nan"),
        ({"base": "1"}, TypeError, "base is a number, not '1'"),
        ({"base": True}, TypeError, "base is a number, not True"),
        ({"factor": 0.5}, ValueError, r"factor is 1 or more, not 0\.5"),
        ({"factor": float("inf")}, ValueError, "factor is 1 or more, not inf"),
        ({"max_delay": -1}, ValueError, "max_delay is 0 or more, not -1"),
        ({"max_delay": None}, TypeError, "max_delay is a number, not None"),
    ],
)
def test_numbers_that_make_no_sense_are_an_error(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Retry(**arguments)
