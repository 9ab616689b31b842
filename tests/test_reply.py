"""A reply: what its code and its text say, and that nothing of it is lost."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest

from anysmtp._reply import Reply, printable


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (200, {"positive"}),
        (299, {"positive"}),
        (300, {"intermediate"}),
        (399, {"intermediate"}),
        (400, {"transient"}),
        (499, {"transient"}),
        (500, {"permanent"}),
        (599, {"permanent"}),
    ],
)
def test_the_first_digit_decides(code: int, kinds: set[str]) -> None:
    reply = Reply(code)
    names = ("positive", "intermediate", "transient", "permanent")
    assert {name for name in names if getattr(reply, f"is_{name}")} == kinds


@pytest.mark.parametrize("code", [-1, 0, 100, 199, 600, 2500])
def test_a_code_that_is_no_reply_code_is_an_error(code: int) -> None:
    with pytest.raises(ValueError, match="200 to 599"):
        Reply(code)


def test_text_and_lines_are_two_views_of_the_same() -> None:
    reply = Reply(250, "one\ntwo")
    assert reply.lines == ("one", "two")
    assert reply.text == "one\ntwo"
    assert reply == Reply(250, ["one", "two"])


@pytest.mark.parametrize("text", ["", [], [""]])
def test_there_is_always_a_line(text: str | list[str]) -> None:
    assert Reply(250, text).lines == ("",)


@pytest.mark.parametrize(
    ("code", "text", "enhanced"),
    [
        (550, "5.1.1 no such user", "5.1.1"),
        (250, "2.1.5", "2.1.5"),
        (250, "2.0.0 2.1.5 OK", "2.0.0"),
        (452, "4.5.3 too many\n4.0.0 recipients", "4.5.3"),
        (550, "5.123.123: no", "5.123.123"),
        (550, "4.1.1 of another class", None),
        (354, "3.0.0 of no class", None),
        (550, "5.1.1234 no", None),
        (550, "5.1.1.1 no", None),
        (550, "5.1.1x", None),
        (550, "5.1", None),
        (550, "5.\u0661.1 no", None),
        (550, " 5.1.1 no", None),
        (550, "no\n5.1.1 no", None),
        (550, "", None),
    ],
)
def test_the_enhanced_code_opens_the_first_line(code: int, text: str, enhanced: str | None) -> None:
    assert Reply(code, text).enhanced == enhanced


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (Reply(250, "2.1.5 ok"), "250 2.1.5 ok"),
        (Reply(250), "250"),
        (Reply(250, "one\ntwo"), "250 one\ntwo"),
        (Reply(550, "\x1b[31m\r\x00\x7f\x85"), "550 \\x1b[31m\\x0d\\x00\\x7f\\x85"),
        (Reply(550, "grüße"), "550 grüße"),
        (Reply(550, b"gr\xfc\xdfe".decode("utf-8", "surrogateescape")), "550 gr\\xfc\\xdfe"),
        (Reply(550, "\ud800"), "550 \\x00"),
    ],
)
def test_it_is_shown_without_what_could_harm_a_terminal(reply: Reply, shown: str) -> None:
    assert str(reply) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        (Reply(250), ["250 "]),
        (Reply(250, "ok"), ["250 ok"]),
        (Reply(250, "one\n\rtwo\nthree"), ["250-one", "250-\\x0dtwo", "250 three"]),
    ],
)
def test_it_can_be_written_as_it_came(reply: Reply, lines: list[str]) -> None:
    assert reply.written() == lines


def test_printable_leaves_line_feeds_and_letters() -> None:
    assert printable("ä\nb\tc") == "ä\nb\\x09c"


def test_it_is_a_value() -> None:
    reply = Reply(550, "no")
    assert {reply: 1}[Reply(550, "no")] == 1
    assert reply not in (Reply(551, "no"), Reply(550, "yes"))
    assert pickle.loads(pickle.dumps(reply)) == reply
    with pytest.raises(FrozenInstanceError):
        reply.code = 250  # type: ignore[misc]
