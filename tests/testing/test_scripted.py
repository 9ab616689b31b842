"""What the scripted server records, and how it follows its script."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.streams.tls import TLSStream

from anysmtp.testing import DEAF, DROP, RESET, STALL, Act, ScriptedServer
from anysmtp.testing._memory import memory_pair
from anysmtp.testing._script import Table
from anysmtp.testing._wire import Wire
from support.bare import HELLO, BareClient
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

ENVELOPE = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n"


async def test_each_send_of_the_client_is_one_write() -> None:
    body = b"x" * 200_000 + b"\r\n"
    async with no_leaks(), ScriptedServer() as server:
        async with await BareClient.hello(server) as client:
            assert await client.ask_all(ENVELOPE, 4) == [250, 250, 250, 354]
            assert await client.ask_all(body + b".\r\nRSET\r\n", 2) == [250, 250]
            await client.ask(b"QUIT\r\n")
        await server.wait_closed()
    assert server.connection.writes == [HELLO, ENVELOPE, body + b".\r\nRSET\r\n", b"QUIT\r\n"]
    assert server.messages[0].raw == body


async def test_under_tls_a_small_send_is_one_write(certificates: Certificates) -> None:
    async with (
        ScriptedServer(implicit_tls=certificates.server) as server,
        await server.connectable.connect() as raw,
    ):
        client = BareClient(
            await TLSStream.wrap(raw, hostname="localhost", ssl_context=certificates.client)
        )
        await client.ask()
        await client.ask(HELLO)
        await client.ask_all(ENVELOPE, 4)
        assert server.connection.writes == [HELLO, ENVELOPE]
        assert server.connection.tls


@pytest.mark.parametrize(("one_by_one", "count"), [(False, 1), (True, 4)])
async def test_replies_to_one_write_leave_in_one_or_one_by_one(
    one_by_one: bool, count: int
) -> None:
    async with (
        ScriptedServer(one_by_one=one_by_one) as server,
        await BareClient.hello(server) as client,
    ):
        await client.stream.send(ENVELOPE)
        chunks = [await client.stream.receive() for _ in range(count)]
    assert b"".join(chunks).count(b"\r\n") == 4
    assert chunks[-1].endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")


async def test_replies_can_come_byte_by_byte() -> None:
    async with ScriptedServer(split=1) as server, await server.connectable.connect() as stream:
        assert [await stream.receive() for _ in range(4)] == [b"2", b"2", b"0", b" "]


async def break_the_rules(server: ScriptedServer, commands: list[bytes]) -> None:
    async with server, await BareClient.hello(server) as client:
        for command in commands:
            await client.ask_all(command, 4 if command == ENVELOPE else 1)


@pytest.mark.parametrize(
    ("commands", "violation"),
    [
        ([b"NOOP\n"], "a bare LF"),
        ([b"NOOP \x00\r\n"], "a control character"),
        ([b"NOOP a\rb\r\n"], "a control character"),
        ([b"NOOP \xc3\xa9\r\n"], "SMTPUTF8"),
        ([b"NOOP " + 600 * b"x" + b"\r\n"], "too long"),
        ([b"NOOP\r\nNOOP\r\n"], "without waiting"),
        ([ENVELOPE, b"a\nb\r\n.\r\n"], "a bare CR or LF"),
        ([ENVELOPE, b"a\rb\r\n.\r\n"], "a bare CR or LF"),
        ([ENVELOPE, b"a\r\n.b\r\n.\r\n"], "a dot that is not doubled"),
        ([ENVELOPE, b"\xc3\xa9\r\n.\r\n"], "BODY=8BITMIME"),
    ],
)
async def test_what_smtp_does_not_allow_is_a_violation(
    commands: list[bytes], violation: str
) -> None:
    with pytest.raises(AssertionError, match=violation):
        await break_the_rules(ScriptedServer(), commands)
    server = ScriptedServer(strict=False)
    await break_the_rules(server, commands)
    assert len(server.violations) == 1


@pytest.mark.parametrize("commands", [b"MAIL FROM:<a@x>\r\nRSET\r\n", b"RSET\r\nRSET\r\n"])
async def test_pipelining_that_was_not_offered_is_a_violation(commands: bytes) -> None:
    with pytest.raises(AssertionError, match="without waiting for the reply, behind"):
        await break_the_rules(ScriptedServer(keywords=["SIZE"]), [commands])


@pytest.mark.parametrize(("commands", "end"), [(b"NOOP\r\n", "eof"), (b"QUIT\r\n", "quit")])
async def test_it_knows_how_the_client_left(commands: bytes, end: str) -> None:
    async with ScriptedServer() as server:
        async with await BareClient.hello(server) as client:
            await client.ask(commands)
        await server.wait_closed()
    assert server.connection.end == end


async def test_it_knows_that_the_client_reset_the_connection() -> None:
    async with ScriptedServer() as server:
        stream = await server.connectable.connect()
        await stream.receive()
        stream.reset()
        await server.wait_closed()
    assert server.connection.end == "lost"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"WHAT\r\n", 500),
        (b"EHLO\r\n", 501),
        (b"MAIL FROM:a@x\r\n", 501),
        (b"MAIL FROM: <a@x>\r\n", 501),
        (b'MAIL FROM:<"a>b"@x> BODY=8BITMIME SIZE=3\r\n', 250),
        (b"MAIL FROM:<> SIZE=2000\r\n", 552),
        (b"MAIL FROM:<> SIZE=x\r\n", 501),
        (b"MAIL FROM:<> RET=HDRS\r\n", 555),
        (b"MAIL FROM:<> WHAT=EVER\r\n", 555),
        (b"RCPT TO:<a@x>\r\n", 503),
        (b"DATA\r\n", 503),
        (b"STARTTLS\r\n", 502),
        (b"AUTH PLAIN AGEAYg==\r\n", 503),
        (b"VRFY a@x\r\n", 252),
        (b"HELP\r\n", 214),
    ],
)
async def test_it_answers_as_servers_do(command: bytes, code: int) -> None:
    async with (
        ScriptedServer(keywords=["8BITMIME", "SIZE 1000"]) as server,
        await BareClient.hello(server) as client,
    ):
        assert await client.ask_all(command, 1) == [code]


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([b"AUTH PLAIN\r\n", b"AGFubgBwdw==\r\n"], [334, 235]),
        ([b"AUTH PLAIN AGFubgBwdw==\r\n", b"AUTH PLAIN AGFubgBwdw==\r\n"], [235, 503]),
        ([b"AUTH PLAIN =\r\n"], [501]),
        ([b"AUTH PLAIN\r\n", b"*\r\n"], [334, 501]),
        ([b"AUTH PLAIN\r\n", b"?\r\n"], [334, 501]),
        ([b"AUTH LOGIN\r\n", b"YW5u\r\n", b"cHc=\r\n"], [334, 334, 235]),
        ([b"AUTH LOGIN YW5u\r\n", b"cHg=\r\n"], [334, 535]),
        ([b"AUTH CRAM-MD5\r\n"], [504]),
    ],
)
async def test_it_knows_its_users(lines: list[bytes], codes: list[int]) -> None:
    async with (
        ScriptedServer(users={"ann": "pw"}) as server,
        await BareClient.hello(server) as client,
    ):
        assert [(await client.ask_all(line, 1))[0] for line in lines] == codes


async def test_a_message_over_the_size_is_refused() -> None:
    async with (
        ScriptedServer(keywords=["PIPELINING", "SIZE 10"]) as server,
        await BareClient.hello(server) as client,
    ):
        await client.ask_all(ENVELOPE, 4)
        assert await client.ask_all(b"0123456789\r\n.\r\n", 1) == [552]
    assert [message.accepted for message in server.received] == [False]


async def test_a_refused_message_leaves_the_transaction_open() -> None:
    async with (
        ScriptedServer(script={".": "550 no"}) as server,
        await BareClient.hello(server) as client,
    ):
        await client.ask_all(ENVELOPE, 4)
        assert await client.ask(b"hello\r\n.\r\n") == b"550 no"
        assert await client.ask_all(b"MAIL FROM:<a@x>\r\n", 1) == [503]
        assert await client.ask_all(b"RSET\r\nMAIL FROM:<a@x>\r\n", 2) == [250, 250]
    assert [message.accepted for message in server.received] == [False]


async def test_what_was_said_before_starttls_is_forgotten(certificates: Certificates) -> None:
    async with (
        ScriptedServer(starttls=certificates.server) as server,
        await BareClient.hello(server) as client,
    ):
        await client.ask(b"STARTTLS\r\n")
        tls = await TLSStream.wrap(
            client.stream, hostname="localhost", ssl_context=certificates.client
        )
        assert await BareClient(tls).ask_all(b"MAIL FROM:<a@x>\r\n", 1) == [503]


@pytest.mark.parametrize(
    ("script", "codes"),
    [
        ({"MAIL": "451 later"}, [451, 503, 503, 503]),
        ({"RCPT": "550 no"}, [250, 550, 550, 554]),
        ({"RCPT TO:<c@x>": "550 no", "RCPT": "450 no"}, [250, 450, 550, 554]),
        ({"RCPT": ["450 a", "550 b"]}, [250, 450, 550, 554]),
        ({"RCPT": ["450 a"]}, [250, 450, 250, 354]),
        ({"RCPT": "550 no", "DATA": "354 go on"}, [250, 550, 550, 354]),
        ({"DATA": "451 later"}, [250, 250, 250, 451]),
        ({"RCPT": b""}, [250, 354]),
    ],
)
async def test_a_refusal_has_its_effect(script: Table, codes: list[int]) -> None:
    async with ScriptedServer(script=script) as server, await BareClient.hello(server) as client:
        assert await client.ask_all(ENVELOPE, len(codes)) == codes


async def test_a_script_can_be_a_function_of_the_line() -> None:
    def rule(line: str) -> str | None:
        return "550 no" if line.startswith("RCPT") and "c@x" in line else None

    async with ScriptedServer(script=rule) as server, await BareClient.hello(server) as client:
        assert await client.ask_all(ENVELOPE, 4) == [250, 250, 550, 354]


async def test_a_script_can_change_on_the_way() -> None:
    async with (
        ScriptedServer(script={"NOOP": "451 busy"}) as server,
        await BareClient.hello(server) as client,
    ):
        assert await client.ask(b"NOOP\r\n") == b"451 busy"
        del server.script["NOOP"]
        assert await client.ask(b"NOOP\r\n") == b"250 2.0.0 Ok"


@in_virtual_time
async def test_a_reply_can_be_late() -> None:
    event = anyio.Event()
    async with (
        ScriptedServer(script={"RCPT": Act(late=event)}) as server,
        await BareClient.hello(server) as client,
    ):
        assert await client.ask(ENVELOPE) == b"250 2.1.0 Ok"
        with anyio.move_on_after(0.02) as scope:
            await client.ask()
        assert scope.cancelled_caught
        event.set()
        assert await client.ask() == b"250 2.1.5 Ok"


async def test_an_early_refusal_comes_while_the_body_is_under_way() -> None:
    async with (
        ScriptedServer(script={"BODY": Act("452 4.3.1 full", then="close")}) as server,
        await BareClient.hello(server) as client,
    ):
        await client.ask_all(ENVELOPE, 4)
        assert await client.ask(b"Subject: and so on\r\n") == b"452 4.3.1 full"
        with pytest.raises(anyio.EndOfStream):
            await client.ask()
    assert server.received == []


@in_virtual_time
@pytest.mark.parametrize(("answer", "reads_on"), [(STALL, True), (DEAF, False)])
async def test_a_stalled_server_reads_on_and_a_deaf_one_does_not(
    answer: Act, reads_on: bool
) -> None:
    async with (
        ScriptedServer(script={"NOOP": answer}, capacity=10) as server,
        await BareClient.hello(server) as client,
    ):
        await client.stream.send(b"NOOP\r\n")
        with anyio.move_on_after(0.02) as scope:
            await client.stream.send(b"x" * 1000)
        assert scope.cancelled_caught != reads_on


async def test_a_message_dropped_before_its_reply_was_accepted() -> None:
    async with (
        ScriptedServer(script={".": DROP}) as server,
        await BareClient.hello(server) as client,
    ):
        await client.ask_all(ENVELOPE, 4)
        with pytest.raises(anyio.EndOfStream):
            await client.ask(b"hello\r\n.\r\n")
    assert len(server.messages) == 1
    assert server.connection.end == "script"


async def test_bytes_can_be_injected_behind_the_reply_to_starttls(
    certificates: Certificates,
) -> None:
    reply = b"220 go\r\n250 injected\r\n"
    async with (
        ScriptedServer(starttls=certificates.server, script={"STARTTLS": reply}) as server,
        await BareClient.hello(server) as client,
    ):
        await client.stream.send(b"STARTTLS\r\n")
        assert await client.stream.receive() == reply


@pytest.mark.parametrize("answer", [DROP, RESET])
async def test_a_connection_can_be_refused(answer: Act) -> None:
    async with ScriptedServer(script={"CONNECT": [answer]}) as server:
        with pytest.raises(anyio.ConnectionFailed):
            await server.connectable.connect()
        await (await server.connectable.connect()).aclose()


@in_virtual_time
async def test_a_connection_can_be_never_made() -> None:
    async with ScriptedServer(script={"CONNECT": STALL}) as server:
        with anyio.move_on_after(0.01) as scope:
            await server.connectable.connect()
        assert scope.cancelled_caught


async def test_it_can_speak_unasked() -> None:
    async with ScriptedServer() as server, await BareClient.hello(server) as client:
        await server.push("421 4.4.2 too slow")
        assert await client.ask() == b"421 4.4.2 too slow"


@pytest.mark.parametrize(
    ("options", "command", "code"),
    [
        ({}, b"STARTTLS\r\n", 502),
        ({}, b"STARTTLS now\r\n", 501),
        ({"users": {}, "require_auth": True}, b"MAIL FROM:<a@x>\r\n", 530),
        ({"users": {}, "require_auth": True}, b"RSET\r\n", 250),
    ],
)
async def test_what_it_does_not_do_it_refuses(
    options: dict[str, Any], command: bytes, code: int
) -> None:
    async with (
        ScriptedServer(**options) as server,
        await BareClient.hello(server) as client,
    ):
        assert await client.ask_all(command, 1) == [code]


async def test_a_message_that_does_not_wait_for_its_354_is_a_violation() -> None:
    async with ScriptedServer(strict=False) as server, await BareClient.hello(server) as client:
        assert await client.ask_all(ENVELOPE + b"x\r\n.\r\n", 5) == [250, 250, 250, 354, 250]
    assert len(server.messages) == 1
    assert "without waiting" in server.violations[0]


async def test_a_server_that_is_held_greets_nobody_before_it_is_released() -> None:
    async with ScriptedServer() as server:
        server.hold()
        async with await server.connectable.connect() as stream:
            await anyio.wait_all_tasks_blocked()
            assert server.connection.replies
            await server.release()
            assert (await stream.receive()).startswith(b"220 ")


class Stop(BaseException):
    """What no server catches."""


async def die_of(error: BaseException) -> None:
    """Have a server die of this when it greets a client."""

    def rule(line: str) -> None:
        if line == "GREETING":
            raise error

    async with ScriptedServer(script=rule) as server, await server.connectable.connect() as stream:
        with suppress(anyio.EndOfStream):
            await stream.receive()


async def test_what_the_server_dies_of_is_raised_at_its_end() -> None:
    with pytest.raises(LookupError, match="its own"):
        await die_of(LookupError("its own"))


async def test_what_ends_the_task_group_of_the_server_is_raised_too() -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the group has no name on Python 3.10
        await die_of(Stop())
    group: Any = caught.value
    assert [type(error) for error in group.exceptions] == [Stop]


async def test_the_wire_can_be_half_closed() -> None:
    near, far = memory_pair()
    async with near, far:
        await Wire(near).send_eof()
        with pytest.raises(anyio.EndOfStream):
            await far.receive()
