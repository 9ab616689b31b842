"""The client's own timeouts, each waited for to its end, in trio's virtual time."""

from __future__ import annotations

import anyio
import pytest

from anysmtp import SMTPTimeoutError
from support.tls import Certificates
from test_stalls import POINTS, Stalling, stall_points

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    testing = pytest.importorskip("trio.testing")
    return "trio", {"clock": testing.MockClock(autojump_threshold=0)}


@stall_points
async def test_a_stalled_send_ends_when_its_timeout_is_over(
    point: str, certificates: Certificates
) -> None:
    stalling, seconds = Stalling(point, certificates), POINTS[point]
    start = anyio.current_time()
    async with stalling.server:
        with pytest.raises(SMTPTimeoutError, match=f"within {seconds} seconds") as caught:
            await stalling.send()
    assert anyio.current_time() - start == pytest.approx(seconds, abs=1)
    assert caught.value.connection_closed
    assert caught.value.delivery is stalling.delivery
    stalling.judge(point)
