"""What the sessions of nox leave out: with ``ANYSMTP_QUICK``, some points of the large matrices.

README's command tries every point.
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest
from anyio.pytest_plugin import extract_backend_and_options

_IS_QUICK = bool(os.environ.get("ANYSMTP_QUICK"))
# Each Python tries others, and so all of them together try more.
_FIRST = sys.version_info.minor


def every(step: int) -> int:
    """Of so many points one is tried, or each."""
    return step if _IS_QUICK else 1


def sampled(step: int) -> pytest.MarkDecorator:
    """Of so many cases of a test one is tried, on each backend, or each."""
    return pytest.mark.sampled(step)


def left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """Those of `sampled` tests that are not tried."""
    cases: Counter[tuple[str, str]] = Counter()
    return [item for item in items if _IS_QUICK and _is_left_out(item, cases)]


def _is_left_out(item: pytest.Item, cases: Counter[tuple[str, str]]) -> bool:
    mark = item.get_closest_marker("sampled")
    if mark is None:
        return False
    test = (item.nodeid.partition("[")[0], backend_of(item))
    cases[test] += 1
    return bool((cases[test] + _FIRST) % mark.args[0])


def backend_of(item: pytest.Item) -> str:
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    name, _ = extract_backend_and_options(parameters.get("anyio_backend", ""))
    return name
