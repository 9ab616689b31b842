"""The command: run the workloads, round by round, and write down what came of it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from .clients import BASELINE, CLIENTS, Client
from .machine import choose_cores, environment
from .report import Measured, Results, document, markdown
from .servers import Servers, round_trip
from .sink import Counts
from .task import Job, Run, Unavailable
from .workloads import SERVERS, WORKLOADS, Workload

TIME_LIMIT = 120.0
"""Seconds that one client may take for one round."""

_QUICK = ["* asyncio*", "* trio*", "smtp*"]


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument(
        "workloads",
        nargs="*",
        help=f"of {' '.join(WORKLOADS)}, or patterns; default: all but the doubled ones",
    )
    parser.add_argument(
        "--clients",
        nargs="+",
        default=None,
        help=f"names or patterns, of: {', '.join(CLIENTS)}. {BASELINE} is always there;"
        " default: all, or without uvloop with --quick",
    )
    parser.add_argument("--servers", nargs="+", default=["sink"], choices=SERVERS)
    parser.add_argument("--rounds", type=int, default=None, help="default: 7, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="one short round, in two minutes")
    parser.add_argument(
        "--cores",
        choices=("shared", "apart", "free"),
        default="shared",
        help="one processor for client and server, one for each, or as the system likes it",
    )
    folder = Path(os.environ.get("BENCHMARK_FOLDER", ""))
    parser.add_argument(
        "--output", type=Path, default=folder, help="the folder for benchmark.md and benchmark.json"
    )
    chosen = parser.parse_args(given)
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 7)
    chosen.clients = chosen.clients or (_QUICK if chosen.quick else ["*"])
    return chosen


def matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those names that fit one of the patterns, which each have to fit something."""
    if vain := [one for one in patterns if not any(fnmatchcase(name, one) for name in names)]:
        raise SystemExit(f"no such thing: {', '.join(vain)}; there are: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, one) for one in patterns)]


class Bench:
    """Runs clients in processes of their own, and keeps what they measured."""

    def __init__(self, servers: Servers, core: int | None, *, quick: bool) -> None:
        self._servers = servers
        self._core = core
        self._quick = quick
        self.results: Results = {}

    def round(self, server: str, workload: Workload, clients: Sequence[Client]) -> None:
        """Each client once."""
        for client in clients:
            measured = self.results.setdefault((server, workload.name, client.name), Measured())
            if measured.missing is None:
                try:
                    measured.add(*self._run(server, workload, client))
                except Unavailable as missing:
                    measured.missing = str(missing)

    def _run(
        self, server: str, workload: Workload, client: Client
    ) -> tuple[Run, Counts | None, float | None]:
        port = self._servers.port(server, workload)
        trip = round_trip(port) if workload.delay else None
        count = client.count(workload, quick=self._quick)
        before = self._servers.counts() if server == "sink" else None
        cafile = self._servers.cafile
        run = start(Job(client.name, workload.name, port, count, cafile, self._core))
        if before is None:
            return run, None, trip
        seen = self._servers.counts().since(before)
        if seen.messages < count:
            raise RuntimeError(f"{client.name} sent {count}, {seen.messages} arrived")
        return run, seen, trip


def start(job: Job) -> Run:
    """One worker; Unavailable if it cannot do that, or fails at it."""
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(job))]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT, env=environment()
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"it took more than {TIME_LIMIT:.0f} seconds") from None
    if ran.returncode != 0:
        sys.stderr.write(ran.stderr)
        # The last line that is not the frame around an ExceptionGroup.
        said = [line for line in ran.stderr.splitlines() if line.strip(" |+-")]
        raise Unavailable(f"failed: {(said or [str(ran.returncode)])[-1].strip(' |')}")
    answer = json.loads(ran.stdout)
    if "unavailable" in answer:
        raise Unavailable(answer["unavailable"])
    return Run(**answer)


def rows(chosen: argparse.Namespace) -> Iterator[tuple[str, Workload, list[Client]]]:
    usual = [name for name, workload in WORKLOADS.items() if not workload.is_extra]
    names = matching(chosen.workloads or usual, list(WORKLOADS))
    wanted = [CLIENTS[name] for name in matching([*chosen.clients, BASELINE], list(CLIENTS))]
    for server in chosen.servers:
        for workload in map(WORKLOADS.__getitem__, names):
            if server in workload.servers:
                suiting = [client for client in wanted if client.suits(workload)]
                yield server, workload, suiting


def main(given: Sequence[str]) -> None:
    chosen = arguments(given)
    core = choose_cores(chosen.cores)
    chosen.output.mkdir(parents=True, exist_ok=True)
    with Servers() as servers:
        bench = Bench(servers, core, quick=chosen.quick)
        for number in range(chosen.rounds):
            for server, workload, clients in rows(chosen):
                print(f"round {number + 1}: {workload.name} to {server}", file=sys.stderr)
                bench.round(server, workload, clients)
    result = document(bench.results, given, chosen.cores)
    text = markdown(result)
    (chosen.output / "benchmark.json").write_text(json.dumps(result, indent=1) + "\n")
    (chosen.output / "benchmark.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
