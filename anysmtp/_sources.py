"""Messages that are not in memory: files, and whatever yields octets.

A file that can be read twice is read through first, in a worker thread: then its size, its octets
and its lines are known before anything is sent, as with a message in memory; a small one is taken
into memory. What can be read once (an iterator, a pipe) is not touched before the server waits for
the message. What is wrong with it is found on the way then, and the server has to discard what it
has: `SourceFailed` says so to those who write.

The caller's own code runs in the caller's task, untimed.
"""

from __future__ import annotations

import io
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from email.message import Message
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias, cast

from anyio import to_thread

from ._envelope import Content, Stream
from ._message import BinaryContent, Flow, LongLine, RawContent, message_id_of, raw_binary
from .errors import SMTPNotSupported

Octets: TypeAlias = bytes | bytearray | memoryview

# Octets that are read at once.
_PIECE = 256 * 1024
# A file up to this size is taken into memory.
_SMALL = 1024 * 1024


class SourceFailed(Exception):
    """The message could not be read to its end, or turned out to be one that cannot be sent."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
        """What is to be raised to the caller."""


class Pieces(Protocol):
    """A message on its way out of its source."""

    async def next(self) -> bytes:
        """The next octets; none at the end."""
        ...

    async def aclose(self) -> None: ...


class StreamContent(Stream):
    """A message that is read while it is sent."""

    __slots__ = (
        "_allow_long_lines",
        "_open",
        "_repeats",
        "_was_read",
        "is_8bit",
        "is_binary",
        "is_utf8",
        "message_id",
        "size",
    )

    def __init__(
        self,
        open_it: Callable[[], Pieces],
        *,
        may_repeat: bool,
        is_binary: bool,
        allow_long_lines: bool,
        known: Flow | None = None,
    ) -> None:
        self._open = open_it
        self._repeats = may_repeat
        self._was_read = False
        self._allow_long_lines = allow_long_lines
        self.is_binary = is_binary
        self.size = None if known is None else known.size
        """Octets; None where that is not known before all of it was read."""
        self.is_8bit = None if known is None else known.is_8bit and not is_binary
        """Whether there are octets above 127; None: that is not known."""
        self.is_utf8 = known is not None and known.is_utf8
        self.message_id = message_id_of(known.header) if known and known.header else None

    @property
    def is_one_shot(self) -> bool:
        """Whether it can be read once."""
        return not self._repeats

    @property
    def is_spent(self) -> bool:
        """Whether it was read, and cannot be read again."""
        return self._was_read and not self._repeats

    def pieces(self, *, takes_8bit: bool, takes_utf8: bool) -> Pieces:
        """Read it, for a server that takes such octets, and such header fields."""
        self._was_read = True
        source = self._open()
        if self.is_binary:
            return _AsItIs(source, self.size)
        return _InLines(source, self.size, takes_8bit, takes_utf8, self._allow_long_lines)


class _AsItIs:
    """The octets of a source, of which there are as many as was said."""

    __slots__ = ("_left", "_source")

    def __init__(self, source: Pieces, size: int | None) -> None:
        self._source = source
        self._left = size

    async def next(self) -> bytes:
        return self._count(await _read(self._source))

    async def aclose(self) -> None:
        await self._source.aclose()

    def _count(self, piece: bytes) -> bytes:
        """The server was told a size, and with BDAT it is the end."""
        if self._left is None:
            return piece
        self._left -= len(piece)
        if self._left < 0 or (not piece and self._left):
            raise SourceFailed(RuntimeError("the file was changed while it was sent"))
        return piece


class _InLines(_AsItIs):
    """The same in CRLF lines, which are looked at on their way."""

    __slots__ = ("_allow_long_lines", "_flow", "_is_over", "_takes_8bit", "_takes_utf8")

    def __init__(
        self,
        source: Pieces,
        size: int | None,
        takes_8bit: bool,
        takes_utf8: bool,
        allow_long_lines: bool,
    ) -> None:
        super().__init__(source, size)
        self._flow = Flow()
        self._takes_8bit = takes_8bit
        self._takes_utf8 = takes_utf8
        self._allow_long_lines = allow_long_lines
        self._is_over = False

    async def next(self) -> bytes:
        clean = b""
        while not clean and not self._is_over:
            piece = await _read(self._source)
            self._is_over = not piece
            clean = self._flow.feed(piece) if piece else self._flow.finish()
            self._check()
        return self._count(clean)

    def _check(self) -> None:
        flow = self._flow
        if flow.has_long_lines and not self._allow_long_lines:
            raise SourceFailed(LongLine())
        if flow.is_8bit and not self._takes_8bit:
            raise SourceFailed(
                SMTPNotSupported(
                    "the message has octets above 127 and the server does not offer 8BITMIME, or "
                    "BODY=7BIT was said"
                )
            )
        if flow.is_utf8 and not self._takes_utf8:
            raise SourceFailed(
                SMTPNotSupported(
                    "the header section is not ASCII, which is known in advance of a file only: "
                    'mail_options=["SMTPUTF8"] says so'
                )
            )


class _FromFile:
    """A file, which is read in a worker thread."""

    __slots__ = ("_closes", "_file", "_open")

    def __init__(self, open_it: Callable[[], BinaryIO], *, closes: bool) -> None:
        self._open = open_it
        self._closes = closes
        self._file: BinaryIO | None = None

    async def next(self) -> bytes:
        return await to_thread.run_sync(self._read)

    async def aclose(self) -> None:
        if self._closes and self._file is not None:
            self._file.close()

    def _read(self) -> bytes:
        if self._file is None:
            self._file = self._open()
        # Of a pipe, what there is.
        read: Callable[[int], bytes] = getattr(self._file, "read1", self._file.read)
        return read(_PIECE)


class _FromIterator:
    """An iterator, of which small pieces are put together."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Iterator[Octets]) -> None:
        self._pieces = pieces

    async def next(self) -> bytes:
        found: list[bytes] = []
        length = 0
        for piece in self._pieces:
            found.append(_octets(piece))
            length += len(found[-1])
            if length >= _PIECE:
                break
        return b"".join(found)

    async def aclose(self) -> None:
        pieces: Any = self._pieces
        if isinstance(pieces, Generator):
            pieces.close()


class _FromAsync:
    """An async iterator. What it has leaves at once: the next piece may take its time."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: AsyncIterator[Octets]) -> None:
        self._pieces = pieces

    async def next(self) -> bytes:
        async for piece in self._pieces:
            if octets := _octets(piece):
                return octets
        return b""

    async def aclose(self) -> None:
        pieces: Any = self._pieces
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


async def content_of(
    message: Any, *, binary: bool = False, allow_long_lines: bool = False
) -> RawContent | BinaryContent | StreamContent:
    """A raw message that is not in memory, as content.

    TypeError for what is no message; ValueError for one that was read already, or has lines that
    are too long; OSError for a file that cannot be read.
    """
    options = _Options(binary, allow_long_lines)
    kind = type(message).__name__
    if isinstance(message, os.PathLike):
        path: str = os.fspath(cast("os.PathLike[str]", message))
        return await to_thread.run_sync(lambda: _of_path(path, options))
    if isinstance(message, io.TextIOBase):
        raise TypeError("a file is opened in binary mode, as by open(path, 'rb')")
    if isinstance(message, io.IOBase) or hasattr(message, "readinto"):
        file = cast("BinaryIO", message)
        return await to_thread.run_sync(lambda: _of_file(file, options))
    if isinstance(message, (Message, Mapping)):
        pass
    elif isinstance(message, AsyncIterable):
        several = cast("AsyncIterable[Octets]", message)
        return options.stream(lambda: _FromAsync(aiter(several)), several, "ag_frame")
    elif isinstance(message, Iterable):
        many = cast("Iterable[Octets]", message)
        return options.stream(lambda: _FromIterator(iter(many)), many, "gi_frame")
    raise TypeError(
        "a raw message is bytes, str, a path, a binary file or an iterable of bytes, not "
        f"{kind} (send_message takes message objects)"
    )


class _Options(NamedTuple):
    """What is asked for beside the message itself."""

    binary: bool
    allow_long_lines: bool

    def stream(self, open_it: Callable[[], Pieces], source: object, frame: str) -> StreamContent:
        """What an iterable comes to: it can be read twice if it is not its own iterator."""
        if getattr(source, frame, self) is None:
            raise ValueError("the message was read already: a generator can be read once")
        may_repeat = not isinstance(source, (Iterator, AsyncIterator))
        return self.content(open_it, may_repeat=may_repeat)

    def content(
        self, open_it: Callable[[], Pieces], *, may_repeat: bool, known: Flow | None = None
    ) -> StreamContent:
        return StreamContent(
            open_it,
            may_repeat=may_repeat,
            is_binary=self.binary,
            allow_long_lines=self.allow_long_lines,
            known=known,
        )


def _of_path(path: str, options: _Options) -> RawContent | BinaryContent | StreamContent:
    with open(path, "rb") as file:
        if not file.seekable():
            return options.content(
                lambda: _FromFile(lambda: open(path, "rb"), closes=True), may_repeat=False
            )
        return _of_seekable(file, 0, options, lambda: open(path, "rb"), closes=True)


def _of_file(file: BinaryIO, options: _Options) -> RawContent | BinaryContent | StreamContent:
    """A file of the caller's, from where it stands. It is left open."""
    if file.closed:
        raise ValueError("the file is closed")
    if not file.seekable():
        return options.content(lambda: _FromFile(lambda: file, closes=False), may_repeat=False)
    start = file.tell()

    def from_start() -> BinaryIO:
        file.seek(start)
        return file

    return _of_seekable(file, start, options, from_start, closes=False)


def _of_seekable(
    file: BinaryIO,
    start: int,
    options: _Options,
    open_it: Callable[[], BinaryIO],
    *,
    closes: bool,
) -> RawContent | BinaryContent | StreamContent:
    """A small one is taken into memory; a large one is read through, to see what is in it."""
    data = file.read(_SMALL)
    if len(data) < _SMALL:
        return in_memory(data, options.binary, options.allow_long_lines)
    known = Flow()
    known.feed(data)
    if options.binary:
        known.size = file.seek(0, os.SEEK_END) - start
    else:
        while data := file.read(_PIECE):
            known.feed(data)
        known.finish()
        if known.has_long_lines and not options.allow_long_lines:
            raise LongLine
    return options.content(lambda: _FromFile(open_it, closes=closes), may_repeat=True, known=known)


def in_memory(
    message: Octets | str, binary: bool, allow_long_lines: bool
) -> RawContent | BinaryContent:
    """A raw message that is in memory. ValueError for lines that are too long."""
    if binary:
        return raw_binary(message)
    content = RawContent(message)
    if content.has_long_lines and not allow_long_lines:
        raise LongLine
    return content


def _octets(piece: object) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, (bytearray, memoryview)):
        return bytes(cast("bytearray", piece))
    raise TypeError(f"a message is made of bytes, not of {type(piece).__name__}")


async def _read(source: Pieces) -> bytes:
    try:
        return await source.next()
    except Exception as error:
        raise SourceFailed(error) from error


def chunks_of(
    content: Content | Stream, *, takes_8bit: bool, takes_utf8: bool
) -> Iterable[bytes] | Pieces:
    """The octets of a message, whatever it is, for a server that takes such ones.

    A tuple if they are in one piece.
    """
    if not isinstance(content, Stream):
        whole = content.whole()
        return content.chunks() if whole is None else (whole,)
    assert isinstance(content, StreamContent)
    return content.pieces(takes_8bit=takes_8bit, takes_utf8=takes_utf8)


async def read_whole(
    content: Content | Stream, *, takes_8bit: bool, takes_utf8: bool
) -> Iterable[bytes]:
    """The octets of a message, all in memory; raises what is wrong with its source."""
    pieces = chunks_of(content, takes_8bit=takes_8bit, takes_utf8=takes_utf8)
    if isinstance(pieces, Iterable):
        return pieces
    read: list[bytes] = []
    try:
        while piece := await pieces.next():
            read.append(piece)
        return read
    except SourceFailed as failed:
        failure = failed.error
    finally:
        await pieces.aclose()
    raise failure
