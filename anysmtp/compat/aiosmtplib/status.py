"""`SMTPStatus`, under the name that aiosmtplib documents it by."""

from __future__ import annotations

from .typing import SMTPStatus

__all__ = ["SMTPStatus"]
