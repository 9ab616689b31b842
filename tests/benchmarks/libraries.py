"""How each library does the work, on whatever event loop it is called in.

Over several connections all take from the same messages. A library that is not installed, or has
no such thing, is `Unavailable`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from email.message import EmailMessage
from typing import Any

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

import anysmtp
from anysmtp._connect import keep_memory_for_reads

from .floor import Floor, chunks
from .sink import HOST
from .task import Task, Unavailable
from .workloads import LOCAL_HOSTNAME, PASSWORD, SENDER, USERNAME


async def anysmtp_one(task: Task) -> None:
    await _one_by_one(task, [_anysmtp(task)])


async def anysmtp_many(task: Task) -> None:
    await _send_many(task, _anysmtp(task))


async def anysmtp_eager(task: Task) -> None:
    await _send_many(task, _anysmtp(task, pipelining="eager"))


async def _send_many(task: Task, client: anysmtp.SMTP) -> None:
    envelope = anysmtp.Envelope(sender=SENDER, recipients=task.recipients)
    warm_up = [anysmtp.Mail(raw, envelope) for raw in task.warm_up.messages]
    mails = [anysmtp.Mail(raw, envelope) for raw in task.messages]
    async with client as smtp:
        await _send_mails(smtp, warm_up)
        with task.watch:
            await _send_mails(smtp, mails)


async def _send_mails(smtp: anysmtp.SMTP, mails: list[anysmtp.Mail]) -> None:
    async with smtp.send_many(mails) as deliveries:
        async for delivery in deliveries:
            delivery.result()


def _anysmtp(task: Task, **options: Any) -> anysmtp.SMTP:
    workload = task.workload
    options["limits"] = anysmtp.Limits(max_connections=workload.connections)
    if workload.tls != "plain":
        options |= {"tls": workload.tls, "tls_context": task.tls_context}
    if workload.is_first:
        options |= {"username": USERNAME, "password": PASSWORD}
    return anysmtp.SMTP(HOST, task.port, local_hostname=LOCAL_HOSTNAME, **options)


async def aiosmtplib_one(task: Task) -> None:
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


async def smtpproto_one(task: Task) -> None:
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
    await _one_by_one(task, sessions, only_objects=True)


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
    # Reads that map memory each are not what the protocol asks for.
    keep_memory_for_reads()
    tcp = await anyio.connect_tcp(HOST, task.port)
    async with tcp:
        stream: ByteStream = tcp
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


async def floor_one(task: Task) -> None:
    if task.workload.is_first:
        raise Unavailable("the floor has no login")
    await _one_by_one(task, [_floor_session(task) for _ in range(task.workload.connections)])


async def floor_many(task: Task) -> None:
    async with _floor_on(task) as floor:
        with task.watch:
            await floor.back_to_back(task.messages)


async def floor_eager(task: Task) -> None:
    async with _floor_on(task) as floor:
        if b"CHUNKING" not in floor.extensions:
            raise Unavailable("the server offers no CHUNKING")
        with task.watch:
            await floor.eager(task.messages)


async def _one_by_one(
    task: Task,
    sessions: Sequence[AbstractAsyncContextManager[Any]],
    *,
    only_objects: bool = False,
) -> None:
    """Let each connection, or each task of a client that has them all, take the next message."""
    async with AsyncExitStack() as stack:
        if task.workload.is_first:
            with task.watch:
                await _send(task, await stack.enter_async_context(sessions[0]), task.messages[0])
            return
        opened = [await stack.enter_async_context(session) for session in sessions]
        workers = opened * (task.workload.connections // len(opened))
        warm_up, letters = (
            each.objects if only_objects else each.messages for each in (task.warm_up, task.letters)
        )
        async with anyio.create_task_group() as group:
            for session in workers:
                group.start_soon(_send_all, task, session, iter(warm_up))
        left = iter(letters)
        with task.watch:
            async with anyio.create_task_group() as group:
                for session in workers:
                    group.start_soon(_send_all, task, session, left)


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
