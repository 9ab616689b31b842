"""`SMTP.send_many`: a stream of messages in, their deliveries out as they end.

All of it is inside the caller's ``async with``, in one task group. One task *pulls*: it takes mails
from the source, serialises them and puts them in the line of a `Crew`, which sends them; and it
stops when enough of them are neither sent nor their deliveries taken. What becomes of a message is
written in its Delivery, which then waits in the *outlet* to be taken.

A message that is malformed ends in its Delivery. An error of the source's own, and a crew that can
open no connection, leave by the ``async for`` once everything under way has ended.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
)
from contextlib import AbstractContextManager
from email.message import Message
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._bell import Bell
from ._crew import Crew
from ._delivery import Delivery, ledger_of
from ._envelope import Mail
from ._intake import Intake, Prepare
from ._item import Item
from ._leases import Leases
from ._lifecycle import Lifecycle
from ._tasks import first_error, task_id

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar

    K = TypeVar("K", default=None)
else:
    from typing import TypeVar

    K = TypeVar("K")

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

Source: TypeAlias = "Iterable[Any] | AsyncIterable[Any]"

# Mails taken from the source whose deliveries were not taken: several windows of small messages.
READ_AHEAD = 100
# Mails, or deliveries, after which others get to run, if taking them did not wait.
_TURN = 16

_END = object()
_ONE_MAIL = (Message, Mail, str, bytes, bytearray, memoryview)


def send_many(
    mails: Any,
    leases: Leases,
    life: Lifecycle,
    prepare: Prepare,
    *,
    ordered: Any,
    read_ahead: Any,
) -> SendMany[Any]:
    """What `SMTP.send_many` returns. ``prepare`` serialises a mail."""
    if isinstance(read_ahead, bool) or not isinstance(read_ahead, int):
        raise TypeError(f"read_ahead is a number, not {read_ahead!r}")
    if read_ahead < 1:
        raise ValueError(f"read_ahead is 1 or more, not {read_ahead}")
    if not isinstance(ordered, bool):
        raise TypeError(f"ordered is a bool, not {ordered!r}")
    life.check_state()
    source = _source_of(mails)

    def begin(group: TaskGroup) -> _Stream:
        outlet = _Outlet(ordered=ordered)
        crew = Crew(leases, life, group, outlet)
        return _Stream(source, Intake(leases, prepare), crew, outlet, read_ahead)

    return SendMany(begin, life)


def _source_of(mails: Any) -> Source:
    """The argument of `send_many`, if it is a source of mails. TypeError for what is one mail."""
    kind = type(mails).__name__
    is_one = isinstance(mails, _ONE_MAIL)
    if is_one or not (hasattr(mails, "__iter__") or hasattr(mails, "__aiter__")):
        raise TypeError(f"mails are an iterable or async iterable of messages, not {kind}")
    source: Source = mails
    return source


class SendMany(Generic[K]):
    """``async with smtp.send_many(mails) as deliveries``; see `SMTP.send_many`."""

    def __init__(self, begin: Callable[[TaskGroup], _Stream], life: Lifecycle) -> None:
        self._begin = begin
        self._life = life
        self._admitted: AbstractContextManager[None] | None = None
        self._group: TaskGroup | None = None
        self._stream: _Stream | None = None
        self._task: object = None

    async def __aenter__(self) -> AsyncIterator[Delivery[K]]:
        if self._group is not None:
            raise RuntimeError("each `send_many()` is entered once")
        self._admitted = self._life.admit()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._admitted.__enter__()
        self._task = task_id()
        self._life.insides.append(self._task)
        self._stream = self._begin(self._group)
        self._group.start_soon(self._stream.pull)
        return self._stream

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._group is not None
        assert self._admitted is not None
        assert self._stream is not None
        self._life.insides.remove(self._task)
        self._stream.leave()
        self._group.cancel_scope.cancel()
        try:
            # What it returns is about a cancellation that may be another one's: never ours to eat.
            await self._group.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as errors:
            error = first_error(errors)
            if _comes_first(error, exc):
                raise error from None
        finally:
            self._stream.abandon()
            self._admitted.__exit__(None, None, None)


def _comes_first(error: BaseException, exc: BaseException | None) -> bool:
    """Whether an error of a task leaves the block, and not what its body has raised.

    That may be a group of the caller's own, which trio hands back as another object.
    """
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, cancelled) or error is exc:
        return False
    if exc is None or isinstance(exc, cancelled):
        return True
    return not isinstance(error, (Exception, BaseExceptionGroup))


class _Stream(AsyncIterator[Delivery[Any]]):
    """Mails on their way from the source to a crew, and the deliveries that come out of it."""

    def __init__(
        self, source: Source, intake: Intake, crew: Crew, outlet: _Outlet, read_ahead: int
    ) -> None:
        self._source = source
        self._intake = intake
        self._crew = crew
        self._outlet = outlet
        self._read_ahead = read_ahead
        # Whoever pulls is woken for several mails at once.
        self._low = read_ahead - max(1, read_ahead // 8)
        self._pulled = 0
        self._taken = 0
        self._is_exhausted = False
        self._is_left = False
        self._is_told = False  # whether the caller has seen the error that ended it
        self._failure: BaseException | None = None  # of the source

    def leave(self) -> None:
        """The caller has left."""
        self._is_left = True
        self._outlet.ring()

    def abandon(self) -> None:
        """Nothing is under way any more."""
        self._crew.abandon()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery[Any]:
        if self._outlet.is_empty:
            await self._wait_for_one()
        elif self._taken % _TURN:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        self._taken += 1
        if self._pulled - self._taken <= self._low:
            self._crew.room.ring()
        return self._outlet.take()

    async def _wait_for_one(self) -> None:
        """Wait until there is a delivery to take, or raise how the ``async for`` ends."""
        while self._outlet.is_empty:
            if self._is_over():
                await checkpoint()
                raise self._end()
            if self._outlet.is_empty:
                await self._outlet.wait()

    def _is_over(self) -> bool:
        if self._is_left:
            return True
        if self._crew.is_stuck:
            if self._crew.is_at_work:
                return False
            self._outlet.let_out_the_rest()
            return self._outlet.is_empty
        return self._is_exhausted and self._taken == self._pulled

    def _end(self) -> BaseException:
        """How the ``async for`` ends: by an error once, if it was not left before."""
        error: BaseException | None = self._crew.failure or self._failure
        if error is None or self._is_told or self._is_left:
            return StopAsyncIteration()
        self._is_told = True
        return error

    async def pull(self) -> None:
        """Take mails from the source, and put them in line."""
        source = self._source
        try:
            if isinstance(source, AsyncIterable):
                await self._pull_async(source)
            else:
                await self._pull_sync(source)
        except Exception as error:
            if self._is_left:
                raise
            self._failure = _of_the_source(error)
        except anyio.get_cancelled_exc_class() as error:
            # Of a task of asyncio's that the source awaited, if nobody has cancelled this one.
            if anyio.get_current_task().has_pending_cancellation():
                raise
            self._failure = error
        self._is_exhausted = True
        self._outlet.ring()

    async def _pull_sync(self, source: Iterable[Any]) -> None:
        mails = iter(source)
        while await self._wait_for_room() and (mail := next(mails, _END)) is not _END:
            if self._pulled % _TURN == 0:
                await checkpoint()
            if not self._take_in_at_once(mail):
                await self._take_in(mail)

    async def _pull_async(self, source: AsyncIterable[Any]) -> None:
        mails = source.__aiter__()
        try:
            while await self._wait_for_room():
                try:
                    mail = await mails.__anext__()
                except StopAsyncIteration:
                    return
                if not self._take_in_at_once(mail):
                    await self._take_in(mail)
        finally:
            # Nobody else can end a generator that was made for this call.
            if isinstance(mails, AsyncGenerator):
                await mails.aclose()

    async def _wait_for_room(self) -> bool:
        """Wait until another mail may be taken; False if none is to be."""
        crew = self._crew
        while crew.failure is None:
            if self._pulled - self._taken < self._read_ahead and not crew.is_line_full:
                return True
            await crew.room.wait()
        return False

    def _take_in_at_once(self, mail: Any) -> bool:
        """Put a mail in line for which nothing has to be awaited; whether it was one."""
        item = self._intake.at_once(self._pulled, mail)
        if item is None:
            return False
        self._pulled += 1
        self._crew.put_in_line(item)
        return True

    async def _take_in(self, mail: Any) -> None:
        """Serialise a mail, and put it in line; one that cannot be sent ends here."""
        number, self._pulled = self._pulled, self._pulled + 1
        item = self._intake.item(number, mail)
        try:
            await self._intake.serialise(item, mail)
        except Exception as error:  # noqa: BLE001 - a caller's policy or iterable raises anything
            ledger_of(item.delivery).finish(error)
            self._outlet.put(item)
        except anyio.get_cancelled_exc_class():
            # As in `pull`; but it is one mail's message that was read here, to be signed.
            if anyio.get_current_task().has_pending_cancellation():
                raise
            self._outlet.put(item)
        else:
            self._crew.put_in_line(item)


def _of_the_source(error: Exception) -> Exception:
    """The error, unless it would end the ``async for`` as if all was well (see PEP 479)."""
    if not isinstance(error, StopAsyncIteration):
        return error
    failure = RuntimeError("the source of the mails raised StopAsyncIteration")
    failure.__cause__ = error
    return failure


class _Outlet:
    """The deliveries that have ended: in the order of their ends, or of the mails."""

    def __init__(self, *, ordered: bool) -> None:
        self._ready: deque[Delivery[Any]] = deque()
        self._early: dict[int, Delivery[Any]] | None = {} if ordered else None
        self._next_number = 0
        self._news = Bell()

    @property
    def is_empty(self) -> bool:
        return not self._ready

    def take(self) -> Delivery[Any]:
        return self._ready.popleft()

    async def wait(self) -> None:
        """Wait until there may be another one, or none any more."""
        await self._news.wait()

    def ring(self) -> None:
        """Who waits is to look again."""
        self._news.ring()

    def put(self, item: Item) -> None:
        """A delivery has ended: it, and those that waited for it, can be taken."""
        if self._early is None:
            self._ready.append(item.delivery)
        else:
            self._early[item.number] = item.delivery
            while self._next_number in self._early:
                self._ready.append(self._early.pop(self._next_number))
                self._next_number += 1
        self._news.ring()

    def let_out_the_rest(self) -> None:
        """Nothing is in order any more: those that wait for others that will not come."""
        early = self._early or {}
        self._ready.extend(early.pop(number) for number in sorted(early))
