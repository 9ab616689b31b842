"""The façade has every public name and every parameter of the aiosmtplib that is installed."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anysmtp.compat import aiosmtplib as facade

aiosmtplib: Any = pytest.importorskip("aiosmtplib", reason="aiosmtplib is not installed")

# Those of its modules that its documentation names, or whose names users import.
MODULES = ("api", "errors", "response", "smtp", "status", "typing")
PAGE = Path(__file__).parents[2] / "docs" / "migrating.rst"
# Set to false by what aiosmtplib does itself; no part of its interface.
NOT_PUBLIC = {"_default"}


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(kind):
        if name == "__init__" or not name.startswith("_"):
            yield name, member


METHODS = [
    name for name, member in _methods(aiosmtplib.SMTP) if inspect.isfunction(inspect.unwrap(member))
]
EXCEPTIONS = [
    name
    for name in aiosmtplib.__all__
    if name.startswith("SMTP")
    and (
        inspect.isclass(getattr(aiosmtplib, name))
        and issubclass(getattr(aiosmtplib, name), Exception)
    )
]


def _shape(function: Any) -> list[tuple[str, str, object]]:
    """Each parameter: its name, its kind, its default."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind.name, _default(p.default)) for p in parameters]


def _default(value: object) -> object:
    """A default that compares; each library has a marker of its own for "nothing was said"."""
    return str(value) if isinstance(value, enum.Enum) else value


def _bases(kind: type) -> list[str]:
    """The names of the base classes.

    On Python 3.10 asyncio's TimeoutError, which is aiosmtplib's, is another one than the built-in,
    and no OSError.
    """
    names = [base.__name__ for base in kind.__mro__]
    has_two = sys.version_info < (3, 11) and "TimeoutError" in names
    return [name for name in names if not (has_two and name == "OSError")]


def _attributes(instance: object) -> dict[str, object]:
    return vars(instance)


def test_the_version_is_the_one_that_the_page_is_about() -> None:
    assert aiosmtplib.__version__.startswith("5.")
    assert f"aiosmtplib {aiosmtplib.__version__}" in PAGE.read_text("utf-8")


def test_every_public_name_is_there() -> None:
    assert {*aiosmtplib.__all__} == {*facade.__all__}


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_of_a_module_is_there(name: str) -> None:
    theirs, ours = _modules(name)
    assert {*theirs.__all__} - NOT_PUBLIC <= {*ours.__all__}
    assert all(hasattr(ours, each) for each in ours.__all__)


def _modules(name: str) -> tuple[ModuleType, ModuleType]:
    return (
        importlib.import_module(f"aiosmtplib.{name}"),
        importlib.import_module(f"{facade.__name__}.{name}"),
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_same_parameters(name: str) -> None:
    theirs, ours = getattr(aiosmtplib.SMTP, name), getattr(facade.SMTP, name)
    assert _shape(ours) == _shape(theirs)
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)


def test_send_has_the_same_parameters() -> None:
    assert _shape(facade.send) == _shape(aiosmtplib.send)


def test_the_class_has_the_same_properties_and_attributes() -> None:
    public = {name for name, _ in _methods(aiosmtplib.SMTP)}
    assert public <= {name for name, _ in _methods(facade.SMTP)}
    attributes = _attributes(aiosmtplib.SMTP())
    theirs = {name: value for name, value in attributes.items() if name[0] != "_"}
    ours = facade.SMTP()
    assert {name: getattr(ours, name) for name in theirs} == theirs


@pytest.mark.parametrize("name", ["last_ehlo_response"])
def test_a_property_that_can_be_set_can_be_set(name: str) -> None:
    assert getattr(aiosmtplib.SMTP, name).fset
    assert getattr(facade.SMTP, name).fset


def test_the_constants_have_the_same_values() -> None:
    theirs, ours = _modules("smtp")
    for name in ("SMTP_PORT", "SMTP_TLS_PORT", "SMTP_STARTTLS_PORT", "DEFAULT_TIMEOUT"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert {each.name: each.value for each in facade.SMTPStatus} == {
        each.name: each.value for each in aiosmtplib.SMTPStatus
    }
    # SCRAM is in front of what aiosmtplib knows.
    known = aiosmtplib.SMTP.AUTH_METHODS
    assert facade.SMTP.AUTH_METHODS[-len(known) :] == known


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_has_the_same_bases_arguments_and_attributes(name: str) -> None:
    theirs: Any = getattr(aiosmtplib, name)
    ours: Any = getattr(facade, name)
    assert _bases(ours) == _bases(theirs)
    assert [p[1:] for p in _shape(ours)] == [p[1:] for p in _shape(theirs)]
    error, expected = _made(ours, like=theirs), _made(theirs, like=theirs)
    assert error.args == expected.args
    assert str(error) == str(expected)
    assert _attributes(expected).items() <= _attributes(error).items()


def _made(kind: Any, *, like: Any) -> Exception:
    """One of this kind, with the arguments that the other takes."""
    has_reply = issubclass(like, aiosmtplib.SMTPResponseException)
    values: list[Any] = [550, "no", "a@x.test"] if has_reply else ["no"]
    made: Exception = kind(*values[: len(_shape(like))])
    return made


def test_a_response_is_the_same_tuple() -> None:
    ours, theirs = facade.SMTPResponse(250, "OK"), aiosmtplib.SMTPResponse(250, "OK")
    assert ours == theirs == (250, "OK")
    assert ours._fields == theirs._fields
    assert str(ours) == str(theirs)


def test_the_table_of_the_page_has_every_public_name_and_no_other() -> None:
    told = {name for names, _ in _table() for name in names}
    members = {name for name, _ in _methods(aiosmtplib.SMTP)} | {*_attributes(aiosmtplib.SMTP())}
    public = {name for name in members if name[0] != "_"} | {*aiosmtplib.__all__, "__version__"}
    public |= {*inspect.signature(aiosmtplib.send).parameters} | _attributes_of_exceptions()
    public |= {f"aiosmtplib.{name}" for name in _their_modules()}
    public |= {name for module in MODULES for name in _names_in(_modules(module)[0])}
    assert told == public - NOT_PUBLIC


def test_what_the_table_says_is_not_there_is_not() -> None:
    missing = {name for names, status in _table() for name in names if "not there" in status}
    modules = {name.removeprefix("aiosmtplib.") for name in missing if "." in name}
    assert modules == {*_their_modules()} - {*MODULES}
    assert not any(hasattr(facade, name) for name in missing - {f"aiosmtplib.{m}" for m in modules})
    assert not any(importlib.util.find_spec(f"{facade.__name__}.{name}") for name in modules)


def _table() -> Iterator[tuple[list[str], str]]:
    """The rows of the table: names, and their status."""
    page = PAGE.read_text("utf-8")
    table = page[page.index("\nAll names, and their status") : page.index("\nSMTP and send\n")]
    for row in table.split("   * - ")[2:]:
        names, _, status = row.partition("     - ")
        yield re.findall(r"``([\w.]+)(?:\(\))?``", names), status


def _their_modules() -> list[str]:
    """But for the one that asks at a terminal for a message to send."""
    return [
        module.name
        for module in pkgutil.iter_modules(aiosmtplib.__path__)
        if module.name != "__main__"
    ]


def _names_in(module: ModuleType) -> set[str]:
    return {*module.__all__} | {name for name in vars(module) if name.isupper()}


def _attributes_of_exceptions() -> set[str]:
    kinds = [getattr(aiosmtplib, name) for name in EXCEPTIONS]
    return {name for kind in kinds for name in _attributes(_made(kind, like=kind))}
