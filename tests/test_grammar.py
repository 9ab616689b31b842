from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp import _grammar as grammar

EVERY_PATTERN = [
    grammar.ESMTP_KEYWORD,
    grammar.ESMTP_PARAMETER,
    grammar.DOMAIN,
    grammar.ADDRESS_LITERAL,
    grammar.LOCAL_HOSTNAME,
    grammar.DOT_STRING,
    grammar.QUOTED_STRING,
    grammar.MAIL_DOMAIN,
    grammar.IDN_DOMAIN,
    grammar.PLAIN_ADDRESS,
    grammar.ACCOUNT,
    grammar.FIELD_NAME,
]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (grammar.ESMTP_KEYWORD, ["SIZE", "8BITMIME", "X-EXPS", "a"]),
        (grammar.ESMTP_PARAMETER, ["SMTPUTF8", "SIZE=1", "AUTH=<>", "ORCPT=utf-8;ü@ü", "X-a=!~"]),
        (grammar.DOMAIN, ["x", "mail.x.example", "1.2", "a-b.c--d", "a" * 63 + ".b"]),
        (grammar.LOCAL_HOSTNAME, ["mail.x.example", "[127.0.0.1]", "[IPv6:::1]"]),
        (grammar.DOT_STRING, ["a", "a.b", ".a..b.", "!#$%&'*+/=?^_`{|}~-", "jörg", "\U0001f600"]),
        (grammar.QUOTED_STRING, ['""', '"a b"', r'"\""', r'"\\"', '"ü"', '"a@b"']),
        (grammar.MAIL_DOMAIN, ["x", "_a.x-.-y", "a" * 63]),
        (grammar.IDN_DOMAIN, ["bücher.example", "x"]),
        (grammar.PLAIN_ADDRESS, ["a@x", "a.b+c@mail.x.example", "a" * 64 + "@x"]),
        (grammar.ACCOUNT, ["root", "www-data", "_apt", "Postmaster"]),
        (grammar.FIELD_NAME, ["To", "X-Y", "!~"]),
    ],
)
def test_what_the_grammar_grants(pattern: re.Pattern[str], texts: list[str]) -> None:
    assert [text for text in texts if not pattern.fullmatch(text)] == []


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (grammar.ESMTP_KEYWORD, ["", "-A", "A_B", "ü"]),
        (grammar.ESMTP_PARAMETER, ["", "SIZE=", "SIZE =1", "A=b=c", "A=b c", "=1", "A=\ud800"]),
        (
            grammar.DOMAIN,
            ["", ".", "a.", ".a", "a..b", "-a", "a-", "x_y", "a" * 64, "ü", "a." * 130],
        ),
        (grammar.LOCAL_HOSTNAME, ["x_y", "127.0.0.1]", "[x]", "a b", "[127.0.0.1].x"]),
        (grammar.DOT_STRING, ["", "a b", "a@b", '"', "a,b", "(", "\ud800"]),
        (grammar.QUOTED_STRING, ["", '"', '"""', '"\\"', "a", '"\ud800"', '"a"b']),
        (grammar.MAIL_DOMAIN, ["", ".", "a.", ".a", "a..b", "ü", "a" * 64, "a b", "[1]"]),
        (grammar.IDN_DOMAIN, ["", "ü.", "ü..a", "ü b", "ü@"]),
        (grammar.PLAIN_ADDRESS, ["@x", "a@", "a", "a b@x", "ü@x", "a" * 65 + "@x", "<a@x>"]),
        (grammar.PLAIN_ADDRESS, ["a@" + "x." * 126 + "y"]),
        (grammar.ACCOUNT, ["", "a.b", "-a", "=?x?q?y?=", "a b", "ü"]),
        (grammar.FIELD_NAME, ["", "a b", "a:", "ü"]),
    ],
)
def test_what_the_grammar_refuses(pattern: re.Pattern[str], texts: list[str]) -> None:
    assert [text for text in texts if pattern.fullmatch(text)] == []


@pytest.mark.parametrize("pattern", EVERY_PATTERN)
@pytest.mark.parametrize("control", [*map(chr, range(32)), "\x7f"])
def test_no_pattern_lets_a_control_character_through(
    pattern: re.Pattern[str], control: str
) -> None:
    assert grammar.CONTROLS.search(f"a{control}")
    for text in ("a@x", "a", '"a"', "[127.0.0.1]", "A=b"):
        for position in range(len(text) + 1):
            assert not pattern.fullmatch(text[:position] + control + text[position:])


def test_space_and_non_ascii_text_are_no_control_characters() -> None:
    assert not grammar.CONTROLS.search(" ~\x80ü\u2028")


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_has_a_literal(address: ipaddress.IPv4Address) -> None:
    assert grammar.ADDRESS_LITERAL.fullmatch(f"[{address}]")


@given(st.ip_addresses(v=6))
def test_every_ipv6_address_has_a_literal(address: ipaddress.IPv6Address) -> None:
    for text in (str(address), address.exploded):
        assert grammar.ADDRESS_LITERAL.fullmatch(f"[IPv6:{text}]")
        assert grammar.ADDRESS_LITERAL.fullmatch(f"[ipv6:{text.upper()}]")


@given(st.text("0123456789abf:.", max_size=24))
def test_an_ipv6_literal_is_an_ipv6_address(text: str) -> None:
    if grammar.ADDRESS_LITERAL.fullmatch(f"[IPv6:{text}]"):
        ipaddress.IPv6Address(text)


@pytest.mark.parametrize(
    "text",
    [
        *("::", "1::", "::1", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6::", "1::2:3", "1:2:3::6:7:8"),
        *("::3:4:5:6:7:8", "::ffff:1.2.3.4", "1::2:1.2.3.4", "1:2:3:4:5:6:1.2.3.4"),
        *("::1.2.3.4", "1:2:3:4::1.2.3.4", "::3:4:5:6:1.2.3.4", "1:2::5:6:1.2.3.4"),
    ],
)
def test_the_forms_of_an_ipv6_literal(text: str) -> None:
    assert grammar.ADDRESS_LITERAL.fullmatch(f"[IPv6:{text}]")


@pytest.mark.parametrize(
    "literal",
    [
        *(
            "[]",
            "[1.2.3]",
            "[1.2.3.256]",
            "[01.2.3.4]",
            "127.0.0.1",
            "[127.0.0.1]]",
            "[x:y]",
            "[::1]",
        ),
        *("[IPv6:1:2:3:4:5:6:7]", "[IPv6:1::2::3]", "[IPv6:12345::]", "[IPv6:::1%eth0]"),
        *("[IPv6:1:2:3:4::5:6:7:8]", "[IPv6:::1.2.3.4:1]"),
        # RFC 5321 section 4.1.3: "::" stands for two groups at the least.
        *("[IPv6:1:2:3:4:5:6::8]", "[IPv6:1:2:3:4:5:6:7::]", "[IPv6:::2:3:4:5:6:7:8]"),
        *("[IPv6:1::3:4:5:6:7:8]", "[IPv6:1:2:3:4:5::1.2.3.4]", "[IPv6:::2:3:4:5:6:1.2.3.4]"),
    ],
)
def test_what_is_no_address_literal(literal: str) -> None:
    assert not grammar.ADDRESS_LITERAL.fullmatch(literal)
