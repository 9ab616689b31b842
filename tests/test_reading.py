"""How far a source is read, how often, and by whom: to its end, once, by nobody who has left."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import anyio
import pytest
from anyio import from_thread, to_thread
from anyio.lowlevel import checkpoint

from anysmtp import Delivery, Retry, SMTPDataError, SMTPNotSupported
from anysmtp.testing import ScriptedServer
from support.bench import RECIPIENTS
from support.clients import RAW, SENDER, deliver, on_memory
from test_sources import CHUNKING, LONG, Awaited, Pipe, at, pieces_in_time, pieces_of, stored

pytestmark = pytest.mark.anyio

FOR_LATER = {f"RCPT TO:<{RECIPIENTS[1]}>": ["451 4.3.0 later"]}


# As much as is written at once, and as a pipe takes.
LINES = (b"x" * 62 + b"\r\n") * 1024


@contextmanager
def pipe(
    given: bytes, *, is_blocking: bool = True, buffering: int = -1
) -> Generator[tuple[BinaryIO, int]]:
    """A pipe's end to be read, from which so much can be, and the one to be written."""
    reader, writer = os.pipe()
    os.set_blocking(reader, is_blocking)
    os.write(writer, given)
    try:
        with open(reader, "rb", buffering) as file:
            yield file, writer
    finally:
        os.close(writer)


@contextmanager
def opened_to_write(path: Path) -> Generator[BinaryIO]:
    with open(path, "wb", 0) as file:
        yield cast("BinaryIO", file)


class Mute(Pipe):
    """A file that has nothing yet after what it has given."""

    def readinto(self, buffer: Any) -> Any:
        return super().readinto(buffer) or None


class RewoundMute(io.BytesIO):
    def read1(self, size: int | None = -1, /) -> bytes:
        nothing: Any = None
        return super().read1(size) or nothing


@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_pipe_that_does_not_wait_has_not_come_to_its_end(buffering: int) -> None:
    delivery = Delivery()
    with pipe(RAW, is_blocking=False, buffering=buffering) as (file, _):
        async with ScriptedServer() as server, on_memory(server) as smtp:
            with pytest.raises(ValueError, match="non-blocking mode"):
                await deliver(smtp, file, delivery=delivery)
    assert delivery.outcome == "not_sent"
    assert not server.messages


def buffered_mute(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(Mute(data))


@pytest.mark.parametrize("make", [Mute, RewoundMute, buffered_mute])
async def test_nor_has_a_file_that_gives_none(make: Callable[[bytes], Any]) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match="non-blocking mode"):
            await deliver(smtp, make(RAW))
    assert not server.messages


async def test_a_pipe_that_gives_text_is_an_error() -> None:
    class Text(Awaited):
        async def read(self, size: int) -> Any:
            return (await super().read(size)).decode()

    given: Any = Text(RAW)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(TypeError, match="binary mode"):
            await deliver(smtp, given)
    assert not server.messages


def buffered(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(Pipe(data))


class Again:
    """An iterable that is not its own iterator, and goes on where it was."""

    def __init__(self, data: bytes) -> None:
        self._pieces = pieces_of(data)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces


@pytest.mark.parametrize("make", [io.BytesIO, buffered, Pipe, Awaited, Again])
@pytest.mark.parametrize("chunking", ["off", "always"])
async def test_a_source_that_is_resumed_at_its_end_is_no_message(
    make: Callable[[bytes], Any], chunking: str
) -> None:
    delivery, source = Delivery(), make(RAW)
    async with (
        ScriptedServer(keywords=CHUNKING, script=FOR_LATER) as server,
        on_memory(server, chunking=chunking) as smtp,
    ):
        await deliver(smtp, source, delivery=delivery)
        with pytest.raises(ValueError, match="the message is empty"):
            await deliver(smtp, source, delivery=delivery)
        await deliver(smtp)
    assert delivery.not_sent == (RECIPIENTS[1],)
    assert [message.raw for message in server.messages] == [RAW, RAW]


@pytest.mark.parametrize("make", [pieces_of, pieces_in_time])
@pytest.mark.parametrize("binary", [False, True])
async def test_an_iterator_without_an_octet_is_no_message(
    make: Callable[[bytes], Any], binary: bool
) -> None:
    async with ScriptedServer(keywords=CHUNKING) as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match="the message is empty"):
            await deliver(smtp, make(b""), binary=binary)
    assert not server.messages


async def test_what_may_go_on_where_it_was_is_not_sent_again() -> None:
    script = {".": ["451 4.3.0 later"]}
    async with (
        ScriptedServer(script=script) as server,
        on_memory(server, retry=Retry(2, base=0)) as smtp,
    ):
        with pytest.raises(SMTPDataError):
            await deliver(smtp, Again(LONG))
    assert server.connection.verbs.count("MAIL") == 1


class FromTheStart:
    """Iterators that begin anew whenever they are asked for an iterator."""

    def __init__(self) -> None:
        self._left = 0

    def __iter__(self) -> FromTheStart:
        self._left = 40
        return self

    def __aiter__(self) -> FromTheStart:
        return self.__iter__()

    def step(self) -> bytes:
        self._left -= 1
        return b"" if self._left < 0 else b"line\r\n" * 10_000


class Sync(FromTheStart):
    __aiter__: Any = None

    def __next__(self) -> bytes:
        if piece := self.step():
            return piece
        raise StopIteration


class InTime(FromTheStart):
    __iter__: Any = None

    def __aiter__(self) -> InTime:
        self._left = 40
        return self

    async def __anext__(self) -> bytes:
        if piece := self.step():
            return piece
        raise StopAsyncIteration


@pytest.mark.parametrize("make", [Sync, InTime])
async def test_an_iterator_is_asked_for_once(make: Callable[[], Any]) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp, make())
    assert server.messages[0].raw == b"line\r\n" * 400_000


def nothing_for_ever(asked: list[None]) -> Iterator[bytes]:
    while True:
        asked.append(None)
        yield b""


async def nothing_in_time(asked: list[None]) -> AsyncIterator[bytes]:
    for piece in nothing_for_ever(asked):
        yield piece


@pytest.mark.parametrize("make", [nothing_for_ever, nothing_in_time])
async def test_a_source_that_gives_nothing_for_ever_lets_others_run(
    make: Callable[[list[None]], Any],
) -> None:
    asked: list[None] = []
    async with ScriptedServer() as server, on_memory(server) as smtp:
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                while not asked:
                    await checkpoint()
                group.cancel_scope.cancel()

            group.start_soon(stop)
            await deliver(smtp, make(asked))
        await deliver(smtp)
    assert 100 < len(asked) < 1000


async def test_a_silent_pipe_is_left_by_whoever_is_cancelled() -> None:
    delivery = Delivery()
    with pipe(LINES) as (file, writer):
        async with ScriptedServer() as server, on_memory(server) as smtp:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: deliver(smtp, file, delivery=delivery))
                while not delivery.bytes_sent:
                    await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            assert delivery.outcome == "not_sent"
            await deliver(smtp)
        assert not file.closed
        # The thread that is left behind takes this.
        os.write(writer, b"late")
    assert [message.raw for message in server.messages] == [RAW]


async def test_whoever_is_cancelled_does_not_read_a_large_file_to_its_end() -> None:
    reads: list[None] = []
    scope = anyio.CancelScope()

    class File(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            reads.append(None)
            if len(reads) == 10:
                from_thread.run_sync(scope.cancel)
            return super().read1(size)

    async with ScriptedServer() as server, on_memory(server) as smtp:
        with scope:
            await deliver(smtp, File(LONG * 10))
        assert not server.connections
    assert len(reads) < 13


async def test_a_refusal_is_heard_while_a_pipe_is_silent() -> None:
    script = {"BODY": ["552 5.3.4 too big"]}
    with pipe(LINES) as (file, writer):
        async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
            with pytest.raises(SMTPDataError, match="552"):
                await deliver(smtp, file)
        os.write(writer, b"late")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def test_a_named_pipe_is_opened_once(fifo: Path) -> None:
    opened: list[int] = []

    def write() -> None:
        opened.append(1)
        with opened_to_write(fifo) as file:
            file.write(RAW)

    async with (
        ScriptedServer(keywords=("SIZE 1000",)) as server,
        on_memory(server) as smtp,
        anyio.create_task_group() as group,
    ):
        group.start_soon(to_thread.run_sync, write)
        await deliver(smtp, fifo)
    assert server.messages[0].raw == RAW
    assert server.connection.commands[1] == f"MAIL FROM:<{SENDER}>\r\n".encode()


def write_until_it_is_closed(fifo: Path) -> None:
    with opened_to_write(fifo) as file, suppress(BrokenPipeError):
        for _ in range(1000):
            file.write(LINES)
        raise AssertionError("somebody reads all of it")


async def test_whoever_opens_a_named_pipe_may_leave_before_it_has_a_writer(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def opening(path: str, mode: str) -> Any:
        begun.set()
        return open(path, mode)

    monkeypatch.setattr("anysmtp._sources.open", opening, raising=False)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        async with anyio.create_task_group() as group:
            group.start_soon(deliver, smtp, fifo)
            assert await to_thread.run_sync(begun.wait, 10)
            group.cancel_scope.cancel()
        # The thread that is left behind finds a writer, and closes its own end.
        await to_thread.run_sync(write_until_it_is_closed, fifo)


@pytest.mark.parametrize("make", [pieces_of, buffered, io.BytesIO, bytes])
@pytest.mark.parametrize("long", [False, True])
async def test_a_header_section_in_utf8_is_noticed_in_binary_messages_too(
    make: Callable[[bytes], Any], long: bool
) -> None:
    fields = [b"X: " + b"\r\n ".join([b"a" * 900] * 400) + b"\r\n"] if long else []
    raw = b"".join([*fields, "Subject: ä\r\n\r\nx\r\n".encode()])
    async with ScriptedServer(keywords=CHUNKING) as server, on_memory(server) as smtp:
        for binary in (False, True):
            with pytest.raises(SMTPNotSupported, match="header section is not ASCII"):
                await deliver(smtp, make(raw), binary=binary)
        await deliver(smtp)
    assert [message.raw for message in server.messages] == [RAW]


async def test_a_file_of_trio_is_sent(anyio_backend_name: str, tmp_path: Path) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("trio's files are for trio")
    import trio

    file = await trio.open_file(at(tmp_path / "a.eml", LONG), "rb")
    async with file, ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp, file)
    assert server.messages[0].raw == stored(LONG)
