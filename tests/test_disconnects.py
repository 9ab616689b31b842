"""A server that is gone after its k-th byte, for every k, in every way in which servers go.

What the server had of a message is the judge of what the client says of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Limits,
    SMTPConnectError,
    SMTPException,
    SMTPServerDisconnected,
    SMTPTLSError,
)
from anysmtp.testing import DEFAULT_KEYWORDS, Transcript
from anysmtp.testing._wire import Close
from support.bench import LARGE, SMALL, Bench, Seen, Transport, send, subject_of
from support.fixtures import Tally
from support.leaks import no_leaks
from support.many import mail
from support.quick import every
from support.sends import Send
from support.stage import Stage, start_in_order
from support.tls import Certificates

pytestmark = pytest.mark.anyio

HOWS: tuple[Close, ...] = ("close", "truncate", "reset")
BOUND = 10_000
# Every byte, or fewer.
EACH = every(7)
GOODBYE = b"221 2.0.0 Bye\r\n"
CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")


async def _send_cut(
    bench: Bench,
    subject: str,
    delivery: Delivery[None] | None,
    size: int = SMALL,
    *,
    warm: bool = False,
    **options: Any,
) -> tuple[SMTPException | None, bool]:
    """Send on a connection that gives out; what that raised, and whether it came to it.

    Where it came to it the client must work on.
    """
    error = None
    before = len(bench.server.connections)
    async with bench.client(**options) as smtp:
        try:
            if warm:
                await smtp.connect()
            await send(smtp, subject, size, delivery)
        except SMTPException as exc:
            error = exc
        is_cut = error is not None or len(bench.server.connections) > before + 1
        if is_cut:
            await send(smtp, f"after {subject}")
    return error, is_cut


async def _cut_everywhere(
    bench: Bench,
    how: Close,
    *,
    unit: Unit = "reply",
    step: int = 1,
    size: int = SMALL,
) -> dict[int, tuple[Delivery[None], SMTPException | None]]:
    """Cut the connection after each count of bytes, until it is over before that."""
    ends: dict[int, tuple[Delivery[None], SMTPException | None]] = {}
    async with no_leaks():
        for count in range(0, BOUND, step):
            delivery: Delivery[None] = Delivery()
            bench.server.cut_after(count, how, unit=unit, connections=1)
            error, is_cut = await _send_cut(bench, f"cut at {count}", delivery, size)
            ends[count] = delivery, error
            if not is_cut:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    return ends


def _judge(
    tally: Tally, bench: Bench, ends: dict[int, tuple[Delivery[None], SMTPException | None]]
) -> None:
    for count, (delivery, error) in ends.items():
        bench.judge(f"cut at {count}", delivery)
        if error is not None:
            assert error.delivery is delivery
            assert error.outcome == delivery.outcome != "accepted"
            assert error.connection_closed
            assert error.may_retry == delivery.may_retry
    outcomes = [delivery.outcome for delivery, _ in ends.values()]
    assert {"not_sent", "in_doubt", "accepted"} == set(outcomes)
    tally("bytes after which a server was gone", len(ends))


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "lock-step"])
@pytest.mark.parametrize("how", HOWS)
async def test_a_plain_connection_cut_after_any_byte(
    how: Close, pipelining: bool, certificates: Certificates, tally: Tally
) -> None:
    async with Bench("plain", certificates, pipelining=pipelining) as bench:
        ends = await _cut_everywhere(bench, how, step=EACH)
    _judge(tally, bench, ends)
    greeting = len(bench.server.connections[-1].replies[0])
    for count, (_, error) in ends.items():
        expected = SMTPConnectError if count < greeting else SMTPServerDisconnected
        assert error is None or type(error) is expected, count


@pytest.mark.parametrize("how", HOWS)
async def test_a_large_message_cut_after_any_byte(
    how: Close, certificates: Certificates, tally: Tally
) -> None:
    async with Bench("plain", certificates) as bench:
        ends = await _cut_everywhere(bench, how, step=7, size=LARGE)
    _judge(tally, bench, ends)


@pytest.mark.parametrize("transport", ["starttls", "implicit"])
@pytest.mark.parametrize("how", HOWS)
async def test_an_encrypted_connection_cut_between_the_bytes_of_its_replies(
    how: Close, transport: Transport, certificates: Certificates, tally: Tally
) -> None:
    async with Bench(transport, certificates) as bench:
        ends = await _cut_everywhere(bench, how, step=3 * EACH)
    _judge(tally, bench, ends)


@pytest.mark.parametrize("transport", ["starttls", "implicit"])
@pytest.mark.parametrize("how", ["truncate", "reset"])
async def test_an_encrypted_connection_cut_on_the_wire(
    how: Close, transport: Transport, certificates: Certificates, tally: Tally
) -> None:
    async with Bench(transport, certificates) as bench:
        ends = await _cut_everywhere(bench, how, unit="wire", step=37)
    _judge(tally, bench, ends)
    kinds = {type(error) for _, error in ends.values() if error is not None}
    assert kinds <= {SMTPConnectError, SMTPTLSError, SMTPServerDisconnected}
    assert SMTPTLSError in kinds


@pytest.mark.parametrize("is_given", [True, False], ids=["a Delivery", "without one"])
@pytest.mark.parametrize("how", HOWS)
async def test_a_reused_connection_that_is_cut_is_replaced_unless_the_message_left(
    how: Close, is_given: bool, certificates: Certificates, tally: Tally
) -> None:
    outcomes: list[str | None] = []
    deliveries: dict[str, Delivery[None]] = {}
    async with Bench("plain", certificates) as bench, no_leaks():
        async with bench.client() as smtp:
            await smtp.connect()
        ready = bench.server.connections[0].sent - len(GOODBYE)
        for count in range(1, BOUND, EACH):
            subject = f"cut at {count}"
            given, seen = Delivery() if is_given else None, Seen()
            bench.server.cut_after(ready + count, how, connections=1)
            error, is_cut = await _send_cut(bench, subject, given, warm=True, observer=seen)
            delivery = deliveries[subject] = seen.deliveries[0]
            assert given in (None, delivery)
            assert error is None or error.delivery is delivery
            outcomes.append(delivery.outcome)
            # Before the message has left, the cut is not seen at all.
            assert (error is None) == (delivery.outcome == "accepted")
            if not is_cut:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    bench.judge_all(deliveries)
    tally("bytes after which a server was gone", len(outcomes))
    assert set(outcomes) == {"accepted", "in_doubt"}


# Several messages on their way over one connection


class Several:
    """Three messages over a connection that gives out after a count of bytes."""

    def __init__(self, bench: Bench, smtp: SMTP, count: int) -> None:
        self.stage = Stage(bench, smtp, count, "scope")
        self.deliveries: dict[str, Delivery[Any]] = {}
        self._bench = bench
        self._before = len(bench.server.connections)

    @property
    def records(self) -> list[Transcript]:
        """The connections that they took; the first one is that which gave out."""
        return self._bench.server.connections[self._before :]

    @property
    def told(self) -> bytes:
        """What the server has said on all of them."""
        return b"".join(b"".join(record.replies)[: record.sent] for record in self.records)

    async def from_tasks(self) -> None:
        """They wait for the client's only connection."""
        sends = [self.stage.other() for _ in range(3)]
        async with anyio.create_task_group() as group, self.stage.smtp.connection():
            for number, each in enumerate(sends, 1):
                group.start_soon(each)
                await self.stage.until_waiting(number)
        self._note(sends)

    async def from_a_stream(self) -> None:
        mails = [mail(f"other-{self.stage.k}-{number}") for number in range(3)]
        async with self.stage.smtp.send_many(mails) as deliveries:
            async for delivery in deliveries:
                self.deliveries[delivery.key] = delivery
        assert len(self.deliveries) == 3

    async def on_a_borrowed_connection(self) -> None:
        """They wait for their turn; nobody takes another connection for them."""
        async with self.stage.smtp.connection() as conn:
            sends = [self.stage.other(conn) for _ in range(3)]
            await start_in_order(*sends)
        self._note(sends)

    def _note(self, sends: list[Send]) -> None:
        for each in sends:
            self.deliveries[each.subject] = each.delivery
            assert each.has_its_reply == (each.outcome == "accepted"), each.subject
            assert each.has_its_reply or isinstance(each.error, SMTPServerDisconnected)


Unit: TypeAlias = Literal["reply", "wire"]
Play: TypeAlias = Callable[[Several], Awaitable[None]]
PLAYS: tuple[Play, ...] = (
    Several.from_tasks,
    Several.from_a_stream,
    Several.on_a_borrowed_connection,
)


def judge(several: Several, *, is_eager: bool, may_be_lost: bool) -> None:
    """In doubt is what the server has, or may have, and has not answered; nothing else.

    ``may_be_lost``: of what the server has said, the last part may not have arrived.
    """
    received = Counter(subject_of(m) for record in several.records for m in record.received)
    asked = several.told.count(b"\r\n354 ")
    for number, (subject, delivery) in enumerate(sorted(several.deliveries.items())):
        assert received[subject] <= 1, f"{subject} was sent twice"
        outcome = delivery.outcome
        if f"2.0.0 {subject}\r\n".encode() in several.told:
            assert outcome == "accepted" or (may_be_lost and outcome == "in_doubt"), subject
        elif received[subject]:
            assert outcome == "in_doubt", subject
        elif outcome == "in_doubt":
            # It was written, and not read any more.
            assert is_eager or number < asked, subject
        else:
            assert outcome == "not_sent", subject
            assert delivery.may_retry


class Cutting:
    """The same again and again, with the connection cut a little later each time."""

    def __init__(self, bench: Bench, how: Close, *, is_eager: bool, unit: Unit = "reply") -> None:
        self._bench = bench
        self._how: Close = how
        self._unit: Unit = unit
        self._is_eager = is_eager
        self._options: dict[str, Any] = {
            "limits": Limits(max_connections=1),
            "pipelining": "eager" if is_eager else "auto",
        }

    async def run(self, play: Play, step: int) -> int:
        """Until it is over before the cut; how many there were."""
        ready = await self._ready()
        seen: set[str | None] = set()
        for tries, count in enumerate(range(1, BOUND, step)):
            self._bench.server.cut_after(ready + count, self._how, unit=self._unit, connections=1)
            outcomes, is_cut = await self._once(play, count)
            assert "not_sent" not in outcomes or play is Several.on_a_borrowed_connection
            seen |= outcomes
            if not is_cut:
                assert outcomes == {"accepted"}
                assert "in_doubt" in seen
                return tries
        pytest.fail("the scenario has no end")

    async def _ready(self) -> int:
        """How much a server has sent when a connection is ready for mail, or a little more."""
        server = self._bench.server
        async with self._bench.client(**self._options) as smtp:
            await smtp.connect()
        await server.wait_closed()
        record = server.connections[0]
        if self._unit == "reply":
            return record.sent - len(GOODBYE)
        # Of TLS there are 22 octets around the reply to QUIT, and 24 for the close_notify. The
        # signature in the handshake does not always have the same length.
        return record.sent_on_wire - len(GOODBYE) - 22 - 24 + 4

    async def _once(self, play: Play, count: int) -> tuple[set[str | None], bool]:
        """What became of the messages; and whether it came to a cut."""
        async with self._bench.client(**self._options) as smtp:
            several = Several(self._bench, smtp, count)
            await smtp.connect()
            await play(several)
            several.stage.check_counts()
            if is_cut := several.records[0].end is not None:
                await send(smtp, f"after {count}")
        may_be_lost = self._how == "reset" or self._unit == "wire"
        judge(several, is_eager=self._is_eager, may_be_lost=may_be_lost)
        assert self._is_eager == any(c.startswith(b"BDAT") for c in self._bench.server.commands)
        return {delivery.outcome for delivery in several.deliveries.values()}, is_cut


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("is_eager", [False, True], ids=["auto", "eager"])
@pytest.mark.parametrize("how", HOWS)
async def test_a_connection_with_several_messages_cut_after_any_byte(
    how: Close, is_eager: bool, play: Play, certificates: Certificates, tally: Tally
) -> None:
    # A close is tried everywhere; what is special about the others does not need every byte.
    step = EACH if how == "close" and play is Several.from_tasks else 5 * EACH
    async with Bench("plain", certificates, keywords=CHUNKING) as bench, no_leaks():
        tries = await Cutting(bench, how, is_eager=is_eager).run(play, step)
        await bench.server.wait_closed()
    tally("bytes after which a server was gone with several messages under way", tries)


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("is_eager", [False, True], ids=["auto", "eager"])
async def test_an_encrypted_connection_with_several_messages_cut_on_the_wire(
    is_eager: bool, play: Play, certificates: Certificates, tally: Tally
) -> None:
    async with Bench("implicit", certificates, keywords=CHUNKING) as bench, no_leaks():
        cutting = Cutting(bench, "truncate", is_eager=is_eager, unit="wire")
        tries = await cutting.run(play, 11 * EACH)
        await bench.server.wait_closed()
    tally("bytes after which a server was gone with several messages under way", tries)
