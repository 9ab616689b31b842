"""A token endpoint (RFC 6749), and a mail server that takes the tokens that it gives out."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from aiosmtpd.smtp import SMTP, AuthResult

from anysmtp.testing import AiosmtpdServer

if TYPE_CHECKING:
    from typing_extensions import Self

ERROR = {"status": "401", "schemes": "bearer", "scope": "mail"}


class _Endpoint:
    """A context manager: an HTTP server in a thread, which answers forms with JSON."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        """The path and the form of each request."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def answer(self, form: dict[str, str]) -> dict[str, Any]:
        """What the server says to a form."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                endpoint.requests.append((self.path, form))
                data = json.dumps(endpoint.answer(form)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is logged."""

        return Handler


class TokenEndpoint(_Endpoint):
    """It gives out a new token for each request, ``token-1`` first.

    ``revoked`` of them are refused by the `TokenServer`, though they have not expired.
    """

    def __init__(self, context: ssl.SSLContext, *, revoked: int = 0) -> None:
        super().__init__(context)
        self.revoked = revoked

    def is_good(self, token: str) -> bool:
        """Whether the token was given out and not revoked."""
        return token in [f"token-{n + 1}" for n in range(self.revoked, len(self.requests))]

    def answer(self, form: dict[str, str]) -> dict[str, Any]:
        token = f"token-{len(self.requests)}"
        return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}


class IntrospectionEndpoint(_Endpoint):
    """It says whose the tokens are that it knows, and that others are not active (RFC 7662)."""

    def __init__(self, owners: dict[str, str]) -> None:
        super().__init__()
        self._owners = owners

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/introspect"

    def answer(self, form: dict[str, str]) -> dict[str, Any]:
        owner = self._owners.get(form["token"])
        return {"active": False} if owner is None else {"active": True, "username": owner}


class TokenServer(AiosmtpdServer):
    """aiosmtpd, with AUTH XOAUTH2 for the tokens of an endpoint, after STARTTLS."""

    def __init__(self, endpoint: TokenEndpoint, starttls: ssl.SSLContext, username: str) -> None:
        super().__init__(starttls=starttls, require_auth=True)
        self._endpoint = endpoint
        self._username = username

    async def auth_XOAUTH2(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, arguments: list[str]
    ) -> AuthResult:
        start, end = f"user={self._username}\x01auth=Bearer ", "\x01\x01"
        said = b64decode(arguments[1]).decode()
        token = said.removeprefix(start).removesuffix(end)
        if said == f"{start}{token}{end}" and self._endpoint.is_good(token):
            return AuthResult(success=True, auth_data=None)
        assert await server.challenge_auth(json.dumps(ERROR)) == b""
        return AuthResult(success=False, handled=False)
