"""``pipelining="eager"``: a message is one write, and several are on their way at once."""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from anysmtp import (
    SMTP,
    SMTPConnection,
    SMTPDataError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPServerDisconnected,
)
from anysmtp.testing import DEFAULT_KEYWORDS, Act, Answer, ScriptedServer
from anysmtp.testing._script import MISREAD
from support.bench import LARGE, RECIPIENTS, SMALL, message
from support.clients import RAW, Script, Through, Wrapped, deliver, on_memory
from support.fixtures import Tally
from support.leaks import no_leaks
from support.sends import Group, Send, Sharing, judge
from test_sharing import Crowd, either, serving, start

pytestmark = pytest.mark.anyio

CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")
# What one message may have, and what may be unanswered on a connection.
EAGER_SIZE = 32768
WINDOW = 65536
REPLIES = 128


def eager_server(answers: Script | None = None, **options: Any) -> ScriptedServer:
    return serving(answers, **{"keywords": CHUNKING, **options})


def eager_client(server: ScriptedServer, **options: Any) -> SMTP:
    """A client with one connection."""
    return on_memory(server, pipelining="eager", **options)


def of_size(size: int, subject: str = "sized") -> bytes:
    """A message of exactly so many octets."""
    raw = message(subject)
    lines = (b"x" * 70 + b"\r\n") * (size // 72 + 1)
    return (raw + lines)[: size - 2] + b"\r\n"


# One message


@either
async def test_a_message_is_one_write(kind: str) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        for subject in ("1", "2", "3"):
            await Send(mailer, subject)()
    _, *writes = server.connection.writes
    raw = [message(subject) for subject in ("1", "2", "3")]
    envelope = b"".join(
        [
            b"MAIL FROM:<a@x.test> SIZE=%d\r\n" % len(raw[0]),
            *(b"RCPT TO:<%b>\r\n" % recipient.encode() for recipient in RECIPIENTS),
            b"BDAT %d LAST\r\n" % len(raw[0]),
        ]
    )
    assert [write for write in writes if write != b"QUIT\r\n"] == [envelope + body for body in raw]
    assert len(server.messages) == 3


async def test_dots_and_line_ends_are_the_messages_own() -> None:
    async with eager_server() as server, eager_client(server) as smtp:
        await deliver(smtp, b".\n..\n.\n")
    assert server.messages[0].raw == b".\r\n..\r\n.\r\n"


@pytest.mark.parametrize(("size", "verb"), [(EAGER_SIZE, "BDAT"), (EAGER_SIZE + 1, "DATA")])
async def test_a_large_message_waits_for_the_replies_to_its_envelope(size: int, verb: str) -> None:
    raw = of_size(size)
    assert len(raw) == size
    async with eager_server() as server, eager_client(server) as smtp:
        await deliver(smtp, raw)
    assert server.connection.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", verb, "QUIT"]
    assert server.messages[0].raw == raw


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        (CHUNKING, {"require_all": True}),
        (DEFAULT_KEYWORDS, {}),
        (("CHUNKING",), {}),
        (("PIPELINING",), {}),
    ],
)
async def test_a_message_is_not_eager_without_what_that_needs(
    keywords: tuple[str, ...], options: dict[str, Any]
) -> None:
    async with eager_server(keywords=keywords) as server, eager_client(server) as smtp:
        await deliver(smtp, **options)
    # All or nobody takes BDAT too, but behind the envelope's replies.
    is_data = "DATA" in server.connection.verbs
    assert is_data is ("require_all" not in options)
    assert not any(b"RCPT" in write and b"BDAT" in write for write in server.connection.writes)


async def test_only_those_who_ask_for_it_are_eager() -> None:
    async with eager_server() as server, on_memory(server) as smtp:
        await deliver(smtp)
    assert "DATA" in server.connection.verbs


async def test_a_long_list_of_recipients_is_not_eager() -> None:
    recipients = [f"{number}@x.test" for number in range(REPLIES)]
    async with eager_server() as server, eager_client(server) as smtp:
        await smtp.sendmail("a@x.test", recipients, RAW)
        await smtp.sendmail("a@x.test", recipients[:-3], RAW)
    assert server.connection.verbs.count("DATA") == 1
    assert server.connection.verbs.count("BDAT") == 1
    assert [len(message.recipients) for message in server.messages] == [REPLIES, REPLIES - 3]


# Several on their way


@either
async def test_messages_of_several_tasks_are_on_their_way_at_once(kind: str) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            sends = await start(group, mailer, *map(str, range(10)))
            assert len(server.received) == 10
            assert all(send.delivery.phase == "reply" for send in sends)
            await server.release()
        assert all(send.has_its_reply for send in sends)
        judge(server, sends)
    assert len(server.connections) == 1


@either
async def test_those_who_are_ready_leave_in_one_write(kind: str) -> None:
    """Ten tasks that start at once are fewer than ten writes."""
    async with (
        eager_server() as server,
        Sharing(kind, server, pipelining="eager") as mailer,
        Group() as group,
    ):
        sends = [Send(mailer, str(number)) for number in range(10)]
        for send in sends:
            group.start_soon(send)
    assert all(send.has_its_reply for send in sends)
    assert len([write for write in server.writes if b"BDAT" in write]) < 10
    assert len(server.connections) == 1


class Watch(Wrapped):
    """Counts what is unanswered: octets of messages, and replies."""

    def __init__(self, stream: ByteStream) -> None:
        super().__init__(stream)
        self.most_octets = self.most_replies = 0
        self._owed: deque[int] = deque([0])
        self._partial = b""

    async def send(self, item: bytes) -> None:
        self._count(item)
        self.most_octets = max(self.most_octets, sum(self._owed))
        self.most_replies = max(self.most_replies, len(self._owed))
        await super().send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await super().receive(max_bytes)
        *lines, self._partial = (self._partial + data).split(b"\r\n")
        for line in lines:
            if line[3:4] == b" ":
                self._owed.popleft()
        return data

    def _count(self, item: bytes) -> None:
        while item:
            line, _, item = item.partition(b"\r\n")
            size = int(line.split()[1]) if line.startswith(b"BDAT") else 0
            self._owed.append(size)
            item = item[size:]


@either
@pytest.mark.parametrize("size", [SMALL, 9000, 20_000, EAGER_SIZE])
@pytest.mark.parametrize("count", [1, 40])
async def test_what_is_on_its_way_fits_the_window(kind: str, size: int, count: int) -> None:
    recipients = [f"{number}@x.test" for number in range(count)]
    async with eager_server() as server:
        road = Through(server, Watch)
        async with Sharing(kind, server, connectable=road, pipelining="eager") as mailer:
            server.hold()
            async with Group() as group:
                for number in range(20):
                    raw = of_size(size, str(number))
                    group.start_soon(mailer.sendmail, "a@x.test", recipients, raw)
                await anyio.wait_all_tasks_blocked()
                in_flight = len(server.received)
                await server.release()
        (stream,) = road.streams
    assert isinstance(stream, Watch)
    assert stream.most_octets <= WINDOW
    assert stream.most_replies <= REPLIES
    # RSET, MAIL and BDAT have replies too.
    assert in_flight >= min(WINDOW // 2 // size, REPLIES // (count + 3) // 2, 20, 2)
    assert len(server.messages) == 20
    assert len(server.connections) == 1


# Refusals


REFUSALS: list[tuple[Script, type[SMTPException], str]] = [
    ({"MAIL": ["250 Ok", "550 5.1.8 no"]}, SMTPException, "refused"),
    (
        {"RCPT": ["250 Ok", "250 Ok", "550 5.1.1 no", "450 4.2.1 no"]},
        SMTPRecipientsRefused,
        "refused",
    ),
    ({".": ["250 2.0.0 0", "550 5.7.1 spam"]}, SMTPDataError, "refused"),
]


@either
@pytest.mark.parametrize(("answers", "error", "outcome"), REFUSALS)
async def test_what_one_message_is_refused_costs_no_other(
    kind: str, answers: Script, error: type[SMTPException], outcome: str
) -> None:
    async with eager_server(answers) as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            first, second, third = await start(group, mailer, "0", "1", "2")
            await server.release()
        assert isinstance(second.error, error)
        assert second.outcome == outcome
        assert first.has_its_reply
        assert third.has_its_reply
        judge(server, [first, second, third])


@either
async def test_a_message_goes_to_those_whom_the_server_takes(kind: str) -> None:
    answers: Script = {f"RCPT TO:<{RECIPIENTS[1]}>": ["250 Ok", "550 5.1.1 no"]}
    async with eager_server(answers) as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            first, second, third = await start(group, mailer, "0", "1", "2")
            await server.release()
        assert second.receipt is not None
        assert list(second.receipt.accepted) == [RECIPIENTS[0]]
        assert list(second.receipt.refused) == [RECIPIENTS[1]]
        judge(server, [first, second, third])
    assert len(server.connections) == 1


async def test_behind_refused_recipients_the_connection_is_used_again() -> None:
    answers: Script = {"RCPT": ["550 5.1.1 no"] * 2}
    async with eager_server(answers) as server, eager_client(server) as smtp:
        with pytest.raises(SMTPRecipientsRefused):
            await deliver(smtp)
        await deliver(smtp)
    assert len(server.connections) == 1
    assert server.connection.verbs.count("RSET") == 1


async def test_behind_a_refused_chunk_the_connection_is_not_used_again() -> None:
    answers: Script = {".": ["550 5.7.1 spam"]}
    async with eager_server(answers) as server, eager_client(server) as smtp:
        with pytest.raises(SMTPDataError):
            await deliver(smtp)
        await deliver(smtp)
    assert len(server.connections) == 2


BODIES = {
    "text": message("1"),
    "commands": b"Subject: 1\r\n\r\nNOOP\r\nRSET\r\nNOOP\r\n",
    "a transaction": (
        b"Subject: 1\r\n\r\nRSET\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<b@x.test>\r\nNOOP\r\n"
    ),
}


@either
@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("body", BODIES)
async def test_behind_a_chunk_that_was_read_as_commands_nothing_is_believed(
    kind: str, one_by_one: bool, body: str
) -> None:
    answers: Script = {"BDAT": [Act(), MISREAD]}
    server = eager_server(answers, one_by_one=one_by_one, strict=False)
    async with server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            (first,) = await start(group, mailer, "0")
            second = Send(mailer, "1", raw=BODIES[body])
            await second.start(group)
            (third,) = await start(group, mailer, "2")
            await server.release()
        assert first.has_its_reply
        assert isinstance(second.error, SMTPDataError)
        assert second.outcome == "refused"
        assert isinstance(third.error, SMTPServerDisconnected)
        assert third.outcome == "in_doubt"
        judge(server, [first, second, third])
        assert server.connections[0].end != "quit"


async def test_after_that_a_client_goes_on_with_a_new_connection() -> None:
    async with eager_server({"BDAT": [MISREAD]}) as server, eager_client(server) as smtp:
        with pytest.raises(SMTPDataError):
            await deliver(smtp)
        await deliver(smtp)
    assert len(server.connections) == 2


# The end of a connection


@either
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_all_that_was_on_its_way_is_in_doubt_and_not_sent_again(kind: str, how: Any) -> None:
    async with (
        no_leaks(),
        eager_server() as server,
        Sharing(kind, server, pipelining="eager") as mailer,
    ):
        server.hold()
        async with Group() as group:
            sends = await start(group, mailer, "0", "1", "2", "3")
            await server.hang_up(how)
        for send in sends:
            assert isinstance(send.error, SMTPServerDisconnected)
            assert send.outcome == "in_doubt"
            assert not send.delivery.may_retry
        judge(server, sends)
    assert len(server.received) == 4


async def test_those_that_had_not_left_yet_are_sent_on_a_new_connection() -> None:
    sizes = {str(number): 20_000 for number in range(8)}
    async with eager_server() as server, eager_client(server) as smtp:
        await smtp.connect()
        server.hold()
        async with Group() as group:
            sends = [await Send(smtp, name, size).start(group) for name, size in sizes.items()]
            in_flight = len(server.received)
            assert 0 < in_flight < 8
            await server.hang_up()
            await server.release()
        outcomes = [send.outcome for send in sends]
        assert outcomes == ["in_doubt"] * in_flight + ["accepted"] * (8 - in_flight)
        judge(server, sends)


GOODBYE = Act("421 4.3.2 bye", then="close")


async def test_a_server_that_says_goodbye_and_takes_the_message_has_it() -> None:
    """Also where its sender went away in between, and was told that it was not sent."""
    goodbye, is_taken = anyio.Event(), anyio.Event()
    point = f"RCPT TO:<{RECIPIENTS[1]}>"
    server = eager_server({point: [Act("421 4.3.2 bye", late=goodbye)], ".": Act(late=is_taken)})
    async with server, eager_client(server) as smtp, Group() as group:
        # The other one is behind it: its replies are read for that.
        mine, _ = await start(group, smtp, "mine", "other")
        goodbye.set()
        await anyio.wait_all_tasks_blocked()
        mine.scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert mine.outcome == "not_sent"
        is_taken.set()
        await anyio.wait_all_tasks_blocked()
        assert [*mine.delivery.accepted] == server.messages[0].accepted_for == [RECIPIENTS[0]]
        assert mine.delivery.retry_recipients == (RECIPIENTS[1],)


@either
@pytest.mark.parametrize(
    ("point", "before"),
    [
        ("MAIL", ["250 Ok"]),
        ("RCPT", ["250 Ok"] * 2),
        ("RCPT", ["250 Ok"] * 3),
        ("RSET", []),
    ],
)
async def test_a_goodbye_takes_back_what_it_is_the_answer_to(
    kind: str, point: str, before: list[Answer]
) -> None:
    async with eager_server({point: [*before, GOODBYE]}) as server:
        async with Sharing(kind, server, pipelining="eager") as mailer:
            server.hold()
            async with Group() as group:
                first, second, third = await start(group, mailer, "0", "1", "2")
                await server.release()
        assert first.has_its_reply
        if kind == "client":
            assert second.has_its_reply
        else:
            assert isinstance(second.error, SMTPServerDisconnected)
            assert second.outcome == "not_sent"
        assert third.outcome in ("in_doubt", "not_sent", "accepted")
        judge(server, [first, second, third])


# Those who go away


@either
async def test_one_who_goes_away_costs_no_other_and_learns_what_became_of_his(kind: str) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            sends = await start(group, mailer, *"01234")
            for number in (0, 3):
                sends[number].scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert [sends[number].outcome for number in (0, 3)] == ["in_doubt"] * 2
            await server.release()
        assert [send.outcome for send in sends] == ["accepted"] * 5
        assert [send.has_its_reply for send in sends] == [False, True, True, False, True]
        judge(server, sends)
    assert len(server.connections) == 1


@either
async def test_the_last_one_may_go_away_too(kind: str) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            sends = await start(group, mailer, *"012")
            sends[2].scope.cancel()
            await anyio.wait_all_tasks_blocked()
            await server.release()
        assert [send.has_its_reply for send in sends] == [True, True, False]
        judge(server, sends)


@either
async def test_where_all_go_away_the_connection_is_closed(kind: str) -> None:
    async with (
        no_leaks(),
        eager_server() as server,
        Sharing(kind, server, pipelining="eager") as mailer,
    ):
        server.hold()
        async with Group() as group:
            sends = await start(group, mailer, *"012")
            for send in sends:
                send.scope.cancel()
        await server.wait_closed()
        assert [send.outcome for send in sends] == ["in_doubt"] * 3
        await server.release()


@either
async def test_one_who_comes_when_all_others_went_away_is_served(kind: str) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            first, second = await start(group, mailer, *"01")
            first.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            (third,) = await start(group, mailer, "2")
            second.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            await server.release()
        assert third.has_its_reply
        judge(server, [first, second, third])
    assert len(server.connections) == 1


@either
async def test_in_many_messages_with_cancellations_none_is_mispaired(
    kind: str, tally: Tally
) -> None:
    for seed in range(12):
        crowd = Crowd(seed)
        crowd.sizes = (SMALL, SMALL, 9000, 30_000, LARGE)
        async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
            await crowd.run(mailer)
        judge(server, crowd.sends)
        tally("exchanges of tasks that share an eager connection", crowd.exchanges)


async def test_one_that_waits_for_room_behind_a_refused_chunk_is_sent_on_a_new_connection() -> None:
    """Its recipients do not fit in one flight beside those of the message in front."""
    recipients = [f"{number}@x.test" for number in range(80)]
    script: Script = {".": ["550 5.7.1 No"]}
    async with no_leaks(), eager_server(script) as server, eager_client(server) as smtp:
        await smtp.connect()
        server.hold()
        async with Group() as group:
            (first,) = await start(group, smtp, "0", recipients=recipients[:60])
            (second,) = await start(group, smtp, "1", recipients=recipients)
            await server.release()
        assert isinstance(first.error, SMTPDataError)
        assert second.has_its_reply
    assert [record.verbs.count("BDAT") for record in server.connections] == [1, 1]


# Beside messages that are not eager


@either
async def test_eager_behind_one_that_is_not_leaves_with_its_end(kind: str) -> None:
    hold = anyio.Event()
    async with (
        eager_server({"DATA": [Act(late=hold)]}) as server,
        Sharing(kind, server, pipelining="eager") as mailer,
        Group() as group,
    ):
        (first,) = await start(group, mailer, "0", size=LARGE)
        second, third = await start(group, mailer, "1", "2")
        hold.set()
    assert all(send.has_its_reply for send in (first, second, third))
    [write] = [write for write in server.connection.writes if b"\r\n.\r\nRSET\r\nMAIL" in write]
    assert write.count(b"BDAT") == 2
    assert len(server.connections) == 1


@either
async def test_one_that_is_not_eager_begins_behind_those_that_are(kind: str) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            first, second = await start(group, mailer, "0", "1")
            (third,) = await start(group, mailer, "2", size=LARGE)
            assert server.connection.verbs[-1] == "DATA"
            (fourth,) = await start(group, mailer, "3")
            await server.release()
        sends = [first, second, third, fourth]
        assert all(send.has_its_reply for send in sends)
        judge(server, sends)
    assert len(server.connections) == 1


@either
async def test_a_cancelled_envelope_behind_eager_messages_costs_them_nothing(kind: str) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            first, second = await start(group, mailer, "0", "1")
            (third,) = await start(group, mailer, "2", size=LARGE)
            third.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert third.outcome == "not_sent"
            await server.release()
        assert first.has_its_reply
        assert second.has_its_reply
        judge(server, [first, second, third])


@either
async def test_an_eager_message_in_front_that_goes_away_costs_an_envelope_nothing(
    kind: str,
) -> None:
    async with eager_server() as server, Sharing(kind, server, pipelining="eager") as mailer:
        server.hold()
        async with Group() as group:
            (first,) = await start(group, mailer, "0")
            (second,) = await start(group, mailer, "1", size=LARGE)
            first.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            await server.release()
        assert first.outcome == "accepted"
        assert second.has_its_reply
        judge(server, [first, second])
    assert len(server.connections) == 1


async def test_commands_wait_until_the_messages_have_their_replies() -> None:
    async with eager_server() as server, Sharing("connection", server, pipelining="eager") as conn:
        assert isinstance(conn, SMTPConnection)
        server.hold()
        async with Group() as group:
            sends = await start(group, conn, "0", "1")
            group.start_soon(conn.noop)
            await anyio.wait_all_tasks_blocked()
            await server.release()
        assert all(send.has_its_reply for send in sends)
    assert server.connection.verbs[-2:] == ["NOOP", "QUIT"]
