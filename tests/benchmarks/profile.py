"""Where the time of a message goes: ``nox -s bench -- profile [client [workload]]``.

A timer of processor time interrupts the client every few milliseconds, and the innermost Python
frame says who is at work; what C does, system calls above all, counts for its caller. Unlike a
profiler that is called for each call this does not make small functions dear. A share of the
samples is a share of the processor time per message, in which the table is given.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import anysmtp
from support.tls import Certificates

from .clients import CLIENTS
from .machine import choose_cores
from .sink import Sink
from .task import Job, Task, Watch
from .workloads import WORKLOADS

INTERVAL = 0.001
"""Seconds of processor time; the system may make them longer."""
MESSAGES = 10_000
FUNCTIONS = 25

_PACKAGE = Path(anysmtp.__path__[0])
_LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]


class Sampler(Watch):
    """A watch that also keeps the stack of each sample; to be used on the main thread."""

    def __init__(self, messages: int) -> None:
        super().__init__(messages)
        self.stacks: list[list[CodeType]] = []
        """The innermost first."""

    def __enter__(self) -> None:
        super().__enter__()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        super().__exit__(exc_type, exc, traceback)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        stack: list[CodeType] = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        self.stacks.append(stack)

    def parts(self) -> Counter[str]:
        """Who was at work: a module of anysmtp, or somebody else's package."""
        return Counter(part_of(stack[0]) for stack in self.stacks if stack)

    def functions(self) -> Counter[str]:
        """Which of anysmtp's functions were being executed, those that they call included."""
        found: Counter[str] = Counter()
        for stack in self.stacks:
            found.update({name_of(code) for code in stack if is_ours(code)})
        return found


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(f"{_PACKAGE}{os.sep}")


def name_of(code: CodeType) -> str:
    # Python 3.10 has no qualified names in its code.
    name: str = getattr(code, "co_qualname", code.co_name)
    return f"{Path(code.co_filename).relative_to(_PACKAGE).as_posix()} {name}"


def part_of(code: CodeType) -> str:
    """Whose code this is."""
    path = Path(code.co_filename)
    if is_ours(code):
        return f"anysmtp/{path.relative_to(_PACKAGE).as_posix()}"
    for library in _LIBRARIES:
        if path.is_relative_to(library):
            return path.relative_to(library).parts[0].removesuffix(".py")
    return "the benchmark" if path.parent == Path(__file__).parent else "(made at run time)"


def profile(client: str, workload: str) -> Sampler:
    """Let the client do the workload in this process."""
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        with Sink(certificates.server_file) as sink:
            port = sink.ports[WORKLOADS[workload].tls]
            task = Task(Job(client, workload, port, MESSAGES, str(certificates.cafile)))
            task.watch = sampler = Sampler(MESSAGES)
            task.prepare()
            CLIENTS[client].run(task)
    return sampler


def table(title: str, counts: Sequence[tuple[str, int]], show: Callable[[int], str]) -> str:
    lines = [f"| {title} | µs/message | share |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {name} | {show(count)} |" for name, count in counts)])


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="nox -s bench -- profile", description=__doc__)
    parser.add_argument("client", nargs="?", default="anysmtp trio", choices=CLIENTS)
    parser.add_argument(
        "workload",
        nargs="?",
        default="objects",
        choices=[name for name in WORKLOADS if not WORKLOADS[name].delay],
    )
    chosen = parser.parse_args(given)
    choose_cores("shared")
    sampler = profile(chosen.client, chosen.workload)
    cpu = sampler.run.cpu / sampler.run.messages * 1e6

    def show(count: int) -> str:
        share = count / len(sampler.stacks)
        return f"{share * cpu:.1f} | {share:.1%}"

    print(f"{chosen.client}, {WORKLOADS[chosen.workload].title}: {cpu:.0f} µs of processor time")
    print(f"per message, {len(sampler.stacks)} samples.\n")
    print(table("at work", sampler.parts().most_common(), show), "\n")
    print(table("in, with all it calls", sampler.functions().most_common(FUNCTIONS), show))


if __name__ == "__main__":
    main(sys.argv[1:])
