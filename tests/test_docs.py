"""Every example in README and docs is a program that runs, and prints what stands under it.

A reader's program talks to ``smtp.example.com``; `support.reader` has what is there. A file that a
page names and that is no program is written into the reader's folder, for the programs of that
page to import. A file of tests is run by pytest, with the same things replaced.

A block of code that is not found, or is of a kind that nothing checks, fails a test too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anysmtp
import anysmtp.testing
from support.pages import OPENING, Block, blocks
from support.reader import Network, check

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci" / "run"
# These have tests of their own: test_authentication_docs, cli/test_cli_docs, test_django_docs and
# testing/test_testing_docs.
ELSEWHERE = ("authentication", "cli", "django", "testing")
OTHERS = (path for path in (ROOT / "docs").glob("*.rst") if path.stem not in ELSEWHERE)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(OTHERS)]

RUNS_ON = re.compile(r"^(anyio|asyncio|trio)\.run\(", re.MULTILINE)
# What is in the standard library, or the language, only from Python 3.11 on.
NEW = ("asyncio.timeout(", "except* ")
# Frameworks that a page shows a client in; where one is not installed its program is skipped.
FRAMEWORKS = re.compile(r"^from (fastapi|litestar|starlette)\b", re.MULTILINE)


BLOCKS = [block for page in PAGES for block in blocks(page)]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]
TESTS = [program for program in PROGRAMS if program.caption.startswith("test_")]
FILES = [
    program
    for program in PROGRAMS
    if program.caption and program not in TESTS and not RUNS_ON.search(program.source)
]


def _programs(runner: str) -> list[Block]:
    """The programs whose event loop this is; one that has none, or several, is in no list."""
    return [program for program in PROGRAMS if RUNS_ON.findall(program.source) == [runner]]


@pytest.fixture(scope="module")
def all_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("reader")) as network:
        yield network


@pytest.fixture
def network(all_servers: Network) -> Network:
    all_servers.forget()
    return all_servers


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    openings = [line for line in lines if OPENING.match(line)]
    found = [block for block in BLOCKS if block.page == page]
    outputs = [block for block in found if block.output]
    pages = [line for line in openings if line == ".. literalinclude:: ../CHANGELOG.md"]
    assert len(openings) == len(found) + len(outputs) + len(pages)
    assert {block.language for block in found} <= {"python", "sh"}
    run = [program for runner in ("anyio", "asyncio", "trio") for program in _programs(runner)]
    assert {block for block in found if block.language == "python"} <= {*run, *TESTS, *FILES}


@pytest.mark.parametrize("program", _programs("anyio"), ids=str)
def test_a_program_runs_on_either_backend(
    program: Block, network: Network, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_if_missing(program)
    _check(program, network, anyio_backend, monkeypatch)


@pytest.mark.parametrize("program", _programs("asyncio"), ids=str)
def test_a_program_for_asyncio_runs(
    program: Block, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_if_missing(program)
    _check(program, network, "asyncio", monkeypatch)


@pytest.mark.parametrize("program", _programs("trio"), ids=str)
def test_a_program_for_trio_runs(
    program: Block, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trio", reason="trio is not installed")
    _check(program, network, "trio", monkeypatch)


@pytest.mark.parametrize("program", TESTS, ids=str)
def test_a_file_of_tests_passes_on_every_backend(
    program: Block, network: Network, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    _skip_if_missing(program)
    backends = [name for name in ("asyncio", "trio") if importlib.util.find_spec(name)]
    network.install(monkeypatch, backends[0])
    monkeypatch.chdir(pytester.path)
    pytester.makeini("[pytest]\nfilterwarnings = error\npythonpath = .")
    for file in (program, *_files_of(program.page)):
        (pytester.path / file.caption).write_text(file.source, "utf-8")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-k", " or ".join(backends))
    result.assert_outcomes(passed=len(backends) * program.source.count("def test_"))
    assert {*network.deliveries().values()} <= {len(backends)}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_that_is_no_program_is_used_by_one_of_its_page(file: Block) -> None:
    stem = Path(file.caption).stem
    others = [block.source for block in BLOCKS if block.page == file.page and block != file]
    assert any(re.search(rf"(?:from|import|-c) {stem}\b", source) for source in others)


def _files_of(page: Path) -> list[Block]:
    return [file for file in FILES if file.page == page]


def _skip_if_missing(program: Block) -> None:
    if sys.version_info < (3, 11) and any(words in program.source for words in NEW):
        pytest.skip("it needs Python 3.11")
    sources = [program.source, *(file.source for file in _files_of(program.page))]
    for framework in FRAMEWORKS.findall("\n".join(sources)):
        pytest.importorskip(framework, reason=f"{framework} is not installed")


def _output_of(program: Block) -> str:
    """What stands under the program, or under the command that runs its file."""
    runs = [block.output for block in SHELL if block.source == f"python {program.caption}\n"]
    return runs[0] if runs else program.output


def _check(program: Block, network: Network, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in _files_of(program.page):
        (network.folder / file.caption).write_text(file.source, "utf-8")
        monkeypatch.delitem(sys.modules, Path(file.caption).stem, raising=False)
    monkeypatch.setattr(sys, "path", [str(network.folder), *sys.path])
    importlib.invalidate_caches()
    check(program, _output_of(program), network, backend, monkeypatch)


@pytest.mark.parametrize("page", ["index.rst", "tutorial.rst"])
def test_the_programs_for_newcomers_reach_the_server_that_the_page_starts(
    page: str, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = [b.source for b in SHELL if b.page.name == page and "aiosmtpd" in b.source]
    programs = [p for p in _programs("anyio") if p.page.name == page and '"localhost"' in p.source]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = shlex.split(command.replace(":8025", f":{port}"))
    for file in _files_of(programs[0].page):
        (network.folder / file.caption).write_text(file.source, "utf-8")
    with subprocess.Popen(
        [sys.executable, *words[1:]],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        cwd=network.folder,
    ) as server:
        try:
            _wait_for(port)
            monkeypatch.setitem(network.ports, "localhost:8025", port)
            for program in programs:
                with monkeypatch.context() as patch:
                    _check(program, network, "asyncio", patch)
        finally:
            server.terminate()
        assert server.stdout is not None
        assert "Subject: Lunch" in server.stdout.read()


def _wait_for(port: int) -> None:
    """Wait until somebody listens there, which nobody announces."""
    for _ in range(500):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.02)
    pytest.fail("the server did not start")


@pytest.mark.parametrize("block", [b for b in SHELL if b.page.suffix == ".rst"], ids=str)
def test_a_command_names_what_there_is(block: Block) -> None:
    into_environment = "python3 -m venv .venv\n. .venv/bin/activate\n"
    words = shlex.split(block.source.removeprefix(into_environment))
    if words[:2] == ["pip", "install"]:
        extras = importlib.metadata.metadata("anysmtp").get_all("Provides-Extra", [])
        assert {*re.findall(r"\w+", words[2].removeprefix("anysmtp"))} <= {*extras}
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(f"{words[2]}.__main__")
    else:
        captions = [program.caption for program in PROGRAMS if program.page == block.page]
        assert words[0] == "python"
        assert words[1] in captions


@pytest.mark.parametrize(
    "module", [anysmtp, anysmtp.events, anysmtp.testing], ids=lambda module: module.__name__
)
def test_the_reference_has_every_public_name(module: Any) -> None:
    pages = [ROOT / "docs" / f"{name}.rst" for name in ("api", "errors", "testing")]
    entry = re.compile(
        r"^\.\. (?:auto(?:class|exception|function)|py:(?:type|data)):: (\w+)", re.MULTILINE
    )
    found = {name for page in pages for name in entry.findall(page.read_text("utf-8"))}
    objects = {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    assert objects - {"__version__"} <= found


def test_the_layers_have_every_room() -> None:
    page = (ROOT / "docs" / "design.rst").read_text("utf-8")
    table = page[page.index("   * - level") : page.index("A message has one road")]
    package = Path(anysmtp.__path__[0])
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} <= {*re.findall(r"``(\w+)``", table)}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/security.rst", "docs/comparison.rst"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    files = set(re.findall(r"`((?:anysmtp|tests|docs)/\S+?)`", text))
    assert files
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.skipif(not CI.exists(), reason="a source distribution does not have it")
def test_the_commands_of_readme_are_those_that_the_continuous_integration_runs() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    marked = re.findall(r"^<!-- command: (\w+) -->\n```sh\n[^\n]+\n```$", readme, re.MULTILINE)
    run = re.findall(r"^run_readme_command (\w+)$", CI.read_text("utf-8"), re.MULTILINE)
    assert marked == run
    assert len([block for block in SHELL if block.page.name == "README.md"]) == len(marked)
