"""The kit as pytest fixtures: a plugin that ``tests/conftest.py`` names in `pytest_plugins`.

What costs something to make is made once per run.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from anyio.pytest_plugin import extract_backend_and_options

from anysmtp.testing import AiosmtpdServer

from .cancel import How, hows
from .postfix import Postfix, why_not
from .tls import Certificates

USERS = {"ann": "correct horse", "jörg": "pässwörd"}
"""Who may log in to the real servers."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority, and contexts made from it; see `Certificates`."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def aiosmtpd_plain() -> Iterator[AiosmtpdServer]:
    """A real aiosmtpd without TLS and logins."""
    with AiosmtpdServer() as server:
        yield server


@pytest.fixture
def aiosmtpd_starttls(certificates: Certificates) -> Iterator[AiosmtpdServer]:
    """A real aiosmtpd that takes mail after STARTTLS and a login of one of `USERS`."""
    with AiosmtpdServer(starttls=certificates.server, users=USERS, require_auth=True) as server:
        yield server


@pytest.fixture
def aiosmtpd_implicit(certificates: Certificates) -> Iterator[AiosmtpdServer]:
    """A real aiosmtpd on TLS, that takes mail after a login of one of `USERS`."""
    with AiosmtpdServer(implicit_tls=certificates.server, users=USERS, require_auth=True) as server:
        yield server


def check_postfix(reason: str | None) -> None:
    """Skip the test, or fail it, if there is a reason why Postfix cannot be had."""
    if reason and os.environ.get("ANYSMTP_REQUIRE_POSTFIX") == "1":
        pytest.fail(f"Postfix is required here. {reason}")
    elif reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def postfix(certificates: Certificates) -> Iterator[Postfix]:
    """A real Postfix, with `USERS`; see `Postfix`.

    Where there can be none the test is skipped, or fails if ``ANYSMTP_REQUIRE_POSTFIX`` is 1.
    """
    check_postfix(why_not())
    with Postfix(certificates.server_file, USERS) as server:
        yield server


class Tally:
    """How many points of which kind were tried, over the whole run."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, kind: str, count: int) -> None:
        self._counts[kind] += count

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self._counts.items())


_TALLY = pytest.StashKey[Tally]()


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """Counts what the tests tried; the sums are shown at the end of the run."""
    return pytestconfig.stash.setdefault(_TALLY, Tally())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if tally := config.stash.get(_TALLY, None):
        terminalreporter.write_line(f"tried: {tally}")


@pytest.fixture(params=hows("asyncio"))
def cancel_how(request: pytest.FixtureRequest) -> How:
    """Each way of stopping a coroutine that the test's backend has; see `cancel_at`."""
    how: How = request.param
    return how


def pytest_collection_finish() -> None:
    """Thousands of tests are not looked through again each time that one collects garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a way of cancelling that their backend does not have are not tests."""
    vain = [item for item in items if not _has_its_how(item)]
    if vain:
        config.hook.pytest_deselected(items=vain)
        items[:] = [item for item in items if item not in vain]


def _has_its_how(item: pytest.Item) -> bool:
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    how = parameters.get("cancel_how")
    backend, _ = extract_backend_and_options(parameters.get("anyio_backend", ""))
    return how is None or how in hows(backend)
