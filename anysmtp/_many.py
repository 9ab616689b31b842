"""`SMTP.send_many`: a stream of messages in, their deliveries out as they end.

Theory of operation. All of it is inside the caller's ``async with``, in one task group. One task
*pulls*: it takes mails from the source, serialises them and puts them in line, and stops when
enough of them are neither sent nor their deliveries taken. *Workers*, as many as connections at
most, each take a lease and send what is in line one after another on it: the next message boards
with the end of the one before (see `_turns`), so that a message costs one round trip, and no task
has to be woken for it. A worker gives its connection back when somebody else waits for one.

What becomes of a message is written in its Delivery, which then waits to be taken. Workers never
raise: a client that cannot open a connection is *stuck*, nothing more is begun, and its error
leaves by the ``async for`` once everything under way has ended.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from contextlib import AbstractContextManager
from copy import copy
from email.message import Message
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, cast

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._attempts import Attempts
from ._channel import Channel
from ._delivery import Delivery, ledger_of
from ._envelope import Job, Mail
from ._leases import Again, Leases
from ._lifecycle import Call, Lifecycle
from ._mailer import Asked, Book
from ._pool import Claim
from ._sending import Sending
from ._tasks import first_error
from ._turns import Turn
from .errors import SMTPException

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar

    K = TypeVar("K", default=None)
else:
    from typing import TypeVar

    K = TypeVar("K")

if sys.version_info < (3, 11):  # pragma: no cover - coverage is measured on a newer Python
    from exceptiongroup import BaseExceptionGroup

Source: TypeAlias = "Iterable[Any] | AsyncIterable[Any]"
Prepare: TypeAlias = Callable[[Mail[Any], Book], Awaitable[Job]]

# Mails taken from the source whose deliveries were not taken: several windows of small messages.
READ_AHEAD = 100
# Octets of serialised messages in line beyond which no other mail is taken.
_READ_AHEAD_OCTETS = 4 * 1024 * 1024
# Mails after which others get to run, if taking them did not wait.
_TURN = 16

_END = object()
_ONE_MAIL = (Message, Mail, str, bytes, bytearray, memoryview)


def send_many(
    mails: Any,
    leases: Leases,
    life: Lifecycle,
    prepare: Prepare,
    *,
    ordered: bool,
    read_ahead: Any,
) -> SendMany[Any]:
    """What `SMTP.send_many` returns. ``prepare`` serialises a mail."""
    if isinstance(read_ahead, bool) or not isinstance(read_ahead, int):
        raise TypeError(f"read_ahead is a number, not {read_ahead!r}")
    if read_ahead < 1:
        raise ValueError(f"read_ahead is 1 or more, not {read_ahead}")
    life.check_open()
    stream = _Stream(_source_of(mails), leases, life, prepare, ordered, read_ahead)
    return SendMany(stream.begin, stream.end, life.admit)


def _source_of(mails: Any) -> Source:
    """The argument of `send_many`, if it is a source of mails. TypeError for what is one mail."""
    kind = type(mails).__name__
    is_one = isinstance(mails, _ONE_MAIL)
    if is_one or not (hasattr(mails, "__iter__") or hasattr(mails, "__aiter__")):
        raise TypeError(f"mails are an iterable or async iterable of messages, not {kind}")
    source: Source = mails
    return source


def _as_mail(mail: Any) -> Any:
    """A message object alone is a mail with the envelope of its header fields."""
    return Mail(cast("Message", mail)) if isinstance(mail, Message) else mail


class _Item:
    """One mail on its way."""

    __slots__ = (
        "again",
        "attempts",
        "book",
        "delivery",
        "number",
        "sending",
        "turn",
    )

    def __init__(self, number: int, delivery: Delivery[Any]) -> None:
        self.number = number
        self.delivery = delivery
        self.again: Again | None = None
        # Set by those who bring it on its way: the one who pulled it, and a worker.
        self.book: Book
        self.attempts: Attempts
        self.sending: Sending
        self.turn: Turn

    @property
    def job(self) -> Job:
        return self.attempts.job

    @property
    def is_known(self) -> bool:
        """Whether anybody has it, may have it, or was refused: its delivery must come out then."""
        ledger = self.book.ledger
        return any(ledger.keys(outcome) for outcome in ("accepted", "refused", "in_doubt"))

    def end(self, error: BaseException) -> None:
        """Its send ends with this error, or with this cancellation."""
        self.book.__exit__(type(error), error, None)


class SendMany(Generic[K]):
    """``async with smtp.send_many(mails) as deliveries``; see `SMTP.send_many`."""

    def __init__(
        self,
        begin: Callable[[TaskGroup], AsyncIterator[Delivery[K]]],
        end: Callable[[], None],
        admit: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._begin = begin
        self._end = end
        self._admit = admit
        self._admitted: AbstractContextManager[None] | None = None
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> AsyncIterator[Delivery[K]]:
        if self._group is not None:
            raise RuntimeError("each `send_many()` is entered once")
        self._admitted = self._admit()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._admitted.__enter__()
        return self._begin(self._group)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._group is not None
        assert self._admitted is not None
        self._end()
        self._group.cancel_scope.cancel()
        try:
            # What it returns is about a cancellation that may be another one's: never ours to eat.
            await self._group.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as errors:
            error = first_error(errors)
            if _comes_first(error, exc):
                raise error from None
        finally:
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
    """The state of one `send_many`, and the deliveries that come out of it."""

    def __init__(
        self,
        source: Source,
        leases: Leases,
        life: Lifecycle,
        prepare: Prepare,
        ordered: bool,
        read_ahead: int,
    ) -> None:
        self._source = source
        self._leases = leases
        self._life = life
        self._prepare = prepare
        self._read_ahead = read_ahead
        self._numbers = 0  # mails pulled
        self._taken = 0  # deliveries taken
        self._line: deque[_Item] = deque()
        self._octets_in_line = 0
        self._workers = 0
        self._ended: deque[Delivery[Any]] = deque()
        self._early: dict[int, Delivery[Any]] | None = {} if ordered else None
        self._next_number = 0
        self._is_exhausted = False
        self._error: BaseException | None = None
        self._is_stuck = False
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._sleeping: set[_Item] = set()
        self._resting = 0  # how many attempts to connect are waited for
        self._starting: set[anyio.CancelScope] = set()
        self._is_left = False
        self._asker: object = None
        self._task: object = None
        self._group: TaskGroup

    def begin(self, group: TaskGroup) -> Self:
        """Do all of it in this group, for the task that called this."""
        self._group = group
        self._task = anyio.get_current_task().id
        # Who has a connection for himself does not give it back before this has ended.
        if self._leases.pool.is_held_by(self._task):
            self._asker = self._task
        self._life.insides.append(self._task)
        group.start_soon(self.pull)
        return self

    def end(self) -> None:
        """The caller has left."""
        self._is_left = True
        self._life.insides.remove(self._task)
        self._tell()

    # -- the caller's side

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery[Any]:
        await checkpoint_if_cancelled()
        while not self._ended:
            if self._is_over():
                error, self._error = self._error, None
                if error is not None and not self._is_left:
                    raise error
                raise StopAsyncIteration
            if self._ended:
                break
            if self._news is None or self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()
        self._taken += 1
        self._make_room()
        return self._ended.popleft()

    def _is_over(self) -> bool:
        if self._is_left:
            return True
        if self._is_stuck:
            if not self._workers:
                self._give_out_the_rest()
            return not self._workers and not self._ended
        return self._is_exhausted and self._taken == self._numbers

    # -- the task that pulls

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
            self._error = self._error or error
        self._is_exhausted = True
        self._tell()

    async def _pull_sync(self, source: Iterable[Any]) -> None:
        mails = iter(source)
        while await self._wait_for_room() and (mail := next(mails, _END)) is not _END:
            if self._numbers % _TURN == 0:
                await checkpoint()
            await self._put_in_line(mail)

    async def _pull_async(self, source: AsyncIterable[Any]) -> None:
        mails = source.__aiter__()
        try:
            while await self._wait_for_room():
                try:
                    mail = await mails.__anext__()
                except StopAsyncIteration:
                    return
                await self._put_in_line(mail)
        finally:
            # Nobody else can end a generator that was made for this call.
            if isinstance(mails, AsyncGenerator):
                await mails.aclose()

    async def _wait_for_room(self) -> bool:
        """Wait until another mail may be taken; False if none is to be."""
        while not self._is_stuck and (
            self._numbers - self._taken >= self._read_ahead
            or self._octets_in_line > _READ_AHEAD_OCTETS
        ):
            self._room = anyio.Event()
            await self._room.wait()
        return not self._is_stuck

    async def _put_in_line(self, mail: Any) -> None:
        """Serialise a mail; one that cannot be sent ends here, in its Delivery."""
        as_mail = _as_mail(mail)
        delivery = Delivery[Any](key=getattr(as_mail, "key", None))
        item = _Item(self._numbers, delivery)
        self._numbers += 1
        ledger = ledger_of(delivery)
        try:
            await self._open_book(item, as_mail)
        except Exception as error:  # noqa: BLE001 - a bad message, however bad, ends no stream
            ledger.finish(error)
            self._give_out(item)
            return
        self._line.append(item)
        self._octets_in_line += item.job.content.size
        self._hire()

    async def _open_book(self, item: _Item, mail: Mail[Any]) -> None:
        if not isinstance(mail, Mail):
            raise TypeError(f"a mail is a message object or a Mail, not {type(mail).__name__}")
        settings = self._leases.settings
        asked = Asked(
            {"envelope": mail.envelope, "delivery": item.delivery},
            require_all=settings.require_all,
        )
        message = mail.message
        if isinstance(message, Message):
            item.book = asked.book_for_object(message, self._leases.monitor)
        else:
            item.book = asked.book(self._leases.monitor)
        item.book.__enter__()
        job = await self._prepare(mail, item.book)
        item.attempts = Attempts(job, item.book.ledger, settings.retry)

    # -- the workers

    def _hire(self) -> None:
        """One worker for each that is in line, as far as there are connections for them."""
        most = min(self._leases.settings.limits.max_connections, self._workers + len(self._line))
        while self._may_begin() and self._workers < most:
            self._workers += 1
            self._group.start_soon(self._work)

    def _may_begin(self) -> bool:
        return bool(self._line) and not self._is_stuck and not self._resting

    async def _work(self) -> None:
        """Send what is in line, until nothing is."""
        try:
            while self._may_begin():
                await self._serve(self._leave_line())
        finally:
            self._workers -= 1
            self._tell()

    async def _serve(self, first: _Item) -> None:
        """Send a message over a connection, and whatever can follow it there."""
        aboard = deque([first])
        conveyor = _Conveyor(self, self._leases, aboard)
        scope = anyio.CancelScope()
        self._starting.add(scope)
        try:
            with scope, self._life.call(admitted=True) as call:
                await conveyor.run(call, scope, asker=self._asker)
        except Exception as error:
            if not conveyor.has_begun:
                # Also what a caller's own token function raises.
                self._cannot_begin(first, error)
            elif isinstance(error, SMTPException):
                self._interrupted(aboard, error)
            else:
                raise
        except BaseException as cancellation:
            for item in aboard:
                item.end(cancellation)
            raise
        finally:
            self._starting.discard(scope)
        if scope.cancelled_caught:
            # Nothing works any more: it was waiting for what another one did not get.
            assert isinstance(self._error, Exception)
            self._cannot_begin(first, copy(self._error))

    def begun(self, scope: anyio.CancelScope) -> None:
        """There is a connection: what is sent on it goes on to its end."""
        self._starting.discard(scope)

    def following(self) -> _Item | None:
        """Who is next in line, if a connection that was used is good enough for it."""
        if self._is_stuck or not self._line or self._line[0].again is not None:
            return None
        return self._line[0]

    def leave_line(self, item: _Item) -> None:
        assert item is self._line[0]
        self._leave_line()

    def give_up(self, item: _Item, error: Exception) -> None:
        """It cannot be written in a way that the server takes."""
        item.end(error)
        self._give_out(item)

    def settle(self, item: _Item, error: SMTPException | None, again: Again | None) -> None:
        """A transaction has ended; what follows for its message."""
        if again is not None:
            self._leases.monitor.again(again)
            item.again = again
            item.book.ledger.again(recipient.given for recipient in item.job.recipients)
            self._back_in_line(item)
            return
        item.again = None
        if not item.book.goes_on(item.attempts, error):
            self._finish(item)
        elif item.attempts.delay:
            self._group.start_soon(self._later, item)
        else:
            item.attempts.begin()
            self._back_in_line(item)

    def _interrupted(self, aboard: deque[_Item], error: SMTPException) -> None:
        """The time was up, or the client was closed: for the first one, and with it the others."""
        for number, item in enumerate(tuple(aboard)):
            is_unharmed = number > 0 and not item.book.ledger.keys("in_doubt")
            may_repeat = is_unharmed and item.again is None
            again = Again(str(error), is_last=True) if may_repeat else None
            self.settle(item, copy(error), again)

    def _cannot_begin(self, item: _Item, error: Exception) -> None:
        """There is no connection to be had: for this message, and so for the others."""
        is_first = not self._is_stuck
        may_go_on = is_first and isinstance(error, SMTPException)
        if may_go_on and item.book.goes_on(item.attempts, cast("SMTPException", error)):
            self._group.start_soon(self._rest, item)
            return
        item.end(error)
        if item.is_known:
            self._give_out(item)
        if is_first:
            self._is_stuck = True
            self._error = error
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        """Nothing is begun any more; what waits for that comes to its end now."""
        for scope in tuple(self._starting):
            scope.cancel()
        for item in self._line:
            if item.is_known:
                item.end(copy(error))
                self._give_out(item)
        for item in tuple(self._sleeping):
            self._sleeping.discard(item)
            self._finish(item)
        self._make_room()
        self._tell()

    async def _rest(self, item: _Item) -> None:
        """Nobody tries to connect before this one tries again."""
        self._resting += 1
        try:
            await self._later(item)
        finally:
            self._resting -= 1
            self._hire()

    async def _later(self, item: _Item) -> None:
        self._sleeping.add(item)
        try:
            await self._life.pause(item.attempts.delay)
        except SMTPException as error:
            if item in self._sleeping:
                self._sleeping.discard(item)
                self._cannot_begin(item, error)
            return
        if item in self._sleeping:
            self._sleeping.discard(item)
            item.attempts.begin()
            self._back_in_line(item)

    def _back_in_line(self, item: _Item) -> None:
        self._line.appendleft(item)
        self._octets_in_line += item.job.content.size
        self._hire()

    def _leave_line(self) -> _Item:
        item = self._line.popleft()
        self._octets_in_line -= item.job.content.size
        self._make_room()
        return item

    def _finish(self, item: _Item) -> None:
        try:
            item.book.close(item.attempts)
        except SMTPException as error:
            item.end(error)
        self._give_out(item)

    def _give_out(self, item: _Item) -> None:
        """A delivery has ended: it, and those that waited for it, can be taken."""
        if self._early is None:
            self._ended.append(item.delivery)
        else:
            self._early[item.number] = item.delivery
            while self._next_number in self._early:
                self._ended.append(self._early.pop(self._next_number))
                self._next_number += 1
        self._tell()

    def _give_out_the_rest(self) -> None:
        """Nothing is in order any more: those that wait for others that will not come."""
        early = self._early or {}
        self._ended.extend(early.pop(number) for number in sorted(early))

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()


class _Conveyor:
    """One lease of a worker: the messages that it sends over one connection."""

    __slots__ = ("_aboard", "_leases", "_stream", "has_begun")

    def __init__(self, stream: _Stream, leases: Leases, aboard: deque[_Item]) -> None:
        self._stream = stream
        self._leases = leases
        self._aboard = aboard
        self.has_begun = False
        """Whether there was a connection."""

    async def run(self, call: Call, scope: anyio.CancelScope, *, asker: object) -> None:
        """Send what is aboard, and whatever boards."""
        leases, aboard = self._leases, self._aboard
        first = aboard[0]
        self._equip(first, call)
        claim = await leases.lease(
            call, first.turn, first.book.ledger, again=first.again, asker=asker
        )
        self.has_begun = True
        self._stream.begun(scope)
        channel = claim.connection
        assert channel is not None
        is_alone = not first.turn.has_boarded
        feed = partial(self._passenger, call)
        if is_alone:
            leases.feed(channel, feed)
        try:
            while aboard:
                await self._send(aboard[0], channel, claim)
                if is_alone and not aboard:
                    self._go_on(call, channel)
        finally:
            leases.feed_no_more(channel, feed)
            try:
                await self._let_go(channel)
            finally:
                await leases.give_back(claim)

    async def _let_go(self, channel: Channel) -> None:
        """Nobody waits any more for the replies of those who are aboard still."""
        turns = [item.turn for item in self._aboard if item.turn.has_boarded]
        for turn in turns:
            channel.session.forsake(turn)
        for turn in turns:
            await channel.leave(turn)

    async def _send(self, item: _Item, channel: Channel, claim: Claim[Channel]) -> None:
        error: SMTPException | None = None
        again: Again | None = None
        try:
            async with channel.turn(item.turn):
                await item.sending.deliver(channel, item.turn)
            self._leases.pool.took_message(anyio.current_time())
        except SMTPException as caught:
            error = caught
            if item.again is None or not item.again.is_last:
                ledger, is_stale = item.book.ledger, item.sending.is_stale
                again = self._leases.again_after(
                    error, item.job, ledger, claim, item.turn, is_stale=is_stale
                )
        except Exception as failure:  # noqa: BLE001 - it cannot be written in 7bit, however that fails
            self._aboard.popleft()
            self._stream.give_up(item, failure)
            return
        # What comes next finds a connection that has served before.
        claim.was_used = True
        self._aboard.popleft()
        self._stream.settle(item, error, again)

    def _passenger(self, call: Call) -> Turn | None:
        """Who is next in line rides along, unless somebody else waits for a connection."""
        if (item := self._stream.following()) is None:
            return None
        self._equip(item, call)
        item.turn.on_boarding = lambda: self._board(item)
        return item.turn

    def _board(self, item: _Item) -> None:
        self._stream.leave_line(item)
        self._aboard.append(item)

    def _go_on(self, call: Call, channel: Channel) -> None:
        """Take the next one from the line, if the connection is nobody else's."""
        is_free = channel.is_idle and not channel.is_worn and not self._leases.pool.waiting
        if is_free and (item := self._stream.following()) is not None:
            self._equip(item, call)
            self._board(item)

    def _equip(self, item: _Item, call: Call) -> None:
        settings = self._leases.settings
        pace = self._leases.pace
        item.sending = Sending(
            item.job, item.book.ledger, settings.pipelining, settings.chunking, pace
        )
        item.turn = Turn(call.clock, item.sending)
        item.book.ledger.phase = "waiting"
