"""Each who shares a connection is timed only while his reply is next in line: in virtual time."""

from __future__ import annotations

import anyio
import pytest

from anysmtp import SMTPConnection, SMTPTimeoutError
from anysmtp.testing import STALL, Act
from support.clients import Script, connection_to
from support.sends import Group, Send, Sharing
from test_sharing import either, serving, start

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    testing = pytest.importorskip("trio.testing")
    return "trio", {"clock": testing.MockClock(autojump_threshold=0)}


@either
async def test_time_that_others_take_does_not_count(kind: str) -> None:
    # By default, 60 seconds for a command, and 600 for the reply to a message.
    answers: Script = {
        "DATA": [Act(late=1)],
        ".": [Act(late=590), Act(late=590)],
        "MAIL": ["250 2.1.0 Ok", Act(late=50), Act(late=50)],
    }
    start_time = anyio.current_time()
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        sends = [Send(mailer, subject) for subject in "123"]
        for send in sends:
            group.start_soon(send)
    assert all(send.has_its_reply for send in sends)
    assert anyio.current_time() - start_time >= 1 + 590 + 50 + 590 + 50
    assert len(server.connections) == 1


@either
async def test_time_counts_from_the_moment_in_which_the_reply_is_next(kind: str) -> None:
    answers: Script = {
        "DATA": [Act(late=1)],
        ".": [Act(late=590)],
        "MAIL": ["250 2.1.0 Ok", Act(late=70)],
    }
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second = Send(mailer, "1"), Send(mailer, "2")
        group.start_soon(first)
        group.start_soon(second)
    ended = next(send for send in (first, second) if send.error is not None)
    other = second if ended is first else first
    assert other.has_its_reply
    assert isinstance(ended.error, SMTPTimeoutError)
    assert ended.error.command == "MAIL FROM:<a@x.test> SIZE=158"
    assert "within 60 seconds" in str(ended.error)
    assert ended.outcome == "not_sent"


@either
async def test_the_one_behind_an_orphan_is_timed_for_the_orphans_reply(kind: str) -> None:
    hold = anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [Act(late=1000)]}
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second = await start(group, mailer, "1", "2", require_all=True)
        hold.set()
        await anyio.wait_all_tasks_blocked()
        first.scope.cancel()
        cancelled_at = anyio.current_time()
    assert first.outcome == "in_doubt"
    assert isinstance(second.error, SMTPTimeoutError)
    # QUIT may take two seconds more.
    assert anyio.current_time() - cancelled_at == pytest.approx(600, abs=3)


@either
async def test_waiting_for_the_turn_is_not_timed(kind: str) -> None:
    answers: Script = {".": [Act(late=590)] * 3}
    async with (
        serving(answers, keywords=["SIZE"]) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        sends = [Send(mailer, subject) for subject in "123"]
        for send in sends:
            group.start_soon(send)
    assert all(send.has_its_reply for send in sends)


async def test_a_command_behind_an_orphan_is_timed_for_it() -> None:
    async with serving({"HELP": STALL}) as server, await connection_to(server) as conn:
        await conn.ehlo()
        async with anyio.create_task_group() as stopped, Group() as group:
            stopped.start_soon(conn.help)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(_time_out, conn)
            await anyio.wait_all_tasks_blocked()
            stopped.cancel_scope.cancel()
        assert conn.is_closed


async def _time_out(conn: SMTPConnection) -> None:
    with anyio.CancelScope(shield=True), pytest.raises(SMTPTimeoutError, match="within 60 seconds"):
        await conn.noop()


async def test_the_reply_to_the_last_chunk_is_the_reply_to_a_message() -> None:
    keywords = ("PIPELINING", "CHUNKING")
    async with (
        serving({".": [Act(late=590)]}, keywords=keywords) as server,
        Sharing("client", server, pipelining="eager") as smtp,
    ):
        send = Send(smtp, "1")
        await send()
        assert send.has_its_reply
    assert "BDAT" in server.connection.verbs
