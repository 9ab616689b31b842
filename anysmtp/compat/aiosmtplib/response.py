"""A reply as aiosmtplib gives it: a named tuple."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SMTPResponse"]


class SMTPResponse(NamedTuple):
    """A server's reply; the lines of its text are joined by a line feed."""

    code: int
    message: str

    def __str__(self) -> str:
        return f"{self.code} {self.message}"
