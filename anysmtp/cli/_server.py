"""The options that say which server, how it is reached, and who logs in.

They are the same for every command that sends. What they come to is a client, which is made, and
so checked, before anything else is done.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import SplitResult, unquote, urlsplit

import click
from click.core import ParameterSource

from .. import LMTP, SMTP, Options, TLSMode, create_tls_context
from ._secrets import VARIABLE, password_for

Command = Callable[..., Any]

# What the library advises a program to do, and what says it here. The longest come first.
_IN_OTHER_WORDS = (
    ("tls_context=anysmtp.create_tls_context(cafile=...)", "--cafile"),
    (" (to another address: connectable=, and that name as hostname)", ""),
    (", allow_plaintext_auth=True permits it", ""),
    ("a tls_context", "--cafile"),
    ("the argument recipients", "--to"),
    ("the argument sender", "--from"),
    ("tls= ", "--tls "),
)


def server_options(command: Command) -> Command:
    """The options, for a command that passes them all to `client_for`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--server",
        metavar="URL",
        envvar="ANYSMTP_URL",
        show_envvar=True,
        required=True,
        help="smtp://, smtps:// or smtp+starttls://[USER@]HOST[:PORT], lmtp://HOST:PORT, or "
        "smtp+unix:///PATH, lmtp+unix:///PATH.",
    ),
    click.option(
        "--username",
        metavar="NAME",
        envvar="ANYSMTP_USERNAME",
        show_envvar=True,
        help="Who logs in, if the URL does not say it.",
    ),
    click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        help=f"Where the password stands; else it is {VARIABLE}, the keyring's, or asked for.",
    ),
    click.option(
        "--tls",
        type=click.Choice(get_args(TLSMode)),
        help="How the connection is encrypted, if the URL does not say it.",
    ),
    click.option(
        "--cafile",
        type=click.Path(path_type=Path),
        help="The certificate authorities to trust, in PEM, instead of the system's.",
    ),
)


@dataclass(frozen=True, slots=True)
class Server:
    """What the options say."""

    server: str
    username: str | None
    password_file: Path | None
    tls: TLSMode | None
    cafile: Path | None

    def client(self, context: click.Context, more: Options | None = None) -> SMTP:
        """A client for this server, with ``more`` options than are of the server.

        What is wrong is a UsageError that shows no password.
        """
        parts = _split(self.server)
        on_command_line = context.get_parameter_source("server") is ParameterSource.COMMANDLINE
        if parts.password is not None and on_command_line:
            raise click.UsageError(
                "no password in an argument: others on this machine can read it there; leave it "
                f"out of the URL, and see --password-file, {VARIABLE} and ANYSMTP_URL"
            )
        options: Options = {**(more or {}), "tls_context": tls_context(self.cafile)}
        if self.tls is not None:
            options["tls"] = self.tls
        if self.username is not None:
            options["username"] = self.username
        if (password := self._password(parts)) is not None:
            options["password"] = password
        kind = LMTP if parts.scheme in ("lmtp", "lmtp+unix") else SMTP
        try:
            return kind.from_url(self.server, **options)
        except ValueError as error:
            raise click.UsageError(in_other_words(str(error))) from None

    def _password(self, parts: SplitResult) -> str | None:
        username = unquote(parts.username) if parts.username is not None else self.username
        if username is None or parts.password is not None:
            if self.password_file is not None:
                raise click.UsageError(
                    "--password-file is for a user name, in the URL or by --username, that has no "
                    "password yet"
                )
            return None
        return password_for(username, parts.hostname or "localhost", self.password_file)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        # Its text can have a part of the URL in it.
        raise click.UsageError("not the URL of a server: it cannot be parsed") from None


def tls_context(cafile: Path | None) -> ssl.SSLContext | None:
    """What to verify by; None: by the system's authorities, as the library has it."""
    if cafile is None:
        return None
    try:
        return create_tls_context(cafile=cafile)
    except OSError as error:
        # Among them ssl.SSLError, for a file that is no certificate.
        raise click.UsageError(f"--cafile {cafile}: {error.strerror or error}") from None


def in_other_words(text: str) -> str:
    """A message of the library, with the options of the command line in place of its own."""
    for theirs, ours in _IN_OTHER_WORDS:
        text = text.replace(theirs, ours)
    return re.sub(r"\btls='(\w+)'", r"--tls \1", text)
