"""Half a reply does not give a server another timeout, whichever way its message goes."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from anyio.abc import ByteStream, ByteStreamConnectable

from anysmtp import (
    SMTP,
    Envelope,
    Limits,
    Mail,
    SMTPTimeoutError,
    Timeouts,
    _alone,
    _sending,
)
from anysmtp._folding import Folding
from support.virtual_time import virtual_time

pytestmark = pytest.mark.anyio

SENDER, TO = "a@x.test", "b@x.test"
RAW = b"S: x\r\n\r\nhi\r\n"
OK = b"250 ok\r\n"
COMMAND, FINAL = 5, 8


@pytest.fixture(params=virtual_time())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(params=["short", "general"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that messages take."""

    def nobody(_: object) -> None: ...

    if request.param == "general":
        for module in (_alone, _sending):
            monkeypatch.setattr(module, "may_go_alone", nobody)
        monkeypatch.setattr(Folding, "next_alone", nobody)


class Halting(ByteStream):
    """A server whose reply to one write is a half of one, a second before patience ends."""

    def __init__(self, write: int, seconds: int) -> None:
        self._writes = write
        self._seconds = seconds
        self._ready = [b"220 hi\r\n"]
        self._is_body = False

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self._ready.append(b"".join(self._answers(item)))
        self._writes -= 1
        if self._writes == 0:
            self._ready[-1] = b"25"

    def _answers(self, octets: bytes) -> Iterator[bytes]:
        for line in octets.splitlines():
            if self._is_body and line != b".":
                continue
            self._is_body = line == b"DATA"
            keywords = b"250-x\r\n250 PIPELINING\r\n"
            yield keywords if line.startswith(b"EHLO") else b"354 go\r\n" * self._is_body or OK

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._ready:
            await anyio.sleep_forever()
        await anyio.sleep(self._seconds - 1 if self._writes == 0 else 0)
        return self._ready.pop(0)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


class House(ByteStreamConnectable):
    """Where the client connects to."""

    def __init__(self, write: int, seconds: int) -> None:
        self._given = write, seconds

    async def connect(self) -> Halting:
        write, seconds = self._given
        # Only the first one is slow.
        self._given = -1, 1
        return Halting(write, seconds)


def client(write: int, seconds: int) -> SMTP:
    timeouts = Timeouts(COMMAND, final=FINAL)
    return SMTP(
        "x",
        tls="off",
        timeout=timeouts,
        connectable=House(write, seconds),
        limits=Limits(max_connections=1),
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("write", "seconds", "command"), [(2, COMMAND, f"MAIL FROM:<{SENDER}>"), (3, FINAL, None)]
)
async def test_to_one_message(write: int, seconds: int, command: str | None) -> None:
    async with client(write, seconds) as smtp:
        began = anyio.current_time()
        with pytest.raises(SMTPTimeoutError) as caught:
            await smtp.sendmail(SENDER, [TO], RAW)
        assert anyio.current_time() - began == pytest.approx(seconds, abs=0.05)
        assert caught.value.command == command or command is None


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("write", [3, 4, 5])
async def test_to_a_message_of_a_stream(write: int) -> None:
    envelope = Envelope(sender=SENDER, recipients=[TO])
    async with client(write, FINAL) as smtp:
        began = anyio.current_time()
        mails = [Mail(RAW, envelope) for _ in range(4)]
        async with smtp.send_many(mails, ordered=True) as deliveries:
            found = [delivery async for delivery in deliveries]
        seconds = anyio.current_time() - began
    outcomes = [each.outcome for each in found]
    assert outcomes.count("in_doubt") == 1
    assert outcomes.index("in_doubt") == write - 3
    assert seconds == pytest.approx(FINAL, abs=0.05)
