"""The delay relay in trio's virtual time, where a round trip is a number and not a measurement."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import ByteStreamConnectable

from anysmtp import SMTP
from anysmtp.testing import DROP, ScriptedServer
from anysmtp.testing._memory import MemoryByteStream, memory_pair
from support.bare import HELLO, BareClient
from support.clients import RAW, SENDER
from support.relay import DelayRelay

pytestmark = pytest.mark.anyio

DELAY = 0.025
ROUND_TRIP = 2 * DELAY


@pytest.fixture
def anyio_backend() -> object:
    testing = pytest.importorskip("trio.testing")
    return "trio", {"clock": testing.MockClock(autojump_threshold=0)}


class Lap:
    """How many round trips have passed since the last look."""

    def __init__(self) -> None:
        self._since = anyio.current_time()

    def round_trips(self) -> float:
        start, self._since = self._since, anyio.current_time()
        return round((self._since - start) / ROUND_TRIP, 6)


class Peer(ByteStreamConnectable):
    """A server that does nothing: its end of the connection is the test's."""

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self.connected = anyio.Event()

    async def connect(self) -> MemoryByteStream:
        client, self.stream = memory_pair(self._capacity)
        self.connected.set()
        return client


async def test_the_greeting_takes_one_round_trip_and_so_does_each_question() -> None:
    async with ScriptedServer() as server, DelayRelay(server.connectable, DELAY) as relay:
        lap = Lap()
        async with BareClient(await relay.connectable.connect()) as client:
            await client.ask()
            assert lap.round_trips() == 1
            await client.ask(HELLO)
            assert lap.round_trips() == 1
            for _ in range(100):
                await client.ask(b"NOOP\r\n")
            assert lap.round_trips() == 100


async def test_questions_that_are_sent_together_take_one_round_trip() -> None:
    async with (
        ScriptedServer() as server,
        DelayRelay(server.connectable, DELAY) as relay,
        BareClient(await relay.connectable.connect()) as client,
    ):
        await client.ask()
        await client.ask(HELLO)
        lap = Lap()
        assert await client.ask_all(b"RSET\r\n" * 1000, 1000) == [250] * 1000
        assert lap.round_trips() == 1
    assert server.connection.writes == [HELLO, b"RSET\r\n" * 1000]


async def test_questions_that_are_sent_one_by_one_without_waiting_take_one_round_trip() -> None:
    async with (
        ScriptedServer() as server,
        DelayRelay(server.connectable, DELAY) as relay,
        BareClient(await relay.connectable.connect()) as client,
    ):
        await client.ask()
        await client.ask(HELLO)
        lap = Lap()
        for _ in range(99):
            await client.stream.send(b"RSET\r\n")
        await client.ask_all(b"RSET\r\n", 100)
        assert lap.round_trips() == 1


async def test_a_message_takes_two_round_trips_however_many_its_recipients() -> None:
    async with (
        ScriptedServer() as server,
        DelayRelay(server.connectable, DELAY) as relay,
        SMTP("mail.example.test", tls="off", connectable=relay.connectable) as smtp,
    ):
        await smtp.connect()
        lap = Lap()
        for count in (1, 10, 50):
            await smtp.sendmail(SENDER, [f"b{number}@x.test" for number in range(count)], RAW)
            assert lap.round_trips() == 2


async def test_what_is_under_way_has_room() -> None:
    data = bytes(range(256)) * 40_000
    peer = Peer()
    async with DelayRelay(peer, DELAY) as relay, await relay.connectable.connect() as client:
        await peer.connected.wait()
        lap = Lap()
        await client.send(data)
        assert lap.round_trips() == 0
        async with peer.stream:
            received = b""
            while len(received) < len(data):
                received += await peer.stream.receive()
            assert lap.round_trips() == 0.5
    assert received == data


async def test_a_full_relay_reads_no_more_until_something_has_left() -> None:
    peer = Peer()
    async with (
        DelayRelay(peer, DELAY, capacity=1000) as relay,
        await relay.connectable.connect() as client,
    ):
        await peer.connected.wait()
        async with peer.stream:
            await client.send(bytes(1000))
            await anyio.wait_all_tasks_blocked()
            await client.send(bytes(1000))
            lap = Lap()
            assert await peer.stream.receive() == bytes(1000)
            assert lap.round_trips() == 0.5
            assert await peer.stream.receive() == bytes(1000)
            assert lap.round_trips() == 0.5


async def test_the_end_of_a_stream_comes_a_delay_later_and_ends_one_direction() -> None:
    peer = Peer()
    async with DelayRelay(peer, DELAY) as relay, await relay.connectable.connect() as client:
        await peer.connected.wait()
        lap = Lap()
        async with peer.stream:
            await client.send(b"the last")
            await client.send_eof()
            assert await peer.stream.receive() == b"the last"
            with pytest.raises(anyio.EndOfStream):
                await peer.stream.receive()
            assert lap.round_trips() == 0.5
            await peer.stream.send(b"still here")
            await peer.stream.send_eof()
            assert await client.receive() == b"still here"
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            assert lap.round_trips() == 0.5


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_comes_a_delay_later_and_behind_what_was_sent_before(who: str) -> None:
    peer = Peer()
    async with DelayRelay(peer, DELAY) as relay, await relay.connectable.connect() as client:
        await peer.connected.wait()
        async with peer.stream:
            ends = (client, peer.stream)
            here, there = ends if who == "client" else ends[::-1]
            lap = Lap()
            await here.send(b"the last")
            here.reset()
            assert await there.receive() == b"the last"
            with pytest.raises(anyio.BrokenResourceError):
                await there.receive()
            assert lap.round_trips() == 0.5


async def test_whoever_sends_to_one_that_has_gone_gets_a_reset_a_round_trip_later() -> None:
    peer = Peer()
    async with DelayRelay(peer, DELAY) as relay, await relay.connectable.connect() as client:
        await peer.connected.wait()
        await peer.stream.aclose()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await client.send(b"too late")
        await anyio.sleep(1.5 * ROUND_TRIP)
        with pytest.raises(anyio.BrokenResourceError):
            await client.send(b"again")


async def test_a_server_that_is_not_there_is_a_reset_after_a_round_trip() -> None:
    server = ScriptedServer(script={"CONNECT": DROP})
    async with server, DelayRelay(server.connectable, DELAY) as relay:
        lap = Lap()
        async with await relay.connectable.connect() as client:
            with pytest.raises(anyio.BrokenResourceError):
                await client.receive()
        assert lap.round_trips() == 1
