"""Commands: what they look like on the wire, what is refused, and what is hidden."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anysmtp._protocol import _commands
from anysmtp._protocol._commands import Command

CONTROLS = [*map(chr, range(32)), "\x7f"]

# Every road from an argument to the wire.
ROADS: dict[str, Callable[[str], object]] = {
    "ehlo": _commands.ehlo,
    "helo": _commands.helo,
    "mail path": _commands.mail,
    "mail parameter": lambda text: _commands.mail("a@x", [text]),
    "rcpt path": _commands.rcpt,
    "rcpt parameter": lambda text: _commands.rcpt("b@x", [text]),
    "verb": _commands.with_argument,
    "argument": lambda text: _commands.with_argument("VRFY", text),
    "mechanism": lambda text: _commands.auth(text, None),
    "initial response": lambda text: _commands.auth("PLAIN", text),
    "response": _commands.auth_response,
    "line": Command,
    "option": lambda text: _commands.parameters([text]),
}


@pytest.mark.parametrize("road", ROADS)
def test_no_control_character_gets_through(road: str) -> None:
    ROADS[road]("AbC123")
    for control in CONTROLS:
        for text in (f"ab{control}cd", f"ab{control}", f"{control}ab"):
            with pytest.raises(ValueError, match=r"control character|no parameter"):
                ROADS[road](text)


@pytest.mark.parametrize(
    ("command", "line", "verb"),
    [
        (_commands.ehlo("me.example"), b"EHLO me.example\r\n", "EHLO"),
        (_commands.helo("[127.0.0.1]"), b"HELO [127.0.0.1]\r\n", "HELO"),
        (_commands.mail(""), b"MAIL FROM:<>\r\n", "MAIL"),
        (
            _commands.mail("a@x", ["SIZE=9", "SMTPUTF8"]),
            b"MAIL FROM:<a@x> SIZE=9 SMTPUTF8\r\n",
            "MAIL",
        ),
        (_commands.rcpt("ä@x"), "RCPT TO:<ä@x>\r\n".encode(), "RCPT"),
        (_commands.rcpt("b@x", ["NOTIFY=NEVER"]), b"RCPT TO:<b@x> NOTIFY=NEVER\r\n", "RCPT"),
        (_commands.bdat(86, is_last=False), b"BDAT 86\r\n", "BDAT"),
        (_commands.bdat(0, is_last=True), b"BDAT 0 LAST\r\n", "BDAT LAST"),
        (_commands.with_argument("HELP"), b"HELP\r\n", "HELP"),
        (_commands.with_argument("VRFY", "b c"), b"VRFY b c\r\n", "VRFY"),
        (_commands.auth("PLAIN", "AGEAYg=="), b"AUTH PLAIN AGEAYg==\r\n", "AUTH"),
        (_commands.auth("EXTERNAL", ""), b"AUTH EXTERNAL =\r\n", "AUTH"),
        (_commands.auth("LOGIN", None), b"AUTH LOGIN\r\n", "AUTH"),
        (_commands.auth_response("YQ=="), b"YQ==\r\n", "*"),
        (_commands.auth_response(""), b"\r\n", "*"),
        (_commands.auth_response("*"), b"*\r\n", "*"),
        (_commands.END_OF_DATA, b".\r\n", "."),
        (Command("etrn x"), b"etrn x\r\n", "ETRN"),
    ],
    ids=repr,
)
def test_a_command_is_one_line(command: Command, line: bytes, verb: str) -> None:
    assert (command.line, command.verb) == (line, verb)


@pytest.mark.parametrize("text", ["", " ", " DATA", " DATA x"])
def test_a_command_has_a_verb(text: str) -> None:
    with pytest.raises(ValueError, match="starts with its verb"):
        Command(text)


@pytest.mark.parametrize("word", ["", "a b", " a", "a "])
def test_a_word_is_one_word(word: str) -> None:
    for road in ("ehlo", "helo", "mechanism"):
        with pytest.raises(ValueError, match="one word expected"):
            ROADS[road](word)


def test_what_has_no_encoding_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        _commands.rcpt("\ud800@x")


@pytest.mark.parametrize(
    ("verb", "limit"),
    [("NOOP", 512), ("XFOO", 512), ("VRFY", 1024), ("EXPN", 1024), ("MAIL", 3072), ("RCPT", 3072)],
)
def test_a_line_has_a_longest_length(verb: str, limit: int) -> None:
    longest = verb.ljust(limit - 2, "x").replace("x", " ", 1)
    assert len(Command(longest).line) == limit
    with pytest.raises(ValueError, match=f"{limit + 1} octets, {limit} allowed"):
        Command(longest + "x")


def test_octets_are_counted_not_characters() -> None:
    with pytest.raises(ValueError, match="512 allowed"):
        Command("NOOP " + "ä" * 255)


def test_a_response_may_be_longer_than_a_command() -> None:
    assert len(_commands.auth_response("x" * 12288).line) == 12290
    with pytest.raises(ValueError, match="12290 allowed"):
        _commands.auth_response("x" * 12289)


def test_an_initial_response_that_does_not_fit_is_left_out() -> None:
    fits = "x" * (512 - len("AUTH PLAIN \r\n"))
    assert len(_commands.auth("PLAIN", fits).line) == 512
    assert _commands.auth("PLAIN", fits + "x").line == b"AUTH PLAIN\r\n"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (_commands.auth("PLAIN", "c2VjcmV0"), "AUTH PLAIN ***"),
        (_commands.auth("PLAIN", ""), "AUTH PLAIN ***"),
        (_commands.auth_response("c2VjcmV0"), "***"),
    ],
)
def test_a_secret_is_not_shown(command: Command, shown: str) -> None:
    assert command.shown == shown
    assert repr(command) == f"<Command {shown}>"
    assert command.is_secret


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (_commands.auth("PLAIN", None), "AUTH PLAIN"),
        (_commands.RSET, "RSET"),
        (_commands.mail("a@x"), "MAIL FROM:<a@x>"),
        (_commands.bdat(86, is_last=True), "BDAT 86 LAST"),
        (Command("xclient a"), "xclient a"),
    ],
)
def test_what_is_no_secret_is_shown(command: Command, shown: str) -> None:
    assert command.shown == shown
    assert not command.is_secret


def test_a_secret_is_not_in_an_error() -> None:
    for road in ("response", "initial response"):
        with pytest.raises(ValueError, match="control character") as caught:
            ROADS[road]("c2VjcmV0\n")
        assert "c2Vj" not in str(caught.value)


@pytest.mark.parametrize("option", ["SMTPUTF8", "SIZE=100", "X-A=b<c>", "ENVID=ä", "1", "A=+3D"])
def test_options_are_parameters(option: str) -> None:
    assert _commands.parameters(iter([option, "X"])) == (option, "X")


@pytest.mark.parametrize("option", ["", " ", "A B", "A=", "=B", "A=B=C", "-A", "A=b c", "ä=b"])
def test_what_is_no_parameter_is_an_error(option: str) -> None:
    with pytest.raises(ValueError, match="no parameter of MAIL or RCPT"):
        _commands.parameters([option])


@pytest.mark.parametrize("options", [["A=" + "x" * 1499], ["A=" + "ä" * 750], ["A"] * 751])
def test_parameters_that_would_not_fit_the_line_are_an_error(options: list[str]) -> None:
    with pytest.raises(ValueError, match="more than 1500 octets"):
        _commands.parameters(options)


@pytest.mark.parametrize("options", [["A=" + "x" * 1498], ["A=" + "ä" * 749], ["A"] * 750])
def test_parameters_of_the_longest_length_fit_the_line(options: list[str]) -> None:
    own = ["SIZE=99999999999999999999", "BODY=8BITMIME", "SMTPUTF8"]
    _commands.mail("x" * 254, [*own, *_commands.parameters(options)])


def test_one_string_is_not_several_options() -> None:
    with pytest.raises(TypeError, match="several strings"):
        _commands.parameters("SMTPUTF8")
