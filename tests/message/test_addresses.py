from __future__ import annotations

import re
import sys
from email.headerregistry import Address
from email.policy import default
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._envelope import AddressLike, Mailbox
from anysmtp._message import domain_of, parse_address, parse_recipients, parse_sender
from anysmtp._message._addresses import parse_list, to_a_labels


def wire(given: AddressLike) -> str | None:
    return parse_address(given).ascii


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a@x.example", "a@x.example"),
        ("<a@x.example>", "a@x.example"),
        ("Name <a@x.example>", "a@x.example"),
        (" a@x.example ", "a@x.example"),
        ("< a @ x.example >", "a@x.example"),
        ('"Doe, Jane" <a@x.example>', "a@x.example"),
        (r'"\"<b@y>\"" <a@x.example>', "a@x.example"),
        ("J. Doe [Sales] <a@x.example>", "a@x.example"),
        ("=?utf-8?q?M=C3=BCller=2C_b=40y?= <a@x.example>", "a@x.example"),
        ("Müller <a@x.example>", "a@x.example"),
        ("a@x.example (Jane (or \\) John) <b@y>)", "a@x.example"),
        ('(")Jane <a@x.example>', "a@x.example"),
        ('"(" <a@x.example>', "a@x.example"),
        ('"a b"@x.example', '"a b"@x.example'),
        (r'"a\"@b"@x.example', r'"a\"@b"@x.example'),
        ("a@[127.0.0.1]", "a@[127.0.0.1]"),
        ("A <a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
        ("@a.example,@b.example:user@x.example", "user@x.example"),
        ("<@a.example,@[127.0.0.1] : user@x.example>", "user@x.example"),
        ("postmaster", "postmaster"),
        ("Root <root>", "root"),
        ("a@localhost", "a@localhost"),
        ("a..b@docomo.example", "a..b@docomo.example"),
        ("a.@x.example", "a.@x.example"),
        (".a@x_y.-example", ".a@x_y.-example"),
        ("o'hara+tag=x@x.example", "o'hara+tag=x@x.example"),
    ],
)
def test_one_address_is_found(given: str, expected: str) -> None:
    assert parse_address(given) == Mailbox(given, expected, expected)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (Address("Doe, Jane", "jane", "x.example"), "jane@x.example"),
        (Address(username="j d", domain="x.example"), '"j d"@x.example'),
        (Address(username="root"), "root"),
    ],
)
def test_an_address_object_is_known_by_its_addr_spec(address: Address, expected: str) -> None:
    assert parse_address(address) == Mailbox(expected, expected, expected)


@pytest.mark.parametrize(
    ("given", "utf8", "ascii"),
    [
        ("j@bücher.example", "j@bücher.example", "j@xn--bcher-kva.example"),
        ("J <j@BÜCHER.Example>", "j@bücher.example", "j@xn--bcher-kva.example"),
        ("j@bücher。example", "j@bücher.example", "j@xn--bcher-kva.example"),
        ("j@straße.example", "j@straße.example", "j@xn--strae-oqa.example"),
        ("j@xn--bcher-kva.example", "j@xn--bcher-kva.example", "j@xn--bcher-kva.example"),
        ("jörg@x.example", "jörg@x.example", None),
        ("jörg@bücher.example", "jörg@bücher.example", None),
        ('"jörg müller"@x.example', '"jörg müller"@x.example', None),
        ("用户@例子.example", "用户@例子.example", None),
    ],
)
def test_non_ascii_addresses_have_two_forms_on_the_wire(
    given: str, utf8: str, ascii: str | None
) -> None:
    assert parse_address(given) == Mailbox(given, utf8, ascii)


@pytest.mark.parametrize(
    "given",
    [
        "a@x, b@x",
        "a@x; b@x",
        "A <a@x>, B <b@x>",
        "g: a@x, b@x;",
        "a@x,",
        "undisclosed-recipients:;",
    ],
)
def test_several_addresses_in_one_string_are_refused_with_a_hint(given: str) -> None:
    with pytest.raises(ValueError, match="several go into a list") as caught:
        parse_address(given)
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        *("", " ", "<>", "@", "@x", "a@", "Jane Doe", "Name <>", "mail.x.example", "()"),
        *("a b@x", "a@b@x", "a@x y", "a@x <b@x>", "A <a@x> B", "A <a@x", "a@x>", "<<a@x>>"),
        *('"a@x', '"a"b@x', 'a"b"@x', '"a"."b"@x', r"a\@x", "(a@x", "a)@x", "a@x)", "a@(x"),
        *("a@x..y", "a@.x", "a@x.", "a@.", "a@x!", "a@[1.2.3.4", "a@[300.1.1.1]", "a@[]"),
        *("a@☃.example", "a@-bücher.example", "a@bü cher", "a@bücher..x", "a@bücher。", "a@ü."),
        *("jörg", "=?utf-8?q?a=40x?=", "a[b]@x", "a@" + "ü" * 64 + ".example"),
        *("a@x:y", "@a:", "@a,@b", "a:b@x"),
    ],
)
def test_what_is_not_one_address_is_refused_with_the_input(given: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(given)[:-1])):
        parse_address(given)


@pytest.mark.parametrize("control", [*map(chr, range(32)), "\x7f"])
@pytest.mark.parametrize("form", ["a{}@x", "a@x{}", "{}a@x", "N{} <a@x>", '"{}"@x', "a@x ({})"])
def test_control_characters_are_refused_wherever_they_are(form: str, control: str) -> None:
    given = form.format(control)
    with pytest.raises(ValueError, match="control character") as caught:
        parse_address(given)
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize("given", ["\ud800@x", "a@\udcfc", '"\udc80"@x'])
def test_lone_surrogates_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_address(given)


def test_a_local_part_has_64_octets_at_most() -> None:
    assert wire("a" * 64 + "@x") == "a" * 64 + "@x"
    assert parse_address("ü" * 32 + "@x").utf8 == "ü" * 32 + "@x"
    for local in ("a" * 65, "ü" * 33, '"' + "a" * 63 + '"'):
        with pytest.raises(ValueError, match="more than 64 octets"):
            parse_address(f"{local}@x")


def test_an_address_has_254_octets_at_most_in_both_forms() -> None:
    domain = ".".join(["x" * 49] * 5)
    assert wire(f"abcd@{domain}") == f"abcd@{domain}"
    with pytest.raises(ValueError, match="more than 254 octets"):
        parse_address(f"abcdef@{domain}")
    # Its A-labels take more room than its characters do.
    with pytest.raises(ValueError, match=r"more than 254 octets|Domain too long"):
        parse_address("a@" + ".".join(["ü" * 20] * 10))
    with pytest.raises(ValueError, match="malformed domain"):
        parse_address("a@" + "ü." * 127 + "x")


@pytest.mark.parametrize("given", [None, 3, b"a@x", ["a@x"]])
def test_other_types_are_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="an address is a str"):
        parse_address(given)


@pytest.mark.parametrize("given", ["", "<>", Address()])
def test_the_null_reverse_path(given: AddressLike) -> None:
    assert parse_sender(given) is None


def test_a_sender_is_an_address() -> None:
    assert parse_sender("A <a@x>") == Mailbox("A <a@x>", "a@x", "a@x")
    assert parse_sender(Address("A", "a", "x")) == Mailbox("a@x", "a@x", "a@x")
    with pytest.raises(ValueError, match="' ' is not one address"):
        parse_sender(" ")


def test_none_is_no_sender_and_the_error_says_what_to_write() -> None:
    with pytest.raises(TypeError, match='"" is the null reverse-path'):
        parse_sender(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_recipients_are_one_address_or_several() -> None:
    assert [r.given for r in parse_recipients("A <a@x>")] == ["A <a@x>"]
    assert [r.given for r in parse_recipients(Address("A", "a", "x"))] == ["a@x"]
    several: list[AddressLike] = ["b@x", Address("A", "a", "x")]
    assert [r.given for r in parse_recipients(iter(several))] == ["b@x", "a@x"]


def test_each_recipient_counts_once_and_the_first_wins() -> None:
    given = ["a@x", "A <a@X>", "A@x", "b@x", '"a"@x', "a@x", "root", "Root", "root"]
    assert [r.given for r in parse_recipients(given)] == [
        "a@x",
        "A@x",
        "b@x",
        "root",
        "Root",
    ]


@pytest.mark.parametrize("count", [1, 2, 100, 101])
def test_recipients_that_come_again_are_the_same(count: int) -> None:
    given = [f"r{number}@x" for number in range(count)]
    first = parse_recipients(given)
    assert [r.given for r in first] == given
    assert parse_recipients(tuple(given)) == first
    assert parse_recipients([*given, "R0@X"])[-1].given == "R0@X"


def test_a_domain_is_the_same_in_a_labels_and_u_labels() -> None:
    given = [
        "j@bücher.example",
        "j@XN--BCHER-KVA.example",
        "ü@bücher.example",
        "ü@xn--bcher-kva.example",
    ]
    assert [r.given for r in parse_recipients(given)] == ["j@bücher.example", "ü@bücher.example"]


def test_no_recipients_is_an_error() -> None:
    with pytest.raises(ValueError, match="no recipients"):
        parse_recipients([])


@pytest.mark.parametrize("given", [b"a@x", bytearray(b"a@x"), None, 3])
def test_recipients_of_other_types_are_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="recipients are one address or several"):
        parse_recipients(given)


def test_a_bytes_recipient_among_several_is_refused() -> None:
    with pytest.raises(TypeError, match="an address is a str"):
        parse_recipients([b"a@x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("given", "domain"),
    [
        ("a@X.Example", "x.example"),
        ("a@bücher.example", "xn--bcher-kva.example"),
        ("jörg@BÜCHER.example", "xn--bcher-kva.example"),
        ("jörg@X.example", "x.example"),
        ('"a@b"@x', "x"),
        ("a@[127.0.0.1]", "[127.0.0.1]"),
        ("root", None),
    ],
)
def test_the_domain_of_a_mailbox(given: str, domain: str | None) -> None:
    assert domain_of(parse_address(given)) == domain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  ", []),
        ("a@x", ["a@x"]),
        ("a@x, B <b@x>", ["a@x", "b@x"]),
        ("a@x,, b@x, ", ["a@x", "b@x"]),
        ('"Doe, J" <a@x>, b@x (c, d)', ["a@x", "b@x"]),
        ("=?utf-8?q?M=2C_c=40y?= <a@x>", ["a@x"]),
        ("undisclosed-recipients:;", []),
        ("undisclosed-recipients:", []),
        ("g: a@x, B <b@x>;, c@x", ["a@x", "b@x", "c@x"]),
        ('"g;h": a@x;, i:;', ["a@x"]),
        ("<@r:a@x>, @r:b@x", ["a@x", "b@x"]),
        ("(only a comment)", []),
        ("jörg@bücher.example", ["jörg@bücher.example"]),
        ("root, a@x", ["root", "a@x"]),
    ],
)
def test_the_mailboxes_of_a_list(text: str, expected: list[str]) -> None:
    assert [mailbox.given for mailbox in parse_list(text)] == expected


@pytest.mark.parametrize(
    "text",
    [
        *("a@x; b@x", "a b@x", "a@x b@x", "a@x <b@x>", "g: h: a@x;", "g: a@x;;", "Doe, J <a@x>, ü"),
        *("a@x, (", "a@x, <b@x", "jörg, a@x", "\x00", "a@x\r\n", "a@x, b@y..z", "a@x, <>"),
    ],
)
def test_a_malformed_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_list(text)


def test_only_the_domains_of_addresses_become_a_labels() -> None:
    text = '"x@ü" <j@ü.example> (b@ü), g: a@x, ö@Ä.example;, jürgen@xn--tda.example'
    assert to_a_labels(text) == (
        '"x@ü" <j@xn--tda.example> (b@ü), g: a@x, ö@xn--4ca.example;, jürgen@xn--tda.example'
    )
    assert to_a_labels("ö <a@x>, root") == "ö <a@x>, root"


def test_hostile_lists_take_linear_time() -> None:
    bad = [
        '"',
        "a",
        "(",
        '("',
        "\\",
        '"\\"',
        "<",
        "@a,",
        "a:",
        "x ",
        '"a" ',
        "@a:",
        " ",
        "a@",
        "ü.",
    ]
    for piece in bad:
        for text in (piece * 20_000 + "!", "a@x" + piece * 20_000 + "!"):
            with pytest.raises(ValueError, match=r"."):
                parse_address(text)
            with pytest.raises(ValueError, match=r"."):
                parse_list(text)


ATOM = st.text("abcABC019!#$%&'*+-/=?^_`{|}~ü日", min_size=1, max_size=8)
LOCAL = st.one_of(
    st.lists(ATOM, min_size=1, max_size=2).map(".".join),
    st.text("ab ,;:<>@()[].", max_size=8).map(lambda text: f'"{text}"'),
    st.text('"\\', max_size=3).map(
        lambda t: '"' + t.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
)
LABEL = st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True)
DOMAIN = st.one_of(
    st.lists(LABEL, min_size=1, max_size=3).map(".".join), st.just("[127.0.0.1]"), st.just("ü.de")
)
ADDR_SPEC = st.tuples(LOCAL, DOMAIN).map("@".join)
PHRASE = st.one_of(
    st.just(""),
    st.text("abc äß.-'=?", max_size=10),
    st.text("ab ,;:<>@()[].", max_size=10).map(lambda text: f'"{text}"'),
)
COMMENT = st.recursive(
    st.text('ab "<>@,;:[].', max_size=6), lambda inner: inner.map(lambda text: f"({text})")
).map(lambda text: f"({text})")
BLANK = st.one_of(st.just(""), st.just(" "), COMMENT)


@st.composite
def items(draw: st.DrawFn) -> tuple[str, list[str]]:
    """One element of a list, and the addresses in it."""
    kind = draw(st.sampled_from(["plain", "named", "blank", "group"]))
    if kind == "blank":
        return draw(BLANK), []
    if kind == "group":
        specs = draw(st.lists(ADDR_SPEC, max_size=2))
        return f"group: {', '.join(specs)};", specs
    spec = draw(ADDR_SPEC)
    if kind == "plain":
        return spec, [spec]
    return f"{draw(BLANK)}{draw(PHRASE)}<{spec}>{draw(BLANK)}", [spec]


@given(st.lists(items(), max_size=4))
def test_every_well_formed_list_is_read_whole(elements: list[tuple[str, list[str]]]) -> None:
    text = ",".join(element for element, _ in elements)
    expected = [spec for _, specs in elements for spec in specs]
    assert [mailbox.given for mailbox in parse_list(text)] == expected


@given(ADDR_SPEC, PHRASE)
def test_a_name_changes_nothing(addr_spec: str, phrase: str) -> None:
    plain, named = parse_address(addr_spec), parse_address(f"{phrase}<{addr_spec}>")
    assert (plain.utf8, plain.ascii) == (named.utf8, named.ascii)


PIECES = [
    "a",
    "b@x",
    "@",
    "<",
    ">",
    ",",
    ";",
    ":",
    "(",
    ")",
    '"',
    "\\",
    " ",
    ".",
    "[1.2.3.4]",
    "<u@v>",
]


@given(st.lists(st.sampled_from([*PIECES, '"q r"', "ü", "g:"]), max_size=8).map("".join))
def test_where_the_email_package_sees_no_defect_it_reads_the_same(text: str) -> None:
    try:
        header = default.header_factory("To", text)
    except (IndexError, AttributeError, TypeError):
        # Its parser fails so for some of what is malformed.
        return
    try:
        ours = [mailbox.given.replace('"', "") for mailbox in parse_list(text)]
    except ValueError:
        return
    if not any(type(defect).__name__ == "InvalidHeaderDefect" for defect in header.defects):
        assert ours == [address.addr_spec.replace('"', "") for address in header.addresses]


@given(st.text(st.sampled_from('ab@.,;:<>()[]\\" ü\udc80\x00\r\n=?_-1'), max_size=30))
def test_whatever_is_accepted_is_safe_in_a_command(text: str) -> None:
    try:
        mailbox = parse_address(text)
    except ValueError:
        return
    for form in filter(None, (mailbox.utf8, mailbox.ascii)):
        assert form.encode().isascii() or form == mailbox.utf8
        assert not set(form) & set("\r\n\x00")
        local, _, domain = form.rpartition("@")
        assert " " not in domain
        assert ">" not in domain
        assert local.startswith('"') or not set(local) & set(' <>,"')


def test_ascii_addresses_do_without_idna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "idna", None)
    assert wire("A <a@x.example>") == "a@x.example"
    assert parse_address("jörg@x.example").ascii is None
    with pytest.raises(ImportError):
        parse_address("a@bücher.example")


PLAIN_PIECES = st.sampled_from(
    [
        "a",
        "b.c",
        "@",
        "x.example",
        "<",
        ">",
        " ",
        ",",
        "Name",
        "ü",
        '"',
        "(c)",
        ":",
        ";",
        "\\",
        "[",
        ".",
    ]
)


@given(st.lists(PLAIN_PIECES, max_size=12).map("".join))
def test_plain_addresses_are_what_a_parser_makes_of_them(text: str) -> None:
    def outcome(text: str) -> object:
        try:
            return [(mailbox.utf8, mailbox.ascii) for mailbox in parse_list(text)]
        except ValueError:
            return "malformed"

    # A comment says nothing, and is nothing plain.
    assert outcome(text) == outcome(f"(){text}")


@given(st.lists(PLAIN_PIECES, max_size=8).map("".join))
def test_one_plain_address_is_what_a_parser_makes_of_it(text: str) -> None:
    def outcome(text: str) -> object:
        try:
            mailbox = parse_address(text)
        except ValueError:
            return "malformed"
        return mailbox.utf8, mailbox.ascii

    assert outcome(text) == outcome(f"(){text}")


def test_a_sender_that_comes_again_is_the_same() -> None:
    first = parse_sender("Name <a@x.example>")
    assert parse_sender("Name <a@x.example>") == first
    for _ in range(2):
        with pytest.raises(ValueError, match="is not one address"):
            parse_sender("a b@x.example")
