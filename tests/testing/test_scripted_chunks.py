"""Chunks and limits: the scripted server answers as Postfix does, and Postfix is asked too."""

from __future__ import annotations

import anyio
import pytest

from anysmtp.testing import DEFAULT_KEYWORDS, Act, ScriptedServer
from anysmtp.testing._script import MISREAD
from support.bare import HELLO, BareClient
from support.postfix import Postfix

pytestmark = pytest.mark.anyio

ELSEWHERE = b"RCPT TO:<b@y.test>\r\n"
CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")
MAIL = b"MAIL FROM:<a@x.test>\r\n"
RCPT = b"RCPT TO:<b@example.test>\r\n"
UNKNOWN = b"RCPT TO:<unknown@example.test>\r\n"
SCRIPT = {"RCPT TO:<unknown@": "550 5.1.1 no such user"}

# What is written at once, and the codes that come back.
CASES: dict[str, list[tuple[bytes, list[int]]]] = {
    "a message in one chunk": [
        (MAIL + RCPT + b"BDAT 5 LAST\r\nabc\r\nNOOP\r\n", [250, 250, 250, 250]),
        (MAIL, [250]),
    ],
    "several chunks": [
        (MAIL + RCPT + b"BDAT 3\r\na\r\n", [250, 250, 250]),
        (b"BDAT 4\r\nb\r\ncBDAT 2 LAST\r\n\r\n" + MAIL, [250, 250, 250]),
    ],
    "an empty last chunk": [
        (MAIL + RCPT + b"BDAT 3\r\na\r\nBDAT 0 LAST\r\n" + MAIL, [250, 250, 250, 250, 250]),
    ],
    "a chunk for nobody": [
        (MAIL + b"BDAT 6 LAST\r\nNOOP\r\nNOOP\r\n", [250, 554, 250]),
        (MAIL, [250]),
    ],
    "chunks for nobody": [
        (MAIL + b"BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\n" + MAIL, [250, 554, 551, 250]),
    ],
    "all recipients refused": [
        (MAIL + UNKNOWN + b"BDAT 6 LAST\r\nNOOP\r\n" + MAIL, [250, 550, 554, 250]),
    ],
    "a chunk without MAIL": [
        (b"BDAT 6 LAST\r\nNOOP\r\n" + MAIL, [503, 250]),
    ],
    "chunks without MAIL": [
        (b"BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\n" + MAIL, [503, 551, 250]),
    ],
    "a chunk behind the last one": [
        (MAIL + RCPT + b"BDAT 3 LAST\r\na\r\nBDAT 6 LAST\r\nNOOP\r\n", [250, 250, 250, 503]),
        (MAIL, [250]),
    ],
    "other commands behind a chunk": [
        (MAIL + RCPT + b"BDAT 3\r\na\r\nDATA\r\n", [250, 250, 250, 503]),
        (RCPT + MAIL + b"BDAT 0 LAST\r\n", [503, 503, 250]),
    ],
    "a transaction that is reset": [
        (MAIL + RCPT + b"BDAT 3\r\na\r\nRSET\r\n" + MAIL, [250, 250, 250, 250, 250]),
    ],
    "a chunk without its size": [(MAIL + RCPT + b"BDAT x\r\n", [250, 250, 521])],
}


async def answers(client: BareClient, case: str) -> list[list[int]]:
    return [await client.ask_all(flight, len(codes)) for flight, codes in CASES[case]]


@pytest.mark.parametrize("case", CASES)
async def test_it_takes_chunks_as_postfix_does(case: str) -> None:
    # Some of these are what no client should do.
    server = ScriptedServer(keywords=CHUNKING, script=SCRIPT, strict=False)
    async with server, await BareClient.hello(server) as client:
        assert await answers(client, case) == [codes for _, codes in CASES[case]]


@pytest.mark.parametrize("case", CASES)
async def test_so_does_postfix(case: str, postfix: Postfix) -> None:
    stream = await anyio.connect_tcp(postfix.host, postfix.ports["plain"])
    async with BareClient(stream) as client:
        await client.ask()
        await client.ask(HELLO)
        assert await answers(client, case) == [codes for _, codes in CASES[case]]


@pytest.mark.parametrize("chunks", [[b"a\r\n.\r\nb\r\n"], [b"a\r", b"\n.\r\n", b"b\r\n"]])
async def test_chunks_are_one_message_as_it_is(chunks: list[bytes]) -> None:
    async with (
        ScriptedServer(keywords=CHUNKING) as server,
        await BareClient.hello(server) as client,
    ):
        await client.ask_all(MAIL + RCPT, 2)
        for number, chunk in enumerate(chunks, 1):
            last = b" LAST" * (number == len(chunks))
            await client.ask(b"BDAT %d%b\r\n%b" % (len(chunk), last, chunk))
    (message,) = server.messages
    assert message.raw == b"a\r\n.\r\nb\r\n"
    assert server.deliveries("Subject") == {("", "b@example.test"): 1}


async def test_the_last_chunk_is_the_end_of_a_message_for_the_script() -> None:
    async with (
        ScriptedServer(keywords=CHUNKING, script={".": ["550 5.7.1 spam"]}) as server,
        await BareClient.hello(server) as client,
    ):
        flight = b"RSET\r\n" + MAIL + RCPT + b"BDAT 3 LAST\r\na\r\n"
        assert await client.ask_all(flight, 4) == [250, 250, 250, 550]
        assert await client.ask_all(MAIL, 1) == [503]
        assert await client.ask_all(flight, 4) == [250, 250, 250, 250]
    assert [message.accepted for message in server.received] == [False, True]


async def test_behind_a_refused_chunk_the_others_are_read_and_refused() -> None:
    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT 6": ["452 4.3.1 full"]}) as server,
        await BareClient.hello(server) as client,
    ):
        chunks = b"BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\n"
        assert await client.ask_all(MAIL + RCPT + chunks, 4) == [250, 250, 452, 551]
        assert await client.ask_all(MAIL, 1) == [250]
    assert server.received == []


async def test_of_lmtp_each_recipient_has_a_reply_to_the_last_chunk() -> None:
    script = {". <c@example.test>": "452 4.2.2 full"}
    async with (
        ScriptedServer(keywords=CHUNKING, script=script, lmtp=True) as server,
        BareClient(await server.connectable.connect()) as client,
    ):
        await client.ask()
        await client.ask(b"LHLO client.example.test\r\n")
        flight = MAIL + RCPT + RCPT.replace(b"b@", b"c@") + b"BDAT 3 LAST\r\na\r\n"
        assert await client.ask_all(flight, 5) == [250, 250, 250, 250, 452]
    assert server.messages[0].accepted_for == ["b@example.test"]


async def test_a_chunk_can_be_read_as_commands() -> None:
    """Exim's way with one that is too large."""
    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": [MISREAD]}) as server,
        await BareClient.hello(server) as client,
    ):
        chunk = b"Subject: x\r\n\r\nNOOP\r\n"
        flight = MAIL + RCPT + b"BDAT %d LAST\r\n" % len(chunk) + chunk + b"RSET\r\n"
        assert await client.ask_all(flight, 7) == [250, 250, 552, 500, 500, 250, 250]
    assert server.received == []


@pytest.mark.parametrize(
    ("chunk", "violation"),
    [
        (b"BDAT 4 LAST\r\na\nb\n", "a bare CR or LF"),
        (b"BDAT 4 LAST\r\n\xc3\xa9\r\n", "BODY=8BITMIME"),
    ],
)
async def test_what_a_chunk_must_not_have_is_a_violation(chunk: bytes, violation: str) -> None:
    server = ScriptedServer(keywords=CHUNKING, strict=False)
    async with server, await BareClient.hello(server) as client:
        await client.ask_all(MAIL + RCPT + chunk, 3)
    assert len(server.violations) == 1
    assert violation in server.violations[0]


@pytest.mark.parametrize(
    ("keywords", "violation"),
    [(["CHUNKING"], "without waiting"), (["PIPELINING"], "CHUNKING is not offered")],
)
async def test_chunks_that_were_not_offered_or_do_not_wait_are_a_violation(
    keywords: list[str], violation: str
) -> None:
    server = ScriptedServer(keywords=keywords, strict=False)
    async with server, await BareClient.hello(server) as client:
        for command in (MAIL, RCPT):
            await client.ask(command)
        await client.ask_all(b"BDAT 3 LAST\r\na\r\nRSET\r\n", 2)
    assert any(violation in found for found in server.violations)


async def test_a_connection_too_many_is_refused_and_counted() -> None:
    async with ScriptedServer(max_connections=1) as server:
        async with await BareClient.hello(server):
            async with BareClient(await server.connectable.connect()) as other:
                assert await other.ask() == b"421 4.7.0 Too many connections"
                with pytest.raises(anyio.EndOfStream):
                    await other.ask()
            assert server.refused == 1
        await server.wait_closed()
        async with await BareClient.hello(server):
            assert server.refused == 1
    assert [record.end for record in server.connections][:2] == ["eof", "script"]
    assert len(server.connections) == 3


@pytest.mark.parametrize(
    ("limits", "flight", "codes"),
    [
        ("MAILMAX=2", [MAIL, b"RSET\r\n", MAIL, b"RSET\r\n", MAIL], [250, 250, 250, 250, 421]),
        ("RCPTMAX=1", [MAIL, RCPT, RCPT, b"RSET\r\n", MAIL, RCPT], [250, 250, 452, 250, 250, 250]),
        (
            "MAILMAX=9 RCPTDOMAINMAX=1",
            [
                MAIL,
                RCPT,
                b"RCPT TO:<b@y.test>\r\n",
                RCPT,
                b"RSET\r\n",
                MAIL,
                b"RCPT TO:<b@y.test>\r\n",
            ],
            [250, 250, 452, 250, 250, 250, 452],
        ),
    ],
)
async def test_what_it_announces_as_its_limits_it_keeps(
    limits: str, flight: list[bytes], codes: list[int]
) -> None:
    async with (
        ScriptedServer(keywords=["PIPELINING", f"LIMITS {limits}"]) as server,
        await BareClient.hello(server) as client,
    ):
        assert await client.ask_all(b"".join(flight), len(codes)) == codes


async def test_it_can_hold_back_what_it_has_to_say() -> None:
    async with ScriptedServer() as server, await BareClient.hello(server) as client:
        server.hold()
        await client.stream.send(b"RSET\r\n")
        await client.stream.send(b"NOOP\r\n")
        await anyio.wait_all_tasks_blocked()
        assert server.commands[1:] == [b"RSET\r\n", b"NOOP\r\n"]
        await server.release()
        assert await client.stream.receive() == b"250 2.0.0 Ok\r\n" * 2


async def test_the_judge_knows_who_has_which_message_and_how_often() -> None:
    async with (
        ScriptedServer(script={".": Act("451 later")}) as server,
        await BareClient.hello(server) as client,
    ):
        for _ in range(3):
            await client.ask_all(b"RSET\r\n" + MAIL + RCPT + UNKNOWN + b"DATA\r\n", 5)
            await client.ask(b"Subject:\r\n one\r\n\r\nSubject: two\r\n.\r\n")
            server.script.clear()
    assert server.deliveries() == {("one", "b@example.test"): 2, ("one", "unknown@example.test"): 2}
    assert server.writes[1].startswith(b"RSET\r\nMAIL")
