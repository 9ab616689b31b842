"""The servers of a run, each started once, and the long links to them.

- ``sink``: the benchmark's own (see `sink`);
- ``smtp-sink``: Postfix's, a C program that offers PIPELINING;
- ``postfix``: a whole Postfix, whose queue is in memory and whose deliveries go nowhere.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from types import TracebackType

from support import postfix
from support.relay import ThreadedRelay
from support.tls import Certificates

from .machine import find_program
from .sink import HOST, Counts, Sink
from .task import Unavailable
from .workloads import Workload

_PATIENCE = 10.0
_PINGS = 5


class Servers:
    """``with Servers() as servers``: what is needed of each is started when it is."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._sink: Sink | None = None
        self._ports: dict[str, int] = {}
        self._links: dict[tuple[int, float], int] = {}

    def __enter__(self) -> Servers:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._certificates = Certificates(Path(folder))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def cafile(self) -> str:
        return str(self._certificates.cafile)

    @property
    def sink(self) -> Sink:
        if self._sink is None:
            self._sink = self._stack.enter_context(Sink(self._certificates.server_file))
        return self._sink

    def port(self, server: str, workload: Workload) -> int:
        """Where the workload goes. Unavailable if there is no such server."""
        if server == "sink":
            port = self.sink.ports[workload.tls]
            return self._link(port, workload.delay) if workload.delay else port
        if server not in self._ports:
            self._ports[server] = self._smtp_sink() if server == "smtp-sink" else self._postfix()
        return self._ports[server]

    def counts(self) -> Counts:
        """What the sink has seen."""
        return self.sink.counts()

    def _link(self, port: int, delay: float) -> int:
        if (port, delay) not in self._links:
            self._links[port, delay] = self._stack.enter_context(ThreadedRelay(port, delay))
        return self._links[port, delay]

    def _smtp_sink(self) -> int:
        path = find_program("smtp-sink")
        if path is None:
            raise Unavailable("smtp-sink is not installed")
        port = _free_port()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._stack.enter_context(_running([path, *user, f"{HOST}:{port}", "1000"]))
        _wait_for(port)
        return port

    def _postfix(self) -> int:
        if reason := postfix.why_not():
            raise Unavailable(reason)
        memory = Path("/dev/shm")
        server = postfix.Postfix(
            self._certificates.server_file,
            {},
            discard=True,
            parent=memory if memory.is_dir() else None,
        )
        return self._stack.enter_context(server).ports["plain"]


@contextmanager
def _running(command: list[str]) -> Generator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with closing(socket.socket()) as client:
            if client.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.01)
    raise Unavailable(f"nothing listens on port {port}")


def round_trip(port: int) -> float:
    """Seconds of a question and its answer, as they are on this link."""
    with socket.create_connection((HOST, port), timeout=_PATIENCE) as client:
        client.recv(4096)
        times: list[float] = []
        for _ in range(_PINGS):
            start = time.perf_counter()
            client.sendall(b"NOOP\r\n")
            client.recv(4096)
            times.append(time.perf_counter() - start)
        return median(times)
