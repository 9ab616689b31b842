"""A send that reads its message meanwhile is stopped anywhere, in all the tasks that it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anysmtp import Delivery
from anysmtp.testing import DEFAULT_KEYWORDS
from support.bench import RECIPIENTS, Bench, message, send
from support.cancel import How, cancel_in_turn
from support.clients import SENDER
from support.fixtures import Tally
from support.leaks import no_leaks
from support.quick import every
from support.tls import Certificates

pytestmark = pytest.mark.anyio

# More turns than it takes, and every turn, or fewer.
BOUND = 3000
EACH = every(5)


async def pieces(raw: bytes) -> AsyncIterator[bytes]:
    """Several to a write, and several writes."""
    for start in range(0, len(raw), 30_000):
        await checkpoint()
        yield raw[start : start + 30_000]


@pytest.mark.parametrize("transport", ["plain", "starttls"])
@pytest.mark.parametrize("chunking", ["off", "always"])
async def test_stopping_a_send_of_a_source_in_any_turn_harms_nobody(
    transport: Any, chunking: str, cancel_how: How, certificates: Certificates, tally: Tally
) -> None:
    deliveries: dict[str, Delivery[None]] = {}
    keywords = (*DEFAULT_KEYWORDS, "CHUNKING")
    async with Bench(transport, certificates, keywords=keywords) as bench, no_leaks():
        for k in range(1, BOUND, EACH):
            subject = f"stopped at {k}"
            delivery = deliveries[subject] = Delivery()
            async with bench.client(chunking=chunking) as smtp:

                async def stopped() -> None:
                    source = pieces(message(subject, 700_000))  # noqa: B023 - called at once
                    await smtp.sendmail(SENDER, RECIPIENTS, source, delivery=delivery)  # noqa: B023

                with anyio.fail_after(30):
                    ended = await cancel_in_turn(k, cancel_how, stopped)
                    ended.unwrap()
                    await send(smtp, f"after {k}")
            if not ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    for subject, delivery in deliveries.items():
        bench.judge(subject, delivery)
    outcomes = [delivery.outcome for delivery in deliveries.values()]
    tally("turns in which a send of a source was stopped", len(outcomes))
    assert "not_sent" in outcomes
    assert outcomes[-1] == "accepted"
