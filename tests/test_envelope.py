"""The values of a mail transaction."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields
from email.message import EmailMessage

import pytest

from anysmtp._envelope import Envelope, Mail, Mailbox, Receipt
from anysmtp._reply import Reply
from anysmtp.errors import SMTPRecipientsRefused

OK = Reply(250, "ok")
RECEIPT = Receipt(reply=OK, accepted={"a@x": OK}, server="h:25")
PARTIAL = Receipt(
    reply=OK,
    accepted={"a@x": OK},
    refused={"b@x": Reply(550), "c@x": Reply(450), "d@x": Reply(452)},
    message_id="<1@x>",
    server="h:25",
)


def test_a_receipt_without_refusals_passes() -> None:
    assert RECEIPT.raise_for_refused() is RECEIPT
    assert RECEIPT.retry_recipients == ()


def test_a_receipt_with_refusals_raises_them() -> None:
    with pytest.raises(SMTPRecipientsRefused, match=r"h:25 RCPT TO:<b@x>: 3 recipients") as caught:
        PARTIAL.raise_for_refused()
    assert caught.value.refused == PARTIAL.refused
    assert caught.value.outcome == "refused"


def test_what_it_raises_knows_who_has_the_message() -> None:
    with pytest.raises(SMTPRecipientsRefused) as caught:
        PARTIAL.raise_for_refused()
    delivery = caught.value.delivery
    assert delivery is not None
    assert (delivery.accepted, delivery.refused) == (PARTIAL.accepted, PARTIAL.refused)
    assert delivery.retry_recipients == ("c@x", "d@x")
    assert delivery.message_id == PARTIAL.message_id == "<1@x>"
    assert delivery.result() is PARTIAL


def test_a_receipt_in_words() -> None:
    assert str(RECEIPT) == "h:25 accepted for 1: 250 ok"
    assert str(PARTIAL) == "h:25 accepted for 1, refused for 3: 250 ok"


def test_the_repr_of_a_mail_says_its_key_and_nothing_of_the_message() -> None:
    assert repr(Mail(b"secret")) == "<Mail bytes>"
    assert repr(Mail(EmailMessage(), key="order 7")) == "<Mail 'order 7' EmailMessage>"


def test_those_that_were_refused_for_now_may_be_tried_again() -> None:
    assert PARTIAL.retry_recipients == ("c@x", "d@x")


@pytest.mark.parametrize(
    "value", [PARTIAL, Mailbox("A <a@x>", "a@x", "a@x"), Envelope(sender="a@x", recipients=["b@x"])]
)
def test_they_are_values(value: Receipt | Mailbox | Envelope) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, "c@x")
