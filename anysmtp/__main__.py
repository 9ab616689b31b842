"""``anysmtp`` and ``python -m anysmtp``: the way into the command line.

The command line stands on the extra ``cli``. The demo does not need it, so that a newcomer can run
that one with little installed; for anything else, without the extra, this says how to get it.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Sequence

from . import __version__

_NEEDED = ("click", "cryptography", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit code."""
    try:
        code = _do(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        # While the commands were imported, which takes a moment; they say more themselves.
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    if arguments is None:
        # All that is left is to end, in which a Ctrl-C could only show a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _do(given: list[str]) -> int:
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
