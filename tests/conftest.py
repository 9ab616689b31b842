"""What every test stands on: the backends, and which anysmtp is under test.

``ANYSMTP_BACKENDS`` names the backends, ``asyncio,trio`` or one of them. Unset, it is both, and
trio is skipped where it is not installed; a backend that is asked for by name has to be there.
``ANYSMTP_INSTALLED`` says that the installed package is to be tested: a checkout that got in front
of it then ends the run.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path

import hypothesis
import pytest

import anysmtp

pytest_plugins = ["support.fixtures"]

HAS_TRIO = importlib.util.find_spec("trio") is not None
CHOSEN = os.environ.get("ANYSMTP_BACKENDS")

# The same examples in every run: a failure that is found is found again. No deadline: how long an
# example takes on a busy machine says nothing about it.
hypothesis.settings.register_profile("anysmtp", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("anysmtp")


def _backend_params() -> list[object]:
    if CHOSEN:
        return [name.strip() for name in CHOSEN.split(",")]
    no_trio = pytest.mark.skipif(not HAS_TRIO, reason="trio is not installed")
    return ["asyncio", pytest.param("trio", marks=no_trio)]


@pytest.fixture(scope="module", params=_backend_params())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def _package_folder() -> Path:
    return Path(anysmtp.__path__[0])


def pytest_configure() -> None:
    if CHOSEN and "trio" in CHOSEN and not HAS_TRIO:
        raise pytest.UsageError("ANYSMTP_BACKENDS asks for trio, which is not installed")
    installed = Path(sysconfig.get_path("purelib"))
    if os.environ.get("ANYSMTP_INSTALLED") and _package_folder().parent != installed:
        raise pytest.UsageError(f"anysmtp is not the installed one, but {_package_folder()}")


def pytest_report_header() -> list[str]:
    return [f"anysmtp: {_package_folder()}", f"backends: {CHOSEN or 'all that are installed'}"]
