"""Where a password comes from, that it is never an argument, and that nobody gets to see it."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anysmtp.cli import _app, _secrets
from anysmtp.cli._exit import Exit
from anysmtp.testing import AiosmtpdServer
from support.cli import Ran, cli
from support.tls import Certificates

SECRET = "Wr0ng&hors3-Pq7xJ2"
NEW = ("--from", "ann@x.test", "--to", "bob@x.test", "--body", "hello")
URL = "smtp://ann@localhost:1"


@pytest.fixture(autouse=True)
def _no_keyring_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)


@pytest.fixture
def passwords(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What clients are made with."""
    seen: list[str | None] = []

    class Client:
        @staticmethod
        def from_url(url: str, **options: str) -> object:
            seen.append(options.get("password"))
            raise ValueError("this is far enough")

    monkeypatch.setattr("anysmtp.cli._server.SMTP", Client)
    return seen


class NoKeyringError(Exception):
    pass


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """The package keyring is installed, and says this of Ann's password."""

    def install(answer: object) -> None:
        def get_password(service: str, username: str) -> object:
            assert (service, username) == ("localhost", "ann")
            if isinstance(answer, Exception):
                raise answer
            return answer

        package, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
        package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        package.get_password = get_password  # type: ignore[attr-defined]
        errors.KeyringError = NoKeyringError  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "keyring", package)
        monkeypatch.setitem(sys.modules, "keyring.errors", errors)

    return install


def send(*arguments: str, terminal: bool = False, **variables: str) -> Ran:
    variables.setdefault("ANYSMTP_URL", URL)
    given: dict[str, Any] = {"terminal": terminal, **variables}
    return cli("send", *NEW, *arguments, **given)


def test_it_comes_from_the_environment(passwords: list[str | None]) -> None:
    send(ANYSMTP_PASSWORD=SECRET)
    assert passwords == [SECRET]


def test_it_comes_from_the_url_in_the_environment(passwords: list[str | None]) -> None:
    ran = send(ANYSMTP_URL=f"smtp://ann:{SECRET}@localhost", ANYSMTP_PASSWORD="another")
    # The client reads it from the URL.
    assert passwords == [None]
    assert "this is far enough" in ran.errors


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_it_comes_from_a_file(end: str, passwords: list[str | None], tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(f" {SECRET} é{end}".encode())
    send("--password-file", str(path), ANYSMTP_PASSWORD="another")
    assert passwords == [f" {SECRET} é"]


def test_it_comes_from_the_keyring(
    passwords: list[str | None], keyring: Callable[[object], None]
) -> None:
    keyring(SECRET)
    send()
    send(ANYSMTP_URL="smtp://localhost", ANYSMTP_USERNAME="ann")
    send("--username", "ann", ANYSMTP_URL="smtp://localhost")
    assert passwords == [SECRET, SECRET, SECRET]


def test_the_package_itself_says_it_in_this_way(
    passwords: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "keyring")
    package: Any = pytest.importorskip("keyring", reason="keyring is not installed")
    backend: Any = importlib.import_module("keyring.backend")

    class Keyring(backend.KeyringBackend):  # type: ignore[misc]
        priority = 1
        set_password = None
        is_locked = False

        def get_password(self, service: str, username: str) -> str:
            if self.is_locked:
                raise package.errors.KeyringLocked("locked")
            return f"{SECRET} of {username} at {service}"

    package.set_keyring(Keyring())
    send()
    assert passwords == [f"{SECRET} of ann at localhost"]
    monkeypatch.setattr(Keyring, "is_locked", True)
    assert "the keyring was of no help: locked" in send().errors


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, ""),
        (NoKeyringError("no backend"), "the keyring was of no help: no backend"),
        (NoKeyringError(), "the keyring was of no help: NoKeyringError"),
    ],
)
def test_what_the_keyring_does_not_have_is_asked_for(
    answer: object,
    said: str,
    passwords: list[str | None],
    keyring: Callable[[object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keyring(answer)

    def ask(prompt: str) -> str:
        return SECRET

    monkeypatch.setattr("click.termui.hidden_prompt_func", ask)
    ran = send(terminal=True)
    assert passwords == [SECRET]
    assert said in ran.errors


def test_without_a_terminal_nobody_is_asked(passwords: list[str | None]) -> None:
    ran = send()
    assert (ran.code, passwords) == (Exit.USAGE, [])
    assert "no password for ann: it is looked for in --password-file" in ran.errors


def test_without_a_user_name_there_is_no_login(passwords: list[str | None]) -> None:
    send(ANYSMTP_URL="smtp://localhost", ANYSMTP_PASSWORD=SECRET)
    assert passwords == [None]


@pytest.mark.parametrize("url", ["smtp://localhost", f"smtp://ann:{SECRET}@localhost"])
def test_a_password_file_for_nobody_is_a_wrong_call(url: str, tmp_path: Path) -> None:
    ran = send("--password-file", str(tmp_path), ANYSMTP_URL=url)
    assert ran.code == Exit.USAGE
    assert "--password-file is for a user name" in ran.errors
    assert SECRET not in ran.errors


BAD_FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "the password cannot be read: "),
    "empty": (b"\n", "there is no password in "),
    "not text": (SECRET.encode() + b"\xff", "is not in UTF-8"),
}


@pytest.mark.parametrize("case", BAD_FILES.values(), ids=BAD_FILES)
def test_a_password_file_without_one_is_a_wrong_call(
    case: tuple[bytes | None, str], tmp_path: Path
) -> None:
    content, said = case
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    ran = send("--password-file", str(path))
    assert ran.code == Exit.USAGE
    assert said in ran.errors
    assert SECRET not in ran.errors


def test_no_option_takes_a_password() -> None:
    options = {
        option
        for command in _app.anysmtp.commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    assert {option for option in options if "pass" in option} == {"--password-file"}


IN_ARGUMENTS: dict[str, list[str]] = {
    "in the URL": ["send", *NEW, "--server", f"smtp://ann:{SECRET}@localhost"],
    "in a URL that is none": ["send", *NEW, "--server", f"smtp://ann:{SECRET}@local host"],
    "in half a URL": ["send", *NEW, "--server", f"smtp://ann:{SECRET}@[::1"],
    "beside a wrong call": ["send", "--server", f"smtp://ann:{SECRET}@localhost"],
    "in an option that there is not": ["send", *NEW, f"--password={SECRET}"],
    "behind one": ["send", *NEW, "--password", SECRET],
    "behind a short one": ["send", *NEW, "-p", SECRET],
    "in a URL as a file": ["send", "--server", URL, f"smtp://ann:{SECRET}@localhost"],
    "in a URL to be probed": ["probe", f"smtp://ann:{SECRET}@localhost"],
    "at a host to be probed": ["probe", f"ann:{SECRET}@localhost"],
}


@pytest.mark.parametrize("arguments", IN_ARGUMENTS.values(), ids=IN_ARGUMENTS)
def test_a_password_in_an_argument_is_a_wrong_call_that_does_not_repeat_it(
    arguments: list[str],
) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.output) == (Exit.USAGE, "")
    assert SECRET not in ran.errors


def test_a_url_with_a_password_in_an_argument_says_where_it_goes() -> None:
    ran = cli("send", *NEW, "--server", f"smtp://ann:{SECRET}@localhost")
    assert "no password in an argument" in ran.errors
    assert "--password-file, ANYSMTP_PASSWORD and ANYSMTP_URL" in " ".join(ran.errors.split())


@pytest.mark.parametrize("known", [SECRET, "another"], ids=["good", "wrong"])
@pytest.mark.parametrize("options", [["-v"], ["-v", "--json"], []], ids=" ".join)
def test_it_is_in_no_output(known: str, options: list[str], certificates: Certificates) -> None:
    users = {"ann": known}
    with AiosmtpdServer(starttls=certificates.server, users=users) as server:
        for url in (f"smtp://ann:{SECRET}@localhost", "smtp://ann@localhost"):
            ran = cli(
                *("send", *NEW, "--cafile", str(certificates.cafile), *options),
                ANYSMTP_URL=f"{url}:{server.port}",
                ANYSMTP_PASSWORD=SECRET,
            )
            assert ran.code == (Exit.OK if known == SECRET else Exit.REFUSED)
            assert SECRET not in ran.output + ran.errors


def test_the_name_of_the_variable_is_in_the_help() -> None:
    assert _secrets.VARIABLE in cli("send", "--help").output
