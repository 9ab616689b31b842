"""The clients, each in the way in which its users would do the work.

A client has a library, a backend, and a way: ``one`` message after another on each connection,
``many`` (anysmtp's send_many; the floor's back-to-back flights), or ``eager``. Over several
connections all take from the same messages.
"""

from __future__ import annotations

import smtplib
import subprocess
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Literal, TypeAlias

import anyio
from anyio.streams.tls import TLSStream

import anysmtp

from .floor import Floor, chunks
from .machine import find_program
from .sink import HOST
from .task import Task, Unavailable
from .workloads import LOCAL_HOSTNAME, PASSWORD, SENDER, USERNAME, Workload, letter

Way: TypeAlias = Literal["one", "many", "eager"]
Backend: TypeAlias = Literal["asyncio", "uvloop", "trio", "blocking"]
Sessions: TypeAlias = "list[AbstractAsyncContextManager[Any]]"

BASELINE = "aiosmtplib asyncio"

# How many times as many messages, so that a run is not over before it is measured.
_PACE: dict[Way, int] = {"one": 1, "many": 4, "eager": 10}


@dataclass(frozen=True)
class Client:
    library: str
    backend: Backend
    run: Callable[[Task], None]
    way: Way = "one"

    @property
    def name(self) -> str:
        words = [self.library, self.backend, self.way]
        return " ".join(word for word in words if word not in ("blocking", "one"))

    def suits(self, workload: Workload) -> bool:
        """Whether there is such a way of doing it: what is sent together is sent as bytes."""
        return workload.is_raw or self.way == "one"

    def count(self, workload: Workload, *, quick: bool) -> int:
        count = workload.quick if quick else workload.count
        return count if workload.is_fixed else count * _PACE[self.way]


def _on(backend: Backend, run: Callable[[Task], Awaitable[None]]) -> Callable[[Task], None]:
    options = {"use_uvloop": backend == "uvloop"} if backend != "trio" else {}
    name = "trio" if backend == "trio" else "asyncio"
    return lambda task: anyio.run(run, task, backend=name, backend_options=options)


async def _one_by_one(
    task: Task, sessions: Sessions, messages: Sequence[EmailMessage | bytes] | None = None
) -> None:
    """Let each connection, or each task of a client that has them all, take the next message."""
    async with AsyncExitStack() as stack:
        if task.workload.is_first:
            with task.watch:
                await _send(task, await stack.enter_async_context(sessions[0]), task.messages[0])
            return
        opened = [await stack.enter_async_context(session) for session in sessions]
        workers = opened * (task.workload.connections // len(opened))
        async with anyio.create_task_group() as group:
            for session in workers:
                group.start_soon(_warm_up, task, session)
        left = iter(task.messages if messages is None else messages)
        with task.watch:
            async with anyio.create_task_group() as group:
                for session in workers:
                    group.start_soon(_send_all, task, session, left)


async def _warm_up(task: Task, session: Any) -> None:
    for _ in range(task.warm_up):
        await session.send_message(letter(0))


async def _send_all(task: Task, session: Any, left: Iterator[Any]) -> None:
    for message in left:
        await _send(task, session, message)


def _send(task: Task, session: Any, message: EmailMessage | bytes) -> Awaitable[object]:
    """One message, by the method that a user would take."""
    sending: Awaitable[object]
    if isinstance(message, bytes):
        sending = session.sendmail(SENDER, task.recipients, message)
    elif len(task.recipients) > 1:
        sending = session.send_message(message, sender=SENDER, recipients=task.recipients)
    else:
        sending = session.send_message(message)
    return sending


# What is not in every version, and what has no types.
_anysmtp: Any = anysmtp


def _anysmtp_client(task: Task, **options: Any) -> Any:
    workload = task.workload
    if hasattr(_anysmtp, "Limits"):
        options["limits"] = _anysmtp.Limits(max_connections=workload.connections)
    elif workload.connections > 1:
        raise Unavailable("anysmtp has no Limits")
    if workload.tls != "plain":
        options |= {"tls": workload.tls, "tls_context": task.tls_context}
    if workload.is_first:
        options |= {"username": USERNAME, "password": PASSWORD}
    return _anysmtp.SMTP(HOST, task.port, local_hostname=LOCAL_HOSTNAME, **options)


async def _anysmtp_one(task: Task) -> None:
    await _one_by_one(task, [_anysmtp_client(task)])


async def _anysmtp_many(task: Task, **options: Any) -> None:
    if not hasattr(anysmtp, "Mail"):
        raise Unavailable("anysmtp has no send_many")
    envelope = anysmtp.Envelope(sender=SENDER, recipients=task.recipients)
    warm_up = [_anysmtp.Mail(letter(0)) for _ in range(task.warm_up)]
    mails = [_anysmtp.Mail(raw, envelope) for raw in task.messages]
    async with _anysmtp_client(task, **options) as smtp:
        await _send_mails(smtp, warm_up)
        with task.watch:
            await _send_mails(smtp, mails)


async def _anysmtp_eager(task: Task) -> None:
    await _anysmtp_many(task, pipelining="eager")


async def _send_mails(smtp: Any, mails: list[Any]) -> None:
    async with smtp.send_many(mails) as deliveries:
        async for delivery in deliveries:
            delivery.result()


async def _aiosmtplib(task: Task) -> None:
    try:
        import aiosmtplib
    except ImportError as error:
        raise Unavailable("aiosmtplib is not installed") from error
    workload = task.workload
    options: dict[str, Any] = {"use_tls": workload.tls == "implicit"}
    if workload.tls != "plain":
        options["tls_context"] = task.tls_context
    if workload.is_first:
        options |= {"username": USERNAME, "password": PASSWORD}
    connect: Any = aiosmtplib.SMTP
    sessions = [
        connect(
            hostname=HOST,
            port=task.port,
            local_hostname=LOCAL_HOSTNAME,
            start_tls=workload.tls == "starttls",
            **options,
        )
        for _ in range(workload.connections)
    ]
    await _one_by_one(task, sessions)


async def _smtpproto(task: Task) -> None:
    try:
        from smtpproto.auth import PlainAuthenticator
        from smtpproto.client import AsyncSMTPClient
    except ImportError as error:
        raise Unavailable("smtpproto is not installed") from error
    workload = task.workload
    if workload.is_raw and not workload.delay:
        raise Unavailable("smtpproto sends message objects only")
    if workload.tls == "implicit":
        raise Unavailable("smtpproto has no implicit TLS")
    options: dict[str, Any] = {"domain": LOCAL_HOSTNAME}
    if workload.tls == "starttls":
        options["ssl_context"] = task.tls_context
        options["authenticator"] = PlainAuthenticator(USERNAME, PASSWORD)
    client = AsyncSMTPClient(HOST, task.port, **options)
    # Over a long link the messages may be objects: what they cost does not show there.
    sessions = [client.connect() for _ in range(workload.connections)]
    await _one_by_one(task, sessions, task.letters.objects)


class _FloorSession:
    """The floor, with the methods that the others have."""

    def __init__(self, floor: Floor, *, in_pieces: bool) -> None:
        self._floor = floor
        self._in_pieces = in_pieces

    def sendmail(self, sender: str, recipients: list[str], message: bytes) -> Awaitable[None]:
        return self._floor.lock_step(message)

    def send_message(self, message: EmailMessage, **envelope: object) -> Awaitable[None]:
        if self._in_pieces:
            return self._floor.in_pieces(chunks(message))
        return self._floor.lock_step(b"".join(chunks(message)))


@asynccontextmanager
async def _floor_on(task: Task) -> AsyncGenerator[Floor]:
    tcp = await anyio.connect_tcp(HOST, task.port)
    async with tcp:
        stream = tcp
        if task.workload.tls == "implicit":
            stream = await TLSStream.wrap(
                tcp, hostname=HOST, ssl_context=task.tls_context, standard_compatible=False
            )
        floor = Floor(stream, SENDER, task.recipients)
        await floor.hello()
        yield floor


@asynccontextmanager
async def _floor_session(task: Task) -> AsyncGenerator[_FloorSession]:
    async with _floor_on(task) as floor:
        yield _FloorSession(floor, in_pieces=task.workload.attachment > 0)


async def _floor_one(task: Task) -> None:
    if task.workload.is_first:
        raise Unavailable("the floor has no login")
    await _one_by_one(task, [_floor_session(task) for _ in range(task.workload.connections)])


async def _floor_many(task: Task) -> None:
    async with _floor_on(task) as floor:
        with task.watch:
            await floor.back_to_back(task.messages)


async def _floor_eager(task: Task) -> None:
    async with _floor_on(task) as floor:
        with task.watch:
            await floor.eager(task.messages)


def _smtplib(task: Task) -> None:
    if task.workload.is_first:
        with ExitStack() as stack, task.watch:
            session = stack.enter_context(_smtplib_session(task))
            session.starttls(context=task.tls_context)
            session.login(USERNAME, PASSWORD)
            session.send_message(task.messages[0])
            stack.pop_all()
        session.quit()
        return
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(_smtplib_session(task)) for _ in range(task.workload.connections)
        ]
        for session in sessions:
            for _ in range(task.warm_up):
                session.send_message(letter(0))
        left = iter(task.messages)
        threads = [
            threading.Thread(target=_smtplib_send, args=(task, session, left))
            for session in sessions
        ]
        with task.watch:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def _smtplib_session(task: Task) -> smtplib.SMTP:
    if task.workload.tls == "implicit":
        return smtplib.SMTP_SSL(HOST, task.port, LOCAL_HOSTNAME, context=task.tls_context)
    return smtplib.SMTP(HOST, task.port, LOCAL_HOSTNAME)


def _smtplib_send(task: Task, session: smtplib.SMTP, left: Iterator[Any]) -> None:
    for message in left:
        if isinstance(message, bytes):
            session.sendmail(SENDER, task.recipients, message)
        elif len(task.recipients) > 1:
            session.send_message(message, SENDER, task.recipients)
        else:
            session.send_message(message)


def _smtp_source(task: Task) -> None:
    """Postfix's own, a C program: it makes its messages itself, as bytes."""
    path = find_program("smtp-source")
    if path is None:
        raise Unavailable("smtp-source is not installed")
    workload = task.workload
    if workload.tls != "plain" or workload.delay:
        raise Unavailable("smtp-source has no TLS, and counts no round trips")
    size = workload.attachment * 137 // 100 + 800
    sizes = ["-l", str(size), "-r", str(workload.recipients)]
    counts = ["-s", str(workload.connections), "-m", str(task.count)]
    addresses = ["-f", SENDER, "-t", task.recipients[0], "-M", LOCAL_HOSTNAME]
    with task.watch:
        command = [path, "-d", *sizes, *counts, *addresses, f"{HOST}:{task.port}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _clients() -> list[Client]:
    backends: tuple[Backend, ...] = ("asyncio", "uvloop", "trio")
    clients = [Client("aiosmtplib", "asyncio", _on("asyncio", _aiosmtplib))]
    for backend in backends:
        clients += [
            Client("anysmtp", backend, _on(backend, _anysmtp_one)),
            Client("anysmtp", backend, _on(backend, _anysmtp_many), "many"),
            Client("anysmtp", backend, _on(backend, _anysmtp_eager), "eager"),
            Client("floor", backend, _on(backend, _floor_one)),
            Client("floor", backend, _on(backend, _floor_many), "many"),
            Client("floor", backend, _on(backend, _floor_eager), "eager"),
        ]
    return [
        *clients,
        Client("smtpproto", "asyncio", _on("asyncio", _smtpproto)),
        Client("smtpproto", "trio", _on("trio", _smtpproto)),
        Client("smtplib", "blocking", _smtplib),
        Client("smtp-source", "blocking", _smtp_source),
    ]


CLIENTS = {client.name: client for client in _clients()}
