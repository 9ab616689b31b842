"""Messages that are not in memory: files, and whatever yields octets.

What can be read twice (a file that can be rewound, a list) is read through first: then its size,
its octets and its lines are known before anything is sent, as with a message in memory; a small one
is taken into memory. What can be read once (an iterator, a pipe) is not touched before the server
waits for the message. What is wrong with it is found on the way then, and the server has to discard
what it has: `SourceFailed` says so to those who write.

Nothing else is taken for what can be read twice: an iterable that starts anew each time looks like
one that goes on where it was.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager
from email.message import Message
from inspect import iscoroutinefunction
from itertools import chain
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from anyio import from_thread, get_cancelled_exc_class, get_current_task, to_thread

from ._envelope import Content, Stream
from ._message import (
    BinaryContent,
    EmptyMessage,
    Flow,
    LongLine,
    RawContent,
    message_id_of,
    raw_binary,
)
from ._reading import (
    FromAsync,
    FromAsyncFile,
    FromFile,
    FromIterator,
    FromPipe,
    Octets,
    Pieces,
    octets_in,
    read_some,
)
from .errors import SMTPNotSupported

T = TypeVar("T")

# A message up to this size is taken into memory.
_SMALL = 1024 * 1024


class SourceFailed(Exception):
    """The message could not be read to its end, or turned out to be one that cannot be sent."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error
        """What is to be raised to the caller.

        No Exception where it is a cancellation: then nothing is waited for on the way to him, for
        `asyncio.Task.cancel` leaves no trace by which his own could be told from another task's.
        """


class StreamContent(Stream):
    """A message that is read while it is sent."""

    __slots__ = (
        "_allow_long_lines",
        "_open",
        "is_8bit",
        "is_binary",
        "is_one_shot",
        "is_spent",
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
        self.is_one_shot = not may_repeat
        self.is_spent = False
        self._allow_long_lines = allow_long_lines
        self.is_binary = is_binary
        self.size = None if known is None else known.size
        """Octets; None where that is not known before all of it was read."""
        self.is_8bit = None if known is None else known.is_8bit and not is_binary
        """Whether there are octets above 127; None: that is not known."""
        self.is_utf8 = known is not None and known.is_utf8
        self.message_id = message_id_of(known.header) if known else None

    def pieces(self, *, takes_8bit: bool, takes_utf8: bool) -> Pieces:
        """Read it, for a server that takes such octets, and such header fields."""
        self.is_spent = self.is_one_shot
        source = self._open()
        if self.is_binary:
            return _AsItIs(source, self.size, takes_utf8)
        return _InLines(source, self.size, takes_8bit, takes_utf8, self._allow_long_lines)


class _AsItIs:
    """The octets of a source, of which there are as many as was said."""

    __slots__ = ("_flow", "_size", "_so_far", "_source", "_takes_utf8")

    def __init__(self, source: Pieces, size: int | None, takes_utf8: bool) -> None:
        self._source = source
        self._size = size
        self._so_far = 0
        self._flow = Flow()
        self._takes_utf8 = takes_utf8

    async def next(self) -> bytes:
        piece = await _ask(self._source.next())
        if not self._flow.is_in_body:
            self._flow.feed(piece)
            self._check()
        return self._count(piece)

    async def aclose(self) -> None:
        await self._source.aclose()

    def _check(self) -> None:
        if self._flow.is_utf8 and not self._takes_utf8:
            raise SourceFailed(
                SMTPNotSupported(
                    "the header section is not ASCII, which is known in advance of a file or a "
                    'list only: mail_options=["SMTPUTF8"] says so'
                )
            )

    def _count(self, piece: bytes) -> bytes:
        """The server was told a size, and with BDAT it is the end."""
        self._so_far += len(piece)
        if not piece and not self._so_far:
            raise SourceFailed(EmptyMessage())
        size = self._size
        if size is not None and (self._so_far > size or (not piece and self._so_far < size)):
            raise SourceFailed(RuntimeError("the file was changed while it was sent"))
        return piece


class _InLines(_AsItIs):
    """The same in CRLF lines, which are looked at on their way."""

    __slots__ = ("_allow_long_lines", "_is_over", "_takes_8bit")

    def __init__(
        self,
        source: Pieces,
        size: int | None,
        takes_8bit: bool,
        takes_utf8: bool,
        allow_long_lines: bool,
    ) -> None:
        super().__init__(source, size, takes_utf8)
        self._takes_8bit = takes_8bit
        self._allow_long_lines = allow_long_lines
        self._is_over = False

    async def next(self) -> bytes:
        clean = b""
        while not clean and not self._is_over:
            piece = await _ask(self._source.next())
            self._is_over = not piece
            clean = self._flow.feed(piece) if piece else self._flow.finish()
            self._check()
        return self._count(clean)

    def _check(self) -> None:
        if self._flow.has_long_lines and not self._allow_long_lines:
            raise SourceFailed(LongLine())
        if self._flow.is_8bit and not self._takes_8bit:
            raise SourceFailed(
                SMTPNotSupported(
                    "the message has octets above 127 and the server does not offer 8BITMIME, or "
                    "BODY=7BIT was said"
                )
            )
        super()._check()


async def content_of(
    message: Any, *, binary: bool = False, allow_long_lines: bool = False
) -> RawContent | BinaryContent | StreamContent:
    """A raw message that is not in memory, as content.

    TypeError for what is no message; ValueError for one that was read already, is empty, or has
    lines that are too long; OSError for a file that cannot be read.
    """
    options = _Options(binary, allow_long_lines)
    if isinstance(message, os.PathLike):
        path: str = os.fspath(cast("os.PathLike[str]", message))
        return await to_thread.run_sync(lambda: _of_path(path, options))
    if isinstance(message, (list, tuple)):
        return await _of_list(cast("list[object]", message), options)
    if isinstance(message, (Message, Mapping)):
        raise _no_message(cast("object", message))
    # An async file of AnyIO's or trio's.
    file: Any = getattr(message, "wrapped", message)
    if isinstance(file, io.TextIOBase):
        raise TypeError("a file is opened in binary mode, as by open(path, 'rb')")
    if iscoroutinefunction(getattr(file, "read", None)):
        return options.once(lambda: FromAsyncFile(file))
    if hasattr(file, "read"):
        return await to_thread.run_sync(lambda: _of_file(file, options))
    return _of_iterable(message, options)


def _of_iterable(message: object, options: _Options) -> StreamContent:
    for frame in ("gi_frame", "ag_frame"):
        if getattr(message, frame, options) is None:
            raise ValueError("the message was read already: a generator can be read once")
    if isinstance(message, AsyncIterable):
        several = cast("AsyncIterable[Octets]", message)
        return options.once(lambda: FromAsync(lambda: aiter(several)))
    if isinstance(message, Iterable):
        many = cast("Iterable[Octets]", message)
        return options.once(lambda: FromIterator(lambda: iter(many)))
    raise _no_message(message)


def _no_message(message: object) -> TypeError:
    return TypeError(
        "a raw message is bytes, str, a path, a binary file or an iterable of bytes, not "
        f"{type(message).__name__} (send_message takes message objects)"
    )


class _Options(NamedTuple):
    """What is asked for beside the message itself."""

    binary: bool
    allow_long_lines: bool

    def once(self, open_it: Callable[[], Pieces]) -> StreamContent:
        """What can be read once comes to this."""
        return StreamContent(
            open_it,
            may_repeat=False,
            is_binary=self.binary,
            allow_long_lines=self.allow_long_lines,
        )

    def looked_through(
        self, pieces: Iterator[bytes], open_it: Callable[[], Pieces]
    ) -> RawContent | BinaryContent | StreamContent:
        """What can be read again: a small one is in memory, a large one is read to its end.

        Called in a worker thread, which sees in between whether the call was cancelled.
        """
        begun: list[bytes] = []
        size = 0
        for piece in pieces:
            begun.append(piece)
            size += len(piece)
            if size >= _SMALL:
                break
        else:
            return in_memory(b"".join(begun), self.binary, self.allow_long_lines)
        known = Flow()
        size = 0
        for piece in chain(begun, pieces):
            from_thread.check_cancelled()
            size += len(piece)
            if not (self.binary and known.is_in_body):
                known.feed(piece)
        known.finish()
        if known.has_long_lines and not (self.binary or self.allow_long_lines):
            raise LongLine
        known.size = size if self.binary else known.size
        return StreamContent(
            open_it,
            may_repeat=True,
            is_binary=self.binary,
            allow_long_lines=self.allow_long_lines,
            known=known,
        )


async def _of_list(
    message: list[object] | tuple[object, ...], options: _Options
) -> RawContent | BinaryContent | StreamContent:
    # What the caller can change meanwhile is copied.
    pieces = tuple(octets_in(piece) for piece in message)

    def look() -> RawContent | BinaryContent | StreamContent:
        return options.looked_through(iter(pieces), lambda: FromIterator(lambda: iter(pieces)))

    return look() if sum(map(len, pieces)) < _SMALL else await to_thread.run_sync(look)


def _of_path(path: str, options: _Options) -> RawContent | BinaryContent | StreamContent:
    # To open a named pipe is to read from it: its writer is let go on, and it can be done once.
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return options.once(lambda: FromPipe(lambda: open(path, "rb"), closes=True))
    with open(path, "rb") as file:
        return options.looked_through(
            _rest_of(file), lambda: FromFile(lambda: open(path, "rb"), closes=True)
        )


def _of_file(file: BinaryIO, options: _Options) -> RawContent | BinaryContent | StreamContent:
    """A file of the caller's, from where it stands. It is left open."""
    if getattr(file, "closed", False):
        raise ValueError("the file is closed")
    if not _is_seekable(file):
        return options.once(lambda: FromPipe(lambda: file, closes=False))
    start = file.tell()

    def from_start() -> BinaryIO:
        file.seek(start)
        return file

    return options.looked_through(_rest_of(file), lambda: FromFile(from_start, closes=False))


def _is_seekable(file: BinaryIO) -> bool:
    """Whether it can be rewound. Some files do not say (`mmap`, older temporary ones), and can."""
    can_tell = hasattr(file, "seek") and hasattr(file, "tell")
    return can_tell and getattr(file, "seekable", lambda: True)()


def _rest_of(file: BinaryIO) -> Iterator[bytes]:
    while piece := read_some(file):
        yield piece


def in_memory(
    message: Octets | str, binary: bool, allow_long_lines: bool
) -> RawContent | BinaryContent:
    """A raw message that is in memory. ValueError for an empty one, and for lines too long."""
    if not len(message):
        raise EmptyMessage
    if binary:
        return raw_binary(message)
    content = RawContent(message)
    if content.has_long_lines and not allow_long_lines:
        raise LongLine
    return content


async def _ask(answer: Awaitable[T]) -> T:
    """Await what a source does; what it raises is SourceFailed, unless a scope is cancelled."""
    try:
        return await answer
    except Exception as error:
        raise SourceFailed(error) from error
    except get_cancelled_exc_class() as error:
        # Of a task of asyncio's that the source awaited, if no scope around this one says so.
        if get_current_task().has_pending_cancellation():
            raise
        raise SourceFailed(error) from error


@asynccontextmanager
async def closing(pieces: Pieces, note: Callable[[Exception], None]) -> AsyncGenerator[None, None]:
    """Close a source at the end. What it raises then is noted: it says nothing on the message."""
    try:
        yield
    finally:
        try:
            await _ask(pieces.aclose())
        except SourceFailed as failed:
            if not isinstance(failed.error, Exception):
                raise
            note(failed.error)


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
    content: Content | Stream,
    note: Callable[[Exception], None],
    *,
    takes_8bit: bool,
    takes_utf8: bool,
) -> Iterable[bytes]:
    """The octets of a message, all in memory; raises what is wrong with its source.

    ``note`` is told what it raises when it is closed.
    """
    pieces = chunks_of(content, takes_8bit=takes_8bit, takes_utf8=takes_utf8)
    if isinstance(pieces, Iterable):
        return pieces
    read: list[bytes] = []
    try:
        async with closing(pieces, note):
            while piece := await pieces.next():
                read.append(piece)
        return read
    except SourceFailed as failed:
        failure = failed.error
    raise failure
