"""Ctrl-C ends a command at once, whatever it waits for, with a summary and without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import NoReturn

import anyio
import pytest

from anysmtp.__main__ import main
from anysmtp.cli import _app, _loop
from anysmtp.cli._exit import Exit
from anysmtp.testing import STALL
from support.cli import Ran, cli, command, environment
from support.threaded import ThreadedServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is sent as a signal here")

NEW = ("--from", "ann@x.test", "--to", "bob@x.test", "--body", "hello")
# What takes longer than this has not ended at once.
AT_ONCE = 10


def interrupt(process: subprocess.Popen[bytes], reached: threading.Event) -> Ran:
    """Press Ctrl-C when the event has come."""
    assert reached.wait(30), "the command did not get there"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=AT_ONCE)
    return Ran(process.returncode, output.decode(), errors.decode())


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


POINTS = {
    "GREETING": (Exit.INTERRUPTED, "the message: not sent: interrupted\n"),
    "RCPT": (Exit.INTERRUPTED, "the message: not sent: interrupted\n"),
    ".": (
        Exit.IN_DOUBT,
        "the message: in doubt for bob@x.test, the server may have it: interrupted\n",
    ),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_send_that_is_stuck_ends_at_once_and_says_what_became_of_it(
    point: str, anyio_backend: str
) -> None:
    code, said = POINTS[point]
    with ThreadedServer(script={point: STALL}, watched=point) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        with start("--backend", anyio_backend, "send", "--server", url, *NEW) as process:
            ran = interrupt(process, server.reached)
    assert (ran.code, ran.output, ran.errors) == (code, "", said)


def test_the_last_words_are_json_where_that_is_wanted(tmp_path: Path) -> None:
    sent, stuck = tmp_path / "sent.eml", tmp_path / "stuck.eml"
    sent.write_text("From: ann@x.test\nTo: bob@x.test\n\n")
    stuck.write_text("From: stuck@x.test\nTo: bob@x.test\n\n")
    point = "MAIL FROM:<STUCK"
    with ThreadedServer(script={point: STALL}, watched=point) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        files = [str(sent), str(stuck), str(sent)]
        with start("send", "--server", url, "--json", *files) as process:
            ran = interrupt(process, server.reached)
    assert (ran.code, ran.errors) == (Exit.INTERRUPTED, "")
    assert ran.value["exit_code"] == Exit.INTERRUPTED
    assert [message["outcome"] for message in ran.value["messages"]] == [
        "accepted",
        "not_sent",
        "not_sent",
    ]
    assert ran.value["messages"][1]["error"]["text"] == "interrupted"


def test_a_probe_that_is_stuck_shows_what_it_has_seen() -> None:
    with (
        ThreadedServer(script={"NOOP": STALL}, watched="NOOP") as server,
        start("probe", f"127.0.0.1:{server.port}", "--tls", "off") as process,
    ):
        ran = interrupt(process, server.reached)
    assert (ran.code, ran.errors) == (Exit.INTERRUPTED, "interrupted\n")
    assert "in clear       PIPELINING, SIZE 10000000" in ran.output


# A resolver that never answers, in the thread that asks it, which nothing can stop.
STUCK_RESOLVER = """
    import socket, sys, threading
    from anysmtp.__main__ import main

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        print("stuck", flush=True)
        threading.Event().wait()

    socket.getaddrinfo = getaddrinfo
    sys.exit(main())
"""


@pytest.mark.parametrize(
    "arguments",
    [["probe", "mail.example.test"], ["send", "--server", "smtp://mail.example.test", *NEW]],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_is_being_looked_up_does_not_keep_it(
    arguments: list[str], anyio_backend: str
) -> None:
    with subprocess.Popen(
        [
            *(sys.executable, "-c", textwrap.dedent(STUCK_RESOLVER)),
            *("--backend", anyio_backend, *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"stuck\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=AT_ONCE)
        finally:
            process.kill()
    assert process.returncode == Exit.INTERRUPTED
    assert b"interrupted" in errors
    assert b"Traceback" not in errors


# An import that takes long, in the time in which the commands are imported.
STUCK_IMPORT = """
    import sys, threading
    from anysmtp.__main__ import main

    class Stuck:
        def find_spec(self, name, path=None, target=None):
            if name == "anysmtp.cli._app":
                print("stuck", flush=True)
                threading.Event().wait()

    sys.meta_path.insert(0, Stuck())
    sys.exit(main())
"""


def test_ctrl_c_while_the_commands_are_imported_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STUCK_IMPORT), "send"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=AT_ONCE)
    assert (process.returncode, errors) == (Exit.INTERRUPTED, b"interrupted\n")


def test_a_process_that_has_done_its_work_is_not_interrupted_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers: dict[object, object] = {}

    def interrupted(_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(_app, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["anysmtp", "send"])
    assert main() == Exit.INTERRUPTED
    assert handlers == {signal.SIGINT: signal.SIG_IGN}


class Left(BaseException):
    """In place of the end of this process."""


@pytest.fixture
def _leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> NoReturn:
        raise Left(int(code))

    monkeypatch.setattr(_loop, "exit_at_once", leave)


@pytest.mark.usefixtures("_leaves")
def test_ctrl_c_outside_of_the_event_loop_has_last_words_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(anyio, "run", interrupted)
    with pytest.raises(Left, match="130"):
        _loop.run(anyio.sleep_forever, backend="asyncio", last_words=lambda: Exit.INTERRUPTED)
    with pytest.raises(Left, match="130"):
        cli("send", "--server", "smtp://localhost:1", *NEW)


@pytest.mark.usefixtures("_leaves")
def test_ctrl_c_cancels_the_work_before_the_last_words(anyio_backend: str) -> None:
    happened: list[str] = []

    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()
        finally:
            happened.append("cancelled")

    def last_words() -> Exit:
        happened.append("last words")
        return Exit.IN_DOUBT

    with pytest.raises(Left, match="4"):
        _loop.run(work, backend=anyio_backend, last_words=last_words)
    assert happened == ["cancelled", "last words"]


def test_work_that_ends_by_itself_has_no_last_words(anyio_backend: str) -> None:
    done: list[None] = []

    async def work() -> None:
        done.append(None)

    def last_words() -> Exit:
        raise AssertionError("nobody interrupted")

    _loop.run(work, backend=anyio_backend, last_words=last_words)
    assert done == [None]
