"""Clients and servers that have everything go wrong, and the judge of what becomes of the mail.

A `Plan` is one whole run, as data: what the client is and what the server is, which messages are
sent and how, which of them are cancelled, when the client is left, and what goes wrong where. It
prints as it is written, so a plan that fails can be pasted into a test.

`carry_out` runs a plan, and `judge` holds what the client has told against the server's own log.

What goes wrong is a list of `Fault`: the n-th time that the server meets a point, it does something
else than a server does. Each message has a sender and recipients of its own, and the server names
one of them in every reply that the plan has it make, so a reply that was taken for another
message's shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.message import EmailMessage
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Limits,
    Mail,
    Receipt,
    Reply,
    Retry,
    SMTPConnection,
    SMTPException,
    Statistics,
    Timeouts,
)
from anysmtp.testing import DEAF, DEFAULT_KEYWORDS, DROP, RESET, STALL, Act, ScriptedServer
from anysmtp.testing._script import MISREAD

from .leaks import no_leaks

TIMEOUT = 2.0
"""The client's timeouts, in seconds: below the server's being too late, above its being late."""
CANCELLED_FOR = 2.5
"""Seconds that a cancelled call may go on: a write that may not be torn, and a close."""
HANGS_AFTER = 3600.0

ACTS: Mapping[str, Act] = {
    "4yz": Act("450 4.2.0 <{}> not now"),
    "5yz": Act("550 5.7.1 <{}> never"),
    "5yz, and closes": Act("550 5.7.1 <{}> never", then="close"),
    "too many": Act("452 4.5.3 <{}> is one too many"),
    "too many connections": Act("450 4.7.0 <{}> too many connections"),
    "354": Act("354 whoever it is for"),
    "421": Act("421 4.3.2 <{}> closing", then="close"),
    "421, and stays": Act("421 4.3.2 <{}> closing"),
    "554": Act("554 5.3.2 <{}> no more"),
    "554, and closes": Act("554 5.3.2 <{}> no more", then="close"),
    "misread": MISREAD,
    "yes, and closes": Act(then="close"),
    "yes, and resets": Act(then="reset"),
    "closes": DROP,
    "resets": RESET,
    # Octets that are part of a reply tell the server's own side whether it was a yes.
    "stores, and closes": Act(b"2", then="close"),
    "forgets, and closes": Act(b"4", then="close"),
    "stores, and resets": Act(b"2", then="reset"),
    "gibberish": Act(b"\xff\xfe\r\n"),
    "stalls": STALL,
    "is deaf": DEAF,
    "is late": Act(late=0.5),
    "is too late": Act(late=5),
}
"""What the server may do, by name; ``{}`` is whoever the command is about."""

_ENDS = ("421", "closes", "resets", "stalls", "is deaf", "is late", "is too late")
_HALF = ("yes, and closes", "yes, and resets")
_FINAL = ("4yz", "5yz", "stores, and closes", "stores, and resets", "forgets, and closes")

POINTS: Mapping[str, tuple[str, ...]] = {
    "CONNECT": ("closes", "stalls", "is late"),
    "GREETING": ("4yz", "554, and closes", "421, and stays", *_ENDS),
    "EHLO": ("4yz", "gibberish", "421, and stays", *_ENDS),
    # A server that says no to RSET has not forgotten the transaction before it, and none does.
    "RSET": ("554, and closes", *_HALF, *_ENDS),
    "MAIL": (
        *("4yz", "5yz", "554", "too many connections", "gibberish", "421, and stays"),
        *_HALF,
        *_ENDS,
    ),
    "RCPT": ("4yz", "5yz", "too many", "gibberish", "421, and stays", *_HALF, *_ENDS),
    "DATA": ("4yz", "5yz", "354", "gibberish", "421, and stays", *_HALF, *_ENDS),
    # What a server says before it has the message is the end of it: it says nothing else later.
    "BODY": ("5yz, and closes", *_ENDS),
    ".": ("gibberish", "421, and stays", *_FINAL, *_HALF, *_ENDS),
    "BDAT": ("misread", "gibberish", "421, and stays", *_FINAL, *_HALF, *_ENDS),
    "QUIT": _ENDS,
}
"""What may go wrong where."""


@dataclass(frozen=True)
class Fault:
    """The ``nth`` time that the server meets this point, it acts so."""

    point: str
    nth: int
    act: str


@dataclass(frozen=True)
class Letter:
    """One message, sent by a task of its own."""

    number: int
    recipients: int = 1
    size: int = 0
    by: Literal["client", "connection"] = "client"
    starts_after: int = 0
    """Turns of the event loop before it is sent."""
    cancelled_after: int | None = None
    """Turns of the event loop after that, before its task is cancelled."""
    resumes: bool = False
    """Whether it is sent again with its Delivery, once, if it may be."""

    @property
    def may_be_cancelled(self) -> bool:
        return self.cancelled_after is not None

    @property
    def sender(self) -> str:
        return f"s{self.number}@x.test"

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(f"r{self.number}.{n}@{'xyz'[n % 3]}.test" for n in range(self.recipients))

    def message(self) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = ", ".join(self.addresses)
        message["Subject"] = str(self.number)
        message["Date"] = "Sun, 22 Nov 2026 12:00:00 +0000"
        message["Message-ID"] = f"<{self.number}@x.test>"
        message.set_content(("." + "x" * 60 + "\n") * (self.size // 62 + 1))
        return message


@dataclass(frozen=True)
class Stream:
    """Messages for one `send_many`."""

    letters: tuple[Letter, ...] = ()
    ordered: bool = False
    read_ahead: int = 10
    leaves_after: int | None = None
    """Deliveries after which the block is left."""
    cancelled_after: int | None = None
    """Turns of the event loop after which its task is cancelled."""


@dataclass(frozen=True)
class Plan:
    """One run."""

    letters: tuple[Letter, ...] = ()
    streams: tuple[Stream, ...] = ()
    faults: tuple[Fault, ...] = ()
    connections: int = 1
    pipelining: Literal["auto", "eager", "off"] = "auto"
    attempts: int = 1
    """More than one are a `Retry`."""
    max_messages: int | None = None
    require_all: bool = False
    ends: Literal["when all is done", "cleanly", "aborted"] = "when all is done"
    ends_after: int = 0
    """Turns of the event loop before the client is left, if that does not wait."""
    offers: tuple[str, ...] = ("PIPELINING", "CHUNKING")
    takes_connections: int | None = None
    """How many the server serves at once."""
    split: int | None = None
    """Octets in which replies arrive."""

    def all_letters(self) -> Iterator[Letter]:
        yield from self.letters
        for stream in self.streams:
            yield from stream.letters

    @property
    def is_kind(self) -> bool:
        """Whether nothing goes wrong but what is cancelled: then only that may not arrive.

        A server that takes few connections may still count one that was just closed.
        """
        leaves_early = self.ends != "when all is done"
        return not self.faults and not leaves_early and self.takes_connections is None


class ChaosServer(ScriptedServer):
    """A server that does as the plan says."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(
            keywords=(*plan.offers, *(k for k in DEFAULT_KEYWORDS if k != "PIPELINING")),
            script=self._rule,
            max_connections=plan.takes_connections,
            split=plan.split,
        )
        self.met: Counter[str] = Counter()
        """How often each point was met."""
        self.faults: Counter[str] = Counter()
        """How often each thing went wrong."""
        self._faults = {(fault.point, fault.nth): fault.act for fault in plan.faults}
        self._senders: dict[int, str] = {}

    async def wait_settled(self) -> None:
        """Wait until the server has read all that it ever will."""
        try:
            await self.wait_closed()
        except TimeoutError:
            # One that is deaf never sees an end; one that is late again and again, later.
            await anyio.sleep(60)

    def _rule(self, line: str) -> Act | None:
        point = line.partition(" ")[0].upper()
        who = self._whom(point, line)
        self.met[point] += 1
        name = self._faults.get((point, self.met[point] - 1))
        act = Act() if name is None else ACTS[name]
        self.faults.update([name] if name else [])
        # The server's own reply to the end of a message would not say whose it was.
        reply = "250 2.0.0 <{}>" if point == "." and act.reply is None else act.reply
        return replace(act, reply=reply.format(who)) if isinstance(reply, str) else act

    def _whom(self, point: str, line: str) -> str:
        """Whom a command is about: a recipient, or the sender. Each connection has a task."""
        task = anyio.get_current_task().id
        address = line.partition("<")[2].partition(">")[0]
        if point == "MAIL":
            self._senders[task] = address
        return address if point == "RCPT" else self._senders.get(task, "")


# What the sender of a message was told of a recipient, and how often the server may have it then.
_OUTCOMES = ("accepted", "refused", "not_sent", "in_doubt")
STORED_IF: Mapping[str, tuple[int, ...]] = {
    "accepted": (1,),
    "refused": (0,),
    "not_sent": (0,),
    "in_doubt": (0, 1),
    "never begun": (0,),
    "not told": (0, 1),
}


@dataclass
class Send:
    """What a letter has come to, as its sender knows it."""

    letter: Letter
    delivery: Delivery[Any] | None = None
    """None if it did not come out of `send_many`."""
    receipt: Receipt | None = None
    error: SMTPException | None = None
    was_begun: bool = True
    """False where the client said that it has taken nothing on."""

    def told(self, recipient: str) -> str:
        """What the sender knows about this recipient: one of `STORED_IF`."""
        if not self.was_begun:
            return "never begun"
        delivery = self.delivery
        if delivery is None:
            return "not told"
        assert delivery.phase == "done", f"{self} has not ended"
        (outcome,) = (name for name in _OUTCOMES if recipient in getattr(delivery, name))
        return outcome

    def replies(self, recipient: str) -> Iterator[Reply]:
        """What the server has said about this recipient."""
        if self.delivery is not None:
            for replies in (self.delivery.accepted, self.delivery.refused):
                if recipient in replies:
                    yield replies[recipient]


@dataclass
class Report:
    """What became of a plan: what the client has told, and what the server has seen."""

    plan: Plan
    sends: list[Send]
    server: ChaosServer
    statistics: Statistics


def judge(report: Report) -> None:
    """Each recipient has each message exactly once, or the client has said why not."""
    stored = report.server.deliveries()
    for send in report.sends:
        for recipient in send.letter.addresses:
            told, count = send.told(recipient), stored[str(send.letter.number), recipient]
            assert count in STORED_IF[told], f"{told}, and stored {count} times: {send}"
            _judge_replies(send, recipient)
            if report.plan.is_kind and not send.letter.may_be_cancelled:
                assert told in ("accepted", "not told"), f"{told}, and nothing went wrong: {send}"
        _judge_end(send)
    _judge_pool(report.statistics)


def _judge_replies(send: Send, recipient: str) -> None:
    """What was said of it was said to it."""
    for reply in send.replies(recipient):
        named = reply.text.partition("<")[2].partition(">")[0]
        assert named in ("", recipient, send.letter.sender), f"{reply} belongs to another: {send}"


def _judge_end(send: Send) -> None:
    """What the call has returned or raised says the same as the Delivery."""
    delivery = send.delivery
    if send.receipt is not None and delivery is not None:
        assert send.receipt.accepted == delivery.accepted
        assert send.receipt.refused == delivery.refused
    if send.error is not None and send.was_begun:
        # Whoever has a connection to himself may also fail to get one.
        assert send.error.delivery is delivery or send.letter.by == "connection"


def _judge_pool(statistics: Statistics) -> None:
    left = (statistics.open_connections, statistics.sending, statistics.waiting)
    assert left == (0, 0, 0), f"the client keeps connections, users, waiters: {left}"


async def carry_out(plan: Plan, *, over_tcp: bool = False) -> Report:
    """Do all that the plan says, and leave nothing behind.

    In virtual time on memory streams; over TCP the machine's time goes by, so what waits for a
    timeout has no place in the plan.
    """
    server = ChaosServer(plan)
    async with no_leaks(), server:
        options = _options(plan)
        if over_tcp:
            options |= {"hostname": "127.0.0.1", "port": await server.listen(), "timeout": 60}
        else:
            options["connectable"] = server.connectable
        run = _Run(plan, SMTP(**options))
        with anyio.fail_after(HANGS_AFTER):
            await run()
        await server.wait_settled()
    return Report(plan, run.sends, server, run.smtp.statistics())


def _options(plan: Plan) -> dict[str, Any]:
    return {
        "tls": "off",
        "timeout": Timeouts(TIMEOUT, connect=TIMEOUT, final=TIMEOUT),
        "limits": Limits(
            max_connections=plan.connections, max_messages_per_connection=plan.max_messages
        ),
        "retry": Retry(plan.attempts, base=0.1) if plan.attempts > 1 else None,
        "require_all": plan.require_all,
        "pipelining": plan.pipelining,
    }


class _LeftError(Exception):
    """The body of the client's block does not end well."""


class _Stop:
    """A scope that is cancelled after so many turns of the event loop, and ends then."""

    def __init__(self, turns: int | None) -> None:
        self.turns = turns
        self.scope = anyio.CancelScope()
        self._since = math.inf

    async def __call__(self) -> None:
        assert self.turns is not None
        await _turns(self.turns)
        self._since = anyio.current_time()
        self.scope.cancel()

    def check(self) -> None:
        waited = anyio.current_time() - self._since
        assert waited <= CANCELLED_FOR, f"it went on for {waited} seconds after it was cancelled"


class _Run:
    """One plan being carried out."""

    def __init__(self, plan: Plan, smtp: SMTP) -> None:
        self.smtp = smtp
        self.sends: list[Send] = []
        self._plan = plan
        self._has_left = False
        self._under_way = 0
        self._all_done = anyio.Event()
        self._group: TaskGroup

    async def __call__(self) -> None:
        async with anyio.create_task_group() as self._group:
            with suppress(_LeftError):
                async with self.smtp:
                    self._start()
                    await self._leave()

    def _start(self) -> None:
        for letter in self._plan.letters:
            send = Send(letter, Delivery(key=letter.number))
            self.sends.append(send)
            self._group.start_soon(self._until_done, self._send, send)
        for stream in self._plan.streams:
            sends = {letter.number: Send(letter) for letter in stream.letters}
            self.sends += sends.values()
            self._group.start_soon(self._until_done, self._send_stream, stream, sends)
        self._under_way = len(self._plan.letters) + len(self._plan.streams)

    async def _leave(self) -> None:
        """Leave the client's block, when and as the plan says."""
        if self._plan.ends != "when all is done":
            await _turns(self._plan.ends_after)
        elif self._under_way:
            await self._all_done.wait()
        self._has_left = True
        if self._plan.ends == "aborted":
            raise _LeftError

    async def _until_done(self, afn: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await afn(*args)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._all_done.set()

    def _stop(self, turns: int | None) -> _Stop:
        stop = _Stop(turns)
        if turns is not None:
            self._group.start_soon(stop)
        return stop

    async def _send(self, send: Send) -> None:
        letter, delivery = send.letter, send.delivery
        assert delivery is not None
        await _turns(letter.starts_after)
        stop = self._stop(letter.cancelled_after)
        with stop.scope:
            await self._try(send)
            if letter.resumes and send.was_begun and delivery.may_retry:
                await self._try(send)
        stop.check()
        # Of a send that was not taken on, the Delivery knows no recipients.
        knows_any = any(getattr(delivery, name) for name in _OUTCOMES)
        send.was_begun = send.was_begun and knows_any

    async def _try(self, send: Send) -> None:
        send.receipt = send.error = None
        try:
            if send.letter.by == "client":
                send.receipt = await self._send_on(self.smtp, send)
            else:
                async with self.smtp.connection() as connection:
                    send.receipt = await self._send_on(connection, send)
        except SMTPException as error:
            send.error = error
        except RuntimeError:
            # A client that was left takes nothing on.
            if not self._has_left:
                raise

    async def _send_on(self, mailer: SMTP | SMTPConnection, send: Send) -> Receipt:
        return await mailer.send_message(
            send.letter.message(),
            recipients=send.letter.addresses,
            require_all=self._plan.require_all,
            delivery=send.delivery,
        )

    async def _send_stream(self, stream: Stream, sends: dict[int, Send]) -> None:
        stop = self._stop(stream.cancelled_after)
        with stop.scope:
            try:
                await self._take(stream, sends)
            except SMTPException:
                _never_begun(sends)
            except RuntimeError:
                if not self._has_left:
                    raise
                _never_begun(sends)
        stop.check()

    async def _take(self, stream: Stream, sends: dict[int, Send]) -> None:
        mails = (
            Mail(letter.message(), Envelope(recipients=letter.addresses), key=letter.number)
            for letter in stream.letters
        )
        many = self.smtp.send_many(mails, ordered=stream.ordered, read_ahead=stream.read_ahead)
        async with many as deliveries:
            taken = 0
            while taken != stream.leaves_after:
                try:
                    delivery = await deliveries.__anext__()
                except StopAsyncIteration:
                    assert taken == len(sends), "not every mail came out of it"
                    break
                assert sends[delivery.key].delivery is None, f"{delivery} came out twice"
                sends[delivery.key].delivery = delivery
                taken += 1


def _never_begun(sends: dict[int, Send]) -> None:
    """A stream that raises does so when all that was under way has come out of it."""
    for send in sends.values():
        send.was_begun = send.delivery is not None


async def _turns(count: int) -> None:
    for _ in range(count):
        await checkpoint()
