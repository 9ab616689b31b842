"""The kit as pytest fixtures: a plugin that ``tests/conftest.py`` names in `pytest_plugins`.

What costs something to make is made once per run.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from anysmtp.testing import AiosmtpdServer

from .cancel import How, hows
from .exim import Exim
from .exim import why_not as exim_why_not
from .postfix import Postfix, why_not
from .quick import backend_of, left_out
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
    check_server("Postfix", reason)


def check_server(name: str, reason: str | None) -> None:
    """The same of any server, by the variable that requires it."""
    if reason and os.environ.get(f"ANYSMTP_REQUIRE_{name.upper()}") == "1":
        pytest.fail(f"{name} is required here. {reason}")
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


@pytest.fixture(scope="session")
def exim() -> Iterator[Exim]:
    """A real Exim; see `Exim`. It is required if ``ANYSMTP_REQUIRE_EXIM`` is 1."""
    check_server("Exim", exim_why_not())
    with Exim() as server:
        yield server


class Tally:
    """How many points of which kind were tried, over the whole run."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, kind: str, count: int) -> None:
        self._counts[kind] += count

    def add(self, counts: dict[str, int]) -> None:
        """What was tried in another process."""
        self._counts.update(counts)

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self._counts.items())


_TALLY = pytest.StashKey[Tally]()


def _tally_of(config: pytest.Config) -> Tally:
    return config.stash.setdefault(_TALLY, Tally())


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """Counts what the tests tried; the sums are shown at the end of the run."""
    return _tally_of(pytestconfig)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Each process of ``pytest -n`` tells the one that shows the sums."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tally"] = _tally_of(session.config).counts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if counts := getattr(node, "workeroutput", {}).get("tally"):
        _tally_of(node.config).add(counts)


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
    _set_aside()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        _set_aside()


def _set_aside() -> None:
    """What is here between two files stays: thousands of tests, and the reports on them.

    It is not looked through again each time that a test collects garbage.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a way of cancelling that their backend does not have are not tests."""
    vain = [item for item in items if not _has_its_how(item)]
    _deselect(config, items, vain)
    _deselect(config, items, left_out(items))


def _deselect(config: pytest.Config, items: list[pytest.Item], some: list[pytest.Item]) -> None:
    if some:
        config.hook.pytest_deselected(items=some)
        gone = {*some}
        items[:] = [item for item in items if item not in gone]


def _has_its_how(item: pytest.Item) -> bool:
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    how = parameters.get("cancel_how")
    return how is None or how in hows(backend_of(item))
