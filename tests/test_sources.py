"""Raw messages that are not in memory: paths, files, iterables of bytes."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import AsyncIterator, Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import pytest

from anysmtp import (
    Delivery,
    Envelope,
    Limits,
    Mail,
    Retry,
    SMTPDataError,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, Act, ScriptedServer
from support.bench import RECIPIENTS
from support.clients import RAW, SENDER, connection_to, deliver, on_memory

pytestmark = pytest.mark.anyio

HEAD = b"Subject: big\r\nMessage-ID: <1@x.test>\r\n\r\n"
SHORT = HEAD + b".dot\r\nlast"
LONG = HEAD + b"\r\n".join([b".%07d " % n + b"x" * 60 for n in range(30_000)])
CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING", "BINARYMIME")
ENVELOPE = Envelope(sender=SENDER, recipients=RECIPIENTS)


def pieces_of(data: bytes, size: int = 10_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def pieces_in_time(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for piece in pieces_of(data, size):
        await anyio.lowlevel.checkpoint()
        yield piece


class Pipe(io.RawIOBase):
    """A file that cannot be read twice."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


class Remote(Pipe):
    """A file that can be rewound, and gives less than it is asked for."""

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(memoryview(buffer)[:60_000])


class Awaited:
    """A file of which nothing is known, but that it is read with ``await``."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, size: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return self._file.read(size)


def mapped(data: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


def at(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


SOURCES: dict[str, Callable[[bytes, Path], Any]] = {
    "a path": lambda data, folder: at(folder / "a.eml", data),
    "an anyio path": lambda data, folder: anyio.Path(at(folder / "a.eml", data)),
    "a file": lambda data, folder: io.BytesIO(data),
    "a pipe": lambda data, folder: Pipe(data),
    "a buffered pipe": lambda data, folder: io.BufferedReader(Pipe(data)),
    "a file of short reads": lambda data, folder: Remote(data),
    "a mapped file": lambda data, folder: mapped(data),
    "an async file": lambda data, folder: anyio.wrap_file(io.BytesIO(data)),
    "what is read with await": lambda data, folder: Awaited(data),
    "a list": lambda data, folder: [*pieces_of(data)],
    "a tuple": lambda data, folder: (data[:100], data[100:]),
    "of other octets": lambda data, folder: [bytearray(data), memoryview(b"")],
    "an iterator": lambda data, folder: pieces_of(data),
    "an async iterator": lambda data, folder: pieces_in_time(data),
}
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
one_shot = pytest.mark.parametrize("source", [pieces_of, pieces_in_time, Pipe])


def stored(data: bytes) -> bytes:
    return data if data.endswith(b"\r\n") else data + b"\r\n"


@each_source
@pytest.mark.parametrize("data", [SHORT, LONG, LONG.replace(b"\r\n", b"\n")])
@pytest.mark.parametrize("options", [{}, {"chunking": "always"}, {"require_all": True}])
async def test_every_source_is_sent(
    source: Callable[..., Any], data: bytes, options: dict[str, Any], tmp_path: Path
) -> None:
    delivery = Delivery()
    async with (
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, **options) as smtp,
    ):
        receipt = await deliver(smtp, source(data, tmp_path), delivery=delivery)
        await deliver(smtp)
    expected = stored(data if b"\r\n" in data else data.replace(b"\n", b"\r\n"))
    assert server.messages[0].raw == expected
    assert server.connection.end == "quit"
    assert len(server.connections) == 1
    assert [*receipt.accepted] == [*RECIPIENTS]
    assert delivery.bytes_sent == len(expected)


@each_source
async def test_send_many_and_the_command_layer_take_every_source(
    source: Callable[..., Any], tmp_path: Path
) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        mails = [Mail(source(LONG, tmp_path), ENVELOPE, key=1), Mail(SHORT, ENVELOPE, key=2)]
        async with smtp.send_many(mails, ordered=True) as deliveries:
            assert [(d.key, d.outcome) async for d in deliveries] == [
                (1, "accepted"),
                (2, "accepted"),
            ]
        async with await connection_to(server) as conn:
            await conn.ehlo()
            await conn.mail(SENDER)
            await conn.rcpt(RECIPIENTS[0])
            await conn.data(source(LONG, tmp_path))
    assert [message.raw for message in server.messages] == [
        stored(LONG),
        stored(SHORT),
        stored(LONG),
    ]


@pytest.mark.parametrize("name", ["a path", "a file", "an async file", "a list"])
async def test_of_what_can_be_read_twice_all_is_known_before_it_is_sent(
    name: str, tmp_path: Path
) -> None:
    umlauts = LONG.replace(b"xx", b"\xe4\xe4")
    script = {"MAIL": ["550 5.7.1 no"]}
    async with (
        ScriptedServer(script=script, keywords=("SIZE 3000000", "8BITMIME")) as server,
        on_memory(server) as smtp,
    ):
        with pytest.raises(SMTPSenderRefused):
            await deliver(smtp, SOURCES[name](umlauts, tmp_path))
        with pytest.raises(SMTPMessageTooLarge):
            await deliver(smtp, SOURCES[name](umlauts * 2, tmp_path))
        with pytest.raises(ValueError, match="more than 998 octets"):
            await deliver(smtp, SOURCES[name](LONG + b"y" * 999, tmp_path))
    assert server.connection.commands[1].decode() == (
        f"MAIL FROM:<{SENDER}> SIZE={len(stored(umlauts))} BODY=8BITMIME\r\n"
    )
    assert not server.messages


async def test_a_file_of_the_caller_is_sent_from_where_it_stands_and_left_open() -> None:
    file = io.BytesIO(b"something else\r\n" + LONG)
    file.seek(16)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp, file)
    assert server.messages[0].raw == stored(LONG)
    assert not file.closed


@one_shot
@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"MAIL": ["451 4.7.1 later"]}, SMTPSenderRefused),
        ({"DATA": ["451 4.7.1 later"]}, SMTPDataError),
    ],
)
async def test_what_was_not_read_can_be_sent_again(
    source: Callable[[bytes], Any], script: Any, error: type[Exception]
) -> None:
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, retry=Retry(2, base=0)) as smtp,
    ):
        await deliver(smtp, source(LONG))
    assert server.messages[0].raw == stored(LONG)


@one_shot
async def test_what_was_read_is_not_sent_again(source: Callable[[bytes], Any]) -> None:
    async with (
        ScriptedServer(script={".": ["451 4.3.0 later"]}) as server,
        on_memory(server, retry=Retry(2, base=0)) as smtp,
    ):
        with pytest.raises(SMTPDataError):
            await deliver(smtp, source(LONG))
    assert server.connection.verbs.count("MAIL") == 1


async def test_a_file_is_read_again() -> None:
    async with (
        ScriptedServer(script={".": ["451 4.3.0 later"]}) as server,
        on_memory(server, retry=Retry(2, base=0)) as smtp,
    ):
        await deliver(smtp, io.BytesIO(LONG))
        await deliver(smtp, [LONG])
    assert [message.raw for message in server.messages] == [stored(LONG)] * 2


@one_shot
async def test_a_reused_connection_that_was_dead_costs_nothing(
    source: Callable[[bytes], Any],
) -> None:
    script = {"MAIL": [Act(), DROP]}
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        await deliver(smtp)
        await deliver(smtp, source(LONG))
    assert server.messages[-1].raw == stored(LONG)
    assert len(server.connections) == 2


async def test_a_message_that_can_be_read_once_needs_one_transaction() -> None:
    keywords = (*DEFAULT_KEYWORDS, "LIMITS RCPTMAX=1")
    async with ScriptedServer(keywords=keywords) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match="the message can be read only once"):
            await deliver(smtp, pieces_of(LONG))
        await deliver(smtp, [LONG])
    assert len(server.messages) == 2


class Broken(Exception):
    pass


def breaks(data: bytes) -> Iterator[bytes]:
    yield from pieces_of(data)
    raise Broken


async def breaks_in_time(data: bytes) -> AsyncIterator[bytes]:
    async for piece in pieces_in_time(data):
        yield piece
    raise Broken


each_breaking = pytest.mark.parametrize("source", [breaks, breaks_in_time])


@each_breaking
@pytest.mark.parametrize("data", [b"", SHORT, LONG])
async def test_a_source_that_fails_ends_the_connection_and_nobody_has_the_message(
    source: Callable[[bytes], Any], data: bytes
) -> None:
    delivery = Delivery()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(Broken) as caught:
            await deliver(smtp, source(data), delivery=delivery)
        assert caught.value.__context__ is None
        assert delivery.outcome == "not_sent"
        assert delivery.exception() is caught.value
        await deliver(smtp)
    first, second = server.connections
    assert first.end != "quit"
    assert [message.raw for message in server.messages] == [RAW]
    assert second.end == "quit"


@each_breaking
@pytest.mark.parametrize("data", [b"", SHORT, LONG])
async def test_with_bdat_it_is_reset_and_the_connection_goes_on(
    source: Callable[[bytes], Any], data: bytes
) -> None:
    delivery = Delivery()
    async with (
        ScriptedServer(keywords=CHUNKING) as server,
        on_memory(server, chunking="always") as smtp,
    ):
        with pytest.raises(Broken):
            await deliver(smtp, source(data), delivery=delivery)
        assert delivery.outcome == "not_sent"
        assert server.connection.verbs[-1] == "RSET"
        await deliver(smtp)
    assert len(server.messages) == 1
    assert server.connection.end == "quit"


@each_breaking
async def test_by_hand_it_is_the_callers_and_ends_the_connection(
    source: Callable[[bytes], Any],
) -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        await conn.ehlo()
        await conn.mail(SENDER)
        await conn.rcpt(RECIPIENTS[0])
        with pytest.raises(Broken) as caught:
            await conn.data(source(LONG))
        assert caught.value.__context__ is None
        assert conn.is_closed
    assert server.messages == []


@each_breaking
async def test_in_a_stream_of_mails_it_is_the_deliverys(source: Callable[[bytes], Any]) -> None:
    mails = [Mail(source(LONG), ENVELOPE, key=1), Mail(SHORT, ENVELOPE, key=2)]
    async with (
        ScriptedServer() as server,
        on_memory(server, limits=Limits(max_connections=1)) as smtp,
        smtp.send_many(mails, ordered=True) as deliveries,
    ):
        first, second = [delivery async for delivery in deliveries]
    assert isinstance(first.exception(), Broken)
    assert (first.outcome, second.outcome) == ("not_sent", "accepted")


async def test_a_chunk_that_is_refused_ends_the_message() -> None:
    delivery = Delivery()
    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": [Act(), "552 5.3.4 too much"]}) as server,
        on_memory(server, chunking="always") as smtp,
    ):
        with pytest.raises(SMTPDataError, match="552"):
            await deliver(smtp, pieces_of(LONG), delivery=delivery)
        assert delivery.outcome == "refused"
    assert server.connection.verbs.count("BDAT") == 2


@pytest.mark.parametrize(
    ("data", "keywords", "error"),
    [
        (LONG + b"\xe4", (), SMTPNotSupported),
        (b"Subject: \xc3\xa4\r\n\r\n" + LONG, ("8BITMIME", "SMTPUTF8"), SMTPNotSupported),
        (LONG + b"y" * 999, (), ValueError),
    ],
    ids=["8bit", "header", "line"],
)
async def test_what_is_seen_on_the_way_is_not_sent(
    data: bytes, keywords: tuple[str, ...], error: type[Exception]
) -> None:
    delivery = Delivery()
    async with ScriptedServer(keywords=keywords) as server, on_memory(server) as smtp:
        with pytest.raises(error):
            await deliver(smtp, pieces_of(data), delivery=delivery)
    assert delivery.outcome == "not_sent"
    assert not server.messages


async def test_octets_above_127_are_declared_where_they_may_come() -> None:
    async with ScriptedServer(keywords=("8BITMIME",)) as server, on_memory(server) as smtp:
        await deliver(smtp, pieces_of(LONG + b"\xe4"))
        await deliver(smtp, pieces_of(LONG), mail_options=["BODY=7BIT"])
    mails = [line.decode() for line in server.connection.commands if line.startswith(b"MAIL")]
    assert mails == [
        f"MAIL FROM:<{SENDER}> BODY=8BITMIME\r\n",
        f"MAIL FROM:<{SENDER}> BODY=7BIT\r\n",
    ]


@each_source
async def test_binary_is_sent_as_it_is(source: Callable[..., Any], tmp_path: Path) -> None:
    data = HEAD + os.urandom(1_500_000)
    async with ScriptedServer(keywords=CHUNKING) as server, on_memory(server) as smtp:
        await deliver(smtp, source(data, tmp_path), binary=True)
    assert server.messages[0].raw == data


async def test_a_file_that_changes_meanwhile_is_not_sent(tmp_path: Path) -> None:
    path = at(tmp_path / "a.eml", LONG)
    asked = anyio.Event()
    delivery = Delivery()
    async with (
        ScriptedServer(script={"DATA": Act(late=asked)}) as server,
        on_memory(server) as smtp,
        anyio.create_task_group() as group,
    ):

        async def change() -> None:
            while not server.connections or "DATA" not in server.connection.verbs:
                await anyio.wait_all_tasks_blocked()
            path.write_bytes(LONG + b"more")
            asked.set()

        group.start_soon(change)
        with pytest.raises(RuntimeError, match="the file was changed while it was sent"):
            await deliver(smtp, path, delivery=delivery)
    assert delivery.outcome == "not_sent"
    assert not server.messages


async def test_the_connection_that_is_lost_on_the_way_is_the_error() -> None:
    delivery = Delivery()
    async with ScriptedServer(script={"BODY": DROP}) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPServerDisconnected):
            await deliver(smtp, pieces_of(LONG), delivery=delivery)
    assert delivery.outcome == "not_sent"


async def test_a_generator_is_closed_where_it_was_left() -> None:
    closed: list[str] = []

    def source() -> Iterator[bytes]:
        try:
            yield from pieces_of(LONG)
        finally:
            closed.append("sync")

    async def in_time() -> AsyncIterator[bytes]:
        try:
            for piece in pieces_of(LONG):
                await anyio.lowlevel.checkpoint()
                yield piece
        finally:
            closed.append("async")

    for each in (source, in_time):
        async with ScriptedServer(script={"BODY": DROP}) as server, on_memory(server) as smtp:
            with pytest.raises(SMTPServerDisconnected):
                await deliver(smtp, each())
    assert closed == ["sync", "async"]


async def test_a_source_is_not_touched_before_the_server_waits_for_it() -> None:
    touched: list[None] = []

    def source() -> Iterator[bytes]:
        touched.append(None)
        yield SHORT

    async with (
        ScriptedServer(script={"DATA": ["550 5.7.1 no", Act()]}) as server,
        on_memory(server) as smtp,
    ):
        given = source()
        with pytest.raises(SMTPDataError):
            await deliver(smtp, given)
        assert not touched
        await deliver(smtp, given)
        with pytest.raises(ValueError, match="the message was read already"):
            await deliver(smtp, given)


def spent() -> Iterator[bytes]:
    source = pieces_of(SHORT)
    list(source)
    return source


def closed_file() -> io.BytesIO:
    file = io.BytesIO(SHORT)
    file.close()
    return file


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (None, TypeError, "not NoneType"),
        (1, TypeError, "not int"),
        ({}, TypeError, "not dict"),
        (EmailMessage(), TypeError, "send_message takes message objects"),
        (io.StringIO("x"), TypeError, "binary mode"),
        (Path("/nowhere/at/all"), FileNotFoundError, "nowhere"),
        (spent(), ValueError, "read already"),
        (closed_file(), ValueError, "closed"),
        (anyio.wrap_file(io.StringIO("x")), TypeError, "binary mode"),
        ([SHORT, "text"], TypeError, "made of bytes, not of str"),
        ((SHORT, 1), TypeError, "made of bytes, not of int"),
        (b"", ValueError, "the message is empty"),
        ("", ValueError, "the message is empty"),
        ([], ValueError, "the message is empty"),
        ([b"", b""], ValueError, "the message is empty"),
        (io.BytesIO(), ValueError, "the message is empty"),
    ],
)
async def test_what_is_no_message_is_an_error_before_anything_is_sent(
    message: Any, error: type[Exception], text: str
) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(error, match=text):
            await deliver(smtp, message)
    assert not server.connections


@pytest.mark.parametrize("piece", ["text", 1, None])
async def test_pieces_that_are_no_octets_are_an_error_of_the_source(piece: Any) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(TypeError, match="a message is made of bytes"):
            await deliver(smtp, iter([SHORT, piece]))
    assert not server.messages
