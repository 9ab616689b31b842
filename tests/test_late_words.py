"""What the server says when nobody expects it any more, or not yet: in virtual time.

To a message whose own write still goes on, with those that it takes along; to one whose task has
gone away, while the same message is sent again; to nobody, in front of one who waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from anysmtp import (
    SMTP,
    Delivery,
    Limits,
    SMTPException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    Timeouts,
)
from anysmtp.testing import DEFAULT_KEYWORDS, STALL, Act, ScriptedServer
from support.bench import message
from support.clients import RAW, SENDER, on_memory
from support.many import mail, outcomes, take
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

CHUNKING = (*DEFAULT_KEYWORDS, "CHUNKING")


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def accepted(server: ScriptedServer) -> Counter[str | None]:
    return Counter(message.header("Subject") for message in server.messages)


class Narrow:
    """A server with small buffers, which says yes to a message and resets in the middle of what
    came in the same write."""

    def __init__(self, ends: str) -> None:
        self._ends = ends
        self._count: int | None = None
        self.server = ScriptedServer(
            keywords=CHUNKING,
            script=self._answer,
            strict=False,
            one_by_one=True,
            capacity=4096,
        )

    def begin(self) -> None:
        """The next message is the one."""
        self._count = 0

    def _answer(self, line: str) -> Act | None:
        if self._count is None:
            return None
        self._count += line.startswith(self._ends)
        if self._count == 1 and line.startswith("RSET"):
            self._count = None
            return Act("421 4.7.0 Enough", then="reset")
        return None


@pytest.mark.parametrize("is_used", [True, False])
@pytest.mark.parametrize(("pipelining", "ends"), [("auto", "."), ("eager", "BDAT")])
async def test_a_message_is_accepted_however_the_rest_of_its_write_ends(
    pipelining: str, ends: str, is_used: bool
) -> None:
    narrow = Narrow(ends)
    many = [f"{'r' * 60}{number}@{'x' * 60}.test" for number in range(100)]
    async with narrow.server as server, on_memory(server, pipelining=pipelining) as smtp:
        if is_used:
            await smtp.sendmail(SENDER, "b@x.test", message("before"))
        narrow.begin()

        async def behind() -> None:
            # Long, in its envelope or in its body.
            raw = message("behind", 20_000 if pipelining == "eager" else 100)
            with suppress(SMTPServerDisconnected):
                await smtp.sendmail(SENDER, many if pipelining == "auto" else many[:1], raw)

        async with anyio.create_task_group() as group:
            group.start_soon(behind)
            delivery = Delivery[None]()
            await smtp.sendmail(SENDER, "b@x.test", message("first"), delivery=delivery)
            assert delivery.outcome == "accepted"
    assert accepted(server)["first"] == 1
    assert accepted(server)["behind"] <= 1


async def test_a_message_is_accepted_though_the_time_is_up_for_the_rest_of_its_write() -> None:
    ends = 0

    def answer(line: str) -> Act | None:
        nonlocal ends
        ends += line.startswith("BDAT")
        if line.startswith("DATA"):
            # The others are ready by then.
            return Act(None, late=0.5)
        if ends == 3 and line.startswith("RSET"):
            ends += 1
            return Act(b"", then="deaf")
        return None

    async def sends(smtp: SMTP, found: list[Any]) -> None:
        found.append(await smtp.sendmail(SENDER, "b@x.test", RAW))

    sizes = {"long": 40_000, "short": 200, "lost": 28_000, "behind": 200}
    found: list[Delivery[Any]] = []
    receipts: list[Any] = []
    async with (
        ScriptedServer(keywords=CHUNKING, script=answer, strict=False, capacity=4096) as server,
        on_memory(server, pipelining="eager", timeout=Timeouts(1, final=1)) as smtp,
        anyio.create_task_group() as group,
    ):
        await smtp.sendmail(SENDER, "b@x.test", RAW)
        async with smtp.send_many([mail(key, size) for key, size in sizes.items()]) as deliveries:
            await anyio.sleep(0.2)
            group.start_soon(sends, smtp, receipts)
            await take(deliveries, found)
    assert outcomes(found) == {
        "long": "accepted",
        "short": "accepted",
        "lost": "in_doubt",
        "behind": "in_doubt",
    }
    assert len(receipts) == 1
    assert max(accepted(server)[key] for key in sizes) == 1


async def test_a_message_is_accepted_though_the_client_is_aborted_before_its_write_has_ended() -> (
    None
):
    is_taken = False

    def answer(line: str) -> Act | None:
        nonlocal is_taken
        if is_taken and line.startswith("RSET"):
            return Act(b"", then="deaf")
        is_taken = is_taken or line.startswith("BDAT")
        return None

    server = ScriptedServer(keywords=CHUNKING, script=answer, strict=False, capacity=4096)
    smtp = on_memory(server, pipelining="eager")
    delivery = Delivery[None]()
    receipts: list[object] = []

    async def behind() -> None:
        with suppress(SMTPServerDisconnected):
            await smtp.sendmail(SENDER, "b@x.test", message("behind", 20_000))

    async def first(group: TaskGroup) -> None:
        group.start_soon(behind)
        receipts.append(await smtp.sendmail(SENDER, "b@x.test", RAW, delivery=delivery))

    async with server, anyio.create_task_group() as group:
        with suppress(LookupError):
            async with smtp:
                group.start_soon(first, group)
                await anyio.sleep(20)
                assert delivery.accepted
                assert delivery.phase != "done"
                raise LookupError
    assert receipts == [delivery.result()]
    assert len(server.messages) == 1


async def test_a_late_reply_says_nothing_of_the_same_message_sent_again() -> None:
    """It is refused for now after its task has gone, sent again, and then refused once more."""
    said: Counter[str] = Counter()

    def answer(line: str) -> Act | None:
        verb = line.partition(" ")[0]
        if "b@x.test" not in line and "a@x.test" not in line and verb != "BDAT":
            return None
        if verb == "BDAT" and line != f"BDAT {len(RAW)} LAST":
            return None
        said[verb] += 1
        if said[verb] == 1 and verb == "MAIL":
            return Act("450 4.7.1 Later", late=1)
        if said[verb] == 1 and verb == "RCPT":
            return Act("503 5.5.1 MAIL first", late=1)
        if verb == "BDAT":
            # That of the second send is read first, and has no reply.
            return (
                Act(b"", late=12, then="close") if said[verb] == 1 else Act("503 5.5.1 No", late=6)
            )
        return None

    delivery = Delivery[None]()
    async with (
        ScriptedServer(keywords=CHUNKING, script=answer, strict=False, one_by_one=True) as server,
        on_memory(server, pipelining="eager", limits=Limits(max_connections=2)) as smtp,
    ):
        async with smtp.connection() as one, smtp.connection() as other:
            await one.noop()
            await other.noop()
        async with smtp.connection() as conn, anyio.create_task_group() as group:

            async def first() -> None:
                with anyio.move_on_after(0.5):
                    await conn.sendmail(SENDER, "b@x.test", RAW, delivery=delivery)

            async def behind() -> None:
                await conn.sendmail("o@x.test", "p@x.test", message("behind"))

            group.start_soon(first)
            await anyio.sleep(0.1)
            group.start_soon(behind)
            await anyio.sleep(1)
            assert delivery.may_retry
            with pytest.raises(SMTPException):
                await smtp.sendmail(SENDER, "b@x.test", RAW, delivery=delivery)
    assert delivery.in_doubt == ("b@x.test",)
    assert not delivery.may_retry


async def test_one_behind_a_stream_that_was_left_is_timed() -> None:
    async def endless() -> AsyncGenerator[Any]:
        yield mail(0)
        yield mail(1)
        await anyio.sleep_forever()

    async def leave_early(smtp: SMTP) -> None:
        with anyio.move_on_after(1):
            async with smtp.send_many(endless()) as deliveries:
                await take(deliveries, [])

    found: list[Delivery[Any]] = []
    async with (
        ScriptedServer(keywords=CHUNKING, script={"BDAT": STALL}) as server,
        on_memory(server, pipelining="eager", timeout=Timeouts(5, final=5)) as smtp,
        anyio.create_task_group() as group,
    ):
        start = anyio.current_time()
        group.start_soon(leave_early, smtp)
        await anyio.sleep(0.5)
        async with smtp.send_many([mail("behind")]) as deliveries:
            await take(deliveries, found)
        assert anyio.current_time() - start == pytest.approx(6, abs=1)
    (delivery,) = found
    assert isinstance(delivery.exception(), SMTPTimeoutError)
