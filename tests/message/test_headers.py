from __future__ import annotations

import email
import email.policy
from collections.abc import Iterable
from email.header import Header
from email.headerregistry import Address, Group
from email.message import EmailMessage, Message
from email.policy import Policy
from typing import Any

import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st

from anysmtp._envelope import Mailbox
from anysmtp._message import needs_utf8, parse_recipients, recipients_of, sender_of, serialise
from anysmtp._message._addresses import local_part_of

POLICIES = [email.policy.compat32, email.policy.default, email.policy.SMTPUTF8]


@pytest.fixture(params=POLICIES, ids=["compat32", "default", "SMTPUTF8"])
def policy(request: pytest.FixtureRequest) -> Policy[Any]:
    found: Policy[Any] = request.param
    return found


def parsed(source: str | bytes, policy: Policy[Any] = email.policy.default) -> Message:
    raw = source.encode() if isinstance(source, str) else source
    return email.message_from_bytes(raw.replace(b"\n", b"\r\n") + b"\r\n\r\n", policy=policy)


def built(policy: Policy[Any] = email.policy.default, **fields: Any) -> Message:
    message: Message = email.message_from_string("", policy=policy)
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def sender(message: Message) -> str:
    return sender_of(message).given


def recipients(message: Message) -> list[str]:
    return [mailbox.given for mailbox in recipients_of(message)]


def test_sender_comes_before_from(policy: Policy[Any]) -> None:
    assert sender(built(policy, From="A <a@x>")) == "a@x"
    assert sender(built(policy, From="A <a@x>", Sender="B <b@x>")) == "b@x"
    assert sender(built(policy, From="a@x, b@x", Sender="b@x")) == "b@x"


def test_the_sender_is_known_by_its_addr_spec_and_parsed() -> None:
    mailbox = sender_of(built(From="Jörg <j@bücher.example>"))
    assert (mailbox.given, mailbox.ascii) == ("j@bücher.example", "j@xn--bcher-kva.example")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "no sender: set From or give the argument sender"),
        ({"To": "a@x"}, "no sender"),
        ({"From": "a@x, b@x"}, "2 addresses in From and one sender needed: set Sender or"),
        ({"From": "Nobody:;"}, "0 addresses in From"),
        ({"From": "a@x", "Sender": ""}, "0 addresses in Sender"),
        ({"From": "a@x", "Sender": "b@x, c@x"}, "2 addresses in Sender"),
        ({"From": "a b@x"}, r"From: malformed address in 'a b@x'"),
        ({"From": "<>"}, "From: malformed address"),
        ({"Resent-To": "a@x", "From": "b@x"}, "no sender: set Resent-From"),
    ],
)
def test_no_single_sender_is_an_error(
    policy: Policy[Any], fields: dict[str, str], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        sender_of(built(policy, **fields))


def test_recipients_are_those_of_to_cc_and_bcc_each_once(policy: Policy[Any]) -> None:
    message = built(policy, Bcc="c@x, a@X", Cc="B <b@x>", To="a@x, A <a@x>, b@x", Reply_To="r@x")
    assert recipients(message) == ["a@x", "b@x", "c@x"]


def test_all_fields_of_one_name_count() -> None:
    assert recipients(parsed("To: a@x\nCc: c@x\nto: b@x")) == ["a@x", "b@x", "c@x"]


def test_groups_are_expanded_and_empty_ones_give_nothing(policy: Policy[Any]) -> None:
    assert recipients(built(policy, To="g: a@x, B <b@x>;, c@x")) == ["a@x", "b@x", "c@x"]
    assert recipients(built(policy, To="undisclosed-recipients:;", Bcc="a@x")) == ["a@x"]


def test_header_objects_of_address_and_group() -> None:
    group = Group("g", (Address("Doe, Jane", "j d", "x"), Address("Ö", "o", "y")))
    assert recipients(built(To=[group, Address("A", "a", "x")])) == ['"j d"@x', "o@y", "a@x"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "no recipients in To, Cc, Bcc: give the argument recipients"),
        ({"To": "undisclosed-recipients:;"}, "no recipients in To, Cc, Bcc"),
        ({"To": "", "Cc": " "}, "no recipients"),
        ({"Resent-From": "a@x", "To": "b@x"}, "no recipients in Resent-To, Resent-Cc, Resent-Bcc"),
        ({"To": "a@x, b c@x"}, "To: malformed address"),
        ({"To": "a@x <b@x>"}, "To: malformed address"),
        ({"To": "a@x; b@x"}, "To: commas separate addresses"),
        ({"To": "a@x", "Cc": "Doe, Müller, John <a@x>"}, "Cc: no domain in 'Müller'"),
        ({"To": "a@x", "Bcc": "jane@x..y"}, "Bcc: malformed domain"),
    ],
)
def test_no_recipients_or_malformed_ones_are_an_error(
    policy: Policy[Any], fields: dict[str, str], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        recipients_of(built(policy, **fields))


def test_what_is_not_needed_cannot_be_wrong() -> None:
    message = built(From="a b@x", To="c@x")
    assert recipients(message) == ["c@x"]
    message = built(From="a@x", To="b c@x")
    assert sender(message) == "a@x"


def test_a_resent_block_takes_the_place_of_the_other_fields(policy: Policy[Any]) -> None:
    message = built(policy, From="a@x", Sender="s@x", To="b@x", Cc="c@x", Bcc="d@x")
    message["Resent-From"] = "ra@x"
    message["Resent-To"] = "rb@x"
    assert (sender(message), recipients(message)) == ("ra@x", ["rb@x"])
    message["Resent-Sender"] = "rs@x"
    message["Resent-Bcc"] = "rd@x"
    message["Resent-Cc"] = "rc@x"
    assert (sender(message), recipients(message)) == ("rs@x", ["rb@x", "rc@x", "rd@x"])


@pytest.mark.parametrize(
    "name", ["Date", "From", "Sender", "To", "Cc", "Bcc", "Message-ID", "message-id"]
)
def test_two_resent_blocks_are_an_error(policy: Policy[Any], name: str) -> None:
    once = f"Resent-{name}: a@x\nReceived: x\nFrom: a@x\nTo: b@x"
    twice = parsed(f"RESENT-{name}: b@x\n{once}", policy)
    for wanted in (sender_of, recipients_of):
        with pytest.raises(ValueError, match="several blocks of Resent- fields"):
            wanted(twice)


def test_resent_fields_in_one_block_are_found_in_any_order(policy: Policy[Any]) -> None:
    message = parsed("Resent-To: b@x\nReceived: x\nResent-Date: x\nResent-From: a@x", policy)
    assert (sender(message), recipients(message)) == ("a@x", ["b@x"])


def test_other_fields_that_start_with_resent_are_no_block() -> None:
    message = parsed("From: a@x\nTo: b@x\nResent-Reply-To: r@x\nX-Resent-To: c@x")
    assert (sender(message), recipients(message)) == ("a@x", ["b@x"])


def test_encoded_words_and_quotes_hide_no_separators(policy: Policy[Any]) -> None:
    to = '=?utf-8?q?M=C3=BCller=2C_c=40y?= <a@x>, "Doe, Jane" <b@x>, c@x (d@x, e@x)'
    assert recipients(parsed(f"To: {to}", policy)) == ["a@x", "b@x", "c@x"]
    assert recipients(built(policy, To=to)) == ["a@x", "b@x", "c@x"]


def test_folded_fields_are_unfolded(policy: Policy[Any]) -> None:
    message = parsed('To: A\n <a@x>,\n\t"B\n  C" <b@x>,\n c@x', policy)
    assert recipients(message) == ["a@x", "b@x", "c@x"]


def test_utf8_in_a_parsed_header_section(policy: Policy[Any]) -> None:
    message = parsed("To: Jörg <jörg@bücher.example>, Ünal <u@x>", policy)
    assert recipients(message) == ["jörg@bücher.example", "u@x"]


def test_octets_that_are_no_utf8_matter_only_in_addresses(policy: Policy[Any]) -> None:
    assert recipients(parsed(b"To: J\xf6rg <j@x>", policy)) == ["j@x"]
    with pytest.raises(ValueError, match="To: malformed local part"):
        recipients_of(parsed(b"To: j\xf6rg@x", policy))


def test_legacy_header_objects() -> None:
    name = Header("Müller, Jörg", "utf-8")
    name.append(" <j@x>", "us-ascii")
    message = Message()
    message["To"] = name  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    assert recipients(message) == ["j@x"]
    message = Message()
    whole = Header("Jörg <j@x>", "utf-8")
    message["To"] = whole  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    assert recipients(message) == ["j@x"]


@pytest.mark.parametrize("value", ["a@x\nBcc: b@x", "a@x\r\n", "a@x\x00", "a@x, \x7f"])
def test_control_characters_in_a_field_are_refused(value: str) -> None:
    message = Message()
    message["To"] = value
    with pytest.raises(ValueError, match="To: control character"):
        recipients_of(message)
    message = Message()
    header = Header(value)
    message["To"] = header  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    if "\r" not in value:
        with pytest.raises(ValueError, match=r"^To: "):
            recipients_of(message)


def test_text_without_an_encoding_is_refused() -> None:
    message = Message()
    message["To"] = "\ud800 <a@x>"
    with pytest.raises(ValueError, match="To: 'utf-8' codec can't encode"):
        recipients_of(message)


def test_a_policy_with_header_classes_of_its_own() -> None:
    class Plain(str):
        __slots__ = ("name",)
        name: str

    value = Plain("A <a@x>")
    value.name = "To"
    message = EmailMessage()
    message["To"] = value
    assert recipients(message) == ["a@x"]


NAME = st.text(st.sampled_from('ab ,;:<>@()[]."\\äß日=?_'), max_size=12)
HOST = st.sampled_from(["x.example", "bücher.example", "[127.0.0.1]", "localhost"])


def addresses(user: str, name: st.SearchStrategy[str]) -> st.SearchStrategy[Address]:
    return st.builds(Address, name, st.text(st.sampled_from(user), min_size=1, max_size=8), HOST)


ANY_ADDRESSES = st.lists(addresses("ab,;:<>@()[] .+ü", NAME), min_size=1, max_size=4)


@given(ANY_ADDRESSES, ANY_ADDRESSES)
@example([Address("", ":", "x.example")], [Address("", ".", "x.example")])
def test_every_address_object_in_a_message_is_a_recipient(
    to: list[Address], cc: list[Address]
) -> None:
    message = EmailMessage()
    try:
        message["To"] = to
        message["Cc"] = [Group("g", cc)]
    except TypeError:
        # Before Python 3.13 the email package fails for Address(username=".") in a list.
        reject()
    assert meant(recipients_of(message)) == meant(parse_recipients([*to, *cc]))


def meant(mailboxes: Iterable[Mailbox]) -> list[tuple[str, str]]:
    """Mailboxes by what they mean: the email package quotes less than RFC 5321 wants."""
    return [(local_part_of(box), box.utf8.rpartition("@")[2]) for box in mailboxes]


# One address and no quotes: folding a list in which there are encoded words, the email package
# encodes separators too now and then (seen with Python 3.10 to 3.13).
@given(addresses("ab+ü", st.text(st.sampled_from("ab äß日"), max_size=12)), st.booleans())
def test_a_recipient_is_the_same_when_the_message_was_written_and_read(
    to: Address, as_utf8: bool
) -> None:
    message = EmailMessage()
    message["To"] = to
    content = serialise(message, utf8=as_utf8 or needs_utf8(message))
    (expected,) = parse_recipients(to)
    for policy in POLICIES:
        (found,) = recipients_of(
            email.message_from_bytes(b"".join(content.chunks()), policy=policy)
        )
        assert (found.ascii or found.utf8) == (expected.ascii or expected.utf8)


def test_the_message_is_left_as_it_is(policy: Policy[Any]) -> None:
    message = parsed("From: A\n <a@x>\nTo: b@x, g: c@x;\nBcc: d@x", policy)
    before = list(message.raw_items())
    sender_of(message)
    recipients_of(message)
    assert list(message.raw_items()) == before
