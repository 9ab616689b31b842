"""The journal: what it keeps, and which files it does not touch."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from anysmtp import Reply
from anysmtp.cli._journal import Journal, JournalError
from anysmtp.cli._letters import Letter
from anysmtp.cli._past import Fact, Facts, Past

IDENTITY = {"kind": "folder", "path": "/letters"}
LETTER = Letter("key", "name", digest=b"\x00\xff")
FACTS: Facts = {
    "bob@x.test": Fact("accepted", Reply(250, "2.0.0 ok")),
    "carol@x.test": Fact("refused", Reply(550, ["5.1.1 no", "n\udcf6"])),
    "dan@x.test": Fact("in_doubt"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "the.journal"


def test_what_was_begun_is_under_way_until_its_end_is_known(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        secret = journal.secret
        assert journal.past("key") is None
        journal.begin([(LETTER, {})])
        assert journal.past("key") == Past("key", "name", b"\x00\xff", is_under_way=True)
        assert journal.in_doubt() == [journal.past("key")]
        journal.end([(LETTER, FACTS)])
    with Journal(path, IDENTITY) as journal:
        assert journal.secret == secret
        assert journal.past("key") == Past("key", "name", b"\x00\xff", facts=FACTS)
        assert journal.in_doubt() == [journal.past("key")]


def test_what_was_begun_and_not_sent_is_as_it_was(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        for known in (None, Past("key", "old", b"old", facts=FACTS)):
            journal.begin([(LETTER, {})])
            journal.take_back([(LETTER, known)])
            assert journal.past("key") == known


def test_all_of_a_group_is_written_or_nothing(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        with pytest.raises(AttributeError):
            journal.begin([(LETTER, {}), (None, {})])  # type: ignore[list-item]
        assert journal.past("key") is None
        journal.begin([(LETTER, {})])


def test_a_transaction_that_sqlite_has_ended_already_is_told_as_it_was(path: Path) -> None:
    def letters() -> Iterator[tuple[Letter, Facts]]:
        journal._database.execute("ROLLBACK")
        yield LETTER, {}
        raise OSError("the disk is full")

    with Journal(path, IDENTITY) as journal, pytest.raises(OSError, match="full"):
        journal.begin(letters())


def test_to_begin_waits_for_the_disk_and_to_end_does_not(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        said: list[str] = []
        journal._database.set_trace_callback(said.append)
        journal.begin([(LETTER, {})])
        journal.end([(LETTER, {})])
    pragmas = [statement for statement in said if statement.startswith("PRAGMA")]
    assert pragmas == ["PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"]


def test_one_run_has_it_at_a_time(path: Path) -> None:
    again = Journal(path, IDENTITY)
    with Journal(path, IDENTITY), pytest.raises(JournalError, match="another run is using it"):
        again.__enter__()
    with Journal(path, IDENTITY):
        pass


def test_it_is_of_one_source(path: Path) -> None:
    with Journal(path, IDENTITY):
        pass
    other = {"kind": "mbox", "path": "/letters", "from": None}
    with (
        pytest.raises(JournalError, match=r"of something else: kind was folder, and is mbox$"),
        Journal(path, other),
    ):
        pass


def test_a_file_of_another_kind_is_left_alone(path: Path) -> None:
    path.write_text("something that is no database, and long enough to be one" * 100)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="not a database"), Journal(path, IDENTITY):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE theirs (x)", "not a journal of anysmtp's"),
        ("PRAGMA user_version = 7", "a journal of version 7, not 1"),
    ],
)
def test_another_database_is_refused(statement: str, said: str, path: Path) -> None:
    if "version" in statement:
        with Journal(path, IDENTITY):
            pass
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match=said), Journal(path, IDENTITY):
        pass
    assert path.read_bytes() == before
