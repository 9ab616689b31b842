"""XOAUTH2 (Google's and Microsoft's protocol) and OAUTHBEARER (RFC 7628): an access token.

Both say the token first. A server that refuses it sends a challenge with a JSON object that says
why, and waits for an answer that means nothing before it says 535; the object is kept in
`Exchange.details`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ._base import MAX_TOKEN, Context, Exchange, Refresh, Token, TokenMechanism, prepared


@dataclass(frozen=True, slots=True, repr=False)
class XOAuth2(TokenMechanism):
    """XOAUTH2. ``token`` is an access token, or an async function that gets one before each login.

    ``refresh`` is called once after the server refused the token. ValueError for control
    characters.
    """

    username: str
    token: Token
    refresh: Refresh | None = None

    name = "XOAUTH2"

    def __post_init__(self) -> None:
        _check(self.username, self.token, self.refresh)

    def start(self, context: Context) -> Exchange:
        token = _checked_token(context.token)
        return _Bearer(f"user={self.username}\x01auth=Bearer {token}\x01\x01", dummy=b"")


@dataclass(frozen=True, slots=True, repr=False)
class OAuthBearer(TokenMechanism):
    """OAUTHBEARER (RFC 7628), with the same arguments as `XOAuth2`."""

    username: str
    token: Token
    refresh: Refresh | None = None

    name = "OAUTHBEARER"

    def __post_init__(self) -> None:
        _check(self.username, self.token, self.refresh)

    def start(self, context: Context) -> Exchange:
        token = _checked_token(context.token)
        # RFC 7628 section 3.1; the name in the GS2 header is a saslname (RFC 5801 section 4).
        name = self.username.replace("=", "=3D").replace(",", "=2C")
        port = "" if context.port is None else f"port={context.port}\x01"
        return _Bearer(
            f"n,a={name},\x01host={context.hostname}\x01{port}auth=Bearer {token}\x01\x01",
            # Section 3.2.3: kvsep, as an answer to the error.
            dummy=b"\x01",
        )


class _Bearer(Exchange):
    """Says its one message, and answers an error with the dummy that the mechanism has for it."""

    def __init__(self, message: str, *, dummy: bytes) -> None:
        self._message = message.encode()
        self._dummy = dummy
        self._was_refused = False

    def initial_response(self) -> bytes | None:
        return self._message

    def step(self, challenge: bytes) -> bytes | None:
        if self._was_refused:
            return None
        self._was_refused = True
        self.details = _decoded(challenge)
        return self._dummy


def _decoded(challenge: bytes) -> Mapping[str, Any] | None:
    """The JSON object of an error challenge (RFC 7628 section 3.2.2); None if it is none."""
    try:
        # RecursionError: brackets, as many as a challenge holds.
        found: object = json.loads(challenge)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else None


def _check(username: str, token: Token, refresh: Refresh | None) -> None:
    prepared("username", username)
    if not callable(token):
        _checked_token(token)
    if refresh is not None and not callable(refresh):
        raise TypeError("refresh is an async function")


def _checked_token(token: str | None) -> str:
    if token == "":
        raise ValueError("the token is empty")
    if token is None:
        raise TypeError("the context has no token")
    return prepared("token", token, MAX_TOKEN)
