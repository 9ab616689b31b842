"""What asyncio's reads cost: counted in page faults, in a process that has done nothing else."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

READS = 500
# asyncio's selector event loop asks for this much, of which the server fills a few octets.
SCRIPT = f"""
import ctypes, resource, socket
from anysmtp._connect import Link

def faults_of_reads():
    server, client = socket.socketpair()
    # The memory that the interpreter has kept free by chance would do for a while.
    ctypes.CDLL(None).malloc_trim(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({READS}):
        server.send(b"250 Ok\\r\\n")
        client.recv(256 * 1024)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults_of_reads()
Link(None, "mail.example.test:25", "mail.example.test")
print(before, faults_of_reads())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that does so")
def test_a_read_maps_no_memory_once_there_was_a_connection() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    before, after = map(int, ran.stdout.split())
    assert before >= READS
    assert after <= READS // 10
