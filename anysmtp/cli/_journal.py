"""The journal of ``anysmtp bulk``: an SQLite database that knows more than a run that was killed.

The rule is one: before a message can leave, the journal says durably that it is *under way*; and it
says so until what became of it is in the journal. So whoever finds a message under way, after
`kill -9` or a power cut, knows that it may have been sent, and one that is not there was not.

To be durable costs a wait for the disk (``synchronous = FULL``), which is why messages are begun in
groups. What became of them is written without that wait: if the machine goes down it may be
lost, and then they are in doubt, which is the safe side. A process that is killed loses neither.

One run has it at a time: the lock goes with the process. A journal is of one source, by `identity`.
Its methods wait for the disk, so they are called in threads; a lock keeps them apart.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from .. import Reply
from ._letters import Letter
from ._past import Fact, Facts, Past

# "anys": by this and the version of the tables a file is known to be a journal.
_APPLICATION = 0x616E7973
_VERSION = 1
_TABLES = (
    "CREATE TABLE journal (identity TEXT NOT NULL, secret BLOB NOT NULL)",
    """
    CREATE TABLE messages (
        key TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, under_way INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE recipients (
        key TEXT NOT NULL, address TEXT NOT NULL, outcome TEXT NOT NULL, code INTEGER, text BLOB,
        PRIMARY KEY (key, address)
    ) WITHOUT ROWID
    """,
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)


class JournalError(Exception):
    """The journal cannot be used; its text says why."""


class Journal:
    """A context manager: open inside it."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._identity = json.dumps(identity, sort_keys=True)
        self._lock = threading.Lock()
        self.secret = b""
        """Some octets that are this journal's own."""

    def __enter__(self) -> Journal:
        with self._translated():
            # autocommit: transactions begin and end where this module says so.
            self._database = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False
            )
        try:
            with self._translated():
                self._open()
        except BaseException:
            self._database.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more is written."""
        with self._lock:
            self._database.close()

    def past(self, key: str) -> Past | None:
        """What is known of a message."""
        with self._translated():
            found = self._execute("SELECT name, digest, under_way FROM messages WHERE key = ?", key)
            return next((self._past(key, *row) for row in found), None)

    def in_doubt(self) -> list[Past]:
        """All that may have been sent."""
        with self._translated():
            found = self._execute(
                "SELECT key, name, digest, under_way FROM messages WHERE under_way OR key IN "
                "(SELECT key FROM recipients WHERE outcome = 'in_doubt') ORDER BY name"
            )
            return [self._past(*row) for row in found]

    def begin(self, letters: Iterable[tuple[Letter, Facts]]) -> None:
        """These may leave from now on; with what was known of each."""
        with self._transaction("FULL"):
            for letter, facts in letters:
                self._write(letter, facts, is_under_way=True)

    def end(self, letters: Iterable[tuple[Letter, Facts]]) -> None:
        """This is what became of them."""
        with self._transaction("NORMAL"):
            for letter, facts in letters:
                self._write(letter, facts, is_under_way=False)

    def take_back(self, letters: Iterable[tuple[Letter, Past | None]]) -> None:
        """These did not leave; with what they were before they were begun."""
        with self._transaction("NORMAL"):
            for letter, past in letters:
                self._forget(letter.key)
                if past is not None:
                    self._insert(past.key, past.name, past.digest, past.is_under_way, past.facts)

    def _write(self, letter: Letter, facts: Facts, *, is_under_way: bool) -> None:
        self._forget(letter.key)
        self._insert(letter.key, letter.name, letter.digest, is_under_way, facts)

    def _forget(self, key: str) -> None:
        self._execute("DELETE FROM messages WHERE key = ?", key)
        self._execute("DELETE FROM recipients WHERE key = ?", key)

    def _insert(self, key: str, name: str, digest: bytes, is_under_way: bool, facts: Facts) -> None:
        self._execute("INSERT INTO messages VALUES (?, ?, ?, ?)", key, name, digest, is_under_way)
        for address, fact in facts.items():
            code = text = None
            if fact.reply is not None:
                # What is not UTF-8 in a reply stands in it as surrogates.
                code, text = fact.reply.code, fact.reply.text.encode("utf-8", "surrogateescape")
            row = (key, address, fact.outcome, code, text)
            self._execute("INSERT INTO recipients VALUES (?, ?, ?, ?, ?)", *row)

    def _past(self, key: str, name: str, digest: bytes, under_way: int) -> Past:
        rows = self._execute(
            "SELECT address, outcome, code, text FROM recipients WHERE key = ?", key
        )
        facts = {
            address: Fact(outcome, None if code is None else _reply(code, text))
            for address, outcome, code, text in rows
        }
        return Past(key, name, digest, bool(under_way), facts)

    def _open(self) -> None:
        # Before the first access: no other process gets in, and none is asked about each page.
        self._execute("PRAGMA locking_mode = EXCLUSIVE")
        is_new = not self._number("SELECT count(*) FROM sqlite_master")
        if not is_new:
            self._check()
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("BEGIN EXCLUSIVE")
        if is_new:
            self._create()
        [(self.secret,)] = self._execute("SELECT secret FROM journal")
        self._execute("COMMIT")

    def _check(self) -> None:
        """JournalError for what is not this source's, before anything in it is touched."""
        if self._number("PRAGMA application_id") != _APPLICATION:
            raise JournalError(f"{self.path} is a database, but not a journal of anysmtp's")
        if (version := self._number("PRAGMA user_version")) != _VERSION:
            raise JournalError(f"{self.path} is a journal of version {version}, not {_VERSION}")
        [(identity,)] = self._execute("SELECT identity FROM journal")
        if identity != self._identity:
            differences = _differences(json.loads(identity), json.loads(self._identity))
            raise JournalError(f"{self.path} is the journal of something else: {differences}")

    def _create(self) -> None:
        for statement in _TABLES:
            self._execute(statement)
        self._execute("INSERT INTO journal VALUES (?, ?)", self._identity, secrets.token_bytes(16))

    def _number(self, statement: str) -> int:
        [(number,)] = self._execute(statement)
        return int(number)

    def _execute(self, statement: str, *values: object) -> list[Any]:
        return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self, synchronous: Literal["FULL", "NORMAL"]) -> Generator[None]:
        """All of it is written or nothing; with FULL it is on the disk at the end."""
        with self._translated():
            self._execute(f"PRAGMA synchronous = {synchronous}")
            self._execute("BEGIN")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Generator[None]:
        """One at a time, and errors of SQLite's in words of ours."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                locked = "locked" in str(error)
                why = "another run is using it" if locked else str(error)
                raise JournalError(f"the journal {self.path}: {why}") from error


def _reply(code: int, text: bytes) -> Reply:
    return Reply(code, text.decode("utf-8", "surrogateescape"))


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what a journal is not of this source, for people."""
    return "; ".join(
        f"{name} was {_told(there.get(name))}, and is {_told(here.get(name))}"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    )


def _told(value: str | list[str] | None) -> str:
    if value is None or value == []:
        return "not given"
    return value or "empty" if isinstance(value, str) else ", ".join(value)
