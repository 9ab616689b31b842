"""A server that stops answering: the caller's timeout ends it, or the client's own, told apart.

Under trio the client's own timeouts are waited for in virtual time; asyncio shows once, in real
time, that they work there too.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import anysmtp
from anysmtp import SMTP, Delivery, SMTPTimeoutError
from anysmtp.testing import DEAF, DEFAULT_KEYWORDS, STALL, ScriptedServer
from support.bench import LARGE, RECIPIENTS, message
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

# Where a server can stall, and what the client's own timeout there is.
POINTS = {
    "CONNECT": 30,
    "GREETING": 30,
    "EHLO": 30,
    "STARTTLS": 30,
    "AUTH": 30,
    "RESPONSE": 30,
    "MAIL": 60,
    "RCPT": 60,
    "RCPT TO:<c@x.test>": 60,
    "DATA": 60,
    "BODY": 60,
    ".": 600,
}
stall_points = pytest.mark.parametrize("point", POINTS)


class Stalling:
    """A server that stalls at one point, and a client for it."""

    def __init__(self, point: str, certificates: Certificates, **options: Any) -> None:
        self.server = ScriptedServer(
            script={point: DEAF if point == "BODY" else STALL},
            keywords=[word for word in DEFAULT_KEYWORDS if word != "PIPELINING"],
            starttls=certificates.server,
            users={"ann": "secret"},
        )
        mechanism = anysmtp.sasl.Login if point == "RESPONSE" else anysmtp.sasl.Plain
        self.client = SMTP(
            "mail.example.test",
            connectable=self.server.connectable,
            tls_context=certificates.client,
            auth=mechanism("ann", "secret"),
            **options,
        )
        self.delivery: Delivery[None] = Delivery()

    async def send(self) -> None:
        async with self.client:
            raw = message("stalled", LARGE)
            await self.client.sendmail("a@x.test", RECIPIENTS, raw, delivery=self.delivery)

    def judge(self, point: str) -> None:
        if point == ".":
            assert self.delivery.outcome == "in_doubt"
        else:
            assert self.delivery.outcome == "not_sent"
            assert not self.server.received


@in_virtual_time
@stall_points
async def test_the_callers_timeout_ends_a_stalled_send(
    point: str, certificates: Certificates
) -> None:
    stalling = Stalling(point, certificates, timeout=None)
    async with no_leaks(), stalling.server:
        with pytest.raises(TimeoutError) as caught:
            with anyio.fail_after(0.05):
                await stalling.send()
    assert type(caught.value) is TimeoutError
    stalling.judge(point)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("point", ["GREETING", "RCPT", "BODY"])
async def test_the_clients_own_timeout_ends_a_stalled_send(
    point: str, certificates: Certificates
) -> None:
    stalling = Stalling(point, certificates, timeout=0.05)
    async with no_leaks(), stalling.server:
        with pytest.raises(SMTPTimeoutError, match=r"nothing came within 0\.05 seconds"):
            await stalling.send()
    stalling.judge(point)
