"""``python -m anysmtp``: the command line.

Each command is a module of `cli` and loaded for it alone. The exit code is 0 if all went well, 1
if not, and 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    from .cli._demo import demo

    return demo()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anysmtp",
        description="anysmtp is an SMTP client for asyncio and trio.",
    )
    parser.add_argument("--version", action="version", version=f"anysmtp {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    commands.add_parser(
        "demo",
        help="send a message to an embedded server, and show what it received",
        description="Start a mail server on this machine, send it a message with an attachment "
        "and non-ASCII text through STARTTLS and a login, under asyncio and under trio, and show "
        "what it received.",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
