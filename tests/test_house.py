"""The rules of the house that no linter knows, read off the source by walking it.

Who may import whom is the import-linter contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anysmtp

PACKAGE = Path(anysmtp.__path__[0])
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
BACKENDS = {"asyncio", "trio"}
SANS_IO = {
    *("_protocol", "sasl", "_message"),
    *("errors", "_reply", "_status", "_envelope", "_parameters", "_facts", "_delivery", "_grammar"),
    "_pool",
}
SANS_IO_MODULES = [path for path in MODULES if path.split("/")[0].removesuffix(".py") in SANS_IO]

each_module = pytest.mark.parametrize("module", MODULES)


def _parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text("utf-8"))


def _imported(tree: ast.Module) -> Iterator[str]:
    """The first name of each absolute import, wherever in the module it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def _is_async(node: ast.AST) -> bool:
    if isinstance(node, ast.comprehension):
        return bool(node.is_async)
    return isinstance(node, (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await))


@each_module
def test_no_file_imports_a_backend(module: str) -> None:
    assert not BACKENDS & set(_imported(_parse(module)))


@each_module
def test_imports_inside_the_package_are_relative(module: str) -> None:
    assert "anysmtp" not in _imported(_parse(module))


@pytest.mark.parametrize("module", SANS_IO_MODULES)
def test_the_sans_io_rooms_have_no_async(module: str) -> None:
    found = [node for node in ast.walk(_parse(module)) if _is_async(node)]
    assert [getattr(node, "lineno", 0) for node in found] == []


@each_module
def test_a_module_opens_with_its_strategy(module: str) -> None:
    source = (PACKAGE / module).read_text("utf-8")
    assert source.count("\n") <= 30 or ast.get_docstring(ast.parse(source))


@each_module
def test_an_exclusion_from_coverage_has_its_reason_on_the_line(module: str) -> None:
    source = (PACKAGE / module).read_text("utf-8")
    exclusions = re.findall(r"# pragma:.*", source)
    assert all(re.match(r"# pragma: no (cover|branch) - \w", line) for line in exclusions)


@each_module
def test_the_public_names_are_sorted(module: str) -> None:
    for node in _parse(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            assert names == sorted(set(names))


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_has_one_place() -> None:
    assert anysmtp.__version__ == importlib.metadata.version("anysmtp")


def test_importing_the_package_loads_no_backend(tmp_path: Path) -> None:
    code = "import sys; from anysmtp import *; print(*{'asyncio', 'trio'} & sys.modules.keys())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == []


@each_module
def test_nobody_reaches_into_another_module(module: str) -> None:
    """An underscore means private to a module: what is used by it is made in the same file."""
    tree = _parse(module)
    made = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    made |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    made |= {
        node.target.id
        for each in classes
        for node in each.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match("_[^_]", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert used <= made


def test_every_public_name_is_imported_when_it_is_first_used() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    [checked, _] = [node for node in tree.body if isinstance(node, ast.If)]
    seen_by_checkers = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen_by_checkers.keys() | {"__version__"} == {*anysmtp.__all__}
    for name, module in seen_by_checkers.items():
        found = getattr(anysmtp, name)
        place = importlib.import_module(f"anysmtp.{module or name}")
        assert found is (place if module is None else getattr(place, name))
    assert {*anysmtp.__all__} <= {*dir(anysmtp)}
    with pytest.raises(AttributeError, match="module 'anysmtp' has no attribute 'nothing'"):
        getattr(anysmtp, "nothing")  # noqa: B009 - a type checker knows better


def test_to_import_the_package_is_to_import_next_to_nothing() -> None:
    program = "import sys, anysmtp; print(*(m for m in sys.modules if m.startswith('anysmtp')))"
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == {"anysmtp", "anysmtp._version"}
