"""One SMTP conversation from the server's end: strict, faithful, and scripted.

What a server answers is in `_state`, what it shall answer instead in `_script`; the two meet in
`Session._answer`, and nowhere else. Pipelined commands are answered in order, in one write for
all that arrived together.

The session is stricter than servers are, since it is there to catch the client: what RFC 5321
and the offered extensions do not allow is written down as a violation, and then dealt with as
well as can be.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Literal

from anyio import (
    BrokenResourceError,
    CancelScope,
    EndOfStream,
    Event,
    Lock,
    aclose_forcefully,
    sleep,
    sleep_forever,
)
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from ._records import End, Transcript
from ._script import Act, Script, encode
from ._state import Chunk, Own, Settings, State
from ._wire import Close, Wire, WireCutError

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_STUFFED = re.compile(rb"(?:\A|(?<=\r\n))\.")
_UNSTUFFED = re.compile(rb"(?:\A|(?<=\r\n))\.(?!\.)")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

# RFC 2920 section 3.1, and those that change what comes after them.
_LAST = {"EHLO", "HELO", "LHLO", "DATA", "VRFY", "EXPN", "NOOP", "QUIT", "STARTTLS", "AUTH"}

# RFC 5321 section 4.5.3.1.4 and what extensions add to it; RFC 4954 section 4.
_LINE_LIMITS = {"MAIL": 1024, "RCPT": 1024, "AUTH": 12288, "RESPONSE": 12288}


@dataclass(frozen=True)
class Cut:
    """Where a connection gives out: after so many bytes of replies, or of what is on the wire."""

    after: int
    how: Close
    unit: Literal["reply", "wire"]


class _Ended(Exception):
    def __init__(self, end: End, how: Close = "close") -> None:
        self.end: End = end
        self.how: Close = how


class Session:
    """Serves one connection and keeps its record."""

    def __init__(
        self,
        raw: ByteStream,
        record: Transcript,
        script: Script,
        settings: Settings,
        cut: Cut | None,
        *,
        is_held: bool,
        is_refused: bool,
    ) -> None:
        self.closed = Event()
        """Set when the client has ended its side too, and nothing is left of the connection."""
        self._record = record
        self._script = script
        self._settings = settings
        self._state = State(settings, record)
        self._cut = cut
        self._is_refused = is_refused
        self._wire = Wire(raw, cut.after if cut and cut.unit == "wire" else None)
        self._stream: ByteStream = self._wire
        self._tls: TLSStream | None = None
        self._input = bytearray()
        self._output = bytearray()
        self._writing = Lock()
        self._scope = CancelScope()
        self._how: Close = "close"
        self._ended = Event()
        self._misread = 0  # octets of a chunk that are read as commands
        self._released = Event()
        if not is_held:
            self._released.set()

    async def run(self) -> None:
        """Serve until either side ends the connection."""
        ended = None
        try:
            with self._scope:
                ended = await self._converse()
            ended = ended or _Ended("script", self._how)
            self._record.end = ended.end
            await self._wire.end(ended.how, self._tls)
            self._ended.set()
            await self._wire.linger()
        finally:
            self._record.sent_on_wire = self._wire.sent
            # What the session died of is not to be lost to the server's end.
            with CancelScope(shield=True):
                await aclose_forcefully(self._wire)
            self._ended.set()
            self.closed.set()

    async def hang_up(self, how: Close) -> None:
        """End the connection from another task; returns when the client can see it."""
        self._how = how
        self._scope.cancel()
        await self._ended.wait()

    def hold(self) -> None:
        """Say nothing from now on, but go on reading."""
        self._released = Event()

    async def release(self) -> None:
        """Say what was not said, and go on as usual."""
        while self._output and not self._ended.is_set():
            await self._say_all()
        # From here on the session says by itself what it has to say.
        self._released.set()

    async def push(self, reply: str | bytes) -> None:
        """Say something unasked, from another task."""
        await self._write(encode(reply))

    async def _converse(self) -> _Ended:
        try:
            await self._wire.send(b"")
            await self._write(b"")
            if self._settings.implicit_tls is not None:
                await self._handshake(self._settings.implicit_tls)
            if self._is_refused:
                await self._do(Act(), Own("421 4.7.0 Too many connections", then="close", on="4"))
            await self._answer("GREETING", Own(f"220 {self._settings.hostname} ESMTP"))
            while True:
                line = await self._line()
                if chunk := self._state.chunk(line):
                    await self._chunk(line, chunk)
                else:
                    await self._answer(line, self._state.own(line))
        except _Ended as ended:
            return ended
        except WireCutError:
            assert self._cut is not None
            return _Ended("script", self._cut.how)
        except EndOfStream:
            return _Ended("eof")
        except (BrokenResourceError, ssl.SSLError) as exc:
            self._record.tls_error = exc if isinstance(exc, ssl.SSLError) else None
            return _Ended("lost", "truncate")

    async def _answer(self, point: str, own: Own) -> bool:
        return await self._do(self._script.act(point), own)

    async def _do(self, act: Act, own: Own) -> bool:
        """Reply, with what follows; whether the command takes effect."""
        reply = own.reply if act.reply is None else act.reply
        data = encode(reply) if reply else b""
        if act.late:
            await self._flush()
            await (act.late.wait() if isinstance(act.late, Event) else sleep(act.late))
        taken = (data or own.reply.encode()).startswith(own.on.encode())
        if taken and own.effect is not None:
            own.effect()
        await self._say(data)
        if act.then is not None:
            await self._released.wait()
            await self._flush()
            await self._follow(act.then)
        if taken and own.then is not None:
            await self._go_on(own.then)
        return taken

    async def _follow(self, then: Close | Literal["stall", "deaf"]) -> None:
        if then == "deaf":
            await sleep_forever()
        elif then == "stall":
            while True:
                self._input.clear()
                await self._fill()
        else:
            raise _Ended("script", then)

    async def _go_on(
        self, then: Literal["handshake", "response", "message", "quit", "close"]
    ) -> None:
        if then == "message":
            await self._message()
        elif then == "response":
            response = await self._line("RESPONSE")
            await self._answer("RESPONSE", self._state.respond(response))
        elif then == "handshake":
            assert self._settings.starttls is not None
            await self._handshake(self._settings.starttls)
        else:
            await self._released.wait()
            await self._flush()
            raise _Ended("quit" if then == "quit" else "script")

    async def _handshake(self, context: ssl.SSLContext) -> None:
        await self._flush()
        self._input.clear()
        try:
            self._tls = await TLSStream.wrap(
                self._wire, server_side=True, ssl_context=context, standard_compatible=False
            )
        except (BrokenResourceError, EndOfStream, ssl.SSLError) as exc:
            self._record.tls_error = exc
            raise _Ended("lost", "truncate") from exc
        self._stream = self._tls
        self._record.tls_version = self._tls.extra(TLSAttribute.tls_version)
        self._record.tls_unique = self._tls.extra(TLSAttribute.channel_binding_tls_unique)
        self._record.client_certificate = self._tls.extra(TLSAttribute.peer_certificate_binary)
        self._state.forget()

    async def _line(self, verb: str | None = None) -> str:
        while (end := self._input.find(b"\n") + 1) == 0:
            await self._fill()
        line = self._take(end, end)
        self._record.commands.append(line)
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        verb = verb or text.split(b" ")[0].decode("latin-1").upper()
        if self._misread:
            # This is no command of the client's.
            self._misread = max(0, self._misread - len(line))
        else:
            self._inspect(line, text, verb)
        return text.decode("utf-8", "surrogateescape")

    def _inspect(self, line: bytes, text: bytes, verb: str) -> None:
        if not line.endswith(b"\r\n"):
            self._violation("a bare LF ends", line)
        if _CONTROL.search(text):
            self._violation("a control character is in", line)
        if not text.isascii() and not self._state.offers("SMTPUTF8"):
            self._violation("SMTPUTF8 is not offered, but there is", line)
        if len(line) > _LINE_LIMITS.get(verb, 512):
            self._violation("too long is", line)
        if verb == "BDAT":
            # What follows it is not a command.
            if not self._state.offers("CHUNKING"):
                self._violation("CHUNKING is not offered, but there is", line)
        elif self._input and (verb in _LAST or not self._state.offers("PIPELINING")):
            self._violation("more came, without waiting for the reply, behind", line)

    def _violation(self, what: str, line: bytes) -> None:
        self._record.violations.append(f"{what} {line[:200]!r}")

    async def _message(self) -> None:
        if not self._input:
            await self._fill()
        await self._answer("BODY", Own(""))
        wire = await self._until_lone_dot()
        self._inspect_message(wire)
        message = self._state.received(_STUFFED.sub(b"", wire))
        for point, own in self._state.end_of_data(message):
            await self._answer(point, own)

    async def _chunk(self, line: str, chunk: Chunk) -> None:
        act = self._script.act(line)
        if not act.reads_chunk:
            self._misread = chunk.size
            await self._do(act, Own("552 5.3.4 Message size exceeds the limit"))
            return
        while len(self._input) < chunk.size:
            await self._fill()
        data = self._take(chunk.size, chunk.size)
        self._inspect_octets(data, line.encode())
        taken = self._state.take_chunk(chunk, data)
        if isinstance(taken, Own):
            is_taken = await self._do(act, taken)
        else:
            if "BODY=BINARYMIME" not in taken.mail_options:
                self._inspect_lines(taken.raw)
            is_taken = True
            for point, own in self._state.end_of_data(taken):
                end = self._script.act(point) if act.says_nothing else act
                is_taken &= await self._do(end, own)
        if not is_taken:
            self._state.refuse_chunk(chunk)

    async def _until_lone_dot(self) -> bytes:
        # A message without lines ends with the first three octets; any other where a line is
        # only a dot. What was searched is not searched again.
        searched = 0
        while not self._input.startswith(b".\r\n"):
            found = self._input.find(b"\r\n.\r\n", max(0, searched - 4))
            if found >= 0:
                return self._take(found + 2, found + 5)
            searched = len(self._input)
            await self._fill()
        return self._take(0, 3)

    def _inspect_message(self, wire: bytes) -> None:
        self._inspect_lines(wire)
        if _UNSTUFFED.search(wire):
            self._violation("a line starts with a dot that is not doubled in", wire)
        self._inspect_octets(wire, b".\r\n")

    def _inspect_lines(self, data: bytes) -> None:
        if _BARE.search(data):
            self._violation("a bare CR or LF is in the message", data)

    def _inspect_octets(self, data: bytes, end: bytes) -> None:
        if not data.isascii() and not self._state.transaction.declares_8bit:
            self._violation("BODY=8BITMIME is not declared for", data)
        if self._input and not self._state.offers("PIPELINING"):
            self._violation("more came, without waiting for the reply, behind", end)

    def _take(self, size: int, end: int) -> bytes:
        data = bytes(self._input[:size])
        del self._input[:end]
        return data

    async def _fill(self) -> None:
        await self._flush()
        data = await self._stream.receive(1 << 20)
        if self._tls is None and self._wire.continues:
            self._record.writes[-1] += data
        else:
            self._record.writes.append(data)
        self._input += data

    async def _say(self, reply: bytes) -> None:
        if reply:
            self._record.replies.append(reply)
            self._output += reply
        if self._settings.one_by_one:
            await self._flush()

    async def _flush(self) -> None:
        if self._released.is_set():
            await self._say_all()

    async def _say_all(self) -> None:
        output, self._output = bytes(self._output), bytearray()
        size = self._settings.split or len(output) or 1
        for start in range(0, len(output), size):
            await self._write(output[start : start + size])

    async def _write(self, data: bytes) -> None:
        cut = self._cut if self._cut and self._cut.unit == "reply" else None
        async with self._writing:
            part = data[: cut.after - self._record.sent] if cut else data
            self._record.sent += len(part)
            if part:
                await self._stream.send(part)
        if cut and self._record.sent == cut.after:
            raise _Ended("script", cut.how)
