"""Which messages are plain, and what comes of them.

That others would make the same of them is shown in test_identity.
"""

from __future__ import annotations

import email
import email.policy
from email.headerregistry import HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage, Message
from email.policy import EmailPolicy
from typing import Any, cast

import pytest

from anysmtp._message import Plain, parse_sender, read_plain
from anysmtp._message._content import CHUNK

FIELDS = {
    "From": "Ann <ann@x.example>",
    "To": "Bob Builder <bob@y.example>, carol@y.example",
    "Subject": "An ordinary message",
}


def made(policy: Any = email.policy.default, **fields: Any) -> EmailMessage:
    message = EmailMessage(policy)
    for name, value in (FIELDS | fields).items():
        message[name.replace("_", "-")] = value
    message.set_content("text\n")
    return message


def parsed(source: str, policy: Any = email.policy.default) -> Message:
    found: Message = email.message_from_string(source, policy=policy)
    return found


def known(message: Message) -> Plain:
    plain = read_plain(message)
    assert plain is not None
    return plain


def octets(message: Message, sender: str = "me@z.example") -> tuple[bytes, str | None]:
    """With what was missing."""
    written = known(message).written(parse_sender(sender), add_missing_headers=True)
    assert written is not None
    return written[0].whole(), written[1]


MANY = ", ".join(f"Some One <one{number}@x.example>" for number in range(9))
SOURCE = "".join(f"{name}: {value}\n" for name, value in FIELDS.items())


def legacy() -> Message:
    message = Message()
    for name, value in FIELDS.items():
        message[name] = value
    message.set_payload("text\n")
    return message


def encoded() -> Message:
    message = made()
    message.set_content("Grüße\n", cte="base64")
    return message


@pytest.mark.parametrize(
    "message",
    [
        made(),
        made(policy=email.policy.SMTP),
        encoded(),
        made(DKIM_Signature="v=1; a=rsa-sha256; b=abc="),
        *(
            made(Subject="word " * 20),
            made(Reply_To=MANY),
            made(Bcc=", ".join(["Bob <bob@y.example>"] * 9)),
        ),
        made(Received="from a by b"),
        parsed(f"{SOURCE}\ntext\n"),
        parsed(f"{SOURCE}Content-Type: text/html\nReceived: a\nReceived: b\n\ntext"),
        parsed(f"{SOURCE}Content-Type: text/html\n\ntext", email.policy.compat32),
        legacy(),
    ],
)
def test_what_programs_send_is_plain(message: Message) -> None:
    plain = known(message)
    sender, recipients = plain.sender(), plain.recipients()
    assert sender.ascii == "ann@x.example"
    assert [each.ascii for each in recipients] == ["bob@y.example", "carol@y.example"]


def with_default_type() -> Message:
    message = legacy()
    message.set_default_type("message/rfc822")
    return message


def with_own_type() -> Message:
    """A field of a class that the policy's owner chose for it."""
    registry = HeaderRegistry()
    registry.map_to_type("content-type", cast("Any", UnstructuredHeader))
    policy = EmailPolicy(header_factory=registry)
    return parsed(f"{SOURCE}Content-Type: text/html\n\ntext", policy)


def with_attachment() -> Message:
    message = made()
    message.add_attachment(b"x", "application", "octet-stream")
    return message


def of_own_class() -> Message:
    class Own(Message):
        def get_payload(self, *args: Any, **kwargs: Any) -> Any:
            return "other text"

    return Own()


def of_own_policy() -> Message:
    class Own(EmailPolicy):
        pass

    return made(policy=Own())


@pytest.mark.parametrize(
    "message",
    [
        # Its class, its policy, its parts
        *(of_own_class(), of_own_policy(), with_attachment(), with_default_type()),
        *(with_own_type(), Message()),
        # Its body
        *(parsed(f"{SOURCE}\nGrüße"), parsed(f"{SOURCE}\n{'x' * 999}")),
        parsed(f"{SOURCE}\n" + "text\n" * CHUNK),
        parsed(f"{SOURCE}Content-Transfer-Encoding: binary\n\ntext"),
        parsed(f"{SOURCE}Content-Type: multipart/mixed; boundary=b\n\ntext"),
        parsed(f"{SOURCE}Content-Type: multipart_signed/x\n\ntext"),
        parsed(f"{SOURCE}Content-Type: (comment) text/plain\n\ntext"),
        # Its fields
        *(made(Subject="Grüße"), made(Subject="a\tb"), made(Subject="x" * 80)),
        *(made(Resent_To="c@x.example"), made(Reply_To="=?utf-8?q?a?= <c@x.example>")),
        *(parsed(f"{SOURCE}X: a\n b\n\ntext"), parsed(f"{SOURCE}To: b@x\n\ntext")),
        parsed(f"{SOURCE}X: {'x' * 999}\n\ntext", email.policy.HTTP),
        # Its addresses
        *(made(To="b@y.example (Bob)"), made(To="Bob  B <b@y.example>")),
    ],
)
def test_what_is_not_shown_to_be_plain_is_left_to_others(message: Message) -> None:
    assert read_plain(message) is None


def test_blind_recipients_are_recipients_and_are_not_written() -> None:
    message = made(Bcc="dave@y.example", Cc="erin@y.example")
    found = [each.ascii for each in known(message).recipients()]
    assert found[2:] == ["erin@y.example", "dave@y.example"]
    written, _ = octets(message)
    assert b"erin" in written
    assert b"Bcc" not in written
    assert b"dave" not in written


def test_long_fields_are_on_several_lines() -> None:
    written, _ = octets(made(To=MANY, Subject="word " * 20 + "end"))
    head = written[: written.index(b"\r\n\r\n")]
    assert max(map(len, head.split(b"\r\n"))) <= 78
    assert f"\r\nTo: {MANY}\r\n".encode() in head.replace(b"\r\n ", b" ")
    assert b"\r\nSubject: word word" in head
    assert b"word\r\n word" in head


def test_date_and_message_id_are_added_where_they_are_missing() -> None:
    written, message_id = octets(made())
    assert written.count(b"\r\nDate: ") == 1
    assert f"\r\nMessage-ID: {message_id}\r\n\r\ntext\r\n".encode() in written
    assert message_id is not None
    assert message_id.endswith("@z.example>")
    message = made(Date="Sun, 22 Nov 2026 12:00:00 +0000", Message_ID="<1@x.example>")
    written, message_id = octets(message)
    assert message_id == "<1@x.example>"
    assert written.count(b"\r\nDate: ") == written.count(b"\r\nMessage-ID: ") == 1


def test_what_would_be_folded_is_not_added() -> None:
    plain = known(made())
    sender = parse_sender(f"me@{'long.' * 10}example")
    assert plain.written(sender, add_missing_headers=True) is None
    assert plain.written(sender, add_missing_headers=False) is not None


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"From": "a b@x.example"}, "From: malformed address"),
        ({"From": "a@x.example, b@x.example"}, "2 addresses in From"),
        ({"Sender": "", "From": "a@x.example"}, "0 addresses in Sender"),
        ({}, "no sender"),
    ],
)
def test_the_wrong_senders_are_explained(fields: dict[str, str], error: str) -> None:
    message = Message()
    for name, value in fields.items():
        message[name] = value
    message.set_payload("text")
    with pytest.raises(ValueError, match=error):
        known(message).sender()


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"To": "a b@x.example"}, "To: malformed address"), ({}, "no recipients in To, Cc, Bcc")],
)
def test_the_wrong_recipients_are_explained(fields: dict[str, str], error: str) -> None:
    message = Message()
    for name, value in fields.items():
        message[name] = value
    message.set_payload("text")
    with pytest.raises(ValueError, match=error):
        known(message).recipients()


def test_what_is_changed_after_it_was_read_is_not_written() -> None:
    message = made()
    plain = known(message)
    message.replace_header("Subject", "Another")
    message.set_content("other")
    written = plain.written(None, add_missing_headers=False)
    assert written is not None
    assert b"An ordinary message" in written[0].whole()
    assert written[0].whole().endswith(b"\r\n\r\ntext\r\n")
