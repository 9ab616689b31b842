"""An SMTP server that takes everything, counts it, and is fast enough not to be what is measured.

It runs in a process of its own, on uvloop where that is installed: ``python -m benchmarks.sink
server.pem``. Its first line of output has the ports; each line of input is answered by a line with
the counts; the end of the input ends it. `Sink` does all this from the benchmark's process.

It answers as a server does, so that a client which does not keep to the protocol fails: commands
out of order get 503. What came in one read is answered in one write (RFC 2920 section 3.2). A
message is looked at only for its end, by searching the buffer as it came.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from .machine import environment

HOST = "127.0.0.1"

_KEYWORDS = ("PIPELINING", "CHUNKING", "8BITMIME", "SIZE 1073741824", "ENHANCEDSTATUSCODES")
# The longest line that RFC 4954 section 4 asks for, and far above what clients here send.
_MAX_LINE = 12288
_END = b"\r\n.\r\n"
_HALVES = range(len(_END) - 1, 0, -1)

_OK = b"250 2.0.0 Ok\r\n"
_SENDER_OK = b"250 2.1.0 Ok\r\n"
_RECIPIENT_OK = b"250 2.1.5 Ok\r\n"
_GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
_OUT_OF_ORDER = b"503 5.5.1 Bad sequence of commands\r\n"
_NO_RECIPIENTS = b"554 5.5.1 No valid recipients\r\n"
_UNKNOWN = b"500 5.5.2 Unknown command\r\n"
_SYNTAX = b"501 5.5.4 Syntax error\r\n"


@dataclass
class Counts:
    """What the sink has seen since it was started."""

    connections: int = 0
    transactions: int = 0
    """MAIL commands that were accepted."""
    recipients: int = 0
    messages: int = 0
    octets: int = 0
    reads: int = 0
    """How often it was woken by bytes; without TLS, a client's turns, or more where they are
    long."""
    writes: int = 0
    cpu: float = 0
    """Seconds of processor time."""

    def since(self, earlier: Counts) -> Counts:
        before = asdict(earlier)
        return Counts(**{name: value - before[name] for name, value in asdict(self).items()})


class SinkProtocol(asyncio.Protocol):
    """One connection. `_take` is the state: what the next bytes are."""

    transport: asyncio.Transport

    def __init__(self, counts: Counts, starttls: ssl.SSLContext | None = None) -> None:
        self._counts = counts
        self._starttls = starttls
        self._encrypted = False
        self._greeted = False
        # -1: no transaction.
        self._recipients = -1
        self._held = b""
        self._left = 0
        self._is_last = False
        self._take: Callable[[bytes, int], int] = self._take_command
        self._replies: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands: dict[bytes, Callable[[bytes], bytes]] = {
            b"EHLO": self._ehlo,
            b"HELO": self._ehlo,
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"BDAT": self._bdat,
            b"RSET": self._rset,
            b"NOOP": lambda line: _OK,
            b"QUIT": self._quit,
            b"AUTH": lambda line: b"235 2.7.0 Ok\r\n",
            b"STAR": self._start_tls,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are called so, and are not derived from it.
        self.transport = cast("asyncio.Transport", transport)
        self._counts.connections += 1
        self.transport.write(b"220 sink.example.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._counts.reads += 1
        self._answer(data)

    def _answer(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        place, end = 0, len(data)
        while place < end:
            place = self._take(data, place)
        if self._replies:
            self._counts.writes += 1
            self.transport.write(b"".join(self._replies))
            self._replies.clear()

    def _take_command(self, data: bytes, place: int) -> int:
        end = data.find(b"\n", place) + 1
        if not end:
            self._held = data[place:]
            if len(self._held) > _MAX_LINE:
                self.transport.abort()
            return len(data)
        command = self._commands.get(data[place : place + 4].upper())
        self._replies.append(command(data[place:end]) if command is not None else _UNKNOWN)
        return end

    def _take_message(self, data: bytes, place: int) -> int:
        """Look for the end; what may be the first half of it is put in front of what comes next."""
        # Nearly all reads of an attachment have no dot, which is seen at once.
        end = data.find(_END, place) if b"." in data else -1
        if end < 0:
            halves = (size for size in _HALVES if data.endswith(_END[:size], place))
            keep = len(data) - next(halves, 0)
            self._counts.octets += keep - place
            self._held = data[keep:]
            return len(data)
        self._counts.octets += end - place
        self._replies.append(self._accept())
        self._take = self._take_command
        return end + len(_END)

    def _take_first(self, data: bytes, place: int) -> int:
        """The first line of a message may be its end (RFC 5321 section 4.1.1.4)."""
        start = data[place : place + 3]
        if start == b".\r\n":
            self._replies.append(self._accept())
            self._take = self._take_command
            return place + 3
        if start in (b".", b".\r"):
            self._held = start
            return len(data)
        self._take = self._take_message
        return self._take_message(data, place)

    def _take_chunk(self, data: bytes, place: int) -> int:
        here = min(self._left, len(data) - place)
        self._left -= here
        self._counts.octets += here
        if not self._left:
            self._end_chunk()
        return place + here

    def _end_chunk(self) -> None:
        self._take = self._take_command
        self._replies.append(self._accept() if self._is_last else _OK)

    def _accept(self) -> bytes:
        self._recipients = -1
        self._counts.messages += 1
        return _OK

    def _ehlo(self, line: bytes) -> bytes:
        self._greeted = True
        self._recipients = -1
        keywords: list[str] = list(_KEYWORDS)
        if self._starttls is not None:
            keywords.append("AUTH PLAIN" if self._encrypted else "STARTTLS")
        lines = ["sink.example.test", *keywords]
        return "".join(
            f"250{' ' if text is lines[-1] else '-'}{text}\r\n" for text in lines
        ).encode()

    def _mail(self, line: bytes) -> bytes:
        if not self._greeted or self._recipients >= 0:
            return _OUT_OF_ORDER
        self._recipients = 0
        self._counts.transactions += 1
        return _SENDER_OK

    def _rcpt(self, line: bytes) -> bytes:
        if self._recipients < 0:
            return _OUT_OF_ORDER
        self._recipients += 1
        self._counts.recipients += 1
        return _RECIPIENT_OK

    def _data(self, line: bytes) -> bytes:
        if self._recipients <= 0:
            return _NO_RECIPIENTS
        self._take = self._take_first
        return _GO_AHEAD

    def _bdat(self, line: bytes) -> bytes:
        # RFC 3030 section 2: BDAT <size> [LAST]. The bytes come whatever it is answered.
        words = line.split()
        if len(words) not in (2, 3) or not words[1].isdigit() or self._recipients <= 0:
            self.transport.abort()
            return _SYNTAX
        self._is_last = len(words) == 3
        self._left = int(words[1])
        self._take = self._take_chunk
        if self._left:
            return b""
        self._end_chunk()
        return b""

    def _rset(self, line: bytes) -> bytes:
        self._recipients = -1
        return _OK

    def _quit(self, line: bytes) -> bytes:
        asyncio.get_running_loop().call_soon(self.transport.close)
        return b"221 2.0.0 Bye\r\n"

    def _start_tls(self, line: bytes) -> bytes:
        if self._starttls is None or self._encrypted:
            return _UNKNOWN
        self._encrypted, self._greeted = True, False
        # What comes now is the handshake, and not for this protocol.
        self.transport.pause_reading()
        self._take = self._take_injected
        task = asyncio.get_running_loop().create_task(self._encrypt(self._starttls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return b"220 2.0.0 Go ahead\r\n"

    def _take_injected(self, data: bytes, place: int) -> int:
        """What came with STARTTLS was not encrypted, and is not to be taken as if it had been.

        See RFC 3207 section 6.
        """
        self.transport.abort()
        return len(data)

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        self._take = self._take_encrypted
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(self.transport, self, context, server_side=True)
        assert transport is not None
        self.transport = transport
        self._take = self._take_command
        self._answer(b"")

    def _take_encrypted(self, data: bytes, place: int) -> int:
        """Keep a command that came with the handshake's end, until there is what to answer it on.

        Such bytes are here before `start_tls` returns; on the old transport their answer would go
        out in the clear.
        """
        self._held = data[place:]
        return len(data)


def server_context(server_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    return context


async def serve(server_file: str) -> None:
    """Serve until the standard input ends."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    context = server_context(server_file)
    servers = {
        "plain": await loop.create_server(lambda: SinkProtocol(counts), HOST, 0),
        "starttls": await loop.create_server(lambda: SinkProtocol(counts, context), HOST, 0),
        "implicit": await loop.create_server(lambda: SinkProtocol(counts), HOST, 0, ssl=context),
    }
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    ended = asyncio.Event()

    def answer() -> None:
        if not sys.stdin.readline():
            ended.set()
            return
        counts.cpu = time.process_time()
        print(json.dumps(asdict(counts)), flush=True)

    print(json.dumps(ports), flush=True)
    loop.add_reader(sys.stdin.fileno(), answer)
    await ended.wait()


def fast_run() -> Callable[[Coroutine[Any, Any, None]], None]:
    """asyncio.run, or uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


class Sink:
    """``with Sink(server_file) as sink``: the server in a process of its own."""

    ports: dict[str, int]

    def __init__(self, server_file: Path) -> None:
        self._command = [sys.executable, "-m", "benchmarks.sink", str(server_file)]

    def __enter__(self) -> Sink:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.ports = json.loads(self._line())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def counts(self) -> Counts:
        """What it has seen by now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Counts(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


if __name__ == "__main__":
    fast_run()(serve(sys.argv[1]))
