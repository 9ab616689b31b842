"""The frame of the command line: the commands, and the ways in which one can end.

A command returns its exit code. What it was told wrongly it raises as one of click's exceptions,
and they end here, as Ctrl-C does and a reader that has gone away (``anysmtp probe ... | head``):
with a line, without a traceback.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence

import click

from .. import __version__
from ._bulk import bulk
from ._demo import demo
from ._exit import Exit
from ._probe import probe
from ._send import send


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="anysmtp %(version)s")
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    envvar="ANYSMTP_BACKEND",
    hidden=True,
)
@click.pass_context
def anysmtp(context: click.Context, backend: str) -> int:
    """Send mail, and look at mail servers."""
    if importlib.util.find_spec(backend) is None:
        raise click.UsageError(f"{backend} is not installed: pip install 'anysmtp[{backend}]'")
    context.obj = backend
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    return Exit.OK


anysmtp.add_command(send)
anysmtp.add_command(bulk)
anysmtp.add_command(probe)


@anysmtp.command("demo")
def _demo_command() -> int:
    """Send a message to an embedded server, and show what it received.

    The server is on this machine. The message has an attachment and text that is not ASCII, and
    goes through STARTTLS and a login, once under asyncio and once under trio.
    """
    code = demo()
    # Here, where click takes care of a reader that has gone away.
    sys.stdout.flush()
    return code


def run(arguments: Sequence[str]) -> int:
    """Do what these arguments say, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # What the terminal cannot show is shown as an escape.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = anysmtp.main([*arguments], prog_name="anysmtp", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return Exit.INTERRUPTED
    return int(code)
