"""The pytest plugin of anysmtp: fixtures for the tests of applications that send mail.

A module beside the package and not in it, because pytest imports it in every run wherever anysmtp
is installed, before any coverage is measured: it imports nothing that pytest has not imported. What
a fixture stands on is imported by its first use.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anysmtp.testing import AiosmtpdServer, Certificates, Outbox, ScriptedServer


@pytest.fixture
def smtp_outbox() -> Outbox:
    """An `anysmtp.testing.Outbox`: takes the place of a client, and keeps what was sent."""
    from anysmtp.testing import Outbox

    return Outbox()


@pytest.fixture
async def smtp_server(anyio_backend: object) -> AsyncGenerator[ScriptedServer, None]:
    """An `anysmtp.testing.ScriptedServer` in the event loop of the test, on its backend.

    It does as its ``script`` says, which the test may write at any time.
    """
    from anysmtp.testing import ScriptedServer

    async with ScriptedServer() as server:
        yield server


@pytest.fixture(scope="session")
def smtp_certificates() -> Certificates:
    """An `anysmtp.testing.Certificates`: TLS contexts that belong together. Needs trustme."""
    from anysmtp.testing import Certificates

    return Certificates()


@pytest.fixture
def smtpd(smtp_certificates: Certificates) -> Generator[AiosmtpdServer, None, None]:
    """A real server in a thread: an `anysmtp.testing.AiosmtpdServer` on loopback.

    It takes mail after STARTTLS and a login only, of ``user`` with the password ``password`` or of
    whom the test writes into its ``users``. Needs aiosmtpd and trustme.
    """
    from anysmtp.testing import AiosmtpdServer

    with AiosmtpdServer(
        starttls=smtp_certificates.server,
        tls_context=smtp_certificates.client,
        users={"user": "password"},
        require_auth=True,
    ) as server:
        yield server
