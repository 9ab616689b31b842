"""``kill -9`` at random moments: each message is sent once, or the journal has it in doubt.

The judge is the server. It kills the command itself, when it has read a command or a message and
not answered it yet, so that each moment of a transaction has its turn; the first kill of each
journal is by the clock, in the time in which it is made.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from anysmtp.cli._exit import Exit
from anysmtp.cli._journal import Journal
from anysmtp.cli._letters import letters_at
from anysmtp.cli._past import Past
from anysmtp.cli._rows import Rows
from anysmtp.cli._template import Template
from support.bulk import KINDS, bulk, source, url
from support.cli import command, environment
from support.quick import sampled
from support.sink import Sink

if sys.platform == "win32":
    pytest.skip("there is no SIGKILL here", allow_module_level=True)

SUBJECTS = [f"m{number:03}" for number in range(400)]
KILLS = 5


class Run:
    """A command that is ended by what the server sees."""

    def __init__(self, sink: Sink, *arguments: str | Path) -> None:
        self._sink = sink
        self._command = command("bulk", "--server", url(sink), *map(str, arguments))

    def end_at(self, item: int, by: signal.Signals = signal.SIGKILL, patience: float = 60) -> None:
        """End it when the server has read so many commands and messages, or after this time."""
        left = item
        with subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
        ) as process:

            def count() -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    process.send_signal(by)

            self._sink.on_item = count
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            process.kill()
            _, errors = process.communicate()
        assert b"Traceback" not in errors
        # What is in the socket's buffers the server takes still.
        anyio.run(self._sink.wait_quiet)
        self._sink.on_item = lambda: None


def journal_of(arguments: Sequence[str | Path]) -> Mapping[str, Past | None]:
    """What the journal says of each message, by its subject."""
    first, path = Path(arguments[0]), Path(arguments[-1])
    letters = letters_at(first) if first == path else Template(first, Rows(path), "email")
    identity: dict[str, object] = {**letters.identity, "from": None, "to": []}
    with Journal(path.with_name(f"{path.name}.journal"), identity) as journal:
        return {
            str(letter.message["Subject"]): journal.past(letter.key)
            for letter in letters
            if letter.message is not None
        }


def check(journal: Mapping[str, Past | None], sink: Sink) -> None:
    """What the journal says is what the server has."""
    for subject, past in journal.items():
        stored = sink.stored[subject]
        if past is None:
            assert stored == 0, subject
        elif past.in_doubt:
            assert stored <= 1, subject
        else:
            assert (past.state, stored) == ("accepted", 1), subject


@pytest.mark.parametrize("case", range(20))
@sampled(5)
def test_each_message_is_sent_once_or_in_doubt(case: int, tmp_path: Path) -> None:
    rng = random.Random(case)
    arguments = source(KINDS[case % len(KINDS)], tmp_path / "source", SUBJECTS)
    connections = ("--connections", str(rng.randint(1, 4)))
    with Sink() as sink:
        run = Run(sink, *arguments, *connections)
        run.end_at(0, patience=rng.uniform(0, 0.6))
        check(journal_of(arguments), sink)
        for _ in range(KILLS - 1):
            run.end_at(rng.randint(1, 200))
            check(journal_of(arguments), sink)
        ran = bulk(sink, *arguments, *connections, "--json")
        journal = journal_of(arguments)
        doubted = {subject for subject, past in journal.items() if past and past.in_doubt}
        assert len(ran.value["troubles"]) == ran.value["in_doubt"] == len(doubted)
        assert ran.code == (Exit.IN_DOUBT if doubted else Exit.OK)
        for subject in SUBJECTS:
            assert sink.stored[subject] == 1 or (subject in doubted and not sink.stored[subject])
        once = +sink.stored
        again = bulk(sink, *arguments, *connections, "--resend-in-doubt", "--json")
        assert (again.code, again.value["accepted"]) == (Exit.OK, len(doubted))
        assert sink.stored == once + Counter(doubted)


@pytest.mark.parametrize("case", range(5))
@sampled(5)
def test_ctrl_c_leaves_in_doubt_only_what_was_on_its_way(case: int, tmp_path: Path) -> None:
    rng = random.Random(case)
    arguments = source(KINDS[case % len(KINDS)], tmp_path / "source", SUBJECTS)
    count = rng.randint(1, 4)
    with Sink() as sink:
        run = Run(sink, *arguments, "--connections", str(count))
        for number in range(1, KILLS):
            run.end_at(rng.randint(1, 200), signal.SIGINT)
            journal = journal_of(arguments)
            check(journal, sink)
            # On each connection one message at most has left whose reply is not there.
            doubted = [past for past in journal.values() if past and past.in_doubt]
            assert len(doubted) <= number * count
