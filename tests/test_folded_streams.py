"""A stream of plain messages comes to the same as one whose messages are planned one by one.

The same octets are plain where they are given as bytes or as a message object, and planned where
they are text. In virtual time, on both backends.
"""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import Message
from typing import Any, Literal, TypeAlias

import anyio
import pytest

from anysmtp import Envelope, Mail
from anysmtp._protocol._transaction import Pipelining
from anysmtp.events import Event, MessageEvent
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, RESET, STALL, Act, ScriptedServer
from support.bench import message
from support.clients import SENDER, Script, on_memory
from support.leaks import no_leaks
from support.many import send_all
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

Kind: TypeAlias = Literal["text", "bytes", "object"]

COUNT = 9
ANSWERS = {
    "later": "450 4.2.1 later",
    "never": "550 5.1.1 never",
    "good-bye": "421 4.3.2 bye",
    "had enough": "554 5.5.0 too many nonmail commands",
    "no room": "452 4.5.3 too many recipients",
    "two lines": "250-two\r\n250 lines",
    "a challenge": "334 go on",
    "garbage": b"this is no reply\r\n",
    "too much": b"250 ok\r\n250 ok\r\n250 ok\r\n",
    "late": Act(late=2),
    "too late": STALL,
    "gone": DROP,
    "reset": RESET,
}


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def mails(kind: Kind) -> list[Mail[int]]:
    found: list[Mail[int]] = []
    for number in range(COUNT):
        envelope = Envelope(sender=SENDER, recipients=[f"{number}@x.test", f"{number}b@x.test"])
        raw = f"Message-ID: <{number}@x.test>\r\n".encode() + message(str(number))
        given: dict[Kind, Message | bytes | str] = {
            "text": raw.decode(),
            "bytes": raw,
            "object": message_from_bytes(raw, policy=policy.default),
        }
        found.append(Mail(given[kind], envelope, key=number))
    return found


def once(answer: Any, at: int) -> list[Any]:
    """An answer that is given once, behind so many of the server's own."""
    return [*[Act()] * at, answer, *[Act()] * 40]


async def story(pipelining: Pipelining, script: Script, kind: Kind) -> object:
    """What became of each message, what the server saw, and what an observer was told."""
    events: list[Event] = []
    server = ScriptedServer(script=script, keywords=[*DEFAULT_KEYWORDS, "CHUNKING"])
    client = on_memory(
        server,
        pipelining=pipelining,
        timeout=5,
        observer=events.append,
        add_missing_headers=False,
    )
    async with no_leaks(), server, client:
        began = anyio.current_time()
        found = await send_all(client, mails(kind), ordered=True)
        seconds = anyio.current_time() - began
    known = [
        (each.key, each.outcome, each.accepted, each.refused, each.not_sent, each.in_doubt)
        for each in found
    ]
    more = [(repr(each.exception()), each.message_id, each.bytes_sent) for each in found]
    receipts = [each.result() for each in found if each.exception() is None]
    seen = [(one.raw, tuple(one.recipients)) for one in server.messages]
    told = sorted(
        (str(event.delivery.key), event.outcome, event.octets, event.accepted, event.refused)
        for event in events
        if isinstance(event, MessageEvent)
    )
    return known, more, receipts, seen, told, round(seconds), client.statistics()


@pytest.mark.parametrize("at", [0, 1, 3, COUNT - 1])
@pytest.mark.parametrize("point", ["RSET", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_with_pipelining_it_comes_to_the_same(answer: Any, point: str, at: int) -> None:
    script: Script = {point: once(answer, at)}
    planned = await story("auto", script, "text")
    assert await story("auto", script, "bytes") == planned


@pytest.mark.parametrize("at", [0, 1, 3, COUNT - 1])
@pytest.mark.parametrize("point", ["RSET", "MAIL", "RCPT", "BDAT"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_eager_it_comes_to_the_same(answer: Any, point: str, at: int) -> None:
    script: Script = {point: once(answer, at)}
    planned = await story("eager", script, "text")
    assert await story("eager", script, "bytes") == planned


@pytest.mark.parametrize("pipelining", ["auto", "eager"])
@pytest.mark.parametrize("point", ["MAIL", ".", "BDAT"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_message_objects_come_to_the_same(
    answer: Any, point: str, pipelining: Pipelining
) -> None:
    script: Script = {point: once(answer, 3)}
    planned = await story(pipelining, script, "text")
    assert await story(pipelining, script, "object") == planned


@pytest.mark.parametrize("point", ["MAIL", "RCPT", "BDAT"])
async def test_eager_it_comes_to_the_same_if_the_server_takes_its_time_before_it_says_no(
    point: str,
) -> None:
    script: Script = {"RSET": once(Act(late=2), 3), point: once("450 4.2.1 later", 4)}
    planned = await story("eager", script, "text")
    assert await story("eager", script, "bytes") == planned
