"""One message of any size, sent in a process of its own: how much memory that takes.

``python -m benchmarks.large BACKEND PORT CAFILE TLS CHUNKING SOURCE`` prints octets of memory at
the peak of the send, above what the process had when it was connected and idle. SOURCE is a path,
or a number of octets that an async iterable yields.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

import anysmtp

from .task import peak_memory, reset_peak_memory

LINE = b"x" * 76 + b"\r\n"
BLOCK = LINE * 800


async def letter(octets: int) -> AsyncIterator[bytes]:
    yield b"Subject: large\r\n\r\n"
    while octets > 0:
        yield BLOCK
        octets -= len(BLOCK)


async def main(*arguments: Any) -> None:
    port, cafile, tls, chunking, source = arguments
    context = None if tls == "off" else anysmtp.create_tls_context(cafile=cafile)
    async with anysmtp.SMTP(
        "127.0.0.1", int(port), tls=tls, tls_context=context, chunking=chunking
    ) as smtp:
        # What is loaded when a file is sent for the first time is not the message's.
        await smtp.sendmail("a@x.test", "b@x.test", letter(4 << 20))
        message = letter(int(source)) if source.isdecimal() else Path(source)
        idle = reset_peak_memory()
        await smtp.sendmail("a@x.test", "b@x.test", message)
        print(peak_memory() - idle)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[2:], backend=sys.argv[1])
