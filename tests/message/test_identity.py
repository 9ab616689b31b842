"""What is written by hand is what the email package writes, octet by octet.

So is what is plain; and that says of the envelope what is said of others.

The package draws the boundaries of multiparts at random, so both are written from the same seed.
"""

from __future__ import annotations

import email
import email.policy
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from email.charset import BASE64, QP, Charset
from email.errors import MessageDefect
from email.header import Header
from email.headerregistry import Address, Group, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage, Message
from email.mime.application import MIMEApplication
from email.mime.audio import MIMEAudio
from email.mime.image import MIMEImage
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import EmailPolicy, Policy
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from anysmtp._message import prepare, read_plain, recipients_of, sender_of, serialise
from anysmtp._message._by_hand import written_by_hand
from anysmtp._message._by_package import written_by_package
from anysmtp._message._content import RawContent, WrittenContent
from anysmtp._message._head import Unproven
from support.quick import sampled

AnyPolicy: TypeAlias = "Policy[Any]"


class OwnPolicy(EmailPolicy):
    """A user's own, which folds a field in its own way."""

    def fold_binary(self, name: str, value: Any) -> bytes:
        return b"X-Own: " + super().fold_binary(name, value)


class OwnHeader:
    """A user's own kind of header."""

    max_count = None

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        UnstructuredHeader.parse(value[::-1], kwds)


def own_registry() -> HeaderRegistry:
    registry = HeaderRegistry()
    registry.map_to_type("subject", cast("Any", OwnHeader))
    registry.map_to_type("content-type", cast("Any", OwnHeader))
    return registry


POLICIES: dict[str, AnyPolicy] = {
    "compat32": email.policy.compat32,
    "compat32-40": email.policy.compat32.clone(max_line_length=40),
    "compat32-0": email.policy.compat32.clone(max_line_length=0),
    "compat32-none": email.policy.compat32.clone(max_line_length=None, mangle_from_=True),
    "default": email.policy.default,
    "SMTP": email.policy.SMTP,
    "SMTPUTF8": email.policy.SMTPUTF8,
    "HTTP": email.policy.HTTP,
    "strict": email.policy.strict,
    "7bit": email.policy.SMTP.clone(cte_type="7bit"),
    "lines-40": email.policy.default.clone(max_line_length=40),
    "lines-0": email.policy.default.clone(max_line_length=0),
    "lines-998": email.policy.SMTP.clone(max_line_length=998),
    "refold-all": email.policy.default.clone(refold_source="all"),
    "refold-none": email.policy.default.clone(refold_source="none"),
    "own-instance": EmailPolicy(),
    "own-registry": EmailPolicy(header_factory=own_registry()),
    "own-class": OwnPolicy(),
}
Way: TypeAlias = dict[str, bool]
WAYS: list[Way] = [{"seven_bit": a, "utf8": b} for a, b in product((False, True), repeat=2)]

# What matters to fields.
FIELD_WAYS = [way for way in WAYS if not way["seven_bit"]]

# Those that differ in how they write fields.
FIELD_POLICIES = [
    *("compat32", "compat32-40", "compat32-none", "default", "SMTPUTF8", "HTTP", "lines-40"),
    *("refold-all", "refold-none", "own-registry"),
]
each_policy_of_fields = pytest.mark.parametrize(
    "policy", [POLICIES[name] for name in FIELD_POLICIES], ids=FIELD_POLICIES
)
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def outcome(write: Callable[..., RawContent | WrittenContent], message: Message, way: Way) -> Any:
    """What a way to write gives, or that it gives nothing."""
    random.seed(0)
    try:
        content = write(message, **way)
    except Exception as error:  # noqa: BLE001 - either way fails in its own way
        return type(error)
    octets = b"".join(content.chunks())
    assert content.size == len(octets)
    return octets, content.is_8bit, content.is_utf8, content.header_section()


def check(message: Message, ways: list[Way] = WAYS) -> int:
    """It is the same however it is written; in how many ways it is written by hand."""
    by_hand = 0
    for way in ways:
        found = outcome(written_by_hand, message, way)
        if not isinstance(found, type):
            assert found == outcome(written_by_package, message, way)
            by_hand += 1
    check_plain(message, ways)
    return by_hand


def check_plain(message: Message, ways: list[Way]) -> bool:
    """If it is plain it is the same in every way; whether it is."""
    plain = read_plain(message)
    if plain is None:
        return False
    written = plain.written(None, add_missing_headers=False)
    assert written is not None
    content, message_id = written
    prepared = prepare(message, sender=None, add_missing_headers=False)
    assert message_id == prepared.message_id
    assert content.size == len(content.whole())
    assert b"".join(content.chunks()) == content.whole()
    for way in ways:
        octets, is_8bit, is_utf8, _ = outcome(written_by_package, prepared.message, way)
        assert (content.whole(), content.is_8bit, content.is_utf8) == (octets, is_8bit, is_utf8)
    for by_plain, by_fields in ((plain.sender, sender_of), (plain.recipients, recipients_of)):
        assert said(by_plain) == said(by_fields, message)
    return True


def said(ask: Callable[..., Any], *args: Any) -> Any:
    """An answer, or what is wrong with the question."""
    try:
        return ask(*args)
    except ValueError as error:
        return str(error)


def built(policy: AnyPolicy, **fields: Any) -> Message:
    message = EmailMessage(policy) if isinstance(policy, EmailPolicy) else Message(policy)
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def parsed(source: str | bytes, policy: AnyPolicy) -> Message:
    raw = source.encode("utf-8", "surrogateescape") if isinstance(source, str) else source
    return email.message_from_bytes(raw, policy=policy)


# Ordinary messages are written by hand

ORDINARY = {
    "From": "Alice Sender <alice@example.com>",
    "To": "bob@example.net, Carol <carol@example.net>",
    "Subject": "An ordinary message",
    "Date": "Sun, 22 Nov 2026 12:00:00 +0000",
    "Message-ID": "<12345.67890@example.com>",
    "MIME-Version": "1.0",
}


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.SMTP])
def test_an_ordinary_message_is_written_by_hand(policy: EmailPolicy) -> None:
    message = EmailMessage(policy)
    for name, value in ORDINARY.items():
        message[name] = value
    message.set_content("text\n")
    assert check(message) == len(WAYS)
    message.add_alternative("<p>text</p>", subtype="html")
    message.add_attachment(b"\x00" * 200_000, "application", "pdf", filename="a.pdf")
    message.add_attachment(message_with_text(policy))
    assert check(message) == len(WAYS)


def message_with_text(policy: EmailPolicy) -> EmailMessage:
    message = EmailMessage(policy)
    message["Subject"] = "attached"
    message.set_content("Grüße\n", cte="8bit")
    return message


@pytest.mark.parametrize("name", ["compat32", "default", "SMTP"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_ordinary_parsed_message_is_written_by_hand(name: str, end: str) -> None:
    source = "".join(f"{field}: {value}\n" for field, value in ORDINARY.items())
    source += "Received: from a\n\tby b;\n\tSun, 22 Nov 2026 12:00:00 +0000\n"
    source += "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n"
    assert check(parsed(source.replace("\n", end), POLICIES[name])) == len(WAYS)


@each_policy
def test_ordinary_legacy_messages(policy: AnyPolicy) -> None:
    message = MIMEMultipart(policy=cast("Any", policy))
    for name, value in ORDINARY.items():
        if name not in message:
            message[name] = value
    message.attach(MIMEText("Grüße\n", policy=cast("Any", policy)))
    message.attach(MIMEImage(b"\x89PNG" * 1000, "png", policy=cast("Any", policy)))
    message.attach(MIMEAudio(b"RIFF" * 10, "wav"))
    message.attach(MIMEApplication(b"\xff" * 100))
    message.attach(MIMEMessage(built(policy, Subject="attached")))
    by_hand = check(message)
    is_own = policy in (POLICIES["own-class"], POLICIES["own-registry"])
    assert is_own or by_hand == len(WAYS)


def own_folding(line: bytes) -> EmailPolicy:
    """Policies take any attribute that their class has."""

    def fold_binary(name: str, value: str) -> bytes:
        return line

    policy: EmailPolicy = cast("Any", email.policy.default).clone(fold_binary=fold_binary)
    return policy


def test_what_is_of_the_users_own_making_is_the_email_packages() -> None:
    class OwnMessage(EmailMessage):
        def get_payload(self, *args: Any, **kwargs: Any) -> Any:
            return "other text"

    own = OwnMessage()
    own.set_content("text")
    shadowed = EmailMessage()
    shadowed.set_content("text")
    cast("Any", shadowed).get_payload = lambda: "other text"
    folded = EmailMessage(own_folding(b"X: y\r\n"))
    folded["Subject"] = "text"
    for message in (own, shadowed, folded, EmailMessage(OwnPolicy())):
        assert check(message) == 0


def test_a_users_own_class_that_writes_as_others_do_is_written_by_hand() -> None:
    class OwnMessage(EmailMessage):
        def as_bytes(self, *args: Any, **kwargs: Any) -> bytes:
            return b""

    message = OwnMessage()
    message.set_content("text")
    assert check(message) == len(WAYS)


# Bodies

TEXTS = {
    "empty": "",
    "one line": "one line",
    "lines": "line\n.\n..\nFrom me\n\nlast\n",
    "no end": "line\n\nlast",
    "crlf": "line\r\n.\r\n\r\nlast\r\n",
    "mixed": "a\rb\nc\r\nd\r\r\ne\n\rf\r",
    "latin": "Grüße\n.\nFrom Köln\n",
    "long": "x" * 2000 + "\n",
    "unicode": "日本語 🎉\n" * 50,
    "separators": "a\x0bb\x0cc\x85d\u2028e\x00\n",
    "large": "line of text\n" * 12_000,
}


@sampled(3)
@pytest.mark.parametrize("cte", ["7bit", "8bit", "base64", "quoted-printable", None])
@pytest.mark.parametrize("charset", ["us-ascii", "utf-8", "iso-8859-1", "utf-16"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_in_every_charset_and_encoding(text: str, charset: str, cte: Any) -> None:
    for name in ("default", "SMTP", "7bit", "lines-40"):
        message = EmailMessage(cast("EmailPolicy", POLICIES[name]))
        # Not every text can be written in every way.
        with suppress(ValueError, LookupError):
            message.set_content(TEXTS[text], charset=charset, cte=cte)
            assert check(message) == len(WAYS)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cte", ["7bit", "8bit", "8BIT ", "binary", "base64", "x-unknown", None])
@pytest.mark.parametrize("name", ["compat32", "default", "SMTPUTF8"])
def test_a_parsed_text_as_it_is(text: str, cte: str | None, name: str) -> None:
    head = f"Content-Transfer-Encoding: {cte}\n" if cte else ""
    source = f"Subject: x\n{head}Content-Type: text/plain\n\n{TEXTS[text]}"
    assert check(parsed(source, POLICIES[name])) == len(WAYS)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_072])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\r\n\r\n", "\n\r", ".", "é".encode()])
def test_large_texts_with_something_where_chunks_meet(size: int, end: str | bytes) -> None:
    octets = end if isinstance(end, bytes) else end.encode()
    for before in range(3):
        source = b"\n" + b"x" * (size - before) + octets + b"y" * 10
        for payload in (source, source[:-10]):
            assert check(parsed(payload, email.policy.default)) == len(WAYS)


def test_encoded_attachments() -> None:
    for encoding in (BASE64, QP, None):
        charset = Charset("utf-8")
        charset.body_encoding = cast("int", encoding)
        message = MIMEText("Grüße\n" * 100, _charset=cast("Any", charset))
        assert check(message) == len(WAYS)
    data = MIMEApplication(b"a\n\r\xff\x00", _encoder=lambda part: None)
    data["Content-Transfer-Encoding"] = "binary"
    assert check(data) == len(WAYS)


@pytest.mark.parametrize("payload", [None, "", "é", "\ud800", 5, b"x"])
def test_payloads_of_any_kind(payload: Any) -> None:
    for policy in POLICIES.values():
        for kind in ("text/plain", "multipart/mixed; boundary=b", "message/rfc822"):
            message = built(policy, Content_Type=kind)
            message.set_payload(payload)
            check(message)


# Nesting

KINDS = [
    *("mixed", "alternative", "related", "signed", "digest", "report", "parallel", "x-own"),
    *("mixed; boundary=b", 'signed; boundary="b b"', 'mixed; boundary="=_x"', "mixed; boundary="),
    *('mixed; boundary="bé"', 'mixed; boundary="b\tb"', "mixed; boundary*=utf-8''b"),
]


@sampled(4)
@each_policy
@pytest.mark.parametrize("kind", KINDS)
def test_multiparts(policy: AnyPolicy, kind: str) -> None:
    for preamble, epilogue in product((None, "", "pre\r\n\nText", "é"), repeat=2):
        message = built(policy, Content_Type=f"multipart/{kind}", Subject="x" * 90)
        parts = [
            parsed("Subject: " + "word " * 30 + "\n\na", policy),
            parsed("X: a\n b\nContent-Transfer-Encoding: 8bit\n\n\u00fc\r\n.\n", policy),
            parsed("", policy),
        ]
        message.set_payload(cast("Any", parts))
        message.preamble, message.epilogue = cast("Any", preamble), cast("Any", epilogue)
        check(message)


@each_policy
@pytest.mark.parametrize(
    "kind",
    ["message/rfc822", "message/delivery-status", "message/partial", "message/external-body"],
)
def test_attached_messages(policy: AnyPolicy, kind: str) -> None:
    inner = built(policy, To="Jörg <j@bücher.example>", Subject="word " * 30)
    inner.set_payload("text\n")
    for parts in ([inner], [inner, inner], [], "text\n\rtext", None):
        message = built(policy, Content_Type=kind)
        message.set_payload(cast("Any", parts))
        check(message)
        outer = MIMEMultipart("mixed", policy=cast("Any", policy), boundary="b")
        outer.attach(message)
        check(outer)


@pytest.mark.parametrize(
    "kind",
    [
        *("multipart_signed/x", "message-delivery/status", "multipart", "a/b/c", "", "text"),
        *("TEXT/PLAIN", "Multipart/Mixed; boundary=b", "text/plain foo", "é/x", "multipart/é"),
        *("(comment) multipart/mixed; boundary=b", "multipart/mixed;; boundary=b"),
    ],
)
def test_types_of_content_that_are_none(kind: str) -> None:
    for policy in POLICIES.values():
        message = built(policy)
        message.set_raw("Content-Type", kind)
        for payload in ("text", [parsed("a: b\n\nc", policy)]):
            message.set_payload(cast("Any", payload))
            check(message)
            outer = MIMEMultipart("digest", policy=cast("Any", policy), boundary="b")
            outer.attach(message)
            check(outer)


def test_default_types() -> None:
    for kind in ("message/rfc822", "multipart/mixed", "multipart_signed", "é"):
        message = Message()
        message.set_default_type(kind)
        message.set_payload([Message()])
        check(message)


def test_a_boundary_that_a_part_contains_is_not_taken() -> None:
    random.seed(0)
    first = MIMEMultipart()
    first.attach(MIMEText("text"))
    boundary = email.message_from_bytes(first.as_bytes()).get_boundary()
    message = MIMEMultipart()
    message.attach(MIMEText(f"--{boundary}\n"))
    random.seed(0)
    with pytest.raises(Unproven):
        written_by_hand(message, seven_bit=False, utf8=False)
    random.seed(0)
    written = b"".join(serialise(message).chunks())
    (part,) = cast("list[Message]", email.message_from_bytes(written).get_payload())
    assert part.get_payload() == f"--{boundary}\r\n"


def test_the_parts_of_a_signed_message_are_not_folded() -> None:
    long = b"Subject: " + b"word " * 40 + b"end"
    source = (
        b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n" + long + b"\r\n\r\nx\r\n"
        b"--b\r\nContent-Type: application/pgp-signature\r\n\r\ny\r\n--b--\r\n"
    )
    message = email.message_from_bytes(source, policy=email.policy.default)
    for write in (written_by_hand, written_by_package):
        assert outcome(write, message, WAYS[0])[0] == source


# Fields

NAMES = [
    *("Subject", "subject", "From", "Resent-Sender", "Date", "Message-ID", "MIME-Version"),
    *("Content-Type", "Content-Disposition", "Content-Transfer-Encoding", "X-Other", "X" * 80),
]
VALUES = [
    *("", " ", "  a", "a ", "a  b", "a\tb", "\t", "x" * 68, "x" * 69, "x" * 70, "x" * 71),
    *("x" * 100, "word " * 30, "a\n b", "a\r\n b", "a\n\tb", "\n a", "a\n", "a\nb", "a\r b"),
    *("a \n b ", "a\n \n b", "a\n " + "x" * 77, "a\n " + "x" * 78, "a\x0bb", "a\x00b", "a\x7f"),
    *("Grüße", "Gr\udcfc\udc9fe", "\ud800", "日本語 " * 20, "a\u2028b", "a\x85b", "a\x1cb"),
    *("=?utf-8?q?a=2Cb?=", "=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "=?utf-8?q?a=0Ab?=", "=?x?", "?="),
    *("=?utf-8?q?a?= <a@x.example>", "=?utf-8?q?a=2Cb?= <a@x.example>, b@x.example"),
    *("a@x.example", "<a@x.example>", " a@x.example", "Name <a@x.example>", "Name  <a@x.example>"),
    *('"Doe, J" <a@x.example>', '"a\\"b" <a@x.example>', "a@x.example (comment)", "a@x, b@x,,c@x"),
    *(
        "g: a@x, B <b@x>;",
        "g:;",
        "a@[127.0.0.1]",
        "a @ x",
        "<@a:b@x>",
        "a b@x",
        "<>",
        "Doe, Jörg (",
    ),
    *("Jörg <j@bücher.example>, " * 3 + "b@x", "jörg@bücher.example", "Very Long Name <a@x> " * 8),
    *("Sun, 22 Nov 2026 12:00:00 +0000", "Sun,  22 Nov 2026 12:00 GMT", "yesterday", "2026-11-22"),
    *("<1@x>", "< 1@x>", "<1@x> <2@x>", "<" + "1" * 100 + "@x>", "1@x", "<1@x>\n <2@x>"),
    *("text/plain; charset=utf-8", 'text/plain; charset="utf-8"', "text/plain;charset=x;  a=b"),
    *("multipart/mixed; boundary=b", 'application/pdf; name="a b.pdf"', "application/pdf; name=ü"),
    *("attachment; filename=a.pdf", 'attachment; filename="Grüße und mehr.pdf"', "attachment;"),
    *(
        "attachment; filename*=utf-8''Gr%C3%BC%C3%9Fe.pdf",
        'attachment; filename="' + "x" * 90 + '"',
    ),
    *(
        "attachment; filename*0=a; filename*1=b",
        "inline",
        "7bit",
        "8BIT",
        "base64 junk",
        "1.0",
        "1",
    ),
]


@sampled(3)
@each_policy_of_fields
@pytest.mark.parametrize("name", NAMES)
def test_fields_of_every_kind(policy: AnyPolicy, name: str) -> None:
    for value in VALUES:
        for put in (Message.__setitem__, Message.set_raw):
            message = built(policy)
            # What a policy does not take is no message.
            with suppress(Exception):
                put(message, name, value)
            check(message, FIELD_WAYS)


@each_policy
@pytest.mark.parametrize("name", ["A B", "A:", "Ä", "", "a\nb"])
def test_names_that_are_none(policy: AnyPolicy, name: str) -> None:
    message = built(policy)
    message.set_raw(name, "text")
    assert check(message) == 0


@pytest.mark.parametrize("name", ["compat32", "default", "SMTPUTF8"])
def test_header_objects_of_other_policies_and_names(name: str) -> None:
    for value in VALUES:
        for made_for, field in product(("Subject", "To", "Date", "Content-Type"), repeat=2):
            message = built(POLICIES[name])
            with suppress(Exception):
                message.set_raw(field, email.policy.default.header_factory(made_for, value))
            check(message, FIELD_WAYS)


@each_policy_of_fields
def test_values_that_are_no_text(policy: AnyPolicy) -> None:
    address = Address("Jörg", "j", "bücher.example")
    values: list[Any] = [
        *(Header("Grüße", "utf-8"), Header("word " * 30, header_name="X"), Header("a\nB: c")),
        *(address, [address, Address(username="a", domain="x")], Group("g", (address,))),
        *(datetime(2026, 11, 22, tzinfo=timezone.utc), 5, None, b"x"),
    ]
    for value, name in product(values, ("To", "From", "Subject", "Date", "Content-Type")):
        for put in (Message.__setitem__, Message.set_raw):
            message = built(policy)
            with suppress(Exception):
                put(message, name, value)
            check(message)


def test_header_objects_of_the_users_own_classes() -> None:
    class Loud(str):
        __slots__ = ()
        name = "Subject"

        def fold(self, *, policy: AnyPolicy) -> str:
            return f"Subject: {self.upper()}\r\n"

    message = EmailMessage()
    message.set_raw("Subject", Loud("text"))
    assert check(message) == len(WAYS)
    assert b"TEXT" in outcome(written_by_hand, message, WAYS[0])[0]


# Messages of others

FILES = sorted((Path(email.__file__).parents[1] / "test" / "test_email" / "data").glob("*.txt"))


@pytest.mark.skipif(not FILES, reason="this Python comes without the email package's tests")
@each_policy
def test_the_email_packages_own_test_messages(policy: AnyPolicy) -> None:
    for path in FILES:
        with suppress(MessageDefect):
            check(parsed(path.read_bytes(), policy))


# Messages of all kinds

FRAGMENTS = [
    *("a@x.example", "Name", "<b@y.example>", ", ", " ", "  ", "\t", "\r\n ", "\n\t", "\n \n", ";"),
    *(
        "=?utf-8?q?a=2Cb?=",
        "=?utf-8?b?w7w=?=",
        "ü",
        "\udcfc",
        "(comment)",
        '"Doe, J" ',
        "\x0b",
        "\x00",
    ),
    *("; filename=a.pdf", "; name*=utf-8''%C3%BC", '; boundary="b b"', "; boundary=b", "word " * 9),
    *("multipart/mixed", "multipart/signed", "text/plain", "message/rfc822", "base64", "8bit"),
    *(
        "binary",
        "group: a@x, b@y;",
        "<id@x>",
        "x" * 40,
        "日本語",
        "Sun, 22 Nov 2026 12:00:00 +0000",
    ),
]
BODIES = [
    "",
    "x",
    "x\n",
    "x\r\n",
    "a\rb",
    "\n.\n",
    "ü\n",
    "--b\nX: y\n\nz\n--b--\n",
    "é\udcff",
    "\r",
]
VALUE = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)
NAME = st.sampled_from(NAMES)
POLICY = st.sampled_from(list(POLICIES.values()))
BODY = st.sampled_from(BODIES)


@st.composite
def parsed_messages(draw: st.DrawFn) -> Message:
    fields = draw(st.lists(st.tuples(NAME, VALUE), max_size=5))
    source = "".join(f"{name}: {value}\n" for name, value in fields) + "\n" + draw(BODY)
    try:
        return parsed(source.encode("utf-8", "surrogatepass"), draw(POLICY))
    except MessageDefect:
        # A strict policy has it that there is no such message.
        reject()


@st.composite
def built_messages(draw: st.DrawFn, bodies: st.SearchStrategy[Any]) -> Message:
    message = built(draw(POLICY))
    for name, value in draw(st.lists(st.tuples(NAME, VALUE), max_size=5)):
        put = draw(st.sampled_from([Message.__setitem__, Message.set_raw]))
        with suppress(Exception):
            put(message, name, value)
    message.set_payload(draw(bodies))
    message.preamble, message.epilogue = draw(st.none() | BODY), draw(st.none() | BODY)
    return message


MESSAGES: st.SearchStrategy[Message] = st.recursive(
    parsed_messages() | built_messages(BODY),
    lambda parts: built_messages(st.lists(parts, max_size=3)),
    max_leaves=4,
)


@given(MESSAGES)
def test_messages_of_all_kinds(message: Message) -> None:
    check(message)
