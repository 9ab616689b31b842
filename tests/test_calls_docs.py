"""docs/calls.rst says what each method of a connection raises and leaves behind: it is so."""

from __future__ import annotations

import inspect
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import anysmtp
from anysmtp import sasl
from anysmtp.testing import DEFAULT_KEYWORDS, STALL, Answer, ScriptedServer

PAGE = (Path(__file__).parents[1] / "docs" / "calls.rst").read_text("utf-8")
ROW = re.compile(
    r"^   \* - `SMTPConnection\.(\w+)`\n     - (?:`(\w+)`|nothing: the reply is returned)\n"
    r"     - (open|closed)\n     - (open|closed)\n",
    re.MULTILINE,
)
ROWS = {name: facts for name, *facts in ROW.findall(PAGE)}
KEYWORDS = [*DEFAULT_KEYWORDS, "STARTTLS", "AUTH PLAIN"]
CONTEXT = ssl.create_default_context()
ANN, BOB = "ann@example.com", "bob@example.com"

Call = Callable[[anysmtp.SMTPConnection], Awaitable[Any]]
# How each method is called, the verb that the server answers, and the calls that go before it.
CALLS: dict[str, tuple[str, Call]] = {
    "ehlo": ("EHLO", lambda conn: conn.ehlo()),
    "helo": ("HELO", lambda conn: conn.helo()),
    "starttls": ("STARTTLS", lambda conn: conn.starttls(CONTEXT)),
    "login": ("AUTH", lambda conn: conn.login(sasl.Plain("ann", "secret"))),
    "mail": ("MAIL", lambda conn: conn.mail(ANN)),
    "rcpt": ("RCPT", lambda conn: conn.rcpt(BOB)),
    "data": ("DATA", lambda conn: conn.data("Hello\n")),
    "rset": ("RSET", lambda conn: conn.rset()),
    "noop": ("NOOP", lambda conn: conn.noop()),
    "vrfy": ("VRFY", lambda conn: conn.vrfy("bob")),
    "expn": ("EXPN", lambda conn: conn.expn("staff")),
    "help": ("HELP", lambda conn: conn.help()),
    "command": ("XCOFFEE", lambda conn: conn.command("XCOFFEE")),
    "quit": ("QUIT", lambda conn: conn.quit()),
}
BEFORE = {"rcpt": ("mail",), "data": ("mail", "rcpt")}
# Those of the page's last paragraph.
OTHERS = {"aclose", "send_message", "sendmail"}


async def _outcome(name: str, answer: Answer, *, is_cancelled: bool = False) -> tuple[str, str]:
    """The exception that the call raises, if any, and what the connection is then."""
    verb, call = CALLS[name]
    scope = anyio.CancelScope()
    is_called = False

    def script(line: str) -> Answer | None:
        if not (is_called and line.upper().startswith(verb)):
            return None
        if is_cancelled:
            scope.cancel()
        return answer

    raised = ""
    async with ScriptedServer(keywords=KEYWORDS, script=script) as server:
        connection = anysmtp.SMTPConnection(await server.connect(), allow_plaintext_auth=True)
        async with connection:
            await connection.ehlo()
            for earlier in BEFORE.get(name, ()):
                await CALLS[earlier][1](connection)
            is_called = True
            with scope:
                try:
                    await call(connection)
                except anysmtp.SMTPException as error:
                    raised = type(error).__name__
            return raised, "closed" if connection.is_closed else "open"


def test_every_method_of_a_connection_has_a_row() -> None:
    methods = inspect.getmembers(anysmtp.SMTPConnection, inspect.iscoroutinefunction)
    assert {name for name, _ in methods if name[0] != "_"} == {*ROWS} | OTHERS
    assert [*ROWS] == [*CALLS]


def test_every_method_of_a_client_has_a_row() -> None:
    public = [name for name in vars(anysmtp.SMTP) if name[0] != "_"]
    without_network = {"from_url", "statistics"}
    assert {name for name in public if f"`SMTP.{name}`" not in PAGE} <= without_network


@pytest.mark.anyio
@pytest.mark.parametrize("name", CALLS)
async def test_a_no_raises_what_the_row_says_and_leaves_the_connection_so(name: str) -> None:
    raises, then, _ = ROWS[name]
    assert await _outcome(name, "550 5.0.0 no") == (raises, then)


@pytest.mark.anyio
@pytest.mark.parametrize("name", CALLS)
async def test_a_cancelled_call_leaves_the_connection_as_the_row_says(name: str) -> None:
    *_, cancelled = ROWS[name]
    assert await _outcome(name, STALL, is_cancelled=True) == ("", cancelled)
