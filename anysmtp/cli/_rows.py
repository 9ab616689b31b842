"""The rows of a CSV file (RFC 4180), whose first row has the names of the columns.

It is read twice, so that it is known how many there are, and that all of it can be read, before
anything is sent; it is never held as a whole. What separates the columns is whichever of comma,
semicolon and tab is most in the first line, for spreadsheets differ by country.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import click

_SEPARATORS = ",;\t"
Row = dict[str, str]


class Rows:
    """What is in the file. UsageError for what is not CSV in UTF-8."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # utf-8-sig: spreadsheets put a mark in front.
            with path.open(encoding="utf-8-sig", newline="") as file:
                first = file.readline()
                self._separator = max(_SEPARATORS, key=first.count)
                file.seek(0)
                rows = csv.reader(file, delimiter=self._separator, strict=True)
                self.columns = tuple(name.strip() for name in next(rows, ()))
                self.count = sum(1 for row in rows if row)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise click.UsageError(f"{path} cannot be read as CSV in UTF-8: {error}") from None
        if "" in self.columns or not 0 < len(self.columns) == len(set(self.columns)):
            raise click.UsageError(
                f"the first row of {path} has the names of the columns, each another one, and not "
                + repr(", ".join(self.columns))
            )

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Each row, with the number of its last line. What is missing in it is missing."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=self._separator, strict=True)
            next(rows, None)
            for row in rows:
                if row:
                    yield rows.line_num, dict(zip(self.columns, row, strict=False))
