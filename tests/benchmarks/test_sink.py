"""The benchmark's own server: it answers as a server does, however the bytes come in."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from benchmarks.sink import Counts, SinkProtocol

ENVELOPE = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"
MESSAGE = b"Subject: hello\r\n\r\n..\r\nhello\r\n"


class Connection:
    """A connection that was greeted, on a transport that keeps what is written."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.writes: list[bytes] = []
        self.is_aborted = False
        self.is_closed = False
        self._protocol = SinkProtocol(self.counts)
        self._protocol.connection_made(cast("Any", self))
        self.ask(b"EHLO client\r\n")
        self.counts.reads = self.counts.writes = 0

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def ask(self, *data: bytes) -> list[int]:
        """The codes of the replies to these reads."""
        self.writes.clear()
        for piece in data:
            self._protocol.data_received(piece)
        return [int(line[:3]) for line in b"".join(self.writes).splitlines() if line[3:4] == b" "]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[place : place + size] for place in range(0, len(data), size)]


def test_what_comes_in_one_read_is_answered_in_one_write() -> None:
    connection = Connection()
    assert connection.ask(ENVELOPE + b"DATA\r\n") == [250, 250, 354]
    following = b"RSET\r\n" + ENVELOPE + b"DATA\r\n"
    assert connection.ask(MESSAGE + b".\r\n" + following) == [250, 250, 250, 250, 354]
    assert connection.ask(MESSAGE + b".\r\n") == [250]
    counts = connection.counts
    assert (counts.reads, counts.writes) == (3, 3)
    assert (counts.transactions, counts.recipients, counts.messages) == (2, 2, 2)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("message", [b"", MESSAGE, b".." + MESSAGE, b"\r\n.\r\r\n..\r\n"])
def test_the_end_of_a_message_is_found_in_any_pieces(message: bytes, size: int) -> None:
    connection = Connection()
    connection.ask(ENVELOPE + b"DATA\r\n")
    assert connection.ask(*pieces(message + b".\r\nNOOP\r\n", size)) == [250, 250]
    assert connection.counts.messages == 1


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_chunks_are_counted_and_not_looked_at(size: int) -> None:
    connection = Connection()
    body = b"QUIT\r\n.\r\n"
    two = b"BDAT 9\r\n" + body + b"BDAT 9 LAST\r\n" + body
    assert connection.ask(*pieces((ENVELOPE + two) * 3, size)) == [250, 250, 250, 250] * 3
    assert connection.counts.messages == 3
    assert connection.counts.octets == 3 * 18


def test_an_empty_last_chunk_ends_a_message() -> None:
    assert Connection().ask(ENVELOPE + b"BDAT 0 LAST\r\nNOOP\r\n") == [250, 250, 250, 250]


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (b"RCPT TO:<b@x>\r\n", 503),
        (b"DATA\r\n", 554),
        (b"MAIL FROM:<a@x>\r\nDATA\r\n", 554),
        (b"MAIL FROM:<a@x>\r\nMAIL FROM:<a@x>\r\n", 503),
        (b"MAIL FROM:<a@x>\r\nRSET\r\nRCPT TO:<b@x>\r\n", 503),
        (b"STARTTLS\r\n", 500),
        (b"HELP\r\n", 500),
    ],
)
def test_commands_out_of_order_are_refused(commands: bytes, code: int) -> None:
    assert Connection().ask(commands)[-1] == code


def test_a_chunk_without_a_transaction_ends_the_connection() -> None:
    connection = Connection()
    connection.ask(b"BDAT 9 LAST\r\n")
    assert connection.is_aborted


def test_a_line_without_an_end_ends_the_connection() -> None:
    connection = Connection()
    connection.ask(b"x" * 20_000)
    assert connection.is_aborted


def test_quit_is_answered_before_the_connection_is_closed() -> None:
    async def ask() -> tuple[list[int], bool]:
        connection = Connection()
        codes = connection.ask(b"QUIT\r\n")
        assert not connection.is_closed
        await asyncio.sleep(0)
        return codes, connection.is_closed

    assert asyncio.run(ask()) == ([221], True)
