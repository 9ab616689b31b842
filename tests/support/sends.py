"""Sends that are under way at the same time, each in a task that can be stopped by itself."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from anysmtp import SMTP, Delivery, Receipt, SMTPConnection, SMTPException
from anysmtp.testing import Act, Answer, ScriptedServer
from anysmtp.testing._script import Rule, Script, Table

from .bench import RECIPIENTS, SMALL, message, subject_of
from .clients import SENDER, connection_to, on_memory

Mailer: TypeAlias = SMTP | SMTPConnection


class Group:
    """A task group that nobody cancels, so that leaving it never hides an exception."""

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> TaskGroup:
        return await self._group.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._group.__aexit__(exc_type, exc, traceback)


class Sharing:
    """``async with Sharing(kind, server) as mailer``: what several tasks use, its connection open.

    A ``"client"`` with one connection, or one ``"connection"``; of a client where the options ask
    for eager messages.
    """

    def __init__(self, kind: str, server: ScriptedServer, **options: Any) -> None:
        self._kind = kind
        self._server = server
        self._options = options
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Mailer:
        async with AsyncExitStack() as stack:
            mailer = await self._open(stack)
            self._stack = stack.pop_all()
            return mailer

    async def _open(self, stack: AsyncExitStack) -> Mailer:
        if self._kind == "connection" and "pipelining" not in self._options:
            conn = await connection_to(self._server, **self._options)
            await stack.enter_async_context(conn)
            await conn.ehlo()
            return conn
        smtp = await stack.enter_async_context(on_memory(self._server, **self._options))
        if self._kind == "connection":
            return await stack.enter_async_context(smtp.connection())
        await smtp.connect()
        return smtp

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(exc_type, exc, traceback)


class Send:
    """A message on its way, known by its subject; what becomes of it is in its `delivery`."""

    def __init__(
        self,
        mailer: Mailer,
        subject: str,
        size: int = SMALL,
        *,
        raw: bytes | None = None,
        **options: Any,
    ) -> None:
        self.subject = subject
        self.delivery: Delivery[str] = Delivery(key=subject)
        self.receipt: Receipt | None = None
        self.error: SMTPException | None = None
        self.scope = anyio.CancelScope()
        self._mailer = mailer
        self._raw = raw or message(subject, size)
        self._options: dict[str, Any] = {"recipients": RECIPIENTS, **options}

    async def __call__(self) -> None:
        recipients = self._options.pop("recipients")
        with self.scope:
            try:
                self.receipt = await self._mailer.sendmail(
                    SENDER, recipients, self._raw, delivery=self.delivery, **self._options
                )
            except SMTPException as error:
                self.error = error

    async def start(self, group: TaskGroup) -> Send:
        """Start it, and return when it waits for something."""
        group.start_soon(self)
        await anyio.wait_all_tasks_blocked()
        return self

    @property
    def is_under_way(self) -> bool:
        return self.delivery.phase != "done"

    @property
    def outcome(self) -> str | None:
        return self.delivery.outcome

    @property
    def has_its_reply(self) -> bool:
        """Whether it ended with a Receipt, and that is its own."""
        return self.receipt is not None and self.receipt.reply.text == f"2.0.0 {self.subject}"


def echo(server: ScriptedServer, answers: Table | None = None) -> Rule:
    """A script by which each reply names what it answers: a message's subject, or an argument.

    ``answers`` go before that.
    """
    script = Script(answers or {})

    def rule(line: str) -> Answer:
        act = script.act(line)
        return act if act.reply is not None or act.then is not None else _echo(line, act)

    def _echo(line: str, act: Act) -> Act:
        verb, _, argument = line.partition(" ")
        reply = act.reply
        if verb == ".":
            reply = f"250 2.0.0 {subject_of(server.received[-1])}"
        elif verb in ("HELP", "VRFY", "NOOP", "XECHO") and argument:
            reply = f"250 {argument}"
        return Act(reply, act.late, act.then)

    return rule


def judge(server: ScriptedServer, sends: list[Send]) -> None:
    """What each Delivery says must be what the server saw."""
    accepted = server.deliveries()
    for send in sends:
        counts = [accepted[send.subject, recipient] for recipient in RECIPIENTS]
        assert max(counts) <= 1, f"{send.subject} was sent twice"
        for recipient, count in zip(RECIPIENTS, counts, strict=True):
            if count:
                told = (*send.delivery.accepted, *send.delivery.in_doubt)
                assert recipient in told, f"{send.subject}: {send.delivery.outcome}, and taken"
            else:
                assert recipient not in send.delivery.accepted, f"{send.subject} was not taken"
        if send.receipt is not None:
            assert send.has_its_reply, f"{send.subject} has the reply to another message"
