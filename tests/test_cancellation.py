"""A send that is stopped at its k-th await, for every k, in every way in which callers do.

After each, the server's own log is the judge: what was called not_sent it never got, nothing it
got twice, the next message gets its own replies, and nothing is left open.
"""

from __future__ import annotations

import pytest

from anysmtp import Delivery
from support.bench import LARGE, SMALL, TRANSPORTS, Bench, Transport, send
from support.cancel import How, cancel_at
from support.fixtures import Tally
from support.leaks import no_leaks
from support.tls import Certificates

pytestmark = pytest.mark.anyio

# More than any scenario has.
BOUND = 500


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_stopping_a_send_at_any_await_harms_nobody(
    transport: Transport,
    reused: bool,
    size: int,
    cancel_how: How,
    certificates: Certificates,
    tally: Tally,
) -> None:
    deliveries: dict[str, Delivery[None]] = {}
    async with Bench(transport, certificates) as bench, no_leaks():
        for k in range(1, BOUND):
            subject = f"stopped at {k}"
            delivery = deliveries[subject] = Delivery()
            async with bench.client() as smtp:
                if reused:
                    await smtp.connect()

                async def stopped() -> None:
                    await send(smtp, subject, size, delivery)  # noqa: B023 - called at once

                ended = await cancel_at(k, cancel_how, stopped)
                ended.unwrap()
                if ended.how == "finished":
                    assert delivery.outcome == "accepted"
                await send(smtp, f"after {k}")
            if not ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await bench.server.wait_closed()
    for subject, delivery in deliveries.items():
        bench.judge(subject, delivery)
    outcomes = [delivery.outcome for delivery in deliveries.values()]
    tally("awaits at which a send was stopped", len(outcomes))
    assert outcomes[0] == "not_sent"
    assert outcomes[-1] == "accepted"
    assert "in_doubt" in outcomes
