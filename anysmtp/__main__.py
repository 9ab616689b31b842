"""``anysmtp`` and ``python -m anysmtp``: the way into the command line.

The command line stands on the extra ``cli``. The demo does not need it, so that a newcomer can run
that one with little installed; for anything else, without the extra, this says how to get it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from . import __version__

_NEEDED = ("click", "cryptography", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _without_the_extra(given, missing)
    from .cli._app import run

    return run(given)


def _without_the_extra(arguments: list[str], missing: list[str]) -> int:
    if arguments == ["demo"]:
        from .cli._demo import demo

        return demo()
    if arguments == ["--version"]:
        print(f"anysmtp {__version__}")
        return 0
    print(
        "everything but `anysmtp demo` needs more to be installed: pip install 'anysmtp[cli]' "
        f"(not found: {', '.join(missing)})",
        file=sys.stderr,
    )
    from .cli._exit import Exit

    return Exit.USAGE


if __name__ == "__main__":
    sys.exit(main())
