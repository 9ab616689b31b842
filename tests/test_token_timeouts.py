"""The caller's code that gets a token is not timed, in trio's virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, SMTPTimeoutError, Timeouts, sasl
from anysmtp.testing import Act, ScriptedServer
from support.bench import RECIPIENTS, message
from support.mechanisms import SECRET, USER, server_side
from support.tls import Certificates

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    testing = pytest.importorskip("trio.testing")
    return "trio", {"clock": testing.MockClock(autojump_threshold=0)}


async def stale() -> str:
    await anyio.sleep(1000)
    return "stale"


async def fresh() -> str:
    await anyio.sleep(1000)
    return SECRET


def on_memory(server: ScriptedServer, timeout: Timeouts | None) -> SMTP:
    return SMTP(
        "mail.example.test",
        connectable=server.connectable,
        tls="off",
        allow_plaintext_auth=True,
        auth=sasl.XOAuth2(USER, stale, refresh=fresh),
        timeout=timeout,
    )


@pytest.mark.parametrize("limit", [Timeouts(5, connect=10), None])
async def test_a_token_may_take_as_long_as_it_takes(
    limit: Timeouts | None, certificates: Certificates, tmp_path: Path
) -> None:
    offered = {"XOAUTH2": server_side(certificates, tmp_path)["XOAUTH2"]}
    start = anyio.current_time()
    async with ScriptedServer(mechanisms=offered) as server, on_memory(server, limit) as smtp:
        await smtp.sendmail("a@x.test", RECIPIENTS, message("hello"))
    assert server.messages[0].username == USER
    assert anyio.current_time() - start == pytest.approx(2000, abs=1)


async def test_what_was_left_for_the_connection_is_left_afterwards(
    certificates: Certificates, tmp_path: Path
) -> None:
    offered = {"XOAUTH2": server_side(certificates, tmp_path)["XOAUTH2"]}
    script: dict[str, Any] = {"GREETING": Act(late=4), "AUTH": Act(late=4), "RESPONSE": Act(late=4)}
    start = anyio.current_time()
    async with (
        ScriptedServer(mechanisms=offered, script=script) as server,
        on_memory(server, Timeouts(5, connect=10)) as smtp,
    ):
        with pytest.raises(SMTPTimeoutError, match="nothing came within 10 seconds"):
            await smtp.connect()
    # Ten seconds of the server's, and the first token's time.
    assert anyio.current_time() - start == pytest.approx(1010, abs=1)


async def test_on_a_connection_of_ones_own_each_command_has_its_time(
    certificates: Certificates, tmp_path: Path
) -> None:
    offered = {"XOAUTH2": server_side(certificates, tmp_path)["XOAUTH2"]}
    script: dict[str, Any] = {"AUTH": Act(late=4), "RESPONSE": Act(late=4)}
    async with (
        ScriptedServer(mechanisms=offered, script=script) as server,
        SMTP(
            "mail.example.test",
            connectable=server.connectable,
            tls="off",
            allow_plaintext_auth=True,
            timeout=Timeouts(5),
        ) as smtp,
        smtp.connection() as conn,
    ):
        await conn.login(sasl.XOAuth2(USER, stale, refresh=fresh))
