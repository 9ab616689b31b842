"""``anysmtp bulk`` as a person has it: the bar on a terminal, and Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from anysmtp.cli._exit import Exit
from anysmtp.testing import STALL, AiosmtpdServer
from support.bulk import bulk, eml, folder, url
from support.cli import command, environment
from support.postfix import Postfix
from support.sink import Sink
from support.threaded import ThreadedServer

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals here", allow_module_level=True)

from support.terminal import Terminal, drawn

BAR = r"[━╸╺]{30,} +"


def looks_like(screen: list[str], *patterns: str) -> bool:
    """Whether the screen begins with lines like these."""
    return len(screen) >= len(patterns) and all(
        re.fullmatch(pattern, line) for pattern, line in zip(patterns, screen, strict=False)
    )


def mails_to(path: Path, recipients: list[str]) -> Path:
    folder(path, [])
    for number, recipient in enumerate(recipients):
        (path / f"{number}.eml").write_bytes(eml(str(number), recipient))
    return path


def test_the_bar_against_postfix(postfix: Postfix, tmp_path: Path) -> None:
    boxes = [postfix.address() for _ in range(30)]
    path = mails_to(tmp_path / "letters", [*boxes, "unknown@example.test", "later@example.test"])
    server = f"smtp://127.0.0.1:{postfix.ports['plain']}"
    with Terminal("bulk", str(path), "--server", server) as terminal:
        assert terminal.wait_closed() == Exit.REFUSED
    assert drawn(terminal.shown.partition("\r\n")[0]) == [f"{'━' * 52}  0/32      -/s -:--:-- left"]
    screen = terminal.screen
    assert looks_like(
        screen,
        BAR + r"32/32 +[-0-9.]+/s 0:00:00 left",
        "accepted 30  refused 2  in doubt 0",
    )
    assert len(screen[0]) == 80
    said = terminal.said
    assert f"{path}/30.eml: refused for unknown@example.test: 550 5.1.1 " in said
    assert f"{path}/31.eml: refused for later@example.test: 450 4.2.0 " in said
    assert re.search(r"32 messages in [0-9.]+ s: 30 accepted, 2 refused", said)
    # The cursor is hidden while the bar moves, and is there again.
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    for box in boxes:
        stored = anyio.run(postfix.wait_for, box)
        assert stored.sender == "ann@x.test"


def test_the_bar_of_a_run_that_goes_on_has_what_is_left_to_do(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", ["a", "b", "c"])
    with AiosmtpdServer() as server:
        assert bulk(server, path).code == Exit.OK
        for name in ("d", "e"):
            (path / f"{name}.eml").write_bytes(eml(name))
        with Terminal("bulk", str(path), "--server", url(server)) as terminal:
            assert terminal.wait_closed() == Exit.OK
        assert len(server.messages) == 5
    assert looks_like(
        terminal.screen,
        BAR + "2/2 .*",
        "accepted 2  refused 0  in doubt 0",
        "5 messages in .* s: 2 accepted, 3 accepted before",
    )


def test_ctrl_c_ends_it_at_once_and_the_next_run_goes_on(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", [f"m{number:03}" for number in range(200)])
    rate = ("--rate", "20/s", "--connections", "2")
    with Sink() as sink:
        with Terminal("bulk", str(path), "--server", url(sink), *rate) as terminal:
            terminal.wait_for("accepted 20")
            assert looks_like(terminal.screen, BAR + "20/200 .* left", "accepted 20.*")
            terminal.type("\x03")
            # Nothing was under way, because the rate had to be waited for.
            assert terminal.wait_closed() == Exit.INTERRUPTED
        anyio.run(sink.wait_quiet)
        sent = sum(sink.stored.values())
        assert looks_like(
            terminal.screen,
            BAR + f"{sent}/200 .* left",
            f"accepted {sent}  refused 0  in doubt 0",
            "interrupted",
            f"200 messages in .* s: {sent} accepted, {200 - sent} not sent",
        )
        ran = bulk(sink, path, "--json")
        assert (ran.code, ran.value["accepted"]) == (Exit.OK, 200 - sent)
    assert set(sink.stored.values()) == {1}


def test_ctrl_c_while_the_server_has_a_message_leaves_it_in_doubt(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", ["a", "b"])
    with (
        ThreadedServer(script={".": STALL}, watched=".") as server,
        Terminal("bulk", str(path), "--server", url(server), "--connections", "1") as terminal,
    ):
        terminal.wait_for(server.reached)
        terminal.type("\x03")
        assert terminal.wait_closed() == Exit.IN_DOUBT
    said = terminal.said
    assert "Traceback" not in said
    assert f"{path}/a.eml: in doubt for bob@x.test, the server may have it: the send was" in said
    assert "1 in doubt, 1 not sent" in said
    with Sink() as sink:
        ran = bulk(sink, path, "--json")
        assert (ran.code, ran.value["accepted"], ran.value["in_doubt"]) == (Exit.IN_DOUBT, 1, 1)


@pytest.mark.parametrize("as_json", [True, False])
def test_ctrl_c_where_nobody_watches_shows_no_bar(as_json: bool, tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", ["a"])
    arguments = ["--json"] if as_json else []
    with (
        ThreadedServer(script={"MAIL": STALL}, watched="MAIL") as server,
        subprocess.Popen(
            command("bulk", str(path), "--server", url(server), *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as process,
    ):
        assert server.reached.wait(30)
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert process.returncode == Exit.INTERRUPTED
    assert errors.startswith(b"interrupted\n")
    assert b"not_sent" in output if as_json else b": 0 accepted, 1 not sent\n" in output
    assert b"\x1b" not in errors + output


def test_a_terminal_that_can_do_nothing_has_no_bar(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", ["a"])
    with (
        Sink() as sink,
        Terminal("bulk", str(path), "--server", url(sink), variables={"TERM": "dumb"}) as terminal,
    ):
        assert terminal.wait_closed() == Exit.OK
    assert re.fullmatch(r"1 messages in .* s: 1 accepted\r\n", terminal.shown)


def test_on_a_narrow_terminal_the_bar_has_what_room_there_is(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", ["a", "b"])
    with (
        Sink() as sink,
        Terminal("bulk", str(path), "--server", url(sink), width=40) as terminal,
    ):
        assert terminal.wait_closed() == Exit.OK
    assert looks_like(
        terminal.screen,
        r"━+ 2/2 +[-0-9.]+/s 0:00:00 left",
        "accepted 2  refused 0  in doubt 0",
        "2 messages in .* s: 2 accepted",
    )
