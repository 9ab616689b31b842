"""A message for more recipients than the server takes in one transaction goes in several.

The server says how many by LIMITS (RFC 9422), or by a 452 behind the first ones (RFC 5321 section
4.5.3.1.10). To the caller it is one send, one Receipt and one Delivery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Limits,
    Mail,
    SMTPDataError,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, STALL, Answer, ScriptedServer, Transcript
from support.bench import message, subject_of
from support.clients import RAW, SENDER, Script, email, on_memory
from support.leaks import no_leaks
from support.quick import sampled

pytestmark = pytest.mark.anyio

EAGER = (*DEFAULT_KEYWORDS, "CHUNKING")
TOO_MANY = "452 4.5.3 Too many recipients"


def people(count: int) -> list[str]:
    return [f"r{number}@x.test" for number in range(count)]


R0, R1, R2, R3, R4, R5 = people(6)


def limited(*limits: str, **options: Any) -> ScriptedServer:
    """A server that says what it takes."""
    keywords = [*EAGER, f"LIMITS {' '.join(limits)}"]
    return ScriptedServer(keywords=keywords, **options)


class Full:
    """A server that says it only when it has had enough, on the only connection."""

    def __init__(self, room: int, reply: Answer = TOO_MANY, **options: Any) -> None:
        self.server = ScriptedServer(keywords=EAGER, script=self._answer, **options)
        self._room = room
        self._reply = reply
        self._taken = 0

    def _answer(self, line: str) -> Answer | None:
        if line.startswith("MAIL"):
            self._taken = 0
        elif line.startswith("RCPT"):
            self._taken += 1
            return self._reply if self._taken > self._room else None
        return None


def groups(server: ScriptedServer) -> list[list[str]]:
    """The recipients of each message that was accepted."""
    return [message.recipients for message in server.messages]


def asked(record: Transcript) -> list[list[str]]:
    """Who was asked for in each transaction."""
    found: list[list[str]] = []
    for command in record.commands:
        if command.startswith(b"MAIL"):
            found.append([])
        elif command.startswith(b"RCPT"):
            found[-1].append(command.partition(b"<")[2].partition(b">")[0].decode())
    return found


async def send(smtp: Any, recipients: Sequence[str], **options: Any) -> Any:
    return await smtp.sendmail(SENDER, recipients, RAW, **options)


pipelinings = pytest.mark.parametrize("pipelining", ["auto", "off", "eager"])


# What the server declares


@pipelinings
@pytest.mark.parametrize("borrowed", [False, True])
async def test_a_transaction_has_as_many_recipients_as_the_server_declares(
    borrowed: bool, pipelining: str
) -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=3")
    async with no_leaks(), server, on_memory(server, pipelining=pipelining) as smtp:
        if borrowed:
            async with smtp.connection() as conn:
                receipt = await send(conn, people(8), delivery=delivery)
        else:
            receipt = await send(smtp, people(8), delivery=delivery)
    assert groups(server) == [[R0, R1, R2], [R3, R4, R5], people(8)[6:]]
    assert [one.raw for one in server.messages] == [RAW] * 3
    assert list(receipt.accepted) == people(8)
    assert [reply.code for reply in receipt.replies] == [250, 250, 250]
    assert receipt.reply is receipt.replies[-1]
    assert not receipt.refused
    assert delivery.result() is receipt
    assert delivery.outcome == "accepted"
    assert delivery.bytes_sent == delivery.bytes_total == len(RAW)


async def test_each_recipient_has_the_reply_of_its_own_transaction() -> None:
    server = limited("RCPTMAX=2", script={".": ["250 one", "250 two", "250 three"]})
    async with server, on_memory(server) as smtp:
        receipt = await send(smtp, people(5))
    texts = [reply.text for reply in receipt.accepted.values()]
    assert texts == ["one", "one", "two", "two", "three"]
    assert [reply.text for reply in receipt.replies] == ["one", "two", "three"]
    assert receipt.reply.text == "three"


async def test_the_copies_of_a_message_object_have_one_message_id() -> None:
    server = limited("RCPTMAX=1")
    async with server, on_memory(server) as smtp:
        receipt = await smtp.send_message(email(To=", ".join(people(3))))
    assert len({one.raw for one in server.messages}) == 1
    assert receipt.message_id is not None
    assert receipt.message_id.encode() in server.messages[0].raw
    assert groups(server) == [[R0], [R1], [R2]]


def domains(record: Transcript) -> set[str]:
    """Whose recipients were asked for on a connection."""
    return {one.rpartition("@")[2].lower() for group in asked(record) for one in group}


MIXED = ["a@x.test", "b@y.test", "c@X.TEST", "d@z.test", "e@y.test"]


@pytest.mark.parametrize(
    ("limits", "count", "expected"),
    [
        (
            ["RCPTDOMAINMAX=1"],
            1,
            [["a@x.test", "c@X.TEST"], ["b@y.test", "e@y.test"], ["d@z.test"]],
        ),
        (["RCPTDOMAINMAX=2"], 2, [["a@x.test", "b@y.test", "c@X.TEST", "e@y.test"], ["d@z.test"]]),
        (
            ["RCPTMAX=3", "RCPTDOMAINMAX=2"],
            2,
            [["a@x.test", "b@y.test", "c@X.TEST"], ["e@y.test"], ["d@z.test"]],
        ),
        (["RCPTMAX=5", "RCPTDOMAINMAX=3"], 3, [MIXED]),
    ],
    ids=["one", "two", "with RCPTMAX", "enough"],
)
async def test_a_session_has_recipients_in_as_many_domains_as_the_server_declares(
    limits: list[str], count: int, expected: list[list[str]]
) -> None:
    """RFC 9422 section 4.3 counts them by session: others go over another connection."""
    server = limited(*limits)
    async with no_leaks(), server, on_memory(server) as smtp:
        receipt = await send(smtp, MIXED)
    assert set(receipt.accepted) == set(MIXED)
    assert groups(server) == expected
    assert len(receipt.replies) == len(expected)
    assert all(len(domains(record)) <= count for record in server.connections)


async def test_a_message_for_another_domain_goes_over_another_connection() -> None:
    server = limited("RCPTDOMAINMAX=1")
    async with no_leaks(), server, on_memory(server) as smtp:
        for recipient in ("a@x.test", "b@x.test", "c@y.test", "d@y.test"):
            await send(smtp, [recipient])
    assert [domains(record) for record in server.connections] == [{"x.test"}, {"y.test"}]


async def test_limits_that_are_none_limit_nothing() -> None:
    script: Script = {"EHLO": "250-x\n250 LIMITS RCPTMAX=0 RCPTDOMAINMAX=many MAILMAX"}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        for _ in range(3):
            await send(smtp, MIXED)
    assert groups(server) == [MIXED] * 3
    assert len(server.connections) == 1


async def test_the_limits_are_those_of_the_connection_that_is_used() -> None:
    hello = ["250-x\n250 LIMITS RCPTMAX=1", "250 x"]
    limits = Limits(max_connections=1, max_messages_per_connection=1)
    async with (
        ScriptedServer(script={"EHLO": hello}) as server,
        on_memory(server, limits=limits) as smtp,
    ):
        await send(smtp, people(3))
    assert groups(server) == [[R0], [R1, R2]]


# What the server says when it has had enough


@sampled(5)
@pipelinings
@pytest.mark.parametrize(
    "reply", [TOO_MANY, "452 Too many recipients", "552 Too many recipients", "552 5.5.3 Too many"]
)
@pytest.mark.parametrize("room", [1, 2, 3])
async def test_those_for_whom_there_was_no_room_are_in_the_next_transaction(
    room: int, reply: str, pipelining: str
) -> None:
    delivery: Delivery[None] = Delivery()
    full = Full(room, reply)
    async with no_leaks(), full.server as server, on_memory(server, pipelining=pipelining) as smtp:
        receipt = await send(smtp, people(6), delivery=delivery)
    everybody = people(6)
    assert groups(server) == [everybody[n : n + room] for n in range(0, 6, room)]
    assert asked(server.connection) == [everybody[n:] for n in range(0, 6, room)]
    assert list(receipt.accepted) == everybody
    assert not receipt.refused
    assert len(receipt.replies) == 6 // room
    assert delivery.outcome == "accepted"
    assert not delivery.may_retry


@pytest.mark.parametrize(
    "reply",
    ["452 4.2.2 Mailbox full", "452 4.3.1 Insufficient storage", "552 5.2.2 Mailbox full"],
)
async def test_a_full_mailbox_is_a_refusal_and_not_a_want_of_room(reply: str) -> None:
    script: Script = {f"RCPT TO:<{R1}>": reply}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(3))
    assert groups(server) == [[R0, R2]]
    assert list(receipt.refused) == [R1]
    assert receipt.retry_recipients == ((R1,) if reply.startswith("4") else ())


@pytest.mark.parametrize("reply", [TOO_MANY, "452 No", "552 No"])
async def test_where_nobody_was_taken_before_it_it_is_a_refusal(reply: str) -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script={"RCPT": reply}) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPRecipientsRefused) as caught:
            await send(smtp, people(3), delivery=delivery)
    assert list(caught.value.refused) == people(3)
    assert asked(server.connection) == [people(3)]
    assert delivery.may_retry == reply.startswith("4")


async def test_who_stands_in_front_of_the_first_that_was_taken_is_refused_for_now() -> None:
    script: Script = {f"RCPT TO:<{R0}>": "452 4.5.3 No"}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(3))
    assert groups(server) == [[R1, R2]]
    assert list(receipt.refused) == [R0]
    assert receipt.retry_recipients == (R0,)


async def test_a_server_that_takes_nobody_in_the_next_transaction_has_refused_them() -> None:
    """So there are no more transactions than recipients."""
    script: Script = {f"RCPT TO:<{R2}>": TOO_MANY, f"RCPT TO:<{R3}>": TOO_MANY}
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(4), delivery=delivery)
    assert asked(server.connection) == [people(4), [R2, R3]]
    assert list(receipt.accepted) == [R0, R1]
    assert list(receipt.refused) == list(receipt.retry_recipients) == [R2, R3]
    assert delivery.outcome == "refused"
    assert delivery.may_retry


async def test_many_recipients_in_several_flights_are_split_too() -> None:
    full = Full(100)
    async with full.server as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(350))
    assert [len(group) for group in groups(server)] == [100, 100, 100, 50]
    assert list(receipt.accepted) == people(350)


async def test_both_together() -> None:
    taken = 0

    def answer(line: str) -> Answer | None:
        nonlocal taken
        if line.startswith("MAIL"):
            taken = 0
        elif line.startswith("RCPT"):
            taken += 1
            return TOO_MANY if taken > 2 else None
        return None

    async with limited("RCPTMAX=3", script=answer) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(7))
    assert sorted(receipt.accepted) == people(7)
    assert Counter(r for group in groups(server) for r in group) == Counter(people(7))
    assert all(len(group) <= 2 for group in groups(server))


# Refusals, early and late


async def test_recipients_that_are_refused_in_any_of_the_transactions_are_all_in_the_receipt() -> (
    None
):
    script: Script = {f"RCPT TO:<{R0}>": "550 5.1.1 No", f"RCPT TO:<{R3}>": "450 4.2.1 Later"}
    delivery: Delivery[None] = Delivery()
    async with limited("RCPTMAX=2", script=script) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(5), delivery=delivery)
    assert groups(server) == [[R1], [R2], [R4]]
    assert list(receipt.accepted) == [R1, R2, R4]
    assert {key: reply.code for key, reply in receipt.refused.items()} == {R0: 550, R3: 450}
    assert receipt.retry_recipients == delivery.retry_recipients == (R3,)
    assert len(receipt.replies) == 3


@pytest.mark.parametrize("refused", [(R0, R1), (R2, R3), (R4,), (R0, R1, R4)])
async def test_a_transaction_in_which_everybody_is_refused_stops_none_of_the_others(
    refused: tuple[str, ...],
) -> None:
    script: Script = {f"RCPT TO:<{one}>": "550 5.1.1 No" for one in refused}
    async with limited("RCPTMAX=2", script=script) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(5))
    assert list(receipt.accepted) == [one for one in people(5) if one not in refused]
    assert tuple(receipt.refused) == refused


async def test_where_everybody_is_refused_the_error_names_everybody() -> None:
    delivery: Delivery[None] = Delivery()
    script: Script = {"RCPT": "550 5.1.1 No", f"RCPT TO:<{R4}>": "450 4.2.1 Later"}
    async with limited("RCPTMAX=2", script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPRecipientsRefused) as caught:
            await send(smtp, people(5), delivery=delivery)
    assert list(caught.value.refused) == people(5)
    assert caught.value.server == "mail.example.test:25"
    assert not caught.value.connection_closed
    assert delivery.retry_recipients == (R4,)


async def test_a_sender_that_is_refused_later_leaves_what_was_accepted() -> None:
    delivery: Delivery[None] = Delivery()
    script: Script = {"MAIL": ["250 2.1.0 Ok", "451 4.7.1 Slow down"]}
    async with limited("RCPTMAX=2", script=script) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(5), delivery=delivery)
    assert list(receipt.accepted) == [R0, R1]
    assert {key: reply.code for key, reply in receipt.refused.items()} == dict.fromkeys(
        people(5)[2:], 451
    )
    assert delivery.retry_recipients == tuple(people(5)[2:])
    assert len(server.connection.verbs) == len([*"EMRRD", *"MRRD", "QUIT"])


async def test_a_sender_that_is_refused_at_once_is_not_asked_for_the_others() -> None:
    server = limited("RCPTMAX=2", script={"MAIL": "550 5.7.1 Not you"})
    delivery: Delivery[None] = Delivery()
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPSenderRefused):
            await send(smtp, people(5), delivery=delivery)
    assert server.connection.verbs.count("MAIL") == 1
    assert list(delivery.refused) == people(5)


@pytest.mark.parametrize("point", ["DATA", "."])
async def test_a_message_that_is_refused_is_refused_for_everybody(point: str) -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2", script={point: "554 5.6.0 Spam"})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError):
            await send(smtp, people(5), delivery=delivery)
    assert server.connection.verbs.count("MAIL") == 1
    assert list(delivery.refused) == people(5)
    assert not delivery.may_retry


@pytest.mark.parametrize("point", ["DATA", "."])
async def test_a_message_that_is_refused_later_is_refused_for_the_others(point: str) -> None:
    first = "354 Go on" if point == "DATA" else "250 Ok"
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2", script={point: [first, "451 4.3.0 Full"]})
    async with server, on_memory(server) as smtp:
        receipt = await send(smtp, people(5), delivery=delivery)
    assert list(receipt.accepted) == [R0, R1]
    assert list(receipt.refused) == [R2, R3, R4]
    assert delivery.retry_recipients == (R2, R3, R4)
    assert receipt.reply.code in (250, 451)


async def test_those_for_whom_there_was_no_room_are_refused_with_a_message_that_is_refused() -> (
    None
):
    delivery: Delivery[None] = Delivery()
    script: Script = {f"RCPT TO:<{R2}>": TOO_MANY, ".": "554 5.6.0 Spam"}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPDataError):
            await send(smtp, people(3), delivery=delivery)
    assert server.connection.verbs.count("MAIL") == 1
    assert delivery.outcome == "refused"
    # It was not asked for with this message.
    assert delivery.retry_recipients == (R2,)


# To all or to nobody


@pipelinings
async def test_to_all_or_to_nobody_is_one_transaction_or_none(pipelining: str) -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2")
    async with server, on_memory(server, require_all=True, pipelining=pipelining) as smtp:
        await send(smtp, people(2))
        with pytest.raises(SMTPNotSupported, match="takes 2 of the 3 recipients"):
            await send(smtp, people(3), delivery=delivery)
        await send(smtp, people(2))
    assert groups(server) == [people(2)] * 2
    assert delivery.outcome == "not_sent"
    assert not delivery.may_retry


@pipelinings
async def test_to_all_or_to_nobody_is_to_nobody_where_there_is_no_room(pipelining: str) -> None:
    delivery: Delivery[None] = Delivery()
    full = Full(2)
    async with full.server as server, on_memory(server, pipelining=pipelining) as smtp:
        with pytest.raises(SMTPRecipientsRefused, match=r"452 4\.5\.3"):
            await send(smtp, people(3), require_all=True, delivery=delivery)
    assert not server.received
    assert not delivery.accepted
    assert delivery.may_retry


# A connection that is lost


async def test_a_connection_that_is_lost_in_between_is_replaced_and_nobody_gets_it_twice() -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2", script={f"RCPT TO:<{R3}>": [DROP]})
    async with no_leaks(), server, on_memory(server) as smtp:
        receipt = await send(smtp, people(5), delivery=delivery)
    assert groups(server) == [[R0, R1], [R2, R3], [R4]]
    assert list(receipt.accepted) == people(5)
    assert len(server.connections) == 2


async def resumed(smtp: SMTP, server: ScriptedServer, delivery: Delivery[None]) -> None:
    """Sending again goes to those only who certainly do not have it."""
    rest = delivery.retry_recipients
    before = len(server.received)
    server.script.clear()
    receipt = await smtp.send_message(email(To=", ".join(people(5))), delivery=delivery)
    assert tuple(receipt.accepted)[-len(rest) :] == rest
    assert [r for one in server.received[before:] for r in one.recipients] == list(rest)
    ids = {one.raw.partition(b"Message-ID: ")[2].partition(b"\r\n")[0] for one in server.received}
    assert len(ids) == 1
    assert b"@" in ids.pop()


async def test_a_connection_that_is_lost_again_leaves_the_rest_not_sent() -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2", script={f"RCPT TO:<{R3}>": DROP})
    async with no_leaks(), server, on_memory(server) as smtp:
        with pytest.raises(SMTPServerDisconnected) as caught:
            await smtp.send_message(email(To=", ".join(people(5))), delivery=delivery)
        assert caught.value.delivery is delivery
        assert caught.value.outcome == "not_sent"
        assert caught.value.may_retry
        assert list(delivery.accepted) == [R0, R1]
        assert delivery.not_sent == delivery.retry_recipients == (R2, R3, R4)
        await resumed(smtp, server, delivery)
    assert delivery.outcome == "accepted"
    assert list(delivery.accepted) == people(5)


@pipelinings
async def test_a_connection_that_is_lost_after_the_end_leaves_the_second_group_in_doubt(
    pipelining: str,
) -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2", script={".": ["250 Ok", DROP], "BDAT": ["250 Ok", DROP]})
    async with no_leaks(), server, on_memory(server, pipelining=pipelining) as smtp:
        with pytest.raises(SMTPServerDisconnected) as caught:
            await smtp.send_message(email(To=", ".join(people(5))), delivery=delivery)
        assert caught.value.in_doubt
        assert delivery.outcome == "in_doubt"
        assert list(delivery.accepted) == [R0, R1]
        assert delivery.in_doubt == (R2, R3)
        assert delivery.not_sent == delivery.retry_recipients == (R4,)
        await resumed(smtp, server, delivery)
    assert delivery.outcome == "in_doubt"
    assert list(delivery.accepted) == [R0, R1, R4]
    assert Counter(r for one in server.received for r in one.recipients) == Counter(people(5))


async def test_resuming_where_the_only_rest_is_in_doubt_is_an_error() -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2", script={".": ["250 Ok", DROP]})
    async with server, on_memory(server) as smtp:
        with pytest.raises(SMTPServerDisconnected):
            await send(smtp, people(4), delivery=delivery)
        with pytest.raises(ValueError, match="nobody left"):
            await send(smtp, people(4), delivery=delivery)
    assert len(server.received) == 2


@pytest.mark.parametrize("point", ["MAIL", "."])
async def test_a_send_that_is_cancelled_in_between_says_who_has_it(point: str) -> None:
    delivery: Delivery[None] = Delivery()
    server = limited("RCPTMAX=2", script={point: ["250 Ok", STALL]})
    async with no_leaks(), server, on_memory(server) as smtp:
        async with anyio.create_task_group() as group:

            async def cancelled() -> None:
                await smtp.send_message(email(To=", ".join(people(5))), delivery=delivery)

            group.start_soon(cancelled)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert list(delivery.accepted) == [R0, R1]
        assert delivery.in_doubt == ((R2, R3) if point == "." else ())
        assert delivery.retry_recipients == ((R4,) if point == "." else (R2, R3, R4))
        assert delivery.phase == "done"
        await resumed(smtp, server, delivery)


async def test_a_goodbye_in_between_is_followed_on_a_fresh_connection() -> None:
    server = limited("RCPTMAX=2", script={"MAIL": ["250 Ok", "421 4.7.0 Enough"]})
    async with no_leaks(), server, on_memory(server) as smtp:
        receipt = await send(smtp, people(4))
    assert list(receipt.accepted) == people(4)
    assert len(server.connections) == 2


# With other messages


@pytest.mark.parametrize("count", [1, 3])
@pipelinings
async def test_several_tasks_send_such_messages_over_the_same_connections(
    count: int, pipelining: str
) -> None:
    server = limited("RCPTMAX=2", "MAILMAX=7")
    receipts: dict[int, Any] = {}

    async def one(number: int) -> None:
        receipts[number] = await smtp.sendmail(SENDER, people(5), message(str(number)))

    limits = Limits(max_connections=count)
    async with no_leaks(), server:
        async with (
            on_memory(server, pipelining=pipelining, limits=limits) as smtp,
            anyio.create_task_group() as group,
        ):
            for number in range(20):
                group.start_soon(one, number)
        await server.wait_closed()
    seen = Counter((subject_of(one), tuple(one.recipients)) for one in server.messages)
    expected = [(R0, R1), (R2, R3), (R4,)]
    assert seen == Counter((str(n), group) for n in range(20) for group in expected)
    assert all(len(receipt.replies) == 3 for receipt in receipts.values())
    assert all(list(receipt.accepted) == people(5) for receipt in receipts.values())
    assert all(record.verbs.count("MAIL") <= 7 for record in server.connections)


@sampled(3)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("count", [1, 3])
@pipelinings
async def test_a_stream_of_such_messages(count: int, pipelining: str, ordered: bool) -> None:
    server = limited("RCPTMAX=2", "MAILMAX=7")
    envelope = Envelope(sender=SENDER, recipients=people(5))
    mails = [Mail(message(str(number)), envelope, key=number) for number in range(20)]
    keys: list[int] = []
    limits = Limits(max_connections=count)
    async with no_leaks(), server:
        async with (
            on_memory(server, pipelining=pipelining, limits=limits) as smtp,
            smtp.send_many(mails, ordered=ordered) as deliveries,
        ):
            async for delivery in deliveries:
                keys.append(delivery.key)
                receipt = delivery.result()
                assert len(receipt.replies) == 3
                assert list(receipt.accepted) == people(5)
                assert delivery.outcome == "accepted"
        await server.wait_closed()
    assert keys == list(range(20)) if ordered else sorted(keys) == list(range(20))
    seen = Counter((subject_of(one), tuple(one.recipients)) for one in server.messages)
    expected = [(R0, R1), (R2, R3), (R4,)]
    assert seen == Counter((str(n), group) for n in range(20) for group in expected)


async def test_a_stream_in_which_some_have_no_room() -> None:
    full = Full(2)
    envelope = Envelope(sender=SENDER, recipients=people(5))
    mails = [Mail(message(str(number)), envelope, key=number) for number in range(10)]
    async with (
        full.server as server,
        on_memory(server) as smtp,
        smtp.send_many(mails) as deliveries,
    ):
        found = [delivery async for delivery in deliveries]
    assert sorted(delivery.key for delivery in found) == list(range(10))
    assert all(list(delivery.accepted) == people(5) for delivery in found)
    seen = Counter((subject_of(m), r) for m in server.messages for r in m.recipients)
    assert seen == Counter((str(n), r) for n in range(10) for r in people(5))


async def test_a_next_transaction_waits_for_its_turn_as_others_do() -> None:
    """One message for many does not keep the others waiting until all of it is sent."""
    server = limited("RCPTMAX=1")
    async with server, on_memory(server) as smtp, anyio.create_task_group() as group:
        group.start_soon(smtp.sendmail, "many@x.test", people(5), RAW)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(smtp.sendmail, "one@x.test", people(1), RAW)
    senders = [one.sender for one in server.messages]
    assert senders.count("many@x.test") == 5
    assert "one@x.test" in senders


@pytest.mark.parametrize("refusal", [None, ".", "RCPT"])
async def test_no_next_transaction_finds_the_one_before_still_open(refusal: str | None) -> None:
    """The server answers 503 to a nested MAIL, and keeps what it has refused at its end."""
    script: Script = {}
    if refusal == ".":
        script = {".": ["250 Ok", "451 4.3.0 No"]}
    elif refusal == "RCPT":
        script = {f"RCPT TO:<{R0}>": "550 No", f"RCPT TO:<{R1}>": "550 No"}
    async with limited("RCPTMAX=2", script=script) as server, on_memory(server) as smtp:
        receipt = await send(smtp, people(6))
        again = await send(smtp, [R2, R3])
    assert receipt.accepted
    assert list(again.accepted) == [R2, R3]
    assert not any(reply.startswith(b"503") for reply in server.connection.replies)
