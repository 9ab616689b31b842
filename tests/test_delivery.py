"""What is known about each recipient, and what the caller sees of it."""

from __future__ import annotations

import pytest

from anysmtp._delivery import Delivery, Ledger, Outcome, cancelled, delivery_of, ledger_of
from anysmtp._envelope import Receipt
from anysmtp._reply import Reply
from anysmtp.errors import SMTPException, SMTPNotSupported

OK = Reply(250, "ok")
LATER = Reply(450, "later")
NEVER = Reply(550, "never")
RECEIPT = Receipt(reply=OK, accepted={"a@x": OK})


def started(*keys: str) -> tuple[Delivery[None], Ledger]:
    delivery = Delivery()
    ledger = ledger_of(delivery)
    ledger.start(keys)
    return delivery, ledger


def bring_to(ledger: Ledger, key: str, outcome: Outcome, reply: Reply = NEVER) -> None:
    """Move one recipient from not_sent to an outcome, the way a send does."""
    if outcome in ("accepted", "in_doubt"):
        ledger.hand_over((key,))
    if outcome == "accepted":
        ledger.settle((key,), OK)
    elif outcome == "refused":
        ledger.refuse((key,), reply)


def test_a_new_delivery_knows_nothing() -> None:
    delivery = Delivery()
    assert ledger_of(delivery).is_new
    assert (delivery.phase, delivery.outcome, delivery.key) == ("waiting", None, None)
    assert (delivery.accepted, delivery.refused) == ({}, {})
    assert (delivery.in_doubt, delivery.not_sent, delivery.retry_recipients) == ((), (), ())
    assert (delivery.bytes_sent, delivery.bytes_total, delivery.message_id) == (0, None, None)
    assert not delivery.may_retry


def test_a_recipient_is_not_sent_to_at_first() -> None:
    delivery, ledger = started("a@x", "b@x")
    assert not ledger.is_new
    assert delivery.not_sent == ("a@x", "b@x")


def test_a_refused_recipient_has_its_reply() -> None:
    delivery, ledger = started("a@x", "b@x")
    ledger.refuse(("b@x",), NEVER)
    assert delivery.refused == {"b@x": NEVER}
    assert delivery.not_sent == ("a@x",)


def test_from_the_hand_over_to_the_reply_it_is_in_doubt() -> None:
    delivery, ledger = started("a@x", "b@x")
    ledger.hand_over(("a@x",))
    assert delivery.phase == "reply"
    assert delivery.in_doubt == ("a@x",)
    assert delivery.not_sent == ("b@x",)


@pytest.mark.parametrize(
    ("reply", "outcome"), [(OK, "accepted"), (LATER, "refused"), (NEVER, "refused")]
)
def test_the_final_reply_ends_the_doubt(reply: Reply, outcome: Outcome) -> None:
    delivery, ledger = started("a@x")
    ledger.hand_over(("a@x",))
    ledger.settle(("a@x",), reply)
    assert ledger.replies(outcome) == {"a@x": reply}
    assert delivery.in_doubt == ()


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        (["accepted"], "accepted"),
        (["accepted", "refused"], "refused"),
        (["refused", "accepted", "not_sent"], "not_sent"),
        (["in_doubt", "accepted", "refused", "not_sent"], "in_doubt"),
        ([], "not_sent"),
    ],
)
def test_the_outcome_is_the_worst(outcomes: list[Outcome], worst: Outcome) -> None:
    keys = [f"{number}@x" for number in range(len(outcomes))]
    delivery, ledger = started(*keys)
    for key, outcome in zip(keys, outcomes, strict=True):
        bring_to(ledger, key, outcome)
    assert delivery.outcome is None
    ledger.finish(SMTPException())
    assert delivery.outcome == worst


@pytest.mark.parametrize(
    ("outcome", "reply", "retried"),
    [
        ("not_sent", OK, True),
        ("refused", LATER, True),
        ("refused", NEVER, False),
        ("in_doubt", OK, False),
        ("accepted", OK, False),
    ],
)
def test_only_what_cannot_have_arrived_is_retried(
    outcome: Outcome, reply: Reply, retried: bool
) -> None:
    delivery, ledger = started("a@x")
    bring_to(ledger, "a@x", outcome, reply)
    ledger.finish(SMTPException())
    assert delivery.retry_recipients == (("a@x",) if retried else ())
    assert delivery.may_retry is retried


@pytest.mark.parametrize(("reply", "retried"), [(NEVER, ()), (LATER, ("a@x", "b@x"))])
def test_if_all_or_nobody_must_get_it_one_final_refusal_is_enough(
    reply: Reply, retried: tuple[str, ...]
) -> None:
    delivery = Delivery()
    ledger = ledger_of(delivery)
    ledger.start(("a@x", "b@x"), all_or_nobody=True)
    ledger.refuse(("b@x",), reply)
    ledger.finish(SMTPException())
    assert delivery.retry_recipients == retried
    assert delivery.may_retry is bool(retried)
    ledger.start(("a@x", "b@x"))
    ledger.refuse(("b@x",), reply)
    assert "a@x" in delivery.retry_recipients


def test_a_final_error_ends_all_trying() -> None:
    delivery, ledger = started("a@x")
    ledger.finish(SMTPNotSupported())
    assert delivery.retry_recipients == ("a@x",)
    assert not delivery.may_retry


def test_resuming_forgets_only_those_that_are_asked_again() -> None:
    delivery, ledger = started("a@x", "b@x", "c@x")
    ledger.hand_over(("a@x",))
    ledger.settle(("a@x",), OK)
    ledger.refuse(("b@x",), LATER)
    ledger.refuse(("c@x",), NEVER)
    ledger.bytes_sent, ledger.message_id = 100, "<1@x>"
    ledger.finish(RECEIPT)
    ledger.start(delivery.retry_recipients)
    assert (delivery.phase, delivery.outcome) == ("waiting", None)
    assert delivery.not_sent == ("b@x",)
    assert delivery.accepted == {"a@x": OK}
    assert delivery.refused == {"c@x": NEVER}
    assert (delivery.bytes_sent, delivery.message_id) == (0, "<1@x>")
    assert (ledger.receipt, ledger.error) == (None, None)


@pytest.mark.parametrize("outcome", ["accepted", "in_doubt"])
def test_nobody_who_may_have_it_is_asked_again(outcome: Outcome) -> None:
    _, ledger = started("a@x")
    bring_to(ledger, "a@x", outcome)
    with pytest.raises(AssertionError):
        ledger.start(("a@x",))


def test_the_result_is_the_receipt() -> None:
    delivery, ledger = started("a@x")
    ledger.finish(RECEIPT)
    assert delivery.phase == "done"
    assert delivery.result() is RECEIPT
    assert delivery.exception() is None


def test_the_result_is_the_exception() -> None:
    delivery, ledger = started("a@x")
    error = SMTPException("it failed")
    ledger.finish(error)
    assert delivery.exception() is error
    with pytest.raises(SMTPException, match="it failed") as caught:
        delivery.result()
    assert caught.value is error


def test_under_way_there_is_no_result() -> None:
    delivery, _ = started("a@x")
    with pytest.raises(RuntimeError, match="has not ended"):
        delivery.result()
    with pytest.raises(RuntimeError, match="has not ended"):
        delivery.exception()


def test_a_late_yes_is_believed_of_one_that_was_taken_back_unless_it_is_sent_again() -> None:
    delivery, ledger = started("a@x", "b@x")
    ledger.hand_over(("a@x", "b@x"))
    ledger.take_back(("a@x", "b@x"), 1)
    ledger.finish(cancelled(delivery, "not_sent"))
    ledger.learn(("a@x",), "refused", LATER, 1)
    assert [*delivery.not_sent] == ["a@x", "b@x"]
    ledger.learn(("a@x",), "accepted", OK, 1)
    assert delivery.accepted == {"a@x": OK}
    assert delivery.retry_recipients == ("b@x",)
    ledger.start(delivery.retry_recipients)
    ledger.learn(("b@x",), "accepted", OK, 1)
    assert [*delivery.not_sent] == ["b@x"]


@pytest.mark.parametrize("outcome", ["refused", "not_sent"])
def test_a_late_reply_ends_no_doubt_but_its_own(outcome: Outcome) -> None:
    delivery, ledger = started("a@x", "b@x")
    ledger.hand_over(("a@x", "b@x"))
    ledger.finish(cancelled(delivery, "in_doubt"))
    ledger.learn(("a@x",), "refused", LATER, 1)
    ledger.start(delivery.retry_recipients)
    ledger.hand_over(("a@x",))
    ledger.learn(("a@x", "b@x"), outcome, LATER, 1)
    assert delivery.in_doubt == ("a@x",)
    assert not ledger.is_any("in_doubt", ("b@x",))


def test_a_cancelled_send_says_so() -> None:
    delivery, ledger = started("a@x")
    ledger.hand_over(("a@x",))
    ledger.finish(cancelled(delivery, "in_doubt"))
    with pytest.raises(SMTPException, match="the send was cancelled") as caught:
        delivery.result()
    assert caught.value.in_doubt
    assert caught.value.delivery is delivery


def test_the_repr_says_the_state() -> None:
    assert repr(Delivery()) == "<Delivery waiting>"
    delivery = Delivery(key="42")
    ledger = ledger_of(delivery)
    ledger.start(("a@x",))
    ledger.phase = "connecting"
    assert repr(delivery) == "<Delivery '42' connecting>"
    ledger.finish(SMTPException())
    assert repr(delivery) == "<Delivery '42' not_sent>"


def test_progress_is_the_ledgers() -> None:
    delivery, ledger = started("a@x")
    ledger.bytes_sent, ledger.bytes_total, ledger.message_id = 3, 9, "<1@x>"
    assert (delivery.bytes_sent, delivery.bytes_total, delivery.message_id) == (3, 9, "<1@x>")


# Several transactions of one send


def leave_over(ledger: Ledger, *keys: str) -> None:
    ledger.left_over = keys


def test_another_transaction_forgets_what_its_recipients_were_told() -> None:
    delivery, ledger = started("a@x", "b@x", "c@x")
    ledger.hand_over(("a@x",))
    ledger.settle(("a@x",), OK)
    ledger.refuse(("b@x",), LATER)
    ledger.bytes_sent = 100
    leave_over(ledger, "b@x", "c@x")
    ledger.again(("b@x", "c@x"))
    assert (delivery.phase, delivery.bytes_sent) == ("waiting", 0)
    assert ledger.left_over == ()
    assert delivery.accepted == {"a@x": OK}
    assert delivery.not_sent == ("b@x", "c@x")
    assert ledger.finals == [OK]


@pytest.mark.parametrize("outcome", ["accepted", "in_doubt"])
def test_nobody_who_may_have_it_is_in_another_transaction(outcome: Outcome) -> None:
    _, ledger = started("a@x", "b@x")
    bring_to(ledger, "a@x", outcome)
    with pytest.raises(AssertionError):
        ledger.again(("b@x", "a@x"))


def test_taken_back_is_what_was_in_doubt_and_nothing_else() -> None:
    delivery, ledger = started("a@x", "b@x", "c@x", "d@x")
    bring_to(ledger, "a@x", "accepted")
    bring_to(ledger, "b@x", "refused")
    bring_to(ledger, "c@x", "in_doubt")
    ledger.take_back(("a@x", "b@x", "c@x", "d@x"), ledger.epoch)
    assert delivery.accepted == {"a@x": OK}
    assert delivery.refused == {"b@x": NEVER}
    assert delivery.not_sent == ("c@x", "d@x")


def test_a_receipt_has_what_all_transactions_came_to() -> None:
    delivery, ledger = started("a@x", "b@x", "c@x")
    second = Reply(250, "second")
    ledger.server, ledger.message_id = "h:25", "<1@x>"
    ledger.refuse(("c@x",), NEVER)
    ledger.settle(("a@x",), OK)
    ledger.again(("b@x",))
    ledger.settle(("b@x",), second)
    receipt = ledger.receipt_now()
    assert receipt == Receipt(
        reply=second,
        replies=(OK, second),
        accepted={"a@x": OK, "b@x": second},
        refused={"c@x": NEVER},
        message_id="<1@x>",
        server="h:25",
    )
    ledger.finish(receipt)
    assert delivery.result() is receipt


def test_a_resumed_send_counts_its_own_transactions() -> None:
    _, ledger = started("a@x", "b@x")
    ledger.settle(("a@x",), OK)
    ledger.refuse(("b@x",), LATER)
    ledger.finish(ledger.receipt_now())
    ledger.start(("b@x",))
    assert ledger.finals == []
    second = Reply(250, "second")
    ledger.settle(("b@x",), second)
    receipt = ledger.receipt_now()
    assert receipt.replies == (second,)
    assert receipt.accepted == {"a@x": OK, "b@x": second}


@pytest.mark.parametrize(("reply", "outcome"), [(OK, "accepted"), (NEVER, "refused")])
def test_a_reply_after_the_end_of_a_send_ends_the_doubt(reply: Reply, outcome: Outcome) -> None:
    delivery, ledger = started("a@x")
    ledger.hand_over(("a@x",))
    error = cancelled(delivery, ledger.outcome)
    ledger.finish(error)
    assert delivery.outcome == "in_doubt"
    ledger.settle(("a@x",), reply)
    assert delivery.outcome == outcome
    assert delivery.phase == "done"
    assert not delivery.may_retry


def test_a_delivery_can_be_made_from_a_receipt() -> None:
    receipt = Receipt(
        reply=OK, accepted={"a@x": OK}, refused={"b@x": LATER, "c@x": NEVER}, message_id="<1@x>"
    )
    delivery = delivery_of(receipt)
    assert (delivery.phase, delivery.message_id) == ("done", "<1@x>")
    assert (delivery.accepted, delivery.refused) == (receipt.accepted, receipt.refused)
    assert delivery.retry_recipients == ("b@x",)
    assert delivery.may_retry
    assert delivery.result() is receipt
