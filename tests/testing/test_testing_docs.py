"""The files on the page docs/testing.rst, and the sample application, tests and all, are run."""

from __future__ import annotations

import importlib.metadata
import re
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "testing.rst").read_text("utf-8")
FILE = re.compile(
    r"^\.\. code-block:: python\n   :caption: (?P<name>\w+\.py)\n\n(?P<source>(?:   .*\n|\n)+)",
    re.MULTILINE,
)
FILES = {found["name"]: textwrap.dedent(found["source"]) for found in FILE.finditer(TEXT)}
SAMPLE = {path.name: path.read_text("utf-8") for path in (DOCS / "sample").glob("*.py")}


@pytest.mark.parametrize("files", [FILES, SAMPLE], ids=["page", "sample"])
def test_the_tests_pass(
    pytester: pytest.Pytester, anyio_backend_name: str, files: dict[str, str]
) -> None:
    for name, source in files.items():
        (pytester.path / name).write_text(source, "utf-8")
    pytester.makeini("[pytest]\nfilterwarnings = error")
    pytester.makeconftest(
        "import pytest\n\n\n"
        "@pytest.fixture(scope='module')\n"
        f"def anyio_backend() -> str:\n    return {anyio_backend_name!r}\n"
    )
    pytester.syspathinsert()
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    tests = sum(source.count("def test_") for source in files.values())
    assert tests > 0
    result.assert_outcomes(passed=tests)


def test_the_first_test_has_ten_lines() -> None:
    assert len([line for line in FILES["test_accounts.py"].splitlines() if line]) <= 10


def test_every_block_is_run() -> None:
    openings = re.findall(r"^\.\. code-block:: (\w+)$", TEXT, re.MULTILINE)
    assert openings.count("python") == len(FILES)
    assert set(openings) == {"python", "sh"}
    included = re.findall(r"^\.\. literalinclude:: sample/(\S+)$", TEXT, re.MULTILINE)
    assert sorted(included) == sorted(SAMPLE)


def test_the_extra_that_it_names_is_there() -> None:
    (extra,) = re.findall(r"pip install 'anysmtp\[(\w+)\]'", TEXT)
    assert extra in importlib.metadata.metadata("anysmtp").get_all("Provides-Extra", [])
