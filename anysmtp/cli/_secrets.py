"""Where a password comes from: never from an argument.

The arguments of a process can be read by everybody on its machine, and stay in the shell's history.
The places that are looked at, in this order:

- ``ANYSMTP_URL``, if it has one in it;
- the file that ``--password-file`` names;
- ``ANYSMTP_PASSWORD``;
- the keyring, where the package of this name is installed: the server's name is the service;
- the person at the terminal.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import click

VARIABLE = "ANYSMTP_PASSWORD"


def password_for(username: str, hostname: str, password_file: Path | None) -> str:
    """The password of this user, from the first place that has it."""
    if password_file is not None:
        return _from_file(password_file)
    return os.environ.get(VARIABLE) or _from_keyring(username, hostname) or _ask(username, hostname)


def _from_file(path: Path) -> str:
    """What stands in it, without the line end that editors put there."""
    try:
        password = path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise click.UsageError(f"the password cannot be read: {error}") from None
    except UnicodeDecodeError:
        # Its text would show a part of what is in the file.
        raise click.UsageError(f"the password in {path} is not in UTF-8") from None
    if not password:
        raise click.UsageError(f"there is no password in {path}")
    return password


def _from_keyring(username: str, hostname: str) -> str | None:
    if importlib.util.find_spec("keyring") is None:
        return None
    keyring: Any = importlib.import_module("keyring")
    errors: Any = importlib.import_module("keyring.errors")
    try:
        found: str | None = keyring.get_password(hostname, username)
    except errors.KeyringError as error:
        # A machine without a desktop has nothing behind the package, and there are other places.
        why = str(error) or type(error).__name__
        click.echo(f"the keyring was of no help: {why}", err=True)
        return None
    return found


def _ask(username: str, hostname: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"no password for {username}: it is looked for in --password-file, in {VARIABLE}, in "
            "the keyring where that is installed, and asked for at a terminal"
        )
    password: str = click.prompt(
        f"Password of {username} at {hostname}", hide_input=True, err=True, type=str
    )
    return password
