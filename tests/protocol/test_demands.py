"""What MAIL and RCPT say, and what is never begun because the server does not offer it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from anysmtp import DSN, Envelope, Recipient
from anysmtp._envelope import Content, Job, Mailbox
from anysmtp._parameters import BINARY, REQUIRETLS, notify_parameter
from anysmtp._protocol._demands import (
    mail_parameters,
    needs_downgrade,
    rcpt_parameters,
    with_notify,
)
from anysmtp._protocol._extensions import Extensions
from anysmtp._reply import Reply
from anysmtp.errors import SMTPMessageTooLarge, SMTPNotSupported, SMTPTLSError
from support.jobs import Octets, job, mailbox

EIGHT = Octets(is_8bit=True)
UTF8 = Octets(is_8bit=True, is_utf8=True)
NOTIFIED = Mailbox("Bob <b@x>", "b@x", "b@x", (notify_parameter(("never",)),))


def offering(*offers: str) -> Extensions:
    return Extensions(Reply(250, ["x", *offers]))


def said(job: Job, *offers: str, is_tls_verified: bool = False) -> tuple[str, bool]:
    parameters, uses_utf8 = mail_parameters(
        job, job.content, offering(*offers), is_tls_verified=is_tls_verified
    )
    return " ".join(parameters), uses_utf8


@pytest.mark.parametrize(
    ("more", "offers", "line"),
    [
        ({"sender": None}, [], ""),
        ({}, [], ""),
        ({}, ["SIZE"], "SIZE=100"),
        ({}, ["SIZE 100"], "SIZE=100"),
        ({"mail_options": ("size=7",)}, ["SIZE 100"], "size=7"),
        ({"mail_options": ("RET=HDRS",)}, ["SIZE"], "SIZE=100 RET=HDRS"),
        ({}, ["8BITMIME", "SMTPUTF8"], ""),
        ({"content": EIGHT}, ["8BITMIME"], "BODY=8BITMIME"),
        ({"content": EIGHT, "mail_options": ("BODY=X",)}, ["8BITMIME"], "BODY=X"),
        ({"mail_parameters": (BINARY,)}, ["BINARYMIME", "CHUNKING"], "BODY=BINARYMIME"),
        (
            {"mail_parameters": Envelope(priority=1).parameters(), "mail_options": ("X=1",)},
            ["SIZE", "MT-PRIORITY"],
            "SIZE=100 MT-PRIORITY=1 X=1",
        ),
    ],
)
def test_mail_says_what_the_message_needs(
    more: dict[str, Any], offers: list[str], line: str
) -> None:
    assert said(job(**more), *offers) == (line, False)


@pytest.mark.parametrize(
    ("more", "offers", "line"),
    [
        ({"content": UTF8}, ["8BITMIME", "SMTPUTF8"], "BODY=8BITMIME SMTPUTF8"),
        ({"sender": mailbox("ä@x")}, ["SMTPUTF8"], "SMTPUTF8"),
        ({"sender": mailbox("ä@x"), "mail_options": ("smtputf8",)}, ["SMTPUTF8"], "smtputf8"),
        ({"recipients": (mailbox("ä@x"),)}, ["SMTPUTF8"], "SMTPUTF8"),
    ],
)
def test_utf8_is_used_where_it_is_needed(
    more: dict[str, Any], offers: list[str], line: str
) -> None:
    assert said(job(**more), *offers) == (line, True)


@pytest.mark.parametrize(
    ("more", "offers", "error", "text"),
    [
        ({}, ["SIZE 99"], SMTPMessageTooLarge, "has 100 octets, the server takes 99"),
        ({"mail_options": ("SIZE=1",)}, ["SIZE 99"], SMTPMessageTooLarge, "100 octets"),
        ({"content": EIGHT}, [], SMTPNotSupported, "does not offer 8BITMIME$"),
        (
            {"content": EIGHT, "fixed": "it is signed"},
            [],
            SMTPNotSupported,
            "8BITMIME; it cannot be converted, for it is signed",
        ),
        ({"content": UTF8}, ["8BITMIME"], SMTPNotSupported, "header section is not ASCII"),
        (
            {"content": UTF8, "utf8_address": "ü@x"},
            ["8BITMIME"],
            SMTPNotSupported,
            "not ASCII, for the address ü@x in it, and the server",
        ),
        ({"sender": mailbox("ä@x")}, [], SMTPNotSupported, "local part of ä@x is not ASCII"),
        ({"recipients": (mailbox("ö@x"),)}, [], SMTPNotSupported, "local part of ö@x"),
        (
            {"mail_parameters": tuple(DSN(envid="1").of_mail())},
            [],
            SMTPNotSupported,
            "ENVID=1 is asked for the message and the server does not offer DSN",
        ),
        (
            {"recipients": (NOTIFIED,)},
            [],
            SMTPNotSupported,
            "NOTIFY=NEVER is asked for Bob <b@x> and the server does not offer DSN",
        ),
        (
            {"mail_parameters": Envelope(deliver_by=9).parameters()},
            ["DELIVERBY 10"],
            SMTPNotSupported,
            "within 9 seconds is asked for, the server wants 10",
        ),
        (
            {
                "mail_parameters": Envelope(
                    hold_until=datetime(2041, 1, 1, tzinfo=timezone.utc)
                ).parameters()
            },
            ["FUTURERELEASE 60 2040-01-01T00:00:00Z"],
            SMTPNotSupported,
            "holds until 2040",
        ),
        ({"mail_parameters": (BINARY,)}, ["CHUNKING"], SMTPNotSupported, "offer BINARYMIME"),
        ({"mail_parameters": (BINARY,)}, ["BINARYMIME"], SMTPNotSupported, "no CHUNKING"),
        ({"mail_parameters": (REQUIRETLS,)}, ["REQUIRETLS"], SMTPTLSError, "was verified"),
    ],
)
def test_what_the_server_cannot_take_is_not_begun(
    more: dict[str, Any], offers: list[str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        said(job(**more), *offers)


def test_requiretls_is_said_where_tls_is_verified() -> None:
    asked = job(mail_parameters=(REQUIRETLS,))
    assert said(asked, "REQUIRETLS", is_tls_verified=True) == ("REQUIRETLS", False)


def test_rcpt_says_what_is_asked_for_its_recipient() -> None:
    asked = job(recipients=(NOTIFIED, mailbox("c@x")), rcpt_options=("NOTIFY=NEVER", "X=1"))
    own, other = asked.recipients
    assert rcpt_parameters(asked, own) == ("NOTIFY=NEVER", "X=1")
    assert rcpt_parameters(asked, other) == asked.rcpt_options


def test_a_recipients_own_wish_stands_in_place_of_the_messages() -> None:
    orcpt = Mailbox("c@x", "c@x", "c@x", Recipient("c@x", orcpt="o@x").parameters())
    found = with_notify((NOTIFIED, orcpt), ("delay",))
    texts = [[parameter.text for parameter in each.parameters] for each in found]
    assert texts == [["NOTIFY=NEVER"], ["NOTIFY=DELAY", "ORCPT=rfc822;o@x"]]


@pytest.mark.parametrize(
    ("content", "offers", "needed"),
    [(EIGHT, [], True), (EIGHT, ["8BITMIME"], False), (Octets(), [], False)],
)
def test_only_octets_above_127_need_a_downgrade(
    content: Content, offers: list[str], needed: bool
) -> None:
    assert needs_downgrade(content, offering(*offers)) is needed
