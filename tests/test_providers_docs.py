"""docs/providers.rst: by each line, host, port and password alone lead to a login under TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import anysmtp
from anysmtp.testing import AiosmtpdServer, Certificates
from support.reader import FarAway

PAGE = (Path(__file__).parents[1] / "docs" / "providers.rst").read_text("utf-8")
LINE = re.compile(r"^   \* - .*\n     - (``.*)\n     - (\d[\d, ]*)\n", re.MULTILINE)
SERVERS = [
    (host, int(port))
    for hosts, ports in LINE.findall(PAGE)
    for host in re.findall(r"``(\S+)``", hosts)
    for port in ports.split(", ")
]


def test_there_are_some() -> None:
    assert len(SERVERS) > 20
    assert {port for _, port in SERVERS} == {465, 587}
    assert len(LINE.findall(PAGE)) == PAGE.count("   * - ") - 1


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates(*{host for host, _ in SERVERS})


@pytest.fixture(scope="module")
def ports(certificates: Certificates) -> Iterator[dict[int, int]]:
    """Where the servers are that stand for a provider's two."""
    begins = AiosmtpdServer(starttls=certificates.server, users={"ann": "secret"})
    implicit = AiosmtpdServer(implicit_tls=certificates.server, users={"ann": "secret"})
    with begins, implicit:
        yield {587: begins.port, 465: implicit.port}


@pytest.mark.anyio
@pytest.mark.parametrize(("host", "port"), SERVERS)
async def test_a_name_a_port_and_a_password_lead_to_a_login_under_tls(
    host: str,
    port: int,
    ports: dict[int, int],
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = anyio.connect_tcp

    async def connect_tcp(remote_host: str, remote_port: int, **options: Any) -> FarAway:
        assert (remote_host, remote_port) == (host, port)
        return FarAway(await connect("127.0.0.1", ports[port]))

    monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
    # 587 is what there is without a port.
    given = None if port == 587 else port
    context = certificates.client
    smtp = anysmtp.SMTP(host, given, username="ann", password="secret", tls_context=context)
    async with smtp, smtp.connection() as connection:
        assert connection.is_encrypted
