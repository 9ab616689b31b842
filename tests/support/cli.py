"""The command line as the tests call it: in this process, or in one of its own.

Nothing of the caller's environment gets in: no server, user name or password that is set there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from typing import Any, TypeAlias
from unittest import mock

import pytest

from anysmtp.__main__ import main

_READ = ("ANYSMTP_URL", "ANYSMTP_USERNAME", "ANYSMTP_PASSWORD", "ANYSMTP_BACKEND")

JSON: TypeAlias = dict[str, "JSON"] | list["JSON"] | str | float | bool | None


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def value(self) -> Any:
        """The output as JSON."""
        return json.loads(self.output)


def environment(**variables: str) -> dict[str, str]:
    """That of this process, without what the command line would read in it."""
    inherited = {name: value for name, value in os.environ.items() if name not in _READ}
    return {**inherited, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", **variables}


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These modules are not installed, it seems."""
    find_spec = importlib.util.find_spec

    def find(name: str) -> ModuleSpec | None:
        return None if name in names else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def cli(*arguments: str, stdin: bytes = b"", terminal: bool = False, **variables: str) -> Ran:
    """Run it in this process; `terminal`: standard input says that it is one."""
    output, errors = _stream(), _stream()
    source = _stream(stdin)
    if terminal:
        source.isatty = lambda: True  # type: ignore[method-assign]
    with (
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        mock.patch.object(sys, "stdin", source),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        code = main(arguments)
    return Ran(code, _text(output), _text(errors))


def _stream(content: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), "utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("utf-8")


def command(*arguments: str) -> list[str]:
    """What runs it in a process of its own, where every warning is an error."""
    return [sys.executable, "-X", "dev", "-W", "error", "-m", "anysmtp", *arguments]


def cli_process(
    *arguments: str, stdin: bytes = b"", variables: Mapping[str, str] | None = None
) -> Ran:
    """Run it in a process of its own."""
    ran = subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        env=environment(**(variables or {})),
        timeout=60,
    )
    return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def shape(value: JSON) -> object:
    """The structure of a JSON value: its keys, and the types of what is under them."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value)
