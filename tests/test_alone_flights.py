"""What leaves first on the short way is what a transaction begins with, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp import Envelope
from anysmtp._alone import cover_for
from anysmtp._delivery import Ledger
from anysmtp._envelope import Job, Mailbox
from anysmtp._parameters import notify_parameter
from anysmtp._protocol._extensions import Extensions
from anysmtp._protocol._transaction import Transaction
from anysmtp._reply import Reply
from support.jobs import Octets, job, mailbox

EIGHT = Octets(is_8bit=True)
UTF8 = Octets(is_8bit=True, is_utf8=True)
NOTIFIED = Mailbox("b@x", "b@x", "b@x", (notify_parameter(("never",)),))
ALL = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "MT-PRIORITY")


def offering(offers: Sequence[str]) -> Extensions:
    return Extensions(Reply(250, ["x", *offers]))


def short(message: Job, offers: Sequence[str]) -> bytes | None:
    extensions, content = offering(offers), message.content
    cover = cover_for(message, content, extensions)
    if cover is None:
        return None
    assert isinstance(content, Octets)
    assert cover.keys == [recipient.given for recipient in message.recipients]
    return cover.flight(content, extensions, is_behind=False)


def general(message: Job, offers: Sequence[str]) -> bytes:
    ledger = Ledger()
    ledger.start([recipient.given for recipient in message.recipients])
    extensions = offering(offers)
    transaction = Transaction(message, message.content, extensions, ledger, reset_first=False)
    return b"".join(command.line for command, _ in transaction.flight())


@given(
    offers=st.lists(st.sampled_from([*ALL, "SIZE 99", "SIZE 100"]), unique=True),
    recipients=st.lists(st.sampled_from(["b@x", "c@y", "d@\u00e9.test"]), min_size=1, max_size=4),
    content=st.sampled_from([Octets(), Octets(), EIGHT, UTF8]),
    has_sender=st.booleans(),
    options=st.sampled_from([(), (), ("RET=HDRS",), ("SIZE=7",), ("SMTPUTF8",)]),
    require_all=st.booleans(),
)
def test_it_is_what_a_transaction_begins_with(
    offers: list[str],
    recipients: list[str],
    content: Octets,
    has_sender: bool,
    options: tuple[str, ...],
    require_all: bool,
) -> None:
    more: dict[str, Any] = {} if has_sender else {"sender": None}
    message = job(
        *recipients, content=content, mail_options=options, require_all=require_all, **more
    )
    flight = short(message, offers)
    assert flight is None or flight == general(message, offers)


def test_a_message_that_asks_for_nothing_has_it() -> None:
    flight = short(job(), ALL)
    assert flight is not None
    assert flight.split(b"\r\n") == [
        b"MAIL FROM:<a@x> SIZE=100",
        b"RCPT TO:<b@x>",
        b"RCPT TO:<c@x>",
        b"DATA",
        b"",
    ]


@pytest.mark.parametrize(
    ("message", "offers"),
    [
        (job(), ("SIZE",)),
        (job(), (*ALL, "LIMITS RCPTMAX=1")),
        (job(require_all=True), ALL),
        (job(rcpt_options=("NOTIFY=NEVER",)), ALL),
        (job(mail_parameters=Envelope(priority=1).parameters()), ALL),
        (job(recipients=(mailbox("b@x"), NOTIFIED)), ALL),
        (job(sender=mailbox("\u00e9@x")), ALL),
        (job("\u00e9@x"), ALL),
        (job("b@x", mail_options=("SMTPUTF8",)), ALL),
        (job(content=EIGHT), ("PIPELINING",)),
        (job(content=Octets(size=65537)), ALL),
        (job(), ("PIPELINING", "SIZE 99")),
        (job(*(f"r{number}@x" for number in range(127))), ALL),
    ],
)
def test_what_takes_more_planning_has_none(message: Job, offers: Sequence[str]) -> None:
    assert short(message, offers) is None
