"""Each client does each workload, as the sink counts it; and the floor sends what the peers do."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from benchmarks.__main__ import main, matching
from benchmarks.clients import CLIENTS, Client
from benchmarks.floor import chunks
from benchmarks.sink import Sink
from benchmarks.task import Job, Task, Unavailable
from benchmarks.workloads import WORKLOADS, Letters, Workload, letter
from support.quick import sampled
from support.tls import Certificates

# What the others' libraries leave unclosed, or import by an old name, is not ours to judge.
PEERS = {"aiosmtplib", "smtpproto"}
LENIENT = [
    pytest.mark.filterwarnings("ignore:The anyio.abc.BlockingPortal alias:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

each_pair = pytest.mark.parametrize(
    ("client", "workload"),
    [
        pytest.param(
            client,
            workload,
            marks=LENIENT if client.package in PEERS else [],
            id=f"{client.name}-{workload.name}",
        )
        for client in CLIENTS.values()
        for workload in WORKLOADS.values()
        if client.suits(workload) and not workload.is_extra
    ],
)
COUNT = 50


@pytest.fixture(scope="module")
def sink(certificates: Certificates) -> Iterator[Sink]:
    with Sink(certificates.server_file) as sink:
        yield sink


@sampled(4)
@each_pair
def test_all_messages_arrive(
    client: Client, workload: Workload, sink: Sink, certificates: Certificates
) -> None:
    count = 1 if workload.is_first or workload.attachment else COUNT
    job = Job(client.name, workload.name, sink.ports[workload.tls], count, str(certificates.cafile))
    task = Task(job)
    task.prepare()
    before = sink.counts()
    try:
        client.run(task)
    except Unavailable as missing:
        pytest.skip(str(missing))
    finally:
        if client.package in PEERS:
            gc.collect()
    seen = sink.counts().since(before)
    assert task.watch.run.messages == count
    assert seen.messages >= count
    assert seen.recipients >= count * workload.recipients
    assert seen.octets >= count * max(1000, workload.attachment)


def test_the_floor_serialises_as_the_email_package_does() -> None:
    message = letter(1)
    assert b"".join(chunks(message)) == message.as_bytes(policy=SMTP)


def test_the_floor_serialises_an_attachment_as_the_email_package_does() -> None:
    (message,) = Letters(WORKLOADS["attachment"], 1).objects
    whole = b"".join(chunks(message))
    message.set_boundary("===============0123456789==")
    assert whole == message.as_bytes(policy=SMTP)


def test_the_messages_are_of_the_size_that_is_said() -> None:
    assert 1000 < len(bytes(letter(1))) < 1050
    (message,) = Letters(WORKLOADS["attachment"], 1).objects
    (attached,) = message.iter_attachments()
    assert isinstance(attached, EmailMessage)
    assert len(attached.get_content()) == 10 << 20


def test_a_run_writes_a_table_and_a_document(tmp_path: Path) -> None:
    chosen = ["bytes", "--quick", "--cores", "free", "--clients", "floor asyncio*"]
    main([*chosen, "--output", str(tmp_path)])
    document = json.loads((tmp_path / "benchmark.json").read_text())
    clients = [entry["client"] for entry in document["results"]]
    assert clients == [
        *("aiosmtplib asyncio", "floor asyncio", "floor asyncio many", "floor asyncio eager")
    ]
    assert document["results"][1]["turns_per_message"] == pytest.approx(2, abs=0.2)
    text = (tmp_path / "benchmark.md").read_text()
    assert all(f"| {client} | " in text for client in clients)


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    assert matching(["b*"], ["a", "b", "bc"]) == ["b", "bc"]
    with pytest.raises(SystemExit, match="no such thing: x; there are: a, b"):
        matching(["a", "x"], ["a", "b"])
