"""An SMTP server for tests: it does as it is told, and writes down what it saw.

It runs in the test's own event loop, in a task group that the block around it stands for, on memory
streams and on sockets. What it answers is in `_script`, what a server answers by itself in
`_state`, what it saw in `_records`; by what it judges a client is in `_session`.

Leaving the block ends the server with all its connections, whatever they are about to do. What the
server itself died of is raised then, and never into the test's tasks.
"""

from __future__ import annotations

import ssl
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from anyio import (
    ConnectionFailed,
    Event,
    create_task_group,
    create_tcp_listener,
    create_unix_listener,
    fail_after,
    sleep,
    sleep_forever,
)
from anyio.abc import ByteStream, ByteStreamConnectable, Listener, SocketAttribute

from .. import SMTP, Options
from ._memory import MemoryByteStream, memory_pair
from ._records import Sent, Transcript
from ._script import Answer, Script
from ._session import Cut, Session
from ._state import Settings
from ._wire import Close

if TYPE_CHECKING:
    from typing_extensions import Unpack

if sys.version_info < (3, 11):  # pragma: no cover - coverage is measured on a newer Python
    from exceptiongroup import BaseExceptionGroup

DEFAULT_KEYWORDS = ("PIPELINING", "SIZE 10000000", "8BITMIME", "ENHANCEDSTATUSCODES")


class ScriptedServer:
    """An SMTP server in the test's own task group: ``async with ScriptedServer() as server``.

    It listens on memory streams (`client`, `connectable`) and, if told to (`listen`), on loopback.
    Leaving the block ends it with all its connections; if the block went well, AssertionError says
    what a client did that SMTP does not allow, unless ``strict`` is off. The block's own exception
    is never wrapped in a group. All arguments are by keyword:

    - ``keywords``: the lines of the EHLO reply after the first. STARTTLS is added where there is a
      context for it; AUTH with the mechanisms, unless there is an AUTH line, where there are users
      or mechanisms and the connection is as encrypted as it gets.
    - ``tls_keywords``: the same under TLS, with nothing added.
    - ``script``: answers by the points of the conversation (see `Answer`), or a function of the
      command line.
    - ``starttls``, ``implicit_tls``: a server's SSLContext.
    - ``users``: names and passwords for AUTH PLAIN and LOGIN; ``require_auth``: MAIL wants it.
    - ``mechanisms``: the server's side of other SASL mechanisms, by name; offered in front. A
      generator that yields challenges, is sent responses, and returns who has logged in, or None.
    - ``max_connections``: how many it serves at once; others are greeted with 421, and counted in
      ``refused``.
    - ``lmtp``: LHLO, and one reply per recipient after the message.
    - ``one_by_one``: each reply in a write of its own; else one write for all that is due.
    - ``split``: replies are written in pieces of so many bytes.
    - ``capacity``: how many unread bytes fit into each direction of a memory stream.
    - ``strict``: what breaks the rules of SMTP is an AssertionError at the end.
    """

    def __init__(
        self,
        *,
        hostname: str = "mail.example.test",
        keywords: Sequence[str] = DEFAULT_KEYWORDS,
        tls_keywords: Sequence[str] | None = None,
        script: Mapping[str, Answer | Sequence[Answer]]
        | Callable[[str], Answer | None]
        | None = None,
        starttls: ssl.SSLContext | None = None,
        implicit_tls: ssl.SSLContext | None = None,
        users: dict[str, str] | None = None,
        mechanisms: Mapping[str, Callable[[Transcript], Generator[bytes, bytes, str | None]]]
        | None = None,
        require_auth: bool = False,
        max_connections: int | None = None,
        lmtp: bool = False,
        one_by_one: bool = False,
        split: int | None = None,
        capacity: int = 65536,
        strict: bool = True,
    ) -> None:
        self.host: str = "127.0.0.1"
        """Where it listens, after `listen`."""
        self.connections: list[Transcript] = []
        """What was seen, one record per connection, in the order in which they were made."""
        self.connectable: MemoryConnectable = MemoryConnectable(self)
        """Connects on memory streams: each ``connect()`` makes a new pair."""
        self.port: int = 0
        """The TCP port, after `listen`."""
        self.refused: int = 0
        """How many connections were one too many."""
        self._settings = Settings(
            hostname=hostname,
            keywords=keywords,
            tls_keywords=tls_keywords,
            starttls=starttls,
            implicit_tls=implicit_tls,
            users=users,
            mechanisms=mechanisms or {},
            require_auth=require_auth,
            lmtp=lmtp,
            one_by_one=one_by_one,
            split=split,
        )
        self._script = Script(script or {})
        self._max_connections = max_connections
        self._open = 0
        self._is_held = False
        self._capacity = capacity
        self._strict = strict
        self._cut: Cut | None = None
        self._cuts_left: int | None = None
        self._sessions: list[Session] = []
        self._crashes: list[Exception] = []

    async def __aenter__(self) -> ScriptedServer:
        self._group = create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup:
            # The block's own exception is not wrapped; what the server died of has cancelled it.
            if not isinstance(exc, Exception):
                raise
        if self._crashes and (exc is None or isinstance(exc, Exception)):
            raise self._crashes[0]
        if self._strict and self.violations and exc is None:
            raise AssertionError("the client broke the rules:\n" + "\n".join(self.violations))
        return False

    def client(self, **options: Unpack[Options]) -> SMTP:
        """A client of this server on memory streams, which is not encrypted unless asked to be.

        The options are those of `anysmtp.SMTP`.
        """
        settings: Options = {"connectable": self.connectable, "tls": "off", **options}
        return SMTP(self._settings.hostname, **settings)

    async def listen(self, host: str = "127.0.0.1") -> int:
        """Listen on a free TCP port of this address, and return it."""
        listener = await create_tcp_listener(local_host=host, local_port=0)
        self.host = host
        self.port = listener.extra(SocketAttribute.local_port)
        self._group.start_soon(self._listen, listener)
        return self.port

    async def listen_unix(self, path: str | PathLike[str]) -> None:
        """Listen on a unix socket, that is made here."""
        self._group.start_soon(self._listen, await create_unix_listener(path))

    async def _listen(self, listener: Listener[Any]) -> None:
        async with listener:
            await listener.serve(self.serve, self._group)

    async def connect(self) -> MemoryByteStream:
        """What `connectable` does.

        An end in the script's point ``"CONNECT"`` is a ConnectionFailed; stall never connects.
        """
        act = self._script.act("CONNECT")
        await (act.late.wait() if isinstance(act.late, Event) else sleep(act.late))
        if act.then in ("stall", "deaf"):
            await sleep_forever()
        if act.then is not None:
            raise ConnectionFailed("the script refuses the connection")
        client, own = memory_pair(self._capacity)
        self._group.start_soon(self.serve, own)
        return client

    async def serve(self, stream: ByteStream) -> None:
        """Serve one client on a stream of the test's own."""
        record = Transcript(len(self.connections))
        is_refused = self._max_connections is not None and self._open >= self._max_connections
        session = Session(
            stream,
            record,
            self._script,
            self._settings,
            self._next_cut(),
            is_held=self._is_held,
            is_refused=is_refused,
        )
        self.connections.append(record)
        self._sessions.append(session)
        self.refused += is_refused
        self._open += not is_refused
        try:
            await session.run()
        except Exception as exc:  # noqa: BLE001 - raised by __aexit__, not into the test's tasks
            self._crashes.append(exc)
        finally:
            self._open -= not is_refused

    @property
    def script(self) -> MutableMapping[str, Answer | Sequence[Answer]]:
        """The table of answers, to be changed at any time."""
        return self._script.table

    def cut_after(
        self,
        count: int | None,
        how: Close = "close",
        *,
        unit: Literal["reply", "wire"] = "reply",
        connections: int | None = None,
    ) -> None:
        """Connections from now on end in this way as soon as the server has sent ``count`` bytes.

        They are counted before encryption, as replies, or as they are on the wire, where those of
        a TLS handshake count too and there can be no close_notify. None: no more of that.
        ``connections`` is for how many connections; None for all.
        """
        self._cut = None if count is None else Cut(count, how, unit)
        self._cuts_left = connections

    def _next_cut(self) -> Cut | None:
        if self._cuts_left is None:
            return self._cut
        self._cuts_left -= 1
        return self._cut if self._cuts_left >= 0 else None

    def hold(self) -> None:
        """Say nothing more on any connection, but go on reading: replies add up."""
        self._is_held = True
        for session in self._sessions:
            session.hold()

    async def release(self) -> None:
        """Say all that was held back, and go on as usual."""
        self._is_held = False
        for session in self._sessions:
            await session.release()

    async def push(self, reply: str | bytes) -> None:
        """Say something unasked on the newest connection."""
        await self._sessions[-1].push(reply)

    async def hang_up(self, how: Close = "close") -> None:
        """End the newest connection; returns when the client can see it."""
        await self._sessions[-1].hang_up(how)

    async def wait_closed(self) -> None:
        """Wait until the clients have ended all connections; deaf ones never see it."""
        with fail_after(10):
            for session in self._sessions:
                await session.closed.wait()

    @property
    def connection(self) -> Transcript:
        """The only connection that there was."""
        (connection,) = self.connections
        return connection

    @property
    def messages(self) -> list[Sent]:
        """The messages that were accepted, of all connections."""
        return [message for record in self.connections for message in record.messages]

    def deliveries(self, field: str = "Subject") -> Counter[tuple[str, str]]:
        """How often each message, by a header field of it, was accepted for each recipient."""
        return Counter(
            (message.header(field), recipient)
            for message in self.messages
            for recipient in message.accepted_for
        )

    @property
    def writes(self) -> list[bytes]:
        """What arrived, as it arrived, of all connections, one connection after the other."""
        return [write for record in self.connections for write in record.writes]

    @property
    def received(self) -> list[Sent]:
        """The messages whose end arrived, of all connections."""
        return [message for record in self.connections for message in record.received]

    @property
    def commands(self) -> list[bytes]:
        """The lines of the clients, of all connections, one connection after the other."""
        return [command for record in self.connections for command in record.commands]

    @property
    def violations(self) -> list[str]:
        """What clients did that SMTP does not allow."""
        return [what for record in self.connections for what in record.violations]


class MemoryConnectable(ByteStreamConnectable):
    """Connects to a `ScriptedServer` on memory streams."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    async def connect(self) -> MemoryByteStream:
        return await self._server.connect()
