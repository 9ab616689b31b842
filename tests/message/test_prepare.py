from __future__ import annotations

import email
import email.policy
import socket
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage, Message
from email.utils import parsedate_to_datetime

import pytest

from anysmtp._message import parse_sender, prepare

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone(timedelta(hours=-3)))


def message(**fields: str) -> EmailMessage:
    made = EmailMessage()
    for name, value in fields.items():
        made[name.replace("_", "-")] = value
    made.set_content("text")
    return made


def legacy(**fields: str) -> Message:
    made = Message()
    for name, value in fields.items():
        made[name.replace("_", "-")] = value
    made.set_payload("text")
    return made


Maker = Callable[..., Message]

ME = parse_sender("me@x.example")


@pytest.mark.parametrize("make", [message, legacy])
def test_bcc_and_resent_bcc_are_removed_from_a_copy(make: Maker) -> None:
    original = make(From="a@x", Bcc="b@x", resent_BCC="c@x")
    before = list(original.raw_items())
    prepared = prepare(original, sender=ME).message
    assert prepared is not original
    assert "Bcc" not in prepared
    assert "Resent-Bcc" not in prepared
    assert list(original.raw_items()) == before


def test_bcc_of_an_attached_message_is_part_of_the_content() -> None:
    outer = message(From="a@x")
    outer.add_attachment(message(Bcc="b@x"))
    *_, attached = prepare(outer, sender=ME).message.walk()
    assert attached["Bcc"] == "b@x"


@pytest.mark.parametrize("make", [message, legacy])
def test_date_and_message_id_are_added_where_they_are_missing(make: Maker) -> None:
    original = make(From="a@y")
    prepared, message_id = prepare(original, sender=ME, now=NOW)
    assert prepared["Date"] == "Sun, 22 Nov 2026 12:00:00 -0300"
    assert prepared["Message-ID"] == message_id
    assert message_id is not None
    assert message_id.endswith("@x.example>")
    assert "Date" not in original
    assert "Message-ID" not in original


def test_without_a_clock_of_the_callers_the_date_is_the_local_time() -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    date = parsedate_to_datetime(prepare(message(), sender=ME).message["Date"])
    assert before <= date <= datetime.now(timezone.utc)


@pytest.mark.parametrize("make", [message, legacy])
def test_what_is_there_is_kept(make: Maker) -> None:
    original = make(date="Sat, 21 Nov 2026 12:00:00 +0000", MESSAGE_id="<mine@x>")
    prepared, message_id = prepare(original, sender=ME, message_id="<other@x>", now=NOW)
    assert list(prepared.raw_items()) == list(original.raw_items())
    assert message_id == "<mine@x>"


def test_each_new_message_id_is_new() -> None:
    original = message()
    assert prepare(original, sender=ME).message_id != prepare(original, sender=ME).message_id


def test_a_resumed_send_keeps_the_message_id_it_was_given() -> None:
    prepared, message_id = prepare(message(), sender=ME, message_id="<first@x.example>")
    assert prepared["Message-ID"] == message_id == "<first@x.example>"


def test_nothing_is_added_when_the_caller_says_so() -> None:
    original = message(From="a@x")
    prepared, message_id = prepare(
        original, sender=ME, add_missing_headers=False, message_id="<first@x>"
    )
    assert list(prepared.raw_items()) == list(original.raw_items())
    assert message_id is None


@pytest.mark.parametrize("field", ["Resent-To", "Resent-Date", "Resent-Message-ID"])
def test_nothing_is_added_to_what_is_resent(field: str) -> None:
    original = message(From="a@x")
    original[field] = "b@x"
    prepared, message_id = prepare(original, sender=ME)
    assert list(prepared.raw_items()) == list(original.raw_items())
    assert message_id is None


@pytest.mark.parametrize(
    ("sender", "fields", "domain"),
    [
        ("bounces@y.example", {"From": "a@x.example"}, "y.example"),
        ("a@Bücher.example", {}, "xn--bcher-kva.example"),
        ("jörg@bücher.example", {}, "xn--bcher-kva.example"),
        ("a@[127.0.0.1]", {}, "[127.0.0.1]"),
        ("", {"From": "A <a@x.example>"}, "x.example"),
        ("", {"From": "a@x, b@x", "Sender": "b@y"}, "y"),
        ("", {"From": "a b@x"}, "localhost"),
        ("", {}, "localhost"),
        ("root", {"From": "a@x"}, "localhost"),
    ],
)
def test_a_new_message_id_has_the_senders_domain_and_never_the_hosts_name(
    monkeypatch: pytest.MonkeyPatch, sender: str, fields: dict[str, str], domain: str
) -> None:
    for name in ("getfqdn", "gethostname", "gethostbyaddr"):
        monkeypatch.delattr(socket, name)
    message_id = prepare(message(**fields), sender=parse_sender(sender)).message_id
    assert message_id is not None
    assert message_id.endswith(f"@{domain}>")


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.default])
def test_a_folded_or_broken_message_id_is_read_as_it_is(
    policy: email.policy.Policy[Message],
) -> None:
    for source, expected in [
        ("Message-ID:\r\n <a@x>\r\n\r\n", "<a@x>"),
        ("Message-ID: a b\r\n\r\n", "a b"),
        ("Message-ID: <\r\n\r\n", "<"),
        ("Message-ID:\r\n\r\n", None),
    ]:
        parsed = email.message_from_bytes(source.encode(), policy=policy)
        assert prepare(parsed, sender=ME).message_id == expected
