"""The grammar of addresses by the documents: their examples, and the classic hard cases.

Each line is an address and what a command has between its angle brackets; None is a ValueError.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp._message import parse_address
from anysmtp._message._addresses import local_part_of, parse_list, write_address

# RFC 5321, sections 2.3.5, 3.4, 4.1.1.3, 4.1.3 and appendix D.
RFC_5321 = [
    ("Smith@bar.com", "Smith@bar.com"),
    ("userx@y.foo.org", "userx@y.foo.org"),
    ("@hosta.int,@jkl.org:userc@d.bar.org", "userc@d.bar.org"),
    ("<@a,@b:user@d>", "user@d"),
    ("Postmaster", "Postmaster"),
    ("<Postmaster>", "Postmaster"),
    ('"Joe Smith"@x.example', '"Joe Smith"@x.example'),
    ("u@[123.255.37.2]", "u@[123.255.37.2]"),
    ("u@[IPv6:::1]", "u@[IPv6:::1]"),
    ("u@[IPv6:2001:db8::ff00:42:8329]", "u@[IPv6:2001:db8::ff00:42:8329]"),
    ("u@[IPv6:::ffff:192.0.2.1]", "u@[IPv6:::ffff:192.0.2.1]"),
    ("u@[ipv6:1:2:3:4:5:6:7:8]", "u@[ipv6:1:2:3:4:5:6:7:8]"),
    ("u@[1.2.3]", None),
    ("u@[1.2.3.256]", None),
    ("u@[::1]", None),
    ("u@[IPv6:1:2:3]", None),
    ("u@[IPv6:1::2::3]", None),
    ("u@[IPv6:fe80::1%eth0]", None),
    ("u@[x.example]", None),
    ("u@[Other:tag]", None),
]

# RFC 3696 section 3, with its errata: what the section had without quotes, needs them.
RFC_3696 = [
    (r"Abc\@def@example.com", None),
    (r"Fred\ Bloggs@example.com", None),
    (r"Joe.\\Blow@example.com", None),
    ('"Abc@def"@example.com', '"Abc@def"@example.com'),
    ('"Fred Bloggs"@example.com', '"Fred Bloggs"@example.com'),
    (r'"Joe.\\Blow"@example.com', r'"Joe.\\Blow"@example.com'),
    ("user+mailbox@example.com", "user+mailbox@example.com"),
    ("customer/department=shipping@example.com", "customer/department=shipping@example.com"),
    ("$A12345@example.com", "$A12345@example.com"),
    ("!def!xyz%abc@example.com", "!def!xyz%abc@example.com"),
    ("_somename@example.com", "_somename@example.com"),
]

# RFC 5322 appendix A, as far as one address goes.
RFC_5322 = [
    ("John Doe <jdoe@machine.example>", "jdoe@machine.example"),
    ('"Joe Q. Public" <john.q.public@example.com>', "john.q.public@example.com"),
    ('"Giant; \\"Big\\" Box" <sysservices@example.net>', "sysservices@example.net"),
    ("Who? <one@y.test>", "one@y.test"),
    ("Joe Q. Public <john.q.public@example.com>", "john.q.public@example.com"),
    ("Mary Smith <@node.test:mary@example.net>", "mary@example.net"),
    (r"Pete(A nice \) chap) <pete(his account)@silly.test(his host)>", "pete@silly.test"),
    ("jdoe@test   . example", None),
]

# RFC 6531 section 3.3 and RFC 6532; the second is what SMTPUTF8 carries, and None what it does.
RFC_6531 = [
    ("用户@example.com", "用户@example.com"),
    ("δοκιμή@παράδειγμα.δοκιμή", "δοκιμή@παράδειγμα.δοκιμή"),
    ("Jörg <jörg@Bücher.example>", "jörg@bücher.example"),
    ('"jörg ü"@x.example', '"jörg ü"@x.example'),
    ("j@faß.example", "j@faß.example"),
    ("j@ＢÜＣＨＥＲ.example", "j@bücher.example"),
    ("j@bücher\u3002example", "j@bücher.example"),
    ("j@☕.example", None),
    ("j@ab--c-ü.example", None),
    ("j@ü\u200d.example", None),
    ("\u2028@x.example", "\u2028@x.example"),
]

CLASSIC = [
    ("", None),
    (" ", None),
    ("@", None),
    ("a", "a"),
    ("a@b", "a@b"),
    ("a@b@c", None),
    ("a b@c.example", None),
    ("a@b c", None),
    (".a@c.example", ".a@c.example"),
    ("a..b@c.example", "a..b@c.example"),
    ("a@.c.example", None),
    ("a@c..example", None),
    ("a@c.example.", None),
    ("a@-c.example", "a@-c.example"),
    ("a@c_d.example", "a@c_d.example"),
    ("a@" + "c" * 64 + ".example", None),
    ("a" * 64 + "@c.example", "a" * 64 + "@c.example"),
    ("a" * 65 + "@c.example", None),
    ('""@c.example', '""@c.example'),
    ('"a@c.example', None),
    ('a"b"c@d.example', None),
    ('"a"b@c.example', None),
    ('" "@c.example', '" "@c.example'),
    ("a@c.example\r\nRCPT TO:<b@c>", None),
    ("a@c.example\0", None),
    ("a@c.example, b@c.example", None),
    ("a@c.example; b@c.example", None),
    ("a@c.example <b@c.example>", None),
    ('"a@c.example" <b@c.example>', "b@c.example"),
    ("=?utf-8?q?a=40x=2C?= <b@c.example>", "b@c.example"),
    ("(a@c.example) b@c.example", "b@c.example"),
    ("a@c.example (comment (nested) \\) )", "a@c.example"),
    ("a@c.example (", None),
    ("mailto:a@c.example", None),
    ("a@1.2.3.4", "a@1.2.3.4"),
    ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
]


@pytest.mark.parametrize(
    ("given", "expected"), [*RFC_5321, *RFC_3696, *RFC_5322, *RFC_6531, *CLASSIC]
)
def test_the_documents_examples(given: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"."):
            parse_address(given)
    else:
        assert parse_address(given).utf8 == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "A Group:Ed Jones <joe@where.test>,joe@where.test,John <jdoe@one.test>;",
            ["joe@where.test", "joe@where.test", "jdoe@one.test"],
        ),
        ("Undisclosed recipients:;", []),
        (
            'Mary Smith <@node.test:mary@example.net>, , jdoe@test.example, "a, b" <c@d.test>',
            ["mary@example.net", "jdoe@test.example", "c@d.test"],
        ),
        (
            "A Group(Some people):Chris <c@(Chris's host.)public.example>,\tjoe@example.org;",
            None,
        ),
        (
            "A Group(Some people):Chris <c@(Chris's host.)public.example>, joe@example.org;",
            ["c@public.example", "joe@example.org"],
        ),
    ],
)
def test_the_documents_lists(text: str, expected: list[str] | None) -> None:
    """A tab is the field's business: it is a blank by the time that a list is looked at."""
    if expected is None:
        with pytest.raises(ValueError, match="control character"):
            parse_list(text)
    else:
        assert [mailbox.utf8 for mailbox in parse_list(text)] == expected


LOCAL = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x24F, exclude_characters="\x7f"), max_size=24
)
LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
DOMAIN = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["[127.0.0.1]", "[IPv6:2001:db8::1]", "bücher.example", "例子.example"]),
)


@given(LOCAL, DOMAIN)
def test_to_write_and_to_parse_is_the_identity(local: str, domain: str) -> None:
    written = write_address(local, domain)
    found = parse_address(written)
    assert (local_part_of(found), found.utf8.rpartition("@")[2]) == (local, domain)
    assert found.utf8 == written
    named = parse_address(f'"A, \\"B\\"" (c) <{written}>')
    assert (named.utf8, named.ascii) == (found.utf8, found.ascii)


@given(LOCAL, DOMAIN)
def test_to_parse_and_to_write_is_the_identity_for_a_local_part_that_needs_its_quotes(
    local: str, domain: str
) -> None:
    quoted = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    found = parse_address(f"{quoted}@{domain}")
    again = parse_address(write_address(local_part_of(found), domain))
    assert again.utf8 in (found.utf8, f"{local}@{domain}")
    assert local_part_of(again) == local_part_of(found) == local


@pytest.mark.parametrize(
    ("local", "domain", "written"),
    [
        ("a", "x", "a@x"),
        ("a.b", "x", "a.b@x"),
        ("a..b", "x", '"a..b"@x'),
        (".a", "x", '".a"@x'),
        ("", "x", '""@x'),
        ("root", "", "root"),
        ('a"b\\c', "x", r'"a\"b\\c"@x'),
        ("jörg", "x", "jörg@x"),
        ("j ö", "x", '"j ö"@x'),
    ],
)
def test_a_local_part_is_quoted_where_it_has_to_be(local: str, domain: str, written: str) -> None:
    assert write_address(local, domain) == written
