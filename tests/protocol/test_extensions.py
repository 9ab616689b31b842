"""EHLO replies as real servers give them, and worse."""

from __future__ import annotations

import time

import pytest

from anysmtp._protocol._extensions import Extensions
from anysmtp._reply import Reply


def offered(*lines: str) -> Extensions:
    return Extensions(Reply(250, ["mail.example.test", *lines]))


POSTFIX = offered(
    *("PIPELINING", "SIZE 1000000", "VRFY", "ETRN", "STARTTLS", "AUTH PLAIN LOGIN"),
    *("AUTH=PLAIN LOGIN", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"),
)
DOVECOT_AFTER_LOGIN = offered(
    *("8BITMIME", "AUTH", "BURL imap imap://mail.example.test", "CHUNKING"),
    *("ENHANCEDSTATUSCODES", "PIPELINING", "SIZE 998976"),
)


def test_it_is_a_mapping_of_keywords_in_any_case() -> None:
    assert DOVECOT_AFTER_LOGIN["burl"] == "imap imap://mail.example.test"
    assert "pipelining" in DOVECOT_AFTER_LOGIN
    assert "STARTTLS" not in DOVECOT_AFTER_LOGIN
    assert DOVECOT_AFTER_LOGIN.keys().isdisjoint([250])
    assert DOVECOT_AFTER_LOGIN.get("dsn") is None
    assert len(DOVECOT_AFTER_LOGIN) == 7
    assert list(DOVECOT_AFTER_LOGIN)[:2] == ["8BITMIME", "AUTH"]
    with pytest.raises(KeyError):
        DOVECOT_AFTER_LOGIN["DSN"]


@pytest.mark.parametrize(
    "extensions",
    [Extensions(), Extensions(Reply(250, "PIPELINING")), offered()],
)
def test_nothing_offered_is_nothing(extensions: Extensions) -> None:
    assert dict(extensions) == {}
    assert (extensions.size, extensions.auth, extensions.oddities) == (None, (), ())
    assert extensions.limits == {}
    assert not extensions.pipelining
    assert not extensions.chunking
    assert not extensions.eight_bit_mime
    assert not extensions.smtputf8
    assert not extensions.starttls
    assert repr(extensions) == "<Extensions none>"


def test_properties_say_what_keywords_mean() -> None:
    assert POSTFIX.pipelining
    assert POSTFIX.chunking
    assert POSTFIX.eight_bit_mime
    assert POSTFIX.smtputf8
    assert POSTFIX.starttls
    assert POSTFIX.size == 1000000
    assert POSTFIX.auth == ("PLAIN", "LOGIN")
    assert repr(offered("8BITMIME", "SIZE 1")) == "<Extensions 8BITMIME, SIZE>"


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("SIZE 1", 1),
        ("SIZE=35882577", 35882577),
        ("size 10", 10),
        ("SIZE 10 \t\r", 10),
        ("SIZE 99999999999999999999", 99999999999999999999),
        ("SIZE", None),
        ("SIZE 0", None),
        ("SIZE -1", None),
        ("SIZE 1 2", None),
        ("SIZE many", None),
        ("SIZE \u0661", None),
        ("SIZE \u00b2", None),
        pytest.param("SIZE " + "9" * 5000, None, id="SIZE 9..."),
    ],
)
def test_a_size_is_a_number_that_limits(line: str, size: int | None) -> None:
    assert offered(line).size == size


@pytest.mark.parametrize(
    ("lines", "auth"),
    [
        (["AUTH LOGIN PLAIN"], ("LOGIN", "PLAIN")),
        (["AUTH=LOGIN PLAIN"], ("LOGIN", "PLAIN")),
        (["auth login"], ("LOGIN",)),
        (["AUTH"], ()),
        (["AUTH "], ()),
        (["AUTH="], ()),
        (["AUTH = LOGIN"], ("LOGIN",)),
        (["AUTH\tLOGIN \t PLAIN \r"], ("LOGIN", "PLAIN")),
        (["AUTH LOGIN", "AUTH=LOGIN PLAIN"], ("LOGIN", "PLAIN")),
        (["AUTHENTICATE LOGIN"], ()),
    ],
)
def test_mechanisms_come_in_the_servers_order(lines: list[str], auth: tuple[str, ...]) -> None:
    assert offered(*lines).auth == auth


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("LIMITS RCPTMAX=100", {"RCPTMAX": 100}),
        (
            "limits MAILMAX=5 RcptMax=9999999999 RCPTDOMAINMAX=1",
            {"MAILMAX": 5, "RCPTMAX": 9999999999, "RCPTDOMAINMAX": 1},
        ),
        ("LIMITS RCPTMAX=007", {"RCPTMAX": 7}),
        ("LIMITS X-Y_Z9=3", {"X-Y_Z9": 3}),
        ("LIMITS", {}),
        ("LIMITS RCPTMAX", {}),
        ("LIMITS RCPTMAX=", {}),
        ("LIMITS RCPTMAX=0", {}),
        ("LIMITS RCPTMAX=000", {}),
        ("LIMITS RCPTMAX=-1", {}),
        ("LIMITS RCPTMAX=many MAILMAX=2", {"MAILMAX": 2}),
        ("LIMITS RCPTMAX=\u0661", {}),
        ("LIMITS RCPTMAX = 1", {}),
        ("LIMITS 9X=1 =1", {}),
        ("LIMITS RCPTMAX=10000000000", {}),
        pytest.param("LIMITS RCPTMAX=" + "9" * 5000, {}, id="LIMITS RCPTMAX=9..."),
        ("LIMITS RCPTMAX=1 RCPTMAX=2", {"RCPTMAX": 2}),
    ],
)
def test_limits_are_numbers_above_0(line: str, limits: dict[str, int]) -> None:
    assert offered(line).limits == limits


@pytest.mark.parametrize("line", ["", " ", " PIPELINING", "-X", "8BIT_MIME", "\udcff", "ä"])
def test_a_line_that_is_no_keyword_is_passed_over_and_named(line: str) -> None:
    extensions = offered(line, "SIZE 5")
    assert dict(extensions) == {"SIZE": "5"}
    assert extensions.oddities == (f"not a keyword: {line!r}",)


def test_a_keyword_that_comes_twice_is_merged_and_named() -> None:
    assert POSTFIX.oddities == ("keyword twice: 'AUTH=PLAIN LOGIN'",)
    assert offered("DSN", "DSN").oddities == ("keyword twice: 'DSN'",)


def test_no_line_takes_long_to_read() -> None:
    blanks = " " * 8000
    lines = [f"A y{blanks}x", f"A{blanks}x{blanks}", "A" * 8000 + "_"] * 20
    start = time.process_time()
    offered(*lines)
    assert time.process_time() - start < 1
