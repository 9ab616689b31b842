from __future__ import annotations

import email
import email.policy
import tracemalloc
from collections.abc import Callable
from email.charset import QP, Charset
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import Policy
from typing import Any, cast

import pytest

from anysmtp._message import estimate_size, needs_utf8, serialise

POLICIES = [email.policy.compat32, email.policy.default, email.policy.SMTPUTF8]


@pytest.fixture(params=POLICIES, ids=["compat32", "default", "SMTPUTF8"])
def policy(request: pytest.FixtureRequest) -> Policy[Any]:
    found: Policy[Any] = request.param
    return found


def octets(message: Message, *, seven_bit: bool = False, utf8: bool = False) -> bytes:
    return b"".join(serialise(message, seven_bit=seven_bit, utf8=utf8).chunks())


def header(message: Message, *, utf8: bool = False) -> bytes:
    return serialise(message, utf8=utf8).header_section().removesuffix(b"\r\n\r\n")


def parsed(source: str | bytes, policy: Policy[Any] = email.policy.default) -> Message:
    raw = source.encode() if isinstance(source, str) else source
    return email.message_from_bytes(raw.replace(b"\n", b"\r\n"), policy=policy)


def built(policy: Policy[Any] = email.policy.default, **fields: Any) -> Message:
    message: Message = email.message_from_string("", policy=policy)
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def test_a_message_is_written_in_crlf_lines(policy: Policy[Any]) -> None:
    message = built(policy, From="a@x", Subject="hi")
    message.set_payload("line\n.\nFrom here\nlast")
    assert octets(message) == b"From: a@x\r\nSubject: hi\r\n\r\nline\r\n.\r\nFrom here\r\nlast\r\n"


def test_a_parsed_message_is_written_as_it_came(policy: Policy[Any]) -> None:
    source = (
        b"Received: from a\n\tby b\nFrom: A  <a@x>\nDKIM-Signature: v=1; b=abc\n  def;\n"
        b"Content-Type: multipart/mixed; boundary=b\n\npreamble\n--b\n\none\n--b\n"
        b"Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\n"
        b"\xfc \xff\n--b--\nepilogue\n"
    )
    content = serialise(parsed(source, policy))
    assert b"".join(content.chunks()) == source.replace(b"\n", b"\r\n")
    assert content.is_8bit
    assert not content.is_utf8


def test_the_message_is_not_written_to(policy: Policy[Any]) -> None:
    message = MIMEMultipart(policy=cast("Any", policy))
    message["To"] = "Jörg <j@bücher.example>"
    part = parsed(b"Content-Transfer-Encoding: 8bit\nX: \xfc\n\n\xfc\n")
    message.attach(part)
    before = (list(message.raw_items()), list(part.raw_items()), part.get_payload(decode=True))
    serialise(message, seven_bit=True)
    assert before == (
        list(message.raw_items()),
        list(part.raw_items()),
        part.get_payload(decode=True),
    )
    assert message.get_payload() == [part]


def test_mbox_quoting_is_left_out_for_legacy_messages() -> None:
    message = MIMEText("From me\n")
    assert octets(message).endswith(b"\r\n\r\nFrom me\r\n")


def test_lines_are_folded_as_the_messages_policy_says() -> None:
    words = "word " * 40
    folded = header(built(Subject=words))
    assert max(map(len, folded.split(b"\r\n"))) <= 78
    wide = email.policy.default.clone(max_line_length=None)
    assert header(built(wide, Subject=words)).count(b"\r\n") == 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Subject", "Grüße", "=?utf-8?q?Gr=C3=BC=C3=9Fe?="),
        ("To", "Jörg <j@x>, b@x", "=?utf-8?q?J=C3=B6rg?= <j@x>, b@x"),
        ("To", '"Müller, J" <j@x>', "=?utf-8?q?M=C3=BCller=2C?= J <j@x>"),
        ("To", "j@bücher.example", "j@xn--bcher-kva.example"),
        ("Cc", "Ü <j@ü.example>, k@x", "=?utf-8?q?=C3=9C?= <j@xn--tda.example>, k@x"),
        ("Reply-To", "g: j@ü.example;", "g: j@xn--tda.example;"),
        ("Resent-To", "j@ü.example", "j@xn--tda.example"),
        ("X-Other", "j@ü.example", "=?utf-8?q?j=40=C3=BC=2Eexample?="),
    ],
)
def test_non_ascii_header_fields_become_ascii(
    policy: Policy[Any], name: str, value: str, expected: str
) -> None:
    for message in (built(policy, **{name: value}), parsed(f"{name}: {value}\n\n", policy)):
        content = serialise(message)
        found = email.message_from_bytes(b"".join(content.chunks()), policy=email.policy.default)
        assert content.header_section().isascii()
        if name == "X-Other":
            assert found[name] == value
        else:
            assert header(message).decode() == f"{name}: {expected}"


def test_octets_that_are_no_utf8_become_encoded_words(policy: Policy[Any]) -> None:
    message = parsed(b"To: J\xf6rg <j@x>\nSubject: \xff\n\n", policy)
    assert header(message) == (
        b"To: =?unknown-8bit?q?J=F6rg?= <j@x>\r\nSubject: =?unknown-8bit?q?=FF?="
    )


def test_malformed_address_fields_are_written_by_the_email_package(policy: Policy[Any]) -> None:
    message = built(policy, Reply_To="Doe, Jörg (")
    assert header(message).isascii()


def test_a_parameter_becomes_an_extended_one(policy: Policy[Any]) -> None:
    message = parsed('Content-Disposition: attachment; filename="Grüße.txt"\n\n', policy)
    found = email.message_from_bytes(octets(message), policy=email.policy.default)
    assert header(message).isascii()
    assert found.get_filename() == "Grüße.txt"


def test_legacy_header_objects(policy: Policy[Any]) -> None:
    message = MIMEMultipart(policy=cast("Any", policy), boundary="b")
    part = Message()
    part["X-Name"] = cast("Any", Header("Grüße", "utf-8"))
    part["X-Long"] = cast("Any", Header("word " * 30, header_name="X-Long"))
    message.attach(part)
    written = octets(message)
    assert b"X-Name: =?utf-8?b?R3LDvMOfZQ==?=\r\n" in written
    assert max(map(len, written.split(b"\r\n"))) <= 78
    assert octets(message, utf8=True).isascii()


def test_modern_parts_in_a_legacy_message() -> None:
    message = MIMEMultipart()
    part = EmailMessage()
    part["To"] = "Jörg <j@x>"
    part.set_content("x")
    part.add_attachment(b"x", "a", "b", filename="Grüße.txt")
    message.attach(part)
    written = octets(message)
    assert b"To: =?utf-8?q?J=C3=B6rg?= <j@x>\r\n" in written
    assert b"filename*=utf-8''Gr%C3%BC%C3%9Fe.txt" in written


@pytest.mark.parametrize("value", ["Jörg <jörg@bücher.example>, b@x", "Grüße"])
def test_header_fields_are_written_in_utf8(policy: Policy[Any], value: str) -> None:
    name = "To" if "@" in value else "Subject"
    for message in (built(policy, **{name: value}), parsed(f"{name}: {value}\n\n", policy)):
        content = serialise(message, utf8=True)
        assert header(message, utf8=True).decode() == f"{name}: {value}"
        assert content.is_utf8


def test_long_utf8_fields_are_folded_as_utf8() -> None:
    message = parsed("Subject: " + "Grüße " * 30 + "\n\n")
    assert header(message, utf8=True).decode().replace("\r\n", "").count("Grüße") == 30


def test_raw_octets_that_are_no_utf8_stay_octets(policy: Policy[Any]) -> None:
    message = parsed(b"Subject: \xff\n\n", policy)
    assert header(message, utf8=True) == b"Subject: \xff"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"To": "a@x", "Subject": "Grüße"}, False),
        ({"To": "Jörg <a@x>, b@bücher.example"}, False),
        ({"To": "jörg@x"}, True),
        ({"From": "g: a@x, jörg@x;"}, True),
        ({"Reply-To": "jörg@x"}, True),
        ({"Resent-Cc": "jörg@x"}, True),
        ({"Bcc": "jörg@x"}, False),
        ({"X-To": "jörg@x"}, False),
        ({"Reply-To": "jörg@x b@x"}, False),
    ],
)
def test_only_local_parts_need_smtputf8(
    policy: Policy[Any], fields: dict[str, str], expected: bool
) -> None:
    assert needs_utf8(built(policy, **fields)) is expected


def test_parsed_local_parts_need_smtputf8_too(policy: Policy[Any]) -> None:
    assert needs_utf8(parsed("To: A\n <jörg@x>\n\n", policy))
    assert not needs_utf8(parsed(b"To: \xff <a@x>\n\n", policy))


def test_8bit_text_stays_8bit_where_it_may() -> None:
    message = EmailMessage()
    message.set_content("Grüße\n", cte="8bit")
    content = serialise(message)
    assert b"".join(content.chunks()).endswith("\r\n\r\nGrüße\r\n".encode())
    assert content.is_8bit
    assert not content.is_utf8


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "x-unknown"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x"])
def test_8bit_parts_become_7bit_with_the_same_octets(
    policy: Policy[Any], kind: str, charset: str
) -> None:
    body = b"a\xc3\xbc\xff\n.\n\x80"
    source = b"Content-Type: %s; charset=%s\nContent-Transfer-Encoding: 8BIT \n\n" % (
        kind.encode(),
        charset.encode(),
    )
    message = parsed(source + body, policy)
    content = serialise(message, seven_bit=True)
    assert not content.is_8bit
    found = email.message_from_bytes(b"".join(content.chunks()))
    assert found["Content-Transfer-Encoding"] == "base64"
    assert (found.get_content_type(), found.get_content_charset()) == (kind, charset)
    assert found.get_payload(decode=True) == body.replace(b"\n", b"\r\n")


def test_8bit_octets_in_a_part_that_declares_nothing_become_7bit() -> None:
    content = serialise(parsed(b"Subject: a\n\n\xfc\n"), seven_bit=True)
    assert b"".join(content.chunks()) == (
        b"Subject: a\r\nContent-Transfer-Encoding: base64\r\n\r\n/A0K\r\n"
    )


def test_containers_declare_what_their_parts_became(policy: Policy[Any]) -> None:
    inner = b"Content-Type: text/plain\nContent-Transfer-Encoding: 8bit\n\n\xfc\n"
    source = (
        b"Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: %b\n\n"
        b"--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n"
        + inner
        + b"--b--\n"
    )
    seven = octets(parsed(source.replace(b"%b", b"8bit"), policy), seven_bit=True)
    assert seven.isascii()
    assert b"8bit" not in seven
    assert seven.count(b"Content-Transfer-Encoding: 7bit") == 2
    assert octets(parsed(source.replace(b"%b", b"8bit"), policy)).count(b": 8bit") == 3
    assert octets(parsed(source.replace(b"%b", b"binary"), policy)).count(b": 8bit") == 3


@pytest.mark.parametrize("seven_bit", [False, True])
def test_binary_parts_become_base64_because_no_server_takes_them(seven_bit: bool) -> None:
    data = b"a\n\r\xff\x00\r\n."
    message = MIMEApplication(data, _encoder=lambda part: None)
    message["Content-Transfer-Encoding"] = "binary"
    found = email.message_from_bytes(octets(message, seven_bit=seven_bit))
    assert found["Content-Transfer-Encoding"] == "base64"
    assert found.get_payload(decode=True) == data


def test_octets_under_another_encoding_are_left_to_the_caller() -> None:
    message = parsed(b"Content-Transfer-Encoding: quoted-printable\n\n\xfc=\n")
    assert serialise(message, seven_bit=True).is_8bit


def test_7bit_messages_are_the_same_either_way(policy: Policy[Any]) -> None:
    message = MIMEMultipart(policy=cast("Any", policy), boundary="b")
    charset = Charset("utf-8")
    charset.body_encoding = QP
    message.attach(MIMEText("Grüße", _charset=cast("Any", charset)))
    message.attach(MIMEApplication(b"\xff" * 100))
    assert octets(message) == octets(message, seven_bit=True)


@pytest.mark.parametrize("value", ["a\nBcc: b@x", "a\r\n\r\nbody", "a\n\nbody", "a\nb", "a\rb"])
def test_line_ends_in_a_field_are_refused_in_every_part(policy: Policy[Any], value: str) -> None:
    for name in ("Subject", "X-Other", "Content-Disposition"):
        inner = built(policy)
        inner.set_raw(name, value)
        outer = MIMEMultipart(policy=cast("Any", policy))
        outer.attach(inner)
        for message in (inner, outer):
            with pytest.raises(ValueError, match="the message cannot be serialised"):
                serialise(message)


HIDDEN = [
    *("a\n", "a\r\n", "a\x0bb", "a\x0cBcc: c", "\x1cb", "a\x85b", "a\u2028b"),
    f"=?utf-8?q?a=0D=0ABcc:_evil@x?= {'x' * 90}",
    f"=?utf-8?q?a=0D=0A=0D=0Aevil?= {'x' * 90}",
    "attachment; filename*=utf-8''a%0D%0ABcc:x; " + "x" * 90,
    f"a@x (=?utf-8?q?a=0ABcc:b?=) {'x' * 90}",
]


@pytest.mark.parametrize("value", HIDDEN)
@pytest.mark.parametrize("name", ["Subject", "To", "Content-Disposition"])
@pytest.mark.parametrize("utf8", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_whatever_a_field_hides_it_is_one_field_or_refused(
    policy: Policy[Any], name: str, value: str, utf8: bool, raw: bool
) -> None:
    # What is refused differs from one Python version to the next, as the folding does.
    message = built(policy)
    try:
        (message.set_raw if raw else message.__setitem__)(name, value)
        written = octets(message, utf8=utf8)
    except ValueError:
        return
    found = email.message_from_bytes(written)
    assert found.keys() == [name]
    assert found.get_payload() == ""


def test_line_ends_in_legacy_header_objects_are_refused() -> None:
    message = Message()
    message["Subject"] = cast("Any", Header("a\nBcc: b@x"))
    with pytest.raises(ValueError, match="the message cannot be serialised") as caught:
        serialise(message)
    assert caught.value.__cause__ is not None


def test_legacy_text_without_a_charset_is_refused_with_what_to_do() -> None:
    message = Message()
    message.set_payload("é")
    with pytest.raises(ValueError, match=r"set_payload\(text, charset\), or EmailMessage$"):
        serialise(message)


@pytest.mark.parametrize("name", ["A B", "A:", "", "A\r\nB", "Ä"])
def test_field_names_that_are_none_are_refused(policy: Policy[Any], name: str) -> None:
    message = built(policy)
    message.set_raw(name, "x")
    with pytest.raises(ValueError, match=r"cannot be serialised: [^;]*$"):
        serialise(message)


def payload_without_charset(message: Message) -> None:
    message.set_payload("Grüße")


def payload_that_is_no_text(message: Message) -> None:
    message.set_payload(cast("Any", 5))


def field_that_is_no_text(message: Message) -> None:
    message["X"] = cast("Any", 5)


def surrogates_in_a_field(message: Message) -> None:
    message["X"] = "\ud800"


def surrogates_in_the_encoding(message: Message) -> None:
    message["Content-Transfer-Encoding"] = "\ud800"


def message_in_itself(message: Message) -> None:
    message.attach(message)


@pytest.mark.parametrize(
    "spoil",
    [
        payload_without_charset,
        payload_that_is_no_text,
        field_that_is_no_text,
        surrogates_in_a_field,
        surrogates_in_the_encoding,
        message_in_itself,
    ],
)
def test_what_the_email_package_cannot_write_is_a_value_error(
    spoil: Callable[[Message], None],
) -> None:
    message = Message()
    spoil(message)
    with pytest.raises(ValueError, match=r"the message cannot be serialised: .") as caught:
        serialise(message)
    assert caught.value.__cause__ is not None


def test_an_empty_message_is_written_as_its_blank_line() -> None:
    assert octets(Message()) == b"\r\n"


@pytest.mark.parametrize("value", ["b", "b\r\nBcc: c"])
def test_a_policy_whose_owner_set_how_it_folds_is_looked_at_too(value: str) -> None:
    def fold_binary(name: str, text: str) -> bytes:
        return f"{name}: {value}\r\n".encode()

    policy: Any = cast("Any", email.policy.default).clone(fold_binary=fold_binary)
    message = EmailMessage(policy)
    message["A"] = "text"
    if value == "b":
        assert octets(message) == b"A: b\r\n\r\n"
    else:
        with pytest.raises(ValueError, match="out of place in the field 'A'"):
            serialise(message)


@pytest.mark.parametrize("cte", ["base64", "8bit", "7bit"])
def test_memory_does_not_grow_with_the_message(cte: str) -> None:
    message = EmailMessage()
    message["Subject"] = "large"
    message.set_content("text\n")
    if cte == "base64":
        message.add_attachment(b"\xff" * 10 * 1024 * 1024, "application", "octet-stream")
    else:
        text = "line of text\n" if cte == "7bit" else "Grüße, Grüße\n"
        message.add_attachment(text * 500_000, cte=cte)
    tracemalloc.start()
    content = serialise(message)
    written = sum(map(len, content.chunks()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert written == content.size > 6_000_000
    assert peak < 1024 * 1024


def test_the_estimate_is_the_payload_of_an_ordinary_message() -> None:
    message = EmailMessage()
    message["To"] = "a@x.example"
    message.set_content("x" * 60)
    assert estimate_size(message) == 61
    message.add_attachment(b"x" * 30_000, "a", "b")
    assert estimate_size(message) == 61 + len(cast("Any", message.get_payload(1)).get_payload())


def folded() -> Message:
    return built(To=[Address(username=f"a{n}", domain="x.example") for n in range(100)])


def folded_beyond_ascii() -> Message:
    return built(To=[Address("ü", f"a{n}", "x.example") for n in range(10)])


def beyond_ascii() -> Message:
    return parsed("Subject: x\n\n" + "ü" * 1000)


def of_another_class() -> Message:
    class OwnMessage(Message):
        def get_payload(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_payload(*args, **kwargs)

    message = OwnMessage()
    message.set_payload("x" * 1000)
    return message


@pytest.mark.parametrize("make", [folded, folded_beyond_ascii, beyond_ascii, of_another_class])
def test_what_takes_longer_is_estimated_to_be_more(make: Callable[[], Message]) -> None:
    message = make()
    assert estimate_size(message) > 3 * len(octets(message))


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32])
def test_fields_that_came_folded_take_no_time(policy: Policy[Any]) -> None:
    assert estimate_size(parsed("References:" + "\n <1@x.example>" * 50 + "\n\n", policy)) == 0


def test_the_estimate_takes_what_it_cannot_count() -> None:
    message = Message()
    message["X"] = cast("Any", Header("x"))
    message.set_payload(cast("Any", 5))
    assert estimate_size(message) == 0
