"""What a client is given to do, and how it is measured.

The time runs when the client is connected and has sent some messages, and the messages are made.
"""

from __future__ import annotations

import ctypes
import resource
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from .workloads import WORKLOADS, Letters, Workload

WARM_UP = 20
"""Messages before the time runs; over a long link one."""


class Unavailable(Exception):
    """What the client would need and is not there."""


@dataclass(frozen=True)
class Job:
    client: str
    workload: str
    port: int
    count: int
    cafile: str
    core: int | None = None
    """The processor to run on; None for any that this process may."""


@dataclass(frozen=True)
class Run:
    """What was measured. Memory is in bytes above what the idle client had."""

    messages: int
    seconds: float
    cpu: float
    memory: int


class Watch:
    """``with watch: ...`` around what is measured."""

    run: Run

    def __init__(self, messages: int) -> None:
        self._messages = messages

    def __enter__(self) -> None:
        self._idle = reset_peak_memory()
        self._cpu = time.process_time()
        self._children = _children_cpu()
        self._start = time.perf_counter()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._start
        cpu = time.process_time() - self._cpu + _children_cpu() - self._children
        self.run = Run(self._messages, seconds, cpu, max(0, peak_memory() - self._idle))


class Task:
    """What a client is given: where to send what."""

    def __init__(self, job: Job) -> None:
        self.workload: Workload = WORKLOADS[job.workload]
        self.port = job.port
        self.count = job.count
        self.watch = Watch(job.count)
        self.letters = Letters(self.workload, job.count)
        self.warm_up = Letters(replace(self.workload, attachment=0), _warm_up(self.workload))
        """Small ones of the same kind, to be sent on each connection before the time runs."""
        self._cafile = job.cafile

    @property
    def recipients(self) -> list[str]:
        return self.letters.recipients

    @property
    def messages(self) -> list[Any]:
        return self.letters.messages

    @cached_property
    def tls_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._cafile)

    def prepare(self) -> None:
        """Make what is to be there before the time runs."""
        assert len(self.messages) == self.count
        assert len(self.warm_up.messages) == _warm_up(self.workload)
        if self.workload.tls != "plain":
            assert self.tls_context.verify_mode is ssl.CERT_REQUIRED


def _warm_up(workload: Workload) -> int:
    if workload.is_first:
        return 0
    return 1 if workload.delay else WARM_UP


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes; 0 where there is no such thing."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def reset_peak_memory() -> int:
    """Let the peak of memory be what is in use now, as far as the system can; the peak."""
    with suppress(OSError, AttributeError):
        # What was freed before is not to hide what is needed now.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
