"""A message of 256 MiB is sent in a few MiB of memory, in every way in which one can be sent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tls import Certificates

from .large import BLOCK
from .machine import environment
from .sink import Sink

SIZE = 256 << 20
MOST = 8 << 20


@pytest.fixture(scope="module")
def sink(certificates: Certificates) -> Iterator[Sink]:
    with Sink(certificates.server_file) as sink:
        yield sink


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("large") / "large.eml"
    with path.open("wb") as file:
        file.write(b"Subject: large\r\n\r\n")
        for _ in range(SIZE // len(BLOCK) + 1):
            file.write(BLOCK)
    yield path
    path.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset by a file of Linux")
@pytest.mark.parametrize("chunking", ["off", "always"])
@pytest.mark.parametrize("tls", ["off", "implicit"])
@pytest.mark.parametrize("from_path", [True, False], ids=["path", "iterable"])
def test_memory_does_not_grow_with_the_message(
    from_path: bool,
    tls: str,
    chunking: str,
    sink: Sink,
    large_file: Path,
    certificates: Certificates,
    anyio_backend: str,
) -> None:
    port = sink.ports["plain" if tls == "off" else "implicit"]
    source = str(large_file) if from_path else str(SIZE)
    arguments = [anyio_backend, str(port), str(certificates.cafile), tls, chunking, source]
    before = sink.counts()
    program = subprocess.run(
        [sys.executable, "-m", "benchmarks.large", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert sink.counts().since(before).octets >= SIZE
    assert int(program.stdout) < MOST
