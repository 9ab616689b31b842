"""What the terminal of the tests says of its screen."""

from __future__ import annotations

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals here", allow_module_level=True)

from support.terminal import drawn


@pytest.mark.parametrize(
    ("shown", "screen"),
    # The screen is five columns wide.
    [
        ("", [""]),
        ("one\r\ntwo", ["one", "two"]),
        ("\x1b[?25lone\x1b[0m\r\n\r\n\x1b[32mtwo\x1b[0m ", ["one", "", "two"]),
        ("one\rt", ["tne"]),
        ("one\r\ntwo\r\x1b[2K\x1b[1A\x1b[2Kbar\r\ncount", ["bar", "count"]),
        ("one\r\ntwo\x1b[1A!", ["one!", "two"]),
        ("12345678", ["12345", "678"]),
        ("12345\r\n678", ["12345", "678"]),
    ],
)
def test_it_is_what_a_terminal_draws(shown: str, screen: list[str]) -> None:
    assert drawn(shown, width=5) == screen
