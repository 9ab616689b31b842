"""What the report makes of what was measured."""

from __future__ import annotations

import pytest

from benchmarks.clients import BASELINE
from benchmarks.report import Measured, Results, document, markdown
from benchmarks.sink import Counts
from benchmarks.task import Run

MIB = 1 << 20


def measured(*seconds: float, messages: int = 100) -> Measured:
    result = Measured()
    for second in seconds:
        run = Run(messages, second, second / 2, 3 * MIB)
        result.add(run, Counts(messages=messages, reads=2 * messages), 0.05)
    return result


def entry_of(results: Results, client: str) -> dict[str, object]:
    (entry,) = [
        entry for entry in document(results, [], "free")["results"] if entry["client"] == client
    ]
    return dict(entry)


def test_ratios_are_those_within_a_round() -> None:
    results = {
        ("sink", "bytes", BASELINE): measured(4, 40, 4),
        ("sink", "bytes", "smtplib"): measured(2, 20, 1),
    }
    entry = entry_of(results, "smtplib")
    assert entry["ratio"] == 2
    assert entry["cpu_ratio"] == 2
    assert (entry["least"], entry["median"], entry["greatest"]) == (5, 50, 100)
    assert entry["cpu_us_per_message"] == 10_000
    assert entry["turns_per_message"] == 2


def test_fewer_round_trips_are_a_greater_ratio() -> None:
    results = {
        ("sink", "link", BASELINE): measured(20),
        ("sink", "link", "smtplib"): measured(5),
    }
    entry = entry_of(results, "smtplib")
    assert entry["median"] == pytest.approx(1)
    assert entry["ratio"] == pytest.approx(4)


def test_an_attachment_is_counted_by_its_size() -> None:
    entry = entry_of({("sink", "attachment", BASELINE): measured(10)}, BASELINE)
    assert entry["median"] == 100


def test_the_table_says_what_is_missing() -> None:
    results = {
        ("sink", "bytes", BASELINE): Measured(missing="aiosmtplib is not installed"),
        ("sink", "bytes", "smtplib"): measured(2),
    }
    text = markdown(document(results, ["bytes"], "shared"))
    assert "## 1 KiB as bytes, one recipient, to sink" in text
    assert f"| {BASELINE} | (aiosmtplib is not installed) | " in text
    assert "| smtplib | 50 |  | 50 to 50 | 10000 |  | 0 | 3.0 | 2.00 |" in text
    assert "`nox -s bench -- bytes`" in text
