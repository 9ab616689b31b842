"""LMTP with Dovecot, over a unix socket and TCP: what it stored is what was sent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import pytest

from anysmtp import LMTP, Limits, Mail, SMTPRecipientsRefused
from support.bench import LARGE, message
from support.clients import email
from support.dovecot import Dovecot, require_dovecot
from support.tls import Certificates

pytestmark = pytest.mark.anyio

Road: TypeAlias = Literal["unix", "tcp"]
MODES: list[Any] = ["auto", "eager", "off"]

each_road = pytest.mark.parametrize("road", ["unix", "tcp"])
each_mode = pytest.mark.parametrize("pipelining", MODES)


@pytest.fixture(scope="module")
def running(certificates: Certificates) -> Iterator[Dovecot]:
    require_dovecot()
    with Dovecot(certificates.server_file, certificates.cafile, {"ann": "x", "bob": "x"}) as server:
        yield server


@pytest.fixture
def dovecot(running: Dovecot) -> Dovecot:
    """One with empty mailboxes."""
    for user in running.users:
        shutil.rmtree(running.folder / "mail" / user, ignore_errors=True)
    return running


def client(dovecot: Dovecot, road: Road, **options: Any) -> LMTP:
    if road == "unix":
        return LMTP(connectable=dovecot.socket, **options)
    return LMTP(dovecot.host, dovecot.ports["lmtp"], **options)


def stored(dovecot: Dovecot, user: str) -> list[str]:
    """The messages as they were sent, without the trace fields on top of them."""
    return ["Subject:" + text.partition("\nSubject:")[2] for text in dovecot.mail(user)]


@each_mode
@each_road
async def test_the_good_recipient_has_it_and_the_bad_one_is_refused(
    road: Road, pipelining: Any, dovecot: Dovecot
) -> None:
    raw = message("one of two", 5000)
    async with client(dovecot, road, pipelining=pipelining) as lmtp:
        for _ in range(2):
            receipt = await lmtp.sendmail("a@x.test", ["ann@x.test", "nobody@x.test"], raw)
            assert [*receipt.accepted] == ["ann@x.test"]
            assert receipt.refused["nobody@x.test"].code == 550
            assert len(receipt.replies) == 1
        assert lmtp.statistics().connections_opened == 1
    assert stored(dovecot, "ann") == [raw.decode().replace("\r\n", "\n")] * 2


@each_mode
async def test_each_of_several_has_a_reply(pipelining: Any, dovecot: Dovecot) -> None:
    async with client(dovecot, "unix", pipelining=pipelining) as lmtp:
        receipt = await lmtp.sendmail("a@x.test", ["ann", "bob@x.test"], message("two"))
    assert len(receipt.replies) == 2
    assert len({reply.text for reply in receipt.replies}) == 2
    assert len(dovecot.mail("ann")) == 1
    assert len(dovecot.mail("bob")) == 1


@each_mode
@each_road
async def test_nobody_there_is_an_exception(road: Road, pipelining: Any, dovecot: Dovecot) -> None:
    async with client(dovecot, road, pipelining=pipelining) as lmtp:
        for _ in range(2):
            with pytest.raises(SMTPRecipientsRefused):
                await lmtp.sendmail("a@x.test", ["nobody@x.test", "no@x.test"], message("none"))
        await lmtp.sendmail("a@x.test", "ann@x.test", message("after it"))
        assert lmtp.statistics().connections_opened == 1
    assert len(dovecot.mail("ann")) == 1


@each_road
async def test_a_large_message_with_dots(road: Road, dovecot: Dovecot) -> None:
    raw = message("large", LARGE)
    async with client(dovecot, road) as lmtp:
        await lmtp.sendmail("a@x.test", "ann@x.test", raw)
    assert stored(dovecot, "ann") == [raw.decode().replace("\r\n", "\n")]


@each_mode
@each_road
async def test_many_messages(road: Road, pipelining: Any, dovecot: Dovecot) -> None:
    mails = [
        Mail(email(To="ann@x.test, nobody@x.test", Subject=f"number {n}"), key=n) for n in range(50)
    ]
    limits = Limits(max_connections=2)
    async with (
        client(dovecot, road, pipelining=pipelining, limits=limits) as lmtp,
        lmtp.send_many(mails) as deliveries,
    ):
        found = [delivery async for delivery in deliveries]
    assert {(*delivery.accepted, *delivery.refused) for delivery in found} == {
        ("ann@x.test", "nobody@x.test")
    }
    assert len(dovecot.mail("ann")) == 50


async def test_starttls(dovecot: Dovecot, certificates: Certificates) -> None:
    options: dict[str, Any] = {"tls": "starttls", "tls_context": certificates.client}
    async with client(dovecot, "tcp", **options) as lmtp, lmtp.connection() as conn:
        assert conn.is_encrypted
        await conn.sendmail("a@x.test", "ann@x.test", message("encrypted"))
    assert len(dovecot.mail("ann")) == 1
