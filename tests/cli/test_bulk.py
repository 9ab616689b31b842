"""``anysmtp bulk``: what is sent, what another run does, and how each end is told."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from anysmtp.cli import _shipment
from anysmtp.cli._exit import Exit
from anysmtp.cli._letters import Folder, letters_at
from anysmtp.cli._shipment import Shipment
from anysmtp.testing import DROP, AiosmtpdServer
from support.bulk import KINDS, bulk, eml, folder, maildir, mbox, source, template, url
from support.cli import cli, shape
from support.sink import Sink
from support.threaded import ThreadedServer

SUBJECTS = ("one", "two", "three")


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    return folder(tmp_path / "letters", SUBJECTS)


def told(output: str) -> str:
    """The summary, without its seconds."""
    return output.partition(": ")[2].rstrip("\n")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_source_is_sent_once(kind: str, sink: Sink, tmp_path: Path) -> None:
    arguments = source(kind, tmp_path / "source", SUBJECTS)
    first = bulk(sink, *arguments)
    again = bulk(sink, *arguments)
    assert (first.code, told(first.output), first.errors) == (Exit.OK, "3 accepted", "")
    assert (again.code, told(again.output)) == (Exit.OK, "0 accepted, 3 accepted before")
    assert sink.stored == dict.fromkeys(SUBJECTS, 1)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("folder", "there is no message in this folder: one is a file whose name ends in .eml"),
        ("maildir", "there is no message in this maildir"),
        ("mbox", "there is no message in this mbox"),
        ("template", "there is no row for the template"),
    ],
)
def test_where_there_is_nothing_to_send_it_says_so(
    kind: str, why: str, sink: Sink, tmp_path: Path
) -> None:
    ran = bulk(sink, *source(kind, tmp_path / "source", []))
    assert (ran.code, told(ran.output), ran.errors.strip()) == (Exit.OK, "0 accepted", why)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_thousands_go_over_several_connections(backend: str, sink: Sink, tmp_path: Path) -> None:
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    subjects = [f"m{number}" for number in range(1000)]
    box = mbox(tmp_path / "box", subjects)
    arguments = ("bulk", "--server", url(sink), str(box), "--connections", "2", "--json")
    ran = cli("--backend", backend, *arguments)
    assert (ran.code, ran.value["accepted"]) == (Exit.OK, 1000)
    assert sink.stored == dict.fromkeys(subjects, 1)
    assert sink.most == 2


def test_a_rate_is_kept(sink: Sink, letters: Path) -> None:
    ran = bulk(sink, letters, "--rate", "2/s", "--json")
    assert ran.code == Exit.OK
    assert ran.value["seconds"] >= 1


@pytest.mark.parametrize(("text", "code"), [("10/s", 0), ("300/min", 0), ("7/2h", 0), ("x", 2)])
def test_a_rate_has_a_unit(text: str, code: int, sink: Sink, letters: Path) -> None:
    assert bulk(sink, letters, "--rate", text).code == code


def test_each_message_has_a_message_id_that_stays(letters: Path) -> None:
    with AiosmtpdServer() as server:
        assert bulk(server, letters).code == Exit.OK
        seen = {message.message["Message-ID"] for message in server.messages}
        with sqlite3.connect(letters.with_name("letters.journal")) as database:
            database.execute("UPDATE messages SET under_way = 1")
            database.execute("DELETE FROM recipients")
        database.close()
        assert bulk(server, letters, "--resend-in-doubt").code == Exit.OK
        again = {message.message["Message-ID"] for message in server.messages}
    assert len(seen) == 3
    assert all(message_id.endswith("@x.test>") for message_id in seen)
    assert again == seen


def test_a_message_id_of_its_own_and_the_fields_of_one_that_is_resent_stay(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", [])
    (path / "own.eml").write_bytes(b"Message-ID: <1@y.test>\n" + eml("own"))
    resent = b"Resent-From: dan@x.test\nResent-To: eve@x.test\n"
    (path / "resent.eml").write_bytes(resent + eml("resent"))
    (path / "null.eml").write_bytes(eml("null").replace(b"ann@x.test", b"nobody"))
    with AiosmtpdServer() as server:
        assert bulk(server, path, "--from", "", "--connections", "1").code == Exit.OK
        ids = {m.header("Subject"): m.header("Message-ID") for m in server.messages}
    assert (ids["own"], ids["resent"]) == ("<1@y.test>", "")
    assert ids["null"].endswith("@localhost>")


def test_sender_and_recipients_can_be_others(letters: Path) -> None:
    with AiosmtpdServer() as server:
        ran = bulk(server, letters, "--from", "list@x.test", "--to", "carol@x.test")
        assert ran.code == Exit.OK
    envelopes = [(message.sender, message.recipients) for message in server.messages]
    assert envelopes == [("list@x.test", ["carol@x.test"])] * 3


def test_what_is_refused_for_now_is_tried_again_and_what_is_refused_for_good_on_request(
    tmp_path: Path,
) -> None:
    path = folder(tmp_path / "letters", [])
    for name in ("good", "later", "never"):
        (path / f"{name}.eml").write_bytes(eml(name, f"{name}@x.test"))
    refuse = {"later@x.test": "450 4.2.0 later", "never@x.test": "550 5.1.1 never"}
    with AiosmtpdServer(refuse=refuse) as server:
        first = bulk(server, path)
        assert (first.code, told(first.output)) == (Exit.REFUSED, "1 accepted, 2 refused")
        assert f"{path}/later.eml: refused for later@x.test: 450 4.2.0 later\n" in first.errors
        server.refuse.clear()
        second = bulk(server, path)
        assert second.code == Exit.REFUSED
        assert told(second.output) == "1 accepted, 1 accepted before, 1 refused"
        assert second.errors.startswith(
            f"{path}/never.eml: refused for never@x.test: 550 5.1.1 never\n"
        )
        third = bulk(server, path, "--retry-refused")
    assert (third.code, told(third.output)) == (Exit.OK, "1 accepted, 2 accepted before")
    assert sorted(message.recipients for message in server.messages) == [
        [f"{name}@x.test"] for name in ("good", "later", "never")
    ]


def test_who_has_a_message_does_not_get_it_again_because_another_was_refused(
    tmp_path: Path,
) -> None:
    path = folder(tmp_path / "letters", [])
    (path / "a.eml").write_bytes(eml("a", "bob@x.test, carol@x.test, dan@x.test"))
    refuse = {"carol@x.test": "450 4.2.0 later", "dan@x.test": "550 5.1.1 never"}
    with AiosmtpdServer(refuse=refuse) as server:
        first = bulk(server, path, "--json")
        del server.refuse["carol@x.test"]
        second = bulk(server, path, "--json")
    [trouble] = first.value["troubles"]
    assert trouble["accepted"] == ["bob@x.test"]
    assert {address: reply["code"] for address, reply in trouble["refused"].items()} == {
        "carol@x.test": 450,
        "dan@x.test": 550,
    }
    assert second.code == Exit.REFUSED
    assert second.value["troubles"][0]["accepted"] == ["bob@x.test", "carol@x.test"]
    assert [m.recipients for m in server.messages] == [["bob@x.test"], ["carol@x.test"]]


def test_what_is_malformed_is_told_by_each_run_and_stops_nothing(sink: Sink, letters: Path) -> None:
    (letters / "nobody.eml").write_bytes(b"From: ann@x.test\nSubject: nobody\n\n")
    for accepted in ("3 accepted", "0 accepted, 3 accepted before"):
        ran = bulk(sink, letters)
        assert (ran.code, told(ran.output)) == (Exit.USAGE, f"{accepted}, 1 malformed")
        assert (
            f"{letters}/nobody.eml: not sent: no recipients in To, Cc, Bcc: give --to\n"
            in ran.errors
        )


def test_what_cannot_be_read_is_told(
    sink: Sink, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "two.eml":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    ran = bulk(sink, letters)
    assert ran.code == Exit.USAGE
    assert f"{letters}/two.eml: not sent: Permission denied\n" in ran.errors
    monkeypatch.undo()
    assert bulk(sink, letters).code == Exit.OK
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert told(bulk(sink, letters).output) == "0 accepted, 3 accepted before"


def test_what_was_accepted_and_edited_is_named_and_not_sent_again(
    sink: Sink, letters: Path
) -> None:
    bulk(sink, letters)
    (letters / "two.eml").write_bytes(eml("two") + b"edited\n")
    ran = bulk(sink, letters)
    assert (ran.code, told(ran.output)) == (Exit.OK, "0 accepted, 2 accepted before, 1 changed")
    assert ran.errors == (
        f"{letters}/two.eml: was accepted, and edited since: it is not sent again\n"
    )
    assert sink.stored["two"] == 1


def test_what_was_refused_and_edited_is_sent(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", ["a"])
    with ThreadedServer(script={"RCPT TO:<BOB": "550 5.1.1 no"}) as server:
        assert bulk(server, path).code == Exit.REFUSED
        (path / "a.eml").write_bytes(eml("a", "carol@x.test"))
        assert bulk(server, path).code == Exit.OK


def test_what_is_in_doubt_is_listed_by_each_run_and_sent_on_request(
    sink: Sink, tmp_path: Path
) -> None:
    path = folder(tmp_path / "letters", ["a"])
    with ThreadedServer(script={".": DROP}) as server:
        for _ in range(2):
            ran = bulk(server, path)
            assert (ran.code, told(ran.output)) == (Exit.IN_DOUBT, "0 accepted, 1 in doubt")
            assert f"{path}/a.eml: in doubt for bob@x.test, the server may have it" in ran.errors
            assert ran.errors.endswith("--resend-in-doubt sends again what is in doubt\n")
    again = bulk(sink, path, "--resend-in-doubt")
    assert (again.code, told(again.output)) == (Exit.OK, "1 accepted")


def test_without_a_server_nothing_is_begun(sink: Sink, letters: Path) -> None:
    ran = cli("bulk", str(letters), "--server", "smtp://127.0.0.1:1")
    assert (ran.code, told(ran.output)) == (Exit.UNREACHABLE, "0 accepted, 3 not sent")
    assert ran.errors.startswith("127.0.0.1:1: ")
    assert "the same command goes on" in ran.errors
    assert told(bulk(sink, letters).output) == "3 accepted"


def test_a_connection_that_is_lost_leaves_the_rest_for_the_next_run(
    sink: Sink, letters: Path
) -> None:
    with ThreadedServer(script={"DATA": DROP}) as server:
        ran = bulk(server, letters, "--connections", "1", "--json")
    assert ran.code == Exit.UNREACHABLE
    assert ran.value["not_sent"] == 3
    assert told(bulk(sink, letters).output) == "3 accepted"


def test_a_journal_belongs_to_its_source(sink: Sink, letters: Path, tmp_path: Path) -> None:
    other = folder(tmp_path / "other", ["x"])
    journal = tmp_path / "the.journal"
    assert bulk(sink, letters, "--journal", journal).code == Exit.OK
    for arguments, difference in (
        ((other,), f"path was {letters}, and is {other}"),
        (
            (letters, "--to", "c@x.test", "--to", "d@x.test"),
            "to was not given, and is c@x.test, d@",
        ),
        ((letters, "--from", ""), "from was not given, and is empty"),
    ):
        ran = bulk(sink, *arguments, "--journal", journal)
        assert ran.code == Exit.USAGE
        assert f"{journal} is the journal of something else: " in ran.errors
        assert difference in ran.errors
    assert sink.stored == dict.fromkeys(SUBJECTS, 1)


def test_a_journal_that_is_in_use_is_refused(sink: Sink, letters: Path) -> None:
    journal = letters.with_name("letters.journal")
    with sqlite3.connect(journal, isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        ran = bulk(sink, letters)
    database.close()
    assert ran.code == Exit.USAGE
    assert f"the journal {journal}: another run is using it" in ran.errors
    assert not sink.stored


@pytest.mark.parametrize("change", ["DROP TABLE messages", "DROP TABLE recipients"])
def test_a_journal_that_breaks_ends_the_run(
    change: str, sink: Sink, letters: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "the.journal"
    bulk(sink, folder(tmp_path / "before", []), "--journal", journal)
    bulk(sink, letters)
    with sqlite3.connect(letters.with_name("letters.journal")) as database:
        database.execute(change)
    database.close()
    ran = bulk(sink, letters)
    assert ran.code == Exit.TROUBLE
    assert "no such table" in ran.errors


def test_a_source_that_is_gone_ends_the_run(
    sink: Sink, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Shipment, "_next_group", fail)
    ran = bulk(sink, letters)
    assert ran.code == Exit.TROUBLE
    assert "Input/output error" in ran.errors


def test_a_source_that_has_become_smaller_is_not_all_sent(
    sink: Sink, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(_: Folder) -> int:
        return 5

    monkeypatch.setattr(Folder, "count", count)
    ran = bulk(sink, letters)
    assert (ran.code, told(ran.output)) == (Exit.UNREACHABLE, "3 accepted, 2 not sent")


def test_what_is_in_doubt_and_gone_from_the_source_is_listed_still(
    sink: Sink, letters: Path
) -> None:
    bulk(sink, letters)
    with sqlite3.connect(letters.with_name("letters.journal")) as database:
        database.execute("UPDATE messages SET under_way = 1 WHERE key = 'two.eml'")
    database.close()
    (letters / "two.eml").unlink()
    ran = bulk(sink, letters)
    assert ran.code == Exit.IN_DOUBT
    assert f"{letters}/two.eml: in doubt for " in ran.errors


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_source_goes_on_behind_what_was_sent(kind: str, sink: Sink, tmp_path: Path) -> None:
    subjects = [f"m{number:03}" for number in range(600)]
    path = tmp_path / "source"
    arguments = source(kind, path, subjects[:520])
    assert bulk(sink, *arguments).code == Exit.OK
    if kind in ("folder", "maildir"):
        shutil.rmtree(path)
    ran = bulk(sink, *source(kind, path, subjects), "--json")
    assert (ran.value["accepted"], ran.value["accepted_before"]) == (80, 520)
    assert sink.stored == dict.fromkeys(subjects, 1)


def test_heavy_messages_are_begun_a_few_at_a_time(
    sink: Sink, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shipment, "_HEAVY", 1)
    assert told(bulk(sink, letters).output) == "3 accepted"


def test_an_mbox_is_known_by_its_message_ids(sink: Sink, tmp_path: Path) -> None:
    subjects = ["a", "a", "b"]
    box = mbox(tmp_path / "box", subjects)
    content = box.read_bytes().replace(b"Subject: ", b"Message-ID: <x@x.test>\nSubject: ")
    box.write_bytes(content)
    assert [letter.key for letter in letters_at(box)] == [
        "<x@x.test>",
        "<x@x.test> (2)",
        "<x@x.test> (3)",
    ]
    assert told(bulk(sink, box).output) == "3 accepted"
    # A reader has marked one as read.
    box.write_bytes(content.replace(b"Subject: b", b"Status: RO\nSubject: b"))
    ran = bulk(sink, box)
    assert told(ran.output) == "0 accepted, 2 accepted before, 1 changed"
    assert "message 3: was accepted, and edited since" in ran.errors


def test_wrong_use_is_told_before_there_is_a_journal(
    sink: Sink, letters: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    page, flag, rows = template(tmp_path / "page", ["a"])
    for arguments, said in (
        ((tmp_path / "nothing",), "does not exist"),
        ((tmp_path / "file",), "is neither a folder nor an mbox"),
        ((page, flag, rows, "--to", "bob@x.test"), "--to is not for a template"),
        ((page, flag, rows, "--column", "mail"), "no column 'mail' with the recipients"),
        ((letters, "--from", "nonsense@"), "nonsense@"),
        ((letters, "--to", "nonsense@"), "nonsense@"),
        ((letters, "--journal", tmp_path / "no" / "where"), "unable to open"),
        ((Path("/"),), "nothing can stand beside /: --journal says where it is"),
    ):
        ran = bulk(sink, *arguments)
        assert ran.code == Exit.USAGE, arguments
        assert said in ran.errors.replace("\n", " "), arguments
    assert cli("bulk", str(letters), "--server", "ftp://x.test").code == Exit.USAGE
    assert not list(tmp_path.glob("*.journal"))
    with pytest.raises(click.UsageError, match="No such file"):
        letters_at(tmp_path / "nothing")


def test_the_result_for_machines_has_a_shape(tmp_path: Path) -> None:
    path = folder(tmp_path / "letters", ["a"])
    with AiosmtpdServer(refuse={"bob@x.test": "550 5.1.1 no"}) as server:
        value: Any = bulk(server, path, "--json").value
    assert shape(value) == {
        **dict.fromkeys(("exit_code", "messages", "accepted", "accepted_before"), int),
        **dict.fromkeys(("changed", "refused", "in_doubt", "malformed", "not_sent"), int),
        "journal": str,
        "seconds": float,
        "error": type(None),
        "troubles": [
            {
                **dict.fromkeys(("source", "key", "end", "error"), str),
                "accepted": [],
                "refused": {"bob@x.test": {"code": int, "enhanced": str, "text": str}},
                "in_doubt": [],
                "not_sent": [],
            }
        ],
    }


def test_a_mailbox_of_a_reader_is_known_again(sink: Sink, tmp_path: Path) -> None:
    mails = maildir(tmp_path / "Maildir", SUBJECTS)
    assert bulk(sink, mails).code == Exit.OK
    (mails / "new" / "one").rename(mails / "cur" / "one:2,RS")
    (mails / "new" / ".hidden").write_bytes(eml("hidden"))
    assert told(bulk(sink, mails).output) == "0 accepted, 3 accepted before"
