"""What docs/concurrency.rst says beside its programs, which `test_docs` runs: it is so.

Its table of what cancellation does is read from the page and tried out, row by row. Its loop is
taken from the page and put to a server with which everything goes wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

import anysmtp
from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Limits,
    Mail,
    Retry,
    _crew,
    _farewell,
    _many,
    _pool,
    _sending,
)
from anysmtp._protocol._transaction import EAGER_SIZE
from anysmtp._transfer import ONE_WRITE
from anysmtp.testing import DEAF, DROP, RESET, STALL, Act, Answer, ScriptedServer
from support.bench import RECIPIENTS
from support.clients import RAW, SENDER, deliver, email, on_memory
from test_docs import PROGRAMS

PAGE = Path(__file__).parents[1] / "docs" / "concurrency.rst"
TEXT = " ".join(PAGE.read_text("utf-8").split())
PHASES = re.findall(
    r"^   \* - ``(\w+)``\n     - (?:.+\n       )*?.+\n     - (.+)\n     - (.+)\n",
    PAGE.read_text("utf-8"),
    re.MULTILINE,
)


def defined_by(marker: str) -> dict[str, Any]:
    """What the program that has this in it defines, without its being run."""
    (program,) = [program for program in PROGRAMS if marker in program.source]
    source, runs, _ = program.source.rpartition("\nanyio.run(main)\n")
    assert runs
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace


# What cancellation does


async def borrow(smtp: SMTP, group: TaskGroup) -> None:
    """Have the only connection, so that others wait for it."""

    async def hold(*, task_status: TaskStatus[None]) -> None:
        async with smtp.connection():
            task_status.started()
            await anyio.sleep_forever()

    await group.start(hold)


LONG = b"Subject: long\r\n\r\n" + (b"x" * 60 + b"\r\n") * 8192
STAGES: dict[str, tuple[dict[str, Answer], bytes]] = {
    "waiting": ({}, RAW),
    "connecting": ({"EHLO": STALL}, RAW),
    "envelope": ({"RCPT": STALL}, RAW),
    "body": ({"BODY": DEAF}, LONG),
    "reply": ({".": STALL}, RAW),
    "done": ({}, RAW),
}
"""How a send is made to stop in each phase."""


def test_the_table_has_every_phase() -> None:
    assert [phase for phase, _, _ in PHASES] == [*STAGES]


@pytest.mark.anyio
@pytest.mark.parametrize(("phase", "message", "connection"), PHASES, ids=lambda text: text[:10])
async def test_a_cancelled_send_leaves_what_the_table_says(
    phase: str, message: str, connection: str
) -> None:
    script, raw = STAGES[phase]
    delivery = Delivery()
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        async with anyio.create_task_group() as group:
            if phase == "waiting":
                await borrow(smtp, group)
            group.start_soon(partial(deliver, smtp, raw, delivery=delivery))
            await anyio.wait_all_tasks_blocked()
            assert delivery.phase == phase
            group.cancel_scope.cancel()
        outcome = delivery.outcome
        assert outcome is not None
        assert message == ("as it ended" if phase == "done" else outcome.replace("_", " "))
        is_closed = smtp.statistics().open_connections == 0
        assert connection.startswith("closed" if is_closed else "untouched")
        server.script.clear()
        await deliver(smtp)


@pytest.mark.anyio
async def test_a_send_that_is_cancelled_in_a_pause_has_reached_whom_it_has_reached() -> None:
    script: dict[str, Answer] = {f"RCPT TO:<{RECIPIENTS[0]}": "450 4.2.0 later"}
    delivery = Delivery()
    server = ScriptedServer(script=script)
    async with server, on_memory(server, retry=Retry(base=60)) as smtp:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(deliver, smtp, delivery=delivery))
            await anyio.wait_all_tasks_blocked()
            assert smtp.statistics().retries == 1
            assert smtp.statistics().idle_connections == 1
            group.cancel_scope.cancel()
        assert [*delivery.accepted] == [*RECIPIENTS[1:]]
        assert [*delivery.refused] == [RECIPIENTS[0]]
        assert delivery.may_retry
        assert smtp.statistics().open_connections == 1


# The loop

LOOP = "async def send_patiently"
POINTS = ("GREETING", "EHLO", "MAIL", "RCPT", "DATA", ".")
WRONG = (DROP, RESET, STALL, Act("451 4.3.0 later"), Act("421 4.3.2 closing", then="close"))
RUNS = 150


class Chance:
    """What goes wrong, and when a try is cancelled, decided by a seed."""

    def __init__(self, seed: int, group: TaskGroup) -> None:
        self._random = random.Random(seed)
        self._group = group

    def answer(self, line: str) -> Answer | None:
        is_point = line.partition(" ")[0].upper() in POINTS
        return self._random.choice(WRONG) if is_point and self._random.random() < 0.1 else None

    def move_on_after(self, seconds: float) -> anyio.CancelScope:
        """In place of anyio's: after some turns of the event loop."""
        scope = anyio.CancelScope()
        self._group.start_soon(self._cancel, scope, self._random.randrange(1, 120))
        return scope

    async def _cancel(self, scope: anyio.CancelScope, turns: int) -> None:
        for _ in range(turns):
            await checkpoint()
        scope.cancel()


def test_the_loop_has_ten_lines() -> None:
    (program,) = [program for program in PROGRAMS if LOOP in program.source]
    loop = program.source[program.source.index(LOOP) :].partition("\n\n\n")[0]
    assert len(loop.splitlines()) <= 10


async def run_loop(seed: int) -> tuple[ScriptedServer, Delivery[None]]:
    """The loop with what this seed brings; the server, when all has ended, and the result."""
    namespace = defined_by(LOOP)

    def sleep(_: float) -> Awaitable[None]:
        return checkpoint()

    async with anyio.create_task_group() as group:
        chance = Chance(seed, group)
        namespace["anyio"] = SimpleNamespace(sleep=sleep, move_on_after=chance.move_on_after)
        server = ScriptedServer(script=chance.answer)
        async with server:
            async with on_memory(server) as smtp:
                message = email(To=", ".join(RECIPIENTS))
                delivery: Delivery[None] = await namespace["send_patiently"](smtp, message)
            # What the server has read of a message whose sender is gone, it has by now.
            await server.wait_closed()
        group.cancel_scope.cancel()
        return server, delivery
    raise AssertionError("a return is not swallowed")


@pytest.mark.anyio
async def test_the_loop_sends_to_nobody_twice() -> None:
    outcomes = set[str | None]()
    for seed in range(RUNS):
        server, delivery = await run_loop(seed)
        outcomes.add(delivery.outcome)
        stored = server.deliveries()
        for recipient in RECIPIENTS:
            count = stored["hello", recipient]
            assert count <= 1, f"{recipient} has it {count} times, seed {seed}"
            assert count == 1 or recipient not in delivery.accepted, f"seed {seed}"
            assert count == 0 or recipient in (*delivery.accepted, *delivery.in_doubt), f"{seed}"
    assert outcomes >= {"accepted", "in_doubt", "not_sent"}


# Streams


@pytest.mark.anyio
async def test_a_source_that_ends_when_it_is_told_leaves_no_message_unknown() -> None:
    wanted = True
    pulled: list[int] = []

    def mails() -> Any:
        while wanted:
            pulled.append(len(pulled))
            yield Mail(RAW, Envelope(sender=SENDER, recipients=RECIPIENTS), key=len(pulled) - 1)

    taken: list[Delivery[int]] = []
    server = ScriptedServer()
    smtp = on_memory(server, limits=Limits())
    async with server, smtp, smtp.send_many(mails()) as deliveries:
        async for delivery in deliveries:
            taken.append(delivery)
            wanted = len(taken) < 30
    assert sorted(delivery.key for delivery in taken) == pulled
    assert {delivery.outcome for delivery in taken} == {"accepted"}
    assert len(server.messages) == len(pulled)


# In an application


@asynccontextmanager
async def started(app: Any) -> AsyncGenerator[None]:
    """The application's lifespan in a task of its own, as servers have it."""

    async def live(*, task_status: TaskStatus[Callable[[], None]]) -> None:
        stop = anyio.Event()
        async with app.router.lifespan_context(app):
            task_status.started(stop.set)
            await stop.wait()

    async with anyio.create_task_group() as group:
        stop = await group.start(live)
        yield
        stop()


@pytest.mark.anyio
async def test_the_web_application_takes_requests_from_many_tasks() -> None:
    namespace = defined_by("Starlette(")
    codes = dict[str, int]()
    script: dict[str, Answer] = {"RCPT TO:<n3@": "550 no", "RCPT TO:<n4@": "450 later"}
    async with ScriptedServer(script=script) as server:

        def client(hostname: str) -> SMTP:
            return on_memory(server, limits=Limits())

        namespace["anysmtp"] = SimpleNamespace(**{**vars(anysmtp), "SMTP": client})
        app = namespace["app"]
        transport = httpx.ASGITransport(app=app)

        async with started(app), httpx.AsyncClient(transport=transport) as http:

            async def ask(name: str) -> None:
                response = await http.post(f"http://app.test/welcome/{name}@x.test")
                codes[name] = response.status_code

            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(ask, f"n{number}")
        await server.wait_closed()
    assert codes == {f"n{n}": {3: 422, 4: 503}.get(n, 200) for n in range(10)}
    assert {record.end for record in server.connections} == {"quit"}


# Numbers


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    limits = Limits()
    said = {
        "``max_connections``, 3 by default": limits.max_connections == 3,
        "``keepalive_expiry``, 60 seconds by default": limits.keepalive_expiry == 60,
        "``max_messages_per_connection``, none": limits.max_messages_per_connection is None,
        "``rate``, none by default": limits.rate is None,
        "Not more than five are opened at once": _pool.OPENED_AT_ONCE == 5,
        "After ten seconds, doubled with each further refusal": _pool.FIRST_PAUSE == 10,
        "``read_ahead`` mails (100)": _many.READ_AHEAD == 100,
        "4 MiB wait to be sent": _crew.MOST_IN_LINE == 4 << 20,
        "a message of up to 32 KiB leaves together": EAGER_SIZE == 32 << 10,
        "up to 64 KiB of messages are on the way": _sending.WINDOW == 64 << 10,
        "is writing a message of more than 64 KiB": ONE_WRITE == 64 << 10,
        "That takes two seconds at the most": _farewell._QUIT_TIMEOUT == 2,
    }
    assert {words for words, is_so in said.items() if not is_so or words not in TEXT} == set()
