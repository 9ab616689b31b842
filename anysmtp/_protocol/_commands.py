"""Command values to bytes: the one injection guard, and redaction.

Every octet of a command line that the client sends goes through `Command`, which refuses control
characters and over-long lines when it is made: wrong input is a ValueError before anything is
written. A command that carries a secret says so when it is made, and is shown without it;
nothing is ever searched for secrets.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from .._grammar import CONTROLS, ESMTP_PARAMETER
from . import _states

# RFC 5321 section 4.5.3.1.4: 512 octets with the CRLF. The extensions add to MAIL and RCPT:
# SIZE 26 (RFC 1870), 8BITMIME 17 (RFC 6152), AUTH 500 (RFC 4954), DSN 614 and 1036 (RFC 3461: RET,
# ENVID; NOTIFY, ORCPT), SMTPUTF8 10 (RFC 6531), and the paths themselves may be UTF-8. There is
# room for every parameter that has a type, beside those that are given raw.
_MAX_LINE = 512
_MAX_LINES = {"MAIL": 3072, "RCPT": 3072, "VRFY": 1024, "EXPN": 1024}
# So that a line with a path of 256 octets is never too long.
_MAX_PARAMETERS = 1500
# RFC 4954 section 4: 12288 octets of base64 for a response.
_MAX_RESPONSE = 12288

_ROWS = _states.ROWS
_OTHER = _ROWS["other"]


class Command:
    """One command line.

    ``row`` is what the state tables say of the verb; ``shown`` is the line for people and logs,
    which an ``is_secret`` command must give.
    """

    __slots__ = ("is_secret", "line", "row", "shown", "verb")

    def __init__(
        self,
        text: str,
        *,
        shown: str | None = None,
        verb: str | None = None,
        is_secret: bool = False,
    ) -> None:
        if found := CONTROLS.search(text):
            raise ValueError(f"control character {found[0]!r} in {(shown or text)!r}")
        self.verb = verb or text.partition(" ")[0].upper()
        if not self.verb:
            raise ValueError(f"a command starts with its verb, not {text!r}")
        self.row = _ROWS.get(self.verb, _OTHER)
        self.is_secret = is_secret
        self.shown = shown or text
        try:
            self.line = text.encode("utf-8") + b"\r\n"
        except UnicodeEncodeError as error:
            raise ValueError(f"{self.shown!r} cannot be encoded: {error.reason}") from None
        limit = _MAX_RESPONSE + 2 if verb == "*" else _MAX_LINES.get(self.verb, _MAX_LINE)
        if len(self.line) > limit:
            raise ValueError(f"{self.verb} command of {len(self.line)} octets, {limit} allowed")

    def __repr__(self) -> str:
        return f"<Command {self.shown}>"


def ehlo(local_hostname: str) -> Command:
    return Command(f"EHLO {_word(local_hostname)}")


def lhlo(local_hostname: str) -> Command:
    """EHLO's name in LMTP (RFC 2033 section 4.1)."""
    return Command(f"LHLO {_word(local_hostname)}", verb="EHLO")


def helo(local_hostname: str) -> Command:
    return Command(f"HELO {_word(local_hostname)}")


def mail(path: str, parameters: Iterable[str] = ()) -> Command:
    """MAIL with a reverse-path as it stands between the angle brackets."""
    return Command(" ".join((f"MAIL FROM:<{path}>", *parameters)))


@lru_cache(maxsize=256)
def plain_mail(path: str) -> Command:
    """MAIL without parameters: the same senders come again and again."""
    return mail(path)


def rcpt(path: str, parameters: Iterable[str] = ()) -> Command:
    """RCPT with a forward-path as it stands between the angle brackets."""
    return Command(" ".join((f"RCPT TO:<{path}>", *parameters)))


@lru_cache(maxsize=256)
def plain_rcpt(path: str) -> Command:
    """RCPT without parameters: the same recipients come again and again."""
    return rcpt(path)


@lru_cache(maxsize=8)
def plain_rcpts(paths: tuple[str, ...]) -> tuple[Command, ...]:
    """The same of several recipients, who come together again and again."""
    return tuple(map(plain_rcpt, paths))


def bdat(octets: int, *, is_last: bool) -> Command:
    """BDAT (RFC 3030 section 2), whose chunk follows the command line at once."""
    if is_last:
        return Command(f"BDAT {octets} LAST", verb="BDAT LAST")
    return Command(f"BDAT {octets}")


def with_argument(verb: str, argument: str = "") -> Command:
    """VRFY, EXPN, HELP and their like: a verb and whatever follows it."""
    return Command(f"{verb} {argument}" if argument else verb)


def inquiry(verb: str, argument: str) -> Command:
    """VRFY or EXPN, with the parameter SMTPUTF8 where that is needed (RFC 6531 section 3.7.4.2)."""
    if not argument:
        raise ValueError(f"{verb} needs an argument")
    is_said = argument.isascii() or argument.upper().endswith(" SMTPUTF8")
    return Command(f"{verb} {argument}" if is_said else f"{verb} {argument} SMTPUTF8")


def auth(mechanism: str, initial_response: str | None) -> Command:
    """AUTH with an initial response in base64 (RFC 4954 section 4), where it fits the line.

    If it does not fit it is left out, and the server asks for it.
    """
    line = f"AUTH {_word(mechanism)}"
    if initial_response is None or len(line) + len(initial_response) + 3 > _MAX_LINE:
        return Command(line)
    return Command(f"{line} {initial_response or '='}", shown=f"{line} ***", is_secret=True)


def auth_response(response: str) -> Command:
    """A response to a 334 challenge, in base64, or ``*`` to give up."""
    return Command(response, shown="*" if response == "*" else "***", verb="*", is_secret=True)


def parameters(options: Iterable[str]) -> tuple[str, ...]:
    """Check ``KEYWORD`` and ``KEYWORD=value`` strings (RFC 5321 section 4.1.2)."""
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise TypeError(f"options are several strings, not {options!r}")
    checked = tuple(options)
    if not checked:
        return checked
    if not all(isinstance(option, str) for option in checked):
        raise TypeError(f"options are several strings, not {options!r}")
    if len(" ".join(checked).encode("utf-8", "replace")) > _MAX_PARAMETERS:
        raise ValueError(f"parameters of more than {_MAX_PARAMETERS} octets")
    for option in checked:
        if not ESMTP_PARAMETER.fullmatch(option):
            raise ValueError(f"no parameter of MAIL or RCPT: {option!r}")
    return checked


def _word(text: str) -> str:
    if not text or " " in text:
        raise ValueError(f"one word expected, not {text!r}")
    return text


RSET = Command("RSET")
DATA = Command("DATA")
NOOP = Command("NOOP")
QUIT = Command("QUIT")
AUTH = Command("AUTH")
STARTTLS = Command("STARTTLS")
END_OF_DATA = Command(".", shown="end of data")
LAST_CHUNK = Command("BDAT", verb="BDAT LAST")
GREETING = Command("", shown="connection", verb="greeting")
