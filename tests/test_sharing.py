"""Tasks that share a connection: every reply goes to the one whose it is, whoever reads it.

They share it in two ways: tasks that use one `SMTPConnection`, and tasks that use one `SMTP` that
has one connection. Where both must show the same, `mailer` is either.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, TaskGroup

from anysmtp import (
    Delivery,
    SMTPConnection,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPProtocolError,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    Timeouts,
)
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, STALL, Act, Answer, ScriptedServer
from support.bench import LARGE, RECIPIENTS, SMALL
from support.cancel import cancel_at
from support.clients import SENDER, Script, Through, Wrapped, connection_to, email, on_memory
from support.fixtures import Tally
from support.leaks import no_leaks
from support.sends import Group, Mailer, Send, Sharing, echo, judge
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

# One write that ends a message and begins the next.
BACK_TO_BACK = re.compile(
    rb"Subject: (?P<subject>\S+)\r\n.*\r\n\.\r\n"
    rb"RSET\r\nMAIL FROM:[^\r]*\r\nRCPT [^\r]*\r\nRCPT [^\r]*\r\nDATA\r\n",
    re.DOTALL,
)


def serving(answers: Script | None = None, **options: Any) -> ScriptedServer:
    """A server that names what it answers."""
    server = ScriptedServer(script=lambda line: rule(line), **options)
    rule = echo(server, answers)
    return server


either = pytest.mark.parametrize("kind", ["connection", "client"])


async def start(group: TaskGroup, mailer: Mailer, *subjects: str, **options: Any) -> list[Send]:
    return [await Send(mailer, subject, **options).start(group) for subject in subjects]


# Replies


class Crowd:
    """Tasks that share a connection, each of whose exchanges may be cancelled anywhere."""

    def __init__(self, seed: int) -> None:
        self.sends: list[Send] = []
        self.exchanges = 0
        self._seed = seed
        self._chance = random.Random(seed)
        self.sizes: Sequence[int] = (SMALL,)

    async def run(self, mailer: Mailer) -> None:
        async with Group() as group:
            for _ in range(6):
                group.start_soon(self._one, mailer)

    async def _one(self, mailer: Mailer) -> None:
        for _ in range(6):
            stop = self._chance.choice([self._chance.randrange(1, 12), 1000])
            self.exchanges += 1
            ended = await cancel_at(stop, "scope", partial(self._exchange, mailer, self.exchanges))
            if isinstance(ended.error, SMTPServerDisconnected):
                return
            ended.unwrap()

    async def _exchange(self, mailer: Mailer, number: int) -> None:
        if isinstance(mailer, SMTPConnection) and self._chance.random() < 0.5:
            reply = await mailer.command(f"XECHO {number}")
            assert reply.text == f"{number}", "the reply to another command"
            return
        size = self._chance.choice(self.sizes)
        self.sends.append(Send(mailer, f"{self._seed}-{number}", size))
        await self.sends[-1]()


@either
@pytest.mark.parametrize("keywords", [DEFAULT_KEYWORDS, ("SIZE",)], ids=["pipelining", "none"])
async def test_in_many_exchanges_with_cancellations_no_reply_is_mispaired(
    kind: str, keywords: tuple[str, ...], tally: Tally
) -> None:
    for seed in range(12):
        crowd = Crowd(seed)
        async with serving(keywords=keywords) as server, Sharing(kind, server) as mailer:
            await crowd.run(mailer)
        judge(server, crowd.sends)
        tally("exchanges of tasks that share a connection", crowd.exchanges)


@pytest.mark.parametrize("say", ["noop", "help", "vrfy"])
async def test_behind_a_command_that_was_cancelled_in_the_middle_all_goes_on(say: str) -> None:
    late = anyio.Event()
    codes: list[int] = []

    async def middle() -> None:
        await (conn.vrfy("b@x.test") if say == "vrfy" else getattr(conn, say)())

    async def other(line: str) -> None:
        codes.append(int((await conn.command(f"XECHO {line}")).text))

    async with (
        serving({say: Act("250 too late", late=late)}) as server,
        await connection_to(server) as conn,
        Group() as group,
    ):
        await conn.ehlo()
        group.start_soon(other, "1")
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as stopped:
            stopped.start_soon(middle)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(other, "2")
            group.start_soon(other, "3")
            await anyio.wait_all_tasks_blocked()
            stopped.cancel_scope.cancel()
        assert codes == [1]
        late.set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(codes) == [1, 2, 3]


@in_virtual_time
async def test_a_command_that_waits_for_its_turn_is_not_said_if_it_is_cancelled() -> None:
    late = anyio.Event()
    async with (
        serving({"NOOP": Act(late=late)}) as server,
        await connection_to(server) as conn,
        Group() as group,
    ):
        await conn.ehlo()
        group.start_soon(conn.noop)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await conn.help()
        late.set()
    assert server.connection.verbs == ["EHLO", "NOOP"]


# One write for the end of a message and the beginning of the next


@either
async def test_the_end_of_a_message_and_the_next_envelope_are_one_write(kind: str) -> None:
    hold = anyio.Event()
    async with (
        serving({"DATA": [Act(late=hold)]}) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        sends = await start(group, mailer, "1", "2", "3", "4")
        hold.set()
    writes = server.connection.writes[1:]
    assert len(writes) - writes.count(b"QUIT\r\n") == 5
    assert writes[0].startswith(b"MAIL")
    found = [BACK_TO_BACK.fullmatch(write) for write in writes[1:4]]
    assert [match and match["subject"] for match in found] == [b"1", b"2", b"3"]
    assert writes[4].startswith(b"Subject: 4\r\n")
    assert writes[4].endswith(b"\r\n.\r\n")
    judge(server, sends)
    assert all(send.has_its_reply for send in sends)


@either
async def test_the_last_piece_of_a_large_message_takes_the_next_envelope_along(kind: str) -> None:
    hold = anyio.Event()
    async with (
        serving({"DATA": [Act(late=hold)]}) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first = await Send(mailer, "1", LARGE).start(group)
        (second,) = await start(group, mailer, "2")
        hold.set()
    assert any(b"\r\n.\r\nRSET\r\nMAIL" in write for write in server.connection.writes)
    assert first.has_its_reply
    assert second.has_its_reply


@either
async def test_without_pipelining_nothing_rides_along(kind: str) -> None:
    hold = anyio.Event()
    async with (
        serving({"DATA": [Act(late=hold)]}, keywords=["SIZE"]) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        sends = await start(group, mailer, "1", "2")
        hold.set()
    assert all(send.has_its_reply for send in sends)


@either
async def test_a_message_does_not_wait_for_one_that_is_not_ready(kind: str) -> None:
    """No envelope is put behind a message when nobody waits with one."""
    async with serving() as server, Sharing(kind, server) as mailer:
        for subject in ("1", "2"):
            await Send(mailer, subject)()
    bodies = [write for write in server.connection.writes if b"Subject" in write]
    assert all(write.endswith(b"\r\n.\r\n") for write in bodies)
    assert len(bodies) == 2


@either
async def test_a_refused_message_takes_nobody_with_it(kind: str) -> None:
    hold = anyio.Event()
    async with (
        serving({"DATA": [Act(late=hold)], ".": ["550 5.7.1 spam"]}) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second, third = await start(group, mailer, "1", "2", "3")
        hold.set()
    assert isinstance(first.error, SMTPDataError)
    assert not first.error.connection_closed
    assert second.has_its_reply
    assert third.has_its_reply
    assert len(server.connections) == 1


@either
@pytest.mark.parametrize("point", ["MAIL", "RCPT"])
async def test_a_refused_envelope_takes_nobody_with_it(kind: str, point: str) -> None:
    hold = anyio.Event()
    ok = {"MAIL": ["250 2.1.0 Ok"], "RCPT": ["250 2.1.5 Ok"] * 2}[point]
    answers: Script = {
        "DATA": [Act(late=hold)],
        point: [*ok, *["550 5.1.1 no"] * len(ok)],
    }
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second, third = await start(group, mailer, "1", "2", "3")
        hold.set()
    assert first.has_its_reply
    assert second.outcome == "refused"
    assert third.has_its_reply
    assert len(server.connections) == 1
    judge(server, [first, second, third])


# Passengers


@either
async def test_a_passenger_whose_needs_are_not_offered_is_told_when_it_is_his_turn(
    kind: str,
) -> None:
    hold = anyio.Event()
    async with (
        serving({"DATA": [Act(late=hold)]}) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        (first,) = await start(group, mailer, "1")
        (second,) = await start(group, mailer, "2", recipients=["jörg@x.test"])
        (third,) = await start(group, mailer, "3")
        hold.set()
    assert first.has_its_reply
    assert isinstance(second.error, SMTPNotSupported)
    assert second.outcome == "not_sent"
    assert third.has_its_reply
    assert len(server.connections) == 1


@either
async def test_a_passenger_that_must_be_made_seven_bit_waits_for_his_turn(kind: str) -> None:
    hold = anyio.Event()
    keywords = ["PIPELINING", "SIZE 10000000"]
    letter = email(Subject="2")
    letter.set_content("Grüße\n", cte="8bit")
    async with (
        serving({"DATA": [Act(late=hold)]}, keywords=keywords) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        (first,) = await start(group, mailer, "1")
        group.start_soon(mailer.send_message, letter)
        (third,) = await start(group, mailer, "3")
        hold.set()
    assert first.has_its_reply
    assert third.has_its_reply
    assert all(message.raw.isascii() for message in server.messages)
    assert server.deliveries() == {
        **{(subject, recipient): 1 for subject in ("1", "3") for recipient in RECIPIENTS},
        ("2", RECIPIENTS[0]): 1,
    }


@either
@pytest.mark.parametrize("is_refused", [True, False])
async def test_a_passenger_who_wants_all_recipients_waits_for_their_replies(
    kind: str, is_refused: bool
) -> None:
    hold = anyio.Event()
    refusals: list[Answer] = ["250 2.1.5 Ok", "250 2.1.5 Ok", "550 5.1.1 no"]
    answers: Script = {"DATA": [Act(late=hold)], "RCPT": refusals if is_refused else []}
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        (first,) = await start(group, mailer, "1")
        (second,) = await start(group, mailer, "2", require_all=True)
        (third,) = await start(group, mailer, "3")
        hold.set()
    assert first.has_its_reply
    assert second.has_its_reply != is_refused
    assert third.has_its_reply
    [along] = [write for write in server.connection.writes if b"Subject: 1\r\n" in write]
    assert along.endswith(b"RCPT TO:<c@x.test>\r\n")
    judge(server, [first, second, third])


@either
async def test_one_who_waits_and_goes_away_is_in_no_write(kind: str) -> None:
    hold = anyio.Event()
    async with (
        serving({"DATA": [Act(late=hold)]}) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second, third = await start(group, mailer, "1", "2", "3")
        second.scope.cancel()
        await anyio.wait_all_tasks_blocked()
        hold.set()
    assert (first.has_its_reply, third.has_its_reply) == (True, True)
    assert second.outcome == "not_sent"
    assert server.connection.verbs.count("MAIL") == 2
    assert len(server.connections) == 1


class Cancelling(Wrapped):
    """Cancels a scope in the moment in which a passenger's envelope leaves."""

    scope: anyio.CancelScope | None = None

    async def send(self, item: bytes) -> None:
        await super().send(item)
        if b".\r\nRSET" in item and self.scope is not None:
            self.scope.cancel()
            self.scope = None


async def test_a_passenger_that_is_cancelled_before_it_ran_costs_the_one_in_front_nothing() -> None:
    hold, answer = anyio.Event(), anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [Act(late=answer)]}
    async with no_leaks(), serving(answers) as server:
        stream = Cancelling(await server.connect())
        conn = SMTPConnection(stream, "mail.example.test")
        async with conn, Group() as group:
            await conn.ehlo()
            first, second = await start(group, conn, "1", "2")
            stream.scope = second.scope
            hold.set()
            await anyio.wait_all_tasks_blocked()
            assert second.outcome == "not_sent"
            assert first.is_under_way
            answer.set()
        assert first.has_its_reply
        assert conn.is_closed
        judge(server, [first, second])


async def test_a_client_takes_another_connection_for_those_behind_such_a_passenger() -> None:
    hold = anyio.Event()
    async with no_leaks(), serving({"DATA": [Act(late=hold)]}) as server:
        road = Through(server, Cancelling)
        async with on_memory(server, connectable=road) as smtp, Group() as group:
            first, second, third = await start(group, smtp, "1", "2", "3")
            (stream,) = road.streams
            assert isinstance(stream, Cancelling)
            stream.scope = second.scope
            hold.set()
        assert first.has_its_reply
        assert second.outcome == "not_sent"
        assert third.has_its_reply
        judge(server, [first, second, third])
    assert len(server.connections) == 2


class SlowToReturn(Wrapped):
    """A write that takes an envelope along returns some time after its octets have left."""

    def __init__(self, stream: ByteStream) -> None:
        super().__init__(stream)
        self.may_return = anyio.Event()
        self.writing = 0

    async def send(self, item: bytes) -> None:
        self.writing += 1
        assert self.writing == 1, "two writes at once"
        await super().send(item)
        if b".\r\nRSET" in item:
            await self.may_return.wait()
        self.writing -= 1


async def test_a_passenger_writes_no_more_before_the_write_that_took_it_along_has_returned() -> (
    None
):
    hold = anyio.Event()
    async with serving({"DATA": [Act(late=hold)]}) as server:
        stream = SlowToReturn(await server.connect())
        conn = SMTPConnection(stream, "mail.example.test")
        async with conn, Group() as group:
            await conn.ehlo()
            first, second = await start(group, conn, "1", "2")
            hold.set()
            await anyio.wait_all_tasks_blocked()
            # The server has said yes to the second envelope, and has no message behind it yet.
            assert server.connection.verbs.count("DATA") == 2
            assert len(server.messages) == 1
            stream.may_return.set()
        assert first.has_its_reply
        assert second.has_its_reply
        judge(server, [first, second])


# Those who go away


@either
async def test_a_message_that_was_cancelled_while_its_reply_was_awaited_learns_it_all_the_same(
    kind: str,
) -> None:
    hold, answer = anyio.Event(), anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [Act(late=answer)]}
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second = await start(group, mailer, "1", "2")
        hold.set()
        await anyio.wait_all_tasks_blocked()
        # It is the one who reads for both.
        first.scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert first.outcome == "in_doubt"
        assert not first.delivery.may_retry
        answer.set()
        await anyio.wait_all_tasks_blocked()
        assert first.outcome == "accepted"
        assert second.has_its_reply
        judge(server, [first, second])
    assert len(server.connections) == 1


@either
async def test_a_late_refusal_is_learnt_too(kind: str) -> None:
    hold, answer = anyio.Event(), anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [Act("451 4.3.0 later", late=answer)]}
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second = await start(group, mailer, "1", "2")
        hold.set()
        await anyio.wait_all_tasks_blocked()
        first.scope.cancel()
        await anyio.wait_all_tasks_blocked()
        answer.set()
        await anyio.wait_all_tasks_blocked()
        assert first.outcome == "refused"
        assert first.delivery.retry_recipients == RECIPIENTS
        assert second.has_its_reply


async def test_an_envelope_that_was_cancelled_closes_once_those_in_front_have_their_replies() -> (
    None
):
    hold, answer = anyio.Event(), anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [Act(late=answer)]}
    async with no_leaks(), serving(answers) as server:
        async with await connection_to(server) as conn, Group() as group:
            await conn.ehlo()
            first, second, third = await start(group, conn, "1", "2", "3")
            hold.set()
            await anyio.wait_all_tasks_blocked()
            second.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert second.outcome == "not_sent"
            assert first.is_under_way
            answer.set()
        assert first.has_its_reply
        assert isinstance(third.error, SMTPServerDisconnected)
        assert third.outcome == "not_sent"
        assert conn.is_closed
        judge(server, [first, second, third])
        await server.wait_closed()


async def test_a_client_sends_those_behind_a_cancelled_envelope_on_another_connection() -> None:
    hold, answer = anyio.Event(), anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [Act(late=answer)]}
    async with no_leaks(), serving(answers) as server, Sharing("client", server) as smtp:
        async with Group() as group:
            first, second, third = await start(group, smtp, "1", "2", "3")
            hold.set()
            await anyio.wait_all_tasks_blocked()
            second.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            answer.set()
        assert first.has_its_reply
        assert second.outcome == "not_sent"
        assert third.has_its_reply
        judge(server, [first, second, third])
    assert len(server.connections) == 2


@either
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["from the front", "from the back"])
async def test_where_only_orphans_are_left_the_connection_is_closed(
    kind: str, order: tuple[int, int]
) -> None:
    hold = anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": STALL}
    async with no_leaks(), serving(answers) as server, Sharing(kind, server) as mailer:
        async with Group() as group:
            sends = await start(group, mailer, "1", "2")
            hold.set()
            await anyio.wait_all_tasks_blocked()
            for number in order:
                assert server.connection.end is None
                sends[number].scope.cancel()
                await anyio.wait_all_tasks_blocked()
        await server.wait_closed()
        assert [send.outcome for send in sends] == ["in_doubt", "not_sent"]


@either
async def test_the_one_who_reads_hands_over_when_he_has_what_he_waited_for(kind: str) -> None:
    hold, answer = anyio.Event(), anyio.Event()
    answers: Script = {"DATA": [Act(late=hold), Act(late=answer)]}
    async with (
        serving(answers, one_by_one=True) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second, third = await start(group, mailer, "1", "2", "3")
        hold.set()
        await anyio.wait_all_tasks_blocked()
        assert first.has_its_reply
        assert second.is_under_way
        answer.set()
        await anyio.wait_all_tasks_blocked()
        assert second.has_its_reply
        assert third.has_its_reply


# What breaks the connection


@pytest.mark.parametrize(
    ("reply", "error", "match"),
    [
        ("hello there", SMTPProtocolError, ""),
        ("354 go on", SMTPProtocolError, ""),
    ],
)
@either
async def test_a_breach_is_told_to_the_one_to_whom_it_happened(
    kind: str, reply: str, error: type[SMTPException], match: str
) -> None:
    hold = anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [reply]}
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second = await start(group, mailer, "1", "2")
        hold.set()
    assert isinstance(first.error, error)
    assert first.outcome == "in_doubt"
    if kind == "connection":
        assert isinstance(second.error, SMTPServerDisconnected)
        assert second.outcome == "not_sent"
    else:
        assert second.has_its_reply
        assert len(server.connections) == 2
    judge(server, [first, second])


@either
async def test_a_breach_behind_a_reply_is_not_told_to_the_one_who_has_it(kind: str) -> None:
    hold = anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], "RSET": ["hello there"]}
    async with (
        serving(answers) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second = await start(group, mailer, "1", "2")
        hold.set()
    assert first.has_its_reply
    assert isinstance(second.error, SMTPProtocolError)
    assert second.outcome == "not_sent"


@in_virtual_time
@either
async def test_a_timeout_of_ours_breaks_the_connection_for_all(kind: str) -> None:
    hold = anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], ".": [STALL]}
    async with (
        serving(answers) as server,
        Sharing(kind, server, timeout=Timeouts(final=0.05)) as mailer,
        Group() as group,
    ):
        first, second, third = await start(group, mailer, "1", "2", "3")
        hold.set()
    assert isinstance(first.error, SMTPTimeoutError)
    assert first.outcome == "in_doubt"
    for send in (second, third):
        if kind == "connection":
            assert isinstance(send.error, SMTPServerDisconnected)
            assert send.outcome == "not_sent"
        else:
            assert send.has_its_reply
    judge(server, [first, second, third])


@pytest.mark.parametrize("point", ["RSET", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("answer", [DROP, "421 4.3.2 bye", Act("421 4.3.2 bye", then="close")])
async def test_a_message_behind_one_that_was_taken_is_sent_again_once_if_the_server_goes(
    point: str, answer: Answer
) -> None:
    hold = anyio.Event()
    before: dict[str, list[Answer]] = {
        "RSET": [],
        "MAIL": ["250 2.1.0 Ok"],
        "RCPT": ["250 2.1.5 Ok"] * 2,
        "DATA": [],
    }
    # An answer to DATA that has been late already does not matter: the next one is that.
    go_on = Act("354 go on", late=hold)
    answers: Script = {"DATA": [go_on]}
    answers[point] = [go_on, answer] if point == "DATA" else [*before[point], answer]
    async with (
        serving(answers) as server,
        Sharing("client", server) as smtp,
        Group() as group,
    ):
        first, second, third = await start(group, smtp, "1", "2", "3")
        hold.set()
    assert first.has_its_reply
    assert second.has_its_reply
    assert third.has_its_reply
    judge(server, [first, second, third])
    # The second message is the first user of its own, whoever came before it.
    assert len(server.connections) in (2, 3)


@pytest.mark.parametrize("answer", [DROP, "421 4.3.2 bye"])
async def test_on_one_connection_a_message_is_not_sent_if_the_server_goes(answer: Answer) -> None:
    hold = anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], "MAIL": ["250 2.1.0 Ok", answer]}
    async with (
        serving(answers) as server,
        Sharing("connection", server) as conn,
        Group() as group,
    ):
        first, second, third = await start(group, conn, "1", "2", "3")
        hold.set()
    assert first.has_its_reply
    for send in (second, third):
        assert isinstance(send.error, SMTPServerDisconnected)
        assert send.outcome == "not_sent"
        assert send.delivery.may_retry


@either
async def test_if_the_server_goes_before_it_answers_the_first_is_in_doubt_and_no_other(
    kind: str,
) -> None:
    hold = anyio.Event()
    async with (
        serving({"DATA": [Act(late=hold)], ".": [DROP]}) as server,
        Sharing(kind, server) as mailer,
        Group() as group,
    ):
        first, second = await start(group, mailer, "1", "2")
        hold.set()
    assert first.outcome == "in_doubt"
    assert isinstance(first.error, SMTPServerDisconnected)
    assert second.outcome == ("not_sent" if kind == "connection" else "accepted")
    judge(server, [first, second])


async def test_the_delivery_of_a_message_that_was_resent_is_one_delivery() -> None:
    hold = anyio.Event()
    answers: Script = {"DATA": [Act(late=hold)], "MAIL": ["250 2.1.0 Ok", DROP]}
    async with (
        serving(answers) as server,
        Sharing("client", server) as smtp,
        Group() as group,
    ):
        _, second = await start(group, smtp, "1", "2", size=SMALL)
        hold.set()
    assert isinstance(second.delivery, Delivery)
    assert second.delivery.result() is second.receipt
    assert tuple(second.delivery.accepted) == RECIPIENTS
    assert server.received[-1].sender == SENDER
