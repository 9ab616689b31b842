"""The workers of a stream of messages, where nothing can be begun any more: who was begun is told.

In virtual time, on both backends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Limits,
    Mail,
    Retry,
    SMTPAuthenticationError,
    SMTPServerDisconnected,
)
from anysmtp.testing import DEFAULT_KEYWORDS, Act, ScriptedServer
from support.bench import RECIPIENTS, message
from support.clients import SENDER, Script, on_memory
from support.leaks import no_leaks
from support.many import keys, mail, outcomes, send_all, subjects, take
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

B, C = RECIPIENTS
LATER = "450 4.2.1 Later"
NO_ROOM = "452 4.5.3 Too many recipients"


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def to_two(key: int) -> Mail[int]:
    return Mail(message(str(key)), Envelope(sender=SENDER, recipients=RECIPIENTS), key=key)


class Shut:
    """A server whose second login is refused when `fails` is set: nothing is begun after that."""

    def __init__(
        self, script: Script, *, keywords: Sequence[str] = DEFAULT_KEYWORDS, **options: Any
    ) -> None:
        self.fails, self.goes_on = anyio.Event(), anyio.Event()
        login = [Act(), Act("535 5.7.8 not any more", late=self.fails)]
        self.server = ScriptedServer(
            users={"ann": "right"}, script={"AUTH": login, **script}, keywords=keywords
        )
        self.client = on_memory(
            self.server,
            username="ann",
            password="right",
            allow_plaintext_auth=True,
            limits=Limits(max_connections=2),
            **options,
        )
        self.found: list[Delivery[Any]] = []

    async def run(self, *mails: Mail[Any]) -> None:
        """Send these; when nothing moves any more the login fails, and then `goes_on` is set."""
        async with no_leaks(), self.server, self.client:
            with pytest.raises(SMTPAuthenticationError):
                await send_all(self.client, self.source(mails), self.found)

    async def source(self, mails: tuple[Mail[Any], ...]) -> AsyncGenerator[Mail[Any]]:
        for one in mails:
            yield one
        for event in (self.fails, self.goes_on):
            await anyio.wait_all_tasks_blocked()
            event.set()


async def test_recipients_that_were_not_asked_for_yet_are_not_sent_to() -> None:
    shut = Shut({}, keywords=[*DEFAULT_KEYWORDS, "LIMITS RCPTMAX=1"])
    shut.server.script["."] = Act(late=shut.goes_on)
    await shut.run(to_two(0), mail(1))
    [delivery] = shut.found
    assert isinstance(delivery.exception(), SMTPAuthenticationError)
    assert [*delivery.accepted] == [B]
    assert delivery.not_sent == delivery.retry_recipients == (C,)


async def test_one_that_is_in_line_again_for_the_rest_of_its_recipients_is_told() -> None:
    """Another one is on its way on the only connection meanwhile, and goes on."""
    shut = Shut({f"RCPT TO:<{C}>": NO_ROOM})
    shut.server.script["RCPT TO:<2@x.test>"] = Act(late=shut.goes_on)
    await shut.run(to_two(0), mail(1), mail(2))
    assert keys(shut.found) == [0, 2]
    assert [*shut.found[0].accepted] == [B]
    assert shut.found[0].retry_recipients == (C,)
    assert isinstance(shut.found[0].exception(), SMTPAuthenticationError)
    assert shut.found[1].outcome == "accepted"
    assert subjects(shut.server.messages) == ["0", "2"]


@pytest.mark.parametrize("base", [0, 100])
@pytest.mark.parametrize("reply", [LATER, NO_ROOM])
async def test_what_was_refused_for_now_meanwhile_is_not_tried_again(
    reply: str, base: float
) -> None:
    shut = Shut({f"RCPT TO:<{C}>": reply}, retry=Retry(2, base=base))
    shut.server.script["."] = Act(late=shut.goes_on)
    await shut.run(to_two(0), mail(1))
    [delivery] = shut.found
    receipt = delivery.result()
    assert ([*receipt.accepted], [*receipt.refused]) == ([B], [C])
    assert delivery.retry_recipients == (C,)


async def test_one_whose_connection_dies_meanwhile_is_not_sent_again() -> None:
    """It had boarded behind one that was taken, and it has come to nobody: it was never begun."""
    shut = Shut({})
    close = Act("250 2.0.0 Ok", late=shut.goes_on, then="close")
    shut.server.script["."] = close
    await shut.run(mail(0), mail(1), mail(2))
    assert outcomes(shut.found) == {0: "accepted"}
    assert len(shut.server.connections) == 2


async def test_what_slept_when_nothing_worked_any_more_does_not_wake_in_a_block_that_goes_on() -> (
    None
):
    shut = Shut({"RCPT TO:<0@": LATER}, retry=Retry(2, base=100))
    shut.server.script["."] = Act(late=shut.goes_on)
    mails = (mail(0), mail(1), mail(2))
    async with (
        no_leaks(),
        shut.server,
        shut.client as smtp,
        smtp.send_many(shut.source(mails)) as deliveries,
    ):
        with pytest.raises(SMTPAuthenticationError):
            await take(deliveries, shut.found)
        lines = len(shut.server.commands)
        await anyio.sleep(1000)
        assert len(shut.server.commands) == lines
        with pytest.raises(StopAsyncIteration):
            await deliveries.__anext__()
    assert outcomes(shut.found)[0] == "refused"


async def test_what_sleeps_ends_when_the_client_is_left_by_an_exception() -> None:
    found: list[Delivery[Any]] = []
    start, ended = anyio.current_time(), anyio.Event()

    async def stream(smtp: SMTP) -> None:
        with pytest.raises(SMTPServerDisconnected, match="the client was closed"):
            await send_all(smtp, [mail(0)], found)
        ended.set()

    async def leave(server: ScriptedServer) -> None:
        async with on_memory(server, retry=Retry(3, base=100)) as smtp:
            group.start_soon(stream, smtp)
            await anyio.sleep(1)
            raise ZeroDivisionError

    async with (
        no_leaks(),
        ScriptedServer(script={"MAIL": LATER}) as server,
        anyio.create_task_group() as group,
    ):
        with pytest.raises(ZeroDivisionError):
            await leave(server)
        await ended.wait()
    assert outcomes(found) == {0: "refused"}
    assert isinstance(found[0].exception(), SMTPServerDisconnected)
    assert server.connection.verbs.count("MAIL") == 1
    assert anyio.current_time() - start == pytest.approx(1, abs=0.1)
