"""SASL mechanisms for SMTP AUTH (RFC 4954): credentials, and the exchanges made from them.

A `Mechanism` is frozen credentials. Each login starts a fresh `Exchange` from it, which turns the
server's challenges into responses and does no I/O; so many connections can log in at once with
one value. Write your own by subclassing both.

The secrets in a mechanism are not shown by its ``repr``.
"""

from __future__ import annotations

from ._base import Exchange, Mechanism
from ._choice import choose, from_password
from ._password import Login, Plain

__all__ = ["Exchange", "Login", "Mechanism", "Plain", "choose", "from_password"]
