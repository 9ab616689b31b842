"""How often each client waits for the server, per message: the row of README's table, counted.

``nox -s compare`` runs it. The server is the tests' scripted one, which offers PIPELINING, on
loopback; what it counts is how often it had to wait for more from the client, from MAIL to the
reply to the message. The same message goes out in each client's usual way.
"""

from __future__ import annotations

import smtplib
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeAlias

import aiosmtplib
import anyio
from anyio import to_thread

import anysmtp
from support.scripted import ScriptedServer

Send: TypeAlias = Callable[[int, list[str]], Awaitable[object]]
MESSAGE = b"Subject: hello\r\n\r\nHello.\r\n"


async def with_smtplib(port: int, recipients: list[str]) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port) as smtp:
            smtp.sendmail("a@x.test", recipients, MESSAGE)

    await to_thread.run_sync(send)


async def with_aiosmtplib(port: int, recipients: list[str]) -> None:
    client: Any = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False)
    async with client:
        await client.sendmail("a@x.test", recipients, MESSAGE)


async def with_anysmtp(port: int, recipients: list[str]) -> None:
    await anysmtp.send(MESSAGE, "127.0.0.1", port, sender="a@x.test", recipients=recipients)


async def round_trips(send: Send, count: int) -> int:
    """How many times the server waited from MAIL on, for one message to so many recipients."""
    async with ScriptedServer() as server:
        port = await server.listen()
        await send(port, [f"b{number}@x.test" for number in range(count)])
        await server.wait_closed()
    writes = server.connection.writes
    first = next(place for place, write in enumerate(writes) if write[:4].upper() == b"MAIL")
    last = next(place for place, write in enumerate(writes) if write.endswith(b"\r\n.\r\n"))
    return last - first + 1


async def main() -> None:
    clients: list[tuple[str, Send]] = [
        ("smtplib", with_smtplib),
        (f"aiosmtplib {version('aiosmtplib')}", with_aiosmtplib),
        (f"anysmtp {anysmtp.__version__}", with_anysmtp),
    ]
    counts = (1, 10, 50)
    print("| round trips per message |", *(f"{count} to |" for count in counts))
    print("|---|" + "---|" * len(counts))
    for name, send in clients:
        trips = [await round_trips(send, count) for count in counts]
        print(f"| {name} |", *(f"{number} |" for number in trips))


if __name__ == "__main__":
    anyio.run(main)
