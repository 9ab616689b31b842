"""A server that is gone after its k-th byte, for every k, in every way in which servers go.

What the server had of a message is the judge of what the client says of it.
"""

from __future__ import annotations

import os
from typing import Literal

import pytest

from anysmtp import (
    Delivery,
    SMTPConnectError,
    SMTPException,
    SMTPServerDisconnected,
    SMTPTLSError,
)
from support.bench import LARGE, SMALL, Bench, Transport, send
from support.fixtures import Tally
from support.leaks import no_leaks
from support.tls import Certificates
from support.wire import Close

pytestmark = pytest.mark.anyio

HOWS: tuple[Close, ...] = ("close", "truncate", "reset")
BOUND = 10_000
# Every byte; with ANYSMTP_QUICK, for a further Python or an older dependency, every third.
EACH = 3 if os.environ.get("ANYSMTP_QUICK") else 1


async def _send_cut(
    bench: Bench, subject: str, delivery: Delivery[None], size: int = SMALL, *, warm: bool = False
) -> tuple[SMTPException | None, bool]:
    """Send on a connection that gives out; what that raised, and whether it came to it.

    Where it came to it the client must work on.
    """
    error = None
    before = len(bench.server.connections)
    async with bench.client() as smtp:
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
    unit: Literal["reply", "wire"] = "reply",
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


@pytest.mark.parametrize("how", HOWS)
async def test_a_reused_connection_that_is_cut_is_replaced_unless_the_message_left(
    how: Close, certificates: Certificates, tally: Tally
) -> None:
    outcomes: list[str | None] = []
    deliveries: dict[str, Delivery[None]] = {}
    async with Bench("plain", certificates) as bench, no_leaks():
        async with bench.client() as smtp:
            await smtp.connect()
        ready = bench.server.connections[0].sent - len(b"221 2.0.0 Bye\r\n")
        for count in range(1, BOUND, EACH):
            subject = f"cut at {count}"
            delivery = deliveries[subject] = Delivery()
            bench.server.cut_after(ready + count, how, connections=1)
            error, is_cut = await _send_cut(bench, subject, delivery, warm=True)
            outcomes.append(delivery.outcome)
            # Before the message has left, the cut is not seen at all.
            assert (error is None) == (delivery.outcome == "accepted")
            if not is_cut:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    for subject, delivery in deliveries.items():
        bench.judge(subject, delivery)
    tally("bytes after which a server was gone", len(outcomes))
    assert set(outcomes) == {"accepted", "in_doubt"}
