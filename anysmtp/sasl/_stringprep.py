"""Strings that two sides must write with the same octets: stringprep (RFC 3454) in two profiles.

SASLprep (RFC 4013) is for user names and passwords, where a mechanism's RFC has the client
prepare them: SCRAM does (RFC 5802 section 5.1). PLAIN leaves it to the server's comparison (RFC
4616 section 2), and servers compare the octets that they get, so PLAIN, LOGIN and CRAM-MD5 send
what was typed. "trace" is for the trace information of ANONYMOUS (RFC 4505 section 3).

The tables are those of Unicode 3.2, for ever: younger characters, an emoji for one, are
unassigned in them, and stored strings must not have those (RFC 3454 section 7).
"""

from __future__ import annotations

import stringprep
from collections.abc import Callable
from unicodedata import ucd_3_2_0

Table = Callable[[str], bool]

# RFC 4505 section 3, without the control characters, of which no credential has one.
_TRACE_PROHIBITED: tuple[Table, ...] = (
    stringprep.in_table_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
# RFC 4013 section 2.3, and unassigned code points (section 2.5).
_SASL_PROHIBITED: tuple[Table, ...] = (
    *_TRACE_PROHIBITED,
    stringprep.in_table_c12,
    stringprep.in_table_c7,
    stringprep.in_table_a1,
)


def saslprep(name: str, value: str) -> str:
    """A user name or password, prepared. ValueError, which never shows it, if that cannot be."""
    if value.isascii():
        return value
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in value
        if not stringprep.in_table_b1(character)
    )
    return _checked(name, ucd_3_2_0.normalize("NFKC", mapped), _SASL_PROHIBITED)


def trace(value: str) -> str:
    """Trace information, prepared: nothing is changed, but not everything is allowed."""
    return _checked("trace", value, _TRACE_PROHIBITED)


def _checked(name: str, value: str, prohibited: tuple[Table, ...]) -> str:
    if any(table(character) for character in value for table in prohibited):
        raise ValueError(f"{name} has a character that stringprep (RFC 3454) prohibits")
    right_to_left = [stringprep.in_table_d1(character) for character in value]
    # Section 6: text from right to left has nothing from left to right in it, and fills the ends.
    if any(right_to_left) and not (
        right_to_left[0]
        and right_to_left[-1]
        and not any(stringprep.in_table_d2(character) for character in value)
    ):
        raise ValueError(f"{name} mixes directions of writing, which stringprep prohibits")
    return value
