"""The clients, each in the way in which its users would do the work.

A client has a package, a backend, and a way: ``one`` message after another on each connection,
``many`` (anysmtp's send_many; the floor's back-to-back flights), or ``eager``. Over several
connections all take from the same messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TypeAlias

import anyio

from . import blocking, libraries
from .task import Task, Unavailable
from .workloads import Workload

Way: TypeAlias = Literal["one", "many", "eager"]
Backend: TypeAlias = Literal["asyncio", "uvloop", "trio", "blocking"]

BASELINE = "aiosmtplib asyncio"

# How many times as many messages, so that a run is not over before it is measured.
_PACE: dict[Way, int] = {"one": 1, "many": 4, "eager": 10}


@dataclass(frozen=True)
class Client:
    package: str
    backend: Backend
    run: Callable[[Task], None]
    way: Way = "one"

    @property
    def name(self) -> str:
        words = [self.package, self.backend, self.way]
        return " ".join(word for word in words if word not in ("blocking", "one"))

    def suits(self, workload: Workload) -> bool:
        """Whether there is such a way of doing it.

        What is sent together is sent as bytes, but for objects in a stream of anysmtp's.
        """
        is_stream = self.package == "anysmtp" and self.way == "many"
        return workload.is_raw or self.way == "one" or (is_stream and workload.name == "objects")

    def count(self, workload: Workload, *, quick: bool) -> int:
        count = workload.quick if quick else workload.count
        return count if workload.is_fixed else count * _PACE[self.way]


def _on(backend: Backend, run: Callable[[Task], Awaitable[None]]) -> Callable[[Task], None]:
    options = {"use_uvloop": backend == "uvloop"} if backend != "trio" else {}
    name = "trio" if backend == "trio" else "asyncio"

    def run_on(task: Task) -> None:
        if find_spec(backend) is None:
            raise Unavailable(f"{backend} is not installed")
        anyio.run(run, task, backend=name, backend_options=options)

    return run_on


def _clients() -> list[Client]:
    backends: tuple[Backend, ...] = ("asyncio", "uvloop", "trio")
    clients = [Client("aiosmtplib", "asyncio", _on("asyncio", libraries.aiosmtplib_one))]
    for backend in backends:
        clients += [
            Client("anysmtp", backend, _on(backend, libraries.anysmtp_one)),
            Client("anysmtp", backend, _on(backend, libraries.anysmtp_many), "many"),
            Client("anysmtp", backend, _on(backend, libraries.anysmtp_eager), "eager"),
            Client("floor", backend, _on(backend, libraries.floor_one)),
            Client("floor", backend, _on(backend, libraries.floor_many), "many"),
            Client("floor", backend, _on(backend, libraries.floor_eager), "eager"),
        ]
    return [
        *clients,
        Client("smtpproto", "asyncio", _on("asyncio", libraries.smtpproto_one)),
        Client("smtpproto", "trio", _on("trio", libraries.smtpproto_one)),
        Client("smtplib", "blocking", blocking.with_smtplib),
        Client("smtp-source", "blocking", blocking.with_smtp_source),
    ]


CLIENTS = {client.name: client for client in _clients()}
