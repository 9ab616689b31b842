"""The frame: help, versions, wrong calls, what is not installed, and a reader that goes away."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import anysmtp
from anysmtp.__main__ import main
from anysmtp.cli import _demo
from anysmtp.cli._exit import Exit
from support.cli import cli, cli_process, command, environment, hide


def test_without_a_command_there_is_help() -> None:
    ran = cli()
    assert (ran.code, ran.errors) == (0, "")
    assert ran.output.startswith("Usage: anysmtp [OPTIONS] ")
    assert all(f"\n  {name} " in ran.output for name in ("demo", "probe", "send"))


@pytest.mark.parametrize("arguments", [["-h"], ["send", "--help"], ["probe", "-h"]])
def test_help_is_no_error(arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.errors) == (0, "")
    assert "Usage: anysmtp" in ran.output


def test_help_does_not_show_what_is_in_the_environment() -> None:
    url = "smtp://ann:hush@smtp.example.com"
    ran = cli("send", "--help", ANYSMTP_URL=url, ANYSMTP_PASSWORD="hush")
    assert "hush" not in ran.output


def test_the_version_can_be_asked_for() -> None:
    assert cli("--version").output == f"anysmtp {anysmtp.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["what"], ["demo", "--what"], ["--what"], ["probe"], ["probe", "a", "b"], ["send", "--json"]],
)
def test_a_wrong_call_is_exit_code_2(arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.output) == (Exit.USAGE, "")
    assert "Usage: anysmtp" in ran.errors


def test_the_demo_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anysmtp.cli._app.demo", lambda: 0)
    assert cli("demo").code == 0
    monkeypatch.setattr("anysmtp.cli._app.demo", lambda: 1)
    assert cli("demo").code == 1
    assert callable(_demo.demo)


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["--help"], ["-h"], ["what"], ["send"], ["send", "--help"], ["bulk", "--help"]),
        *(["probe", "localhost"], ["demo", "--help"]),
    ],
)
def test_without_its_extra_it_says_in_one_line_how_to_install_it(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "click", "rich")
    ran = cli(*arguments)
    assert (ran.code, ran.output) == (Exit.USAGE, "")
    assert ran.errors == (
        "everything but `anysmtp demo` needs more to be installed: pip install 'anysmtp[cli]' "
        "(not found: click, rich)\n"
    )


def test_without_its_extra_it_still_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "click")
    assert cli("--version").output == f"anysmtp {anysmtp.__version__}\n"


def test_a_backend_that_is_not_installed_is_a_wrong_call(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "trio")
    ran = cli("--backend", "trio", "probe", "localhost")
    assert ran.code == Exit.USAGE
    assert "pip install 'anysmtp[trio]'" in ran.errors


def test_it_can_be_run_as_a_module_and_as_a_script() -> None:
    script = Path(sys.executable).with_name("anysmtp")
    ran = subprocess.run([script, "--version"], capture_output=True, text=True, env=environment())
    assert ran.stdout == cli_process("--version").output == f"anysmtp {anysmtp.__version__}\n"


def test_ctrl_c_before_there_is_an_event_loop_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("anysmtp.cli._app.demo", interrupt)
    ran = cli("demo")
    assert (ran.code, ran.output, ran.errors) == (Exit.INTERRUPTED, "", "\ninterrupted\n")


@pytest.mark.parametrize("arguments", [["--help"], ["probe", "127.0.0.1:1"], ["demo"]])
def test_a_reader_that_goes_away_is_no_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ran = subprocess.run(
            command(*arguments),
            stdout=pipe,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=60,
        )
    assert (ran.returncode, ran.stderr) == (Exit.TROUBLE, b"")


def test_output_can_be_any_stream_of_text() -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(["--version"]) == Exit.OK
    assert output.getvalue() == f"anysmtp {anysmtp.__version__}\n"


def test_importing_the_command_line_loads_no_backend() -> None:
    code = (
        "import sys, anysmtp.cli._app; "
        "print(*sorted({'asyncio', 'trio', 'cryptography'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_a_terminal_without_unicode_is_shown_escapes(tmp_path: Path) -> None:
    file = tmp_path / "Grüße.eml"
    file.write_text("To: b@x.test\n\n")
    url = {"ANYSMTP_URL": "smtp://localhost:1", "PYTHONIOENCODING": "ascii"}
    ran = cli_process("send", str(file), variables=url)
    assert ran.code == Exit.USAGE
    assert r"Gr\xfc\xdfe.eml: not sent" in ran.errors


def test_it_runs_on_the_backend_that_is_asked_for(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[object] = []

    def run(main: object, backend: str) -> None:
        used.append(backend)

    monkeypatch.setattr(anyio, "run", run)
    cli("--backend", anyio_backend, "probe", "localhost")
    cli("probe", "localhost", ANYSMTP_BACKEND=anyio_backend)
    assert used == [anyio_backend, anyio_backend]
