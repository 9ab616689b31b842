"""From what was measured to a table in Markdown and a document in JSON.

A result is the median of the rounds, with the least and the greatest beside it. A ratio is taken
within each round, to what the baseline did some seconds before or after, and then their median:
so a machine that is slow for a while moves the results, and hardly the ratios. It is always so
many times *better*, whether more or less of the unit is better.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from statistics import median
from typing import Any, TypeAlias

from .clients import BASELINE
from .machine import machine, versions
from .sink import Counts
from .task import Run
from .workloads import MIB, WORKLOADS, Workload


@dataclass
class Measured:
    """All rounds of one client doing one workload on one server."""

    runs: list[Run] = field(default_factory=list[Run])
    seen: list[Counts] = field(default_factory=list[Counts])
    """What the sink counted, the messages before the time ran included."""
    round_trips: list[float] = field(default_factory=list[float])
    """Seconds of a round trip on the link, as measured before each run."""
    missing: str | None = None
    """Why there is nothing."""

    def add(self, run: Run, seen: Counts | None, round_trip: float | None) -> None:
        self.runs.append(run)
        if seen is not None:
            self.seen.append(seen)
        if round_trip is not None:
            self.round_trips.append(round_trip)

    def values(self, workload: Workload) -> list[float]:
        """The workload's result of each round, in its unit."""
        if workload.unit == "messages/s":
            return [run.messages / run.seconds for run in self.runs]
        if workload.unit == "MiB/s":
            return [run.messages * workload.attachment / MIB / run.seconds for run in self.runs]
        if workload.unit == "CPU us/message":
            return self.cpu()
        pairs = zip(self.runs, self.round_trips, strict=True)
        return [run.seconds / run.messages / trip for run, trip in pairs]

    def cpu(self) -> list[float]:
        """Microseconds of processor time per message, of each round."""
        return [run.cpu / run.messages * 1e6 for run in self.runs]


Results: TypeAlias = "dict[tuple[str, str, str], Measured]"


def document(results: Results, given: Sequence[str], cores: str) -> dict[str, Any]:
    """All there is to know, as JSON has it."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["nox", "-s", "bench", *(["--", *given] if given else [])]),
        "machine": machine(),
        "cores": cores,
        "versions": versions(),
        "results": [
            _entry(results, server, WORKLOADS[workload], client)
            for server, workload, client in results
        ],
    }


def _entry(results: Results, server: str, workload: Workload, client: str) -> dict[str, Any]:
    measured = results[server, workload.name, client]
    entry: dict[str, Any] = {"server": server, "workload": workload.name, "client": client}
    if measured.missing is not None or not measured.runs:
        return {**entry, "missing": measured.missing}
    values = measured.values(workload)
    baseline = results[server, workload.name, BASELINE].values(workload)
    return {
        **entry,
        "unit": workload.unit,
        "median": median(values),
        "least": min(values),
        "greatest": max(values),
        "ratio": _ratio(values, baseline, 1 if workload.higher_is_better else -1),
        "cpu_us_per_message": median(measured.cpu()),
        "cpu_ratio": _ratio(measured.cpu(), results[server, workload.name, BASELINE].cpu(), -1),
        "memory": median(run.memory for run in measured.runs),
        "turns_per_message": _per_message([seen.reads for seen in measured.seen], measured),
        "sink_cpu_us_per_message": _per_message(
            [seen.cpu * 1e6 for seen in measured.seen], measured
        ),
        "rounds": [asdict(run) for run in measured.runs],
        "seen": [asdict(seen) for seen in measured.seen],
        "round_trips": measured.round_trips,
    }


def _ratio(values: Sequence[float], baseline: Sequence[float], power: int) -> float | None:
    """How many times better; power is 1 if more is better, and -1 if less is."""
    pairs = list(zip(values, baseline, strict=False))
    return median((value / base) ** power for value, base in pairs) if pairs else None


def _per_message(counts: Sequence[float], measured: Measured) -> float | None:
    """The warm-up's messages are among those counted, so they are among those divided by."""
    if not counts:
        return None
    pairs = zip(counts, measured.seen, strict=True)
    return median(count / seen.messages for count, seen in pairs)


def markdown(result: dict[str, Any]) -> str:
    """One table for each workload and server."""
    lines = ["# Benchmark", "", *_preface(result)]
    tables = {(entry["server"], entry["workload"]) for entry in result["results"]}
    order = [(entry["server"], entry["workload"]) for entry in result["results"]]
    for server, name in sorted(tables, key=order.index):
        entries = [
            entry
            for entry in result["results"]
            if (entry["server"], entry["workload"]) == (server, name)
        ]
        lines += ["", f"## {WORKLOADS[name].title}, to {server}", "", *_table(name, entries)]
    return "\n".join(lines) + "\n"


def _preface(result: dict[str, Any]) -> list[str]:
    on = result["machine"]
    numbers = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    where = f"on {on['cores']} cores of {on['cpu']}, {on['system']}"
    when = f"{result['date'][:10]}, by `{result['command']}`, {where}."
    return [when, "", f"{numbers}.", "", _LEGEND, "", _CORES[result["cores"]]]


_LEGEND = (
    "Medians of the rounds, and the least and the greatest; × is to aiosmtplib in the same round,"
    " and more is better. CPU is processor time per message, of the client and of the benchmark's"
    " own server; memory the client's peak above what it had when idle; turns how often the server"
    " was woken, per message."
)
_CORES = {
    "shared": "Client and server run on one processor: a turn costs a switch between the two, and"
    " not an interrupt of another processor, which takes several times as long and varies.",
    "apart": "Client and server each have a processor of their own.",
    "free": "Client and server run on whatever processor the system chooses.",
}


def _table(workload: str, entries: Sequence[dict[str, Any]]) -> list[str]:
    unit = WORKLOADS[workload].unit
    head = [
        "client",
        unit,
        "×",
        "spread",
        "CPU µs",
        "CPU ×",
        "sink's CPU µs",
        "memory MiB",
        "turns",
    ]
    shown = [_row(entry) for entry in entries]
    return [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, shown)]


def _row(entry: dict[str, Any]) -> list[str]:
    if "median" not in entry:
        return [entry["client"], f"({entry['missing']})", *[""] * 7]
    turns, sink = entry["turns_per_message"], entry["sink_cpu_us_per_message"]
    return [
        entry["client"],
        _number(entry["median"]),
        _times(entry["ratio"]),
        f"{_number(entry['least'])} to {_number(entry['greatest'])}",
        _number(entry["cpu_us_per_message"]),
        _times(entry["cpu_ratio"]),
        "" if sink is None else _number(sink),
        f"{entry['memory'] / MIB:.1f}",
        _times(turns),
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
