"""A real Dovecot, for submission and LMTP, run from a throwaway folder on free loopback ports.

Nothing of the machine's own Dovecot is used but its programs. It takes logins by every mechanism
that it has, on the port ``submission`` (STARTTLS) and on ``submissions`` (implicit TLS), and hands
mail on to a relay, an aiosmtpd of the test's. A client's certificate names the user in its common
name, for EXTERNAL. Tokens are JSON Web Tokens (RFC 7519) that it checks by itself; `Dovecot.token`
makes them. With an ``introspection_url`` it asks there instead (RFC 7662).

By LMTP, on the port ``lmtp`` and on the unix socket `Dovecot.socket`, it takes mail for its users,
at any domain or none; `Dovecot.mail` is what it has stored.

Failed logins are not delayed, as they are by default, so that the tests are quick.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pytest

from anysmtp.testing import AiosmtpdServer

HOST = "127.0.0.1"
MECHANISMS = (
    "plain",
    "login",
    "cram-md5",
    "scram-sha-1",
    "scram-sha-256",
    "xoauth2",
    "oauthbearer",
)
PROGRAMS = tuple(f"/usr/lib/dovecot/{name}" for name in ("submission-login", "auth", "lmtp"))

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
_PATIENCE = 20.0

_CONF = """
protocols = submission lmtp
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
listen = 127.0.0.1
hostname = mail.example.test
ssl = required
ssl_cert = <{folder}/server.pem
ssl_key = <{folder}/server.pem
ssl_ca = <{folder}/ca.pem
ssl_verify_client_cert = yes
ssl_require_crl = no
ssl_cert_username_field = commonName
auth_ssl_username_from_cert = yes
auth_mechanisms = {mechanisms}
auth_username_chars =
auth_failure_delay = 0
auth_verbose = yes
mail_location = maildir:{folder}/mail/%u
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
{more}
service submission-login {{
  inet_listener submission {{
    port = {submission}
  }}
  inet_listener submissions {{
    port = {submissions}
    ssl = yes
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
}}
protocol lmtp {{
  auth_username_format = %Ln
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
passdb {{
  driver = static
  mechanisms = external
  args = nopassword=y
}}
passdb {{
  driver = static
  mechanisms = gssapi gss-spnego
  args = nopassword=y
}}
passdb {{
  driver = passwd-file
  mechanisms = none plain login cram-md5 scram-sha-1 scram-sha-256
  args = scheme=PLAIN {folder}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}/mail/%u
}}
"""

_OAUTH2 = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
"""

# RFC 7662: the token is asked about, in a POST.
_INTROSPECTED = """
introspection_mode = post
introspection_url = {url}
active_attribute = active
active_value = true
username_attribute = username
"""


def why_not() -> str | None:
    """Why Dovecot cannot be run here; None if it can."""
    if shutil.which("dovecot", path=_PATH) is None:
        return "Dovecot is not installed here"
    if missing := [program for program in PROGRAMS if not Path(program).exists()]:
        return f"Dovecot is not installed whole here: no {' and no '.join(missing)}"
    if os.geteuid() != 0:
        return "Dovecot runs as root only"
    return None


def require_dovecot() -> None:
    """Skip the test where there can be no Dovecot; fail if ``ANYSMTP_REQUIRE_DOVECOT`` is 1."""
    reason = why_not()
    if reason and os.environ.get("ANYSMTP_REQUIRE_DOVECOT") == "1":
        pytest.fail(f"Dovecot is required, but {reason}")
    if reason:
        pytest.skip(reason)


class Dovecot:
    """A context manager: the server runs inside it. See the module for what it is like."""

    def __init__(
        self,
        server_file: Path,
        cafile: Path,
        users: Mapping[str, str],
        *,
        more: Mapping[str, str] | None = None,
        mechanisms: tuple[str, ...] = (*MECHANISMS, "external"),
        environment: Mapping[str, str] | None = None,
        introspection_url: str | None = None,
    ) -> None:
        self.host = HOST
        self.ports: dict[str, int] = {}
        self.users = dict(users)
        """Names and passwords."""
        self.relay = AiosmtpdServer()
        """Where the mail goes."""
        self._files = (server_file, cafile)
        self._more = more or {}
        self._mechanisms = mechanisms
        self._environment = {"PATH": _PATH, **(environment or {})}
        self._key = os.urandom(32)
        self._introspection_url = introspection_url

    def __enter__(self) -> Dovecot:
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="anysmtp-dovecot-"))
            stack.callback(shutil.rmtree, self.folder)
            stack.enter_context(self.relay)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        self._stack.close()

    def token(self, username: str, *, seconds: float = 600) -> str:
        """A token for a user that is good for so long."""
        head = {"alg": "HS256", "typ": "JWT"}
        claims = {"sub": username, "iat": int(time.time()) - 60, "exp": int(time.time() + seconds)}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        signature = hmac.digest(self._key, signed.encode(), hashlib.sha256)
        return f"{signed}.{_base64url(signature)}"

    @property
    def socket(self) -> Path:
        """Where it speaks LMTP besides its port."""
        return self.folder / "lmtp"

    def mail(self, user: str) -> list[str]:
        """The messages that a user has, each with the lines that Dovecot put in front of it."""
        new = self.folder / "mail" / user / "new"
        return [path.read_text("utf-8") for path in sorted(new.iterdir())] if new.exists() else []

    def log(self) -> str:
        """What Dovecot has to say."""
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else "(no log)"

    def _start(self) -> None:
        self.folder.chmod(0o755)
        for name in ("run", "state", "mail", "keys/default/HS256"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "mail").chmod(0o777)
        key = self.folder / "keys" / "default" / "HS256" / "default"
        key.write_bytes(base64.b64encode(self._key))
        for source, name in zip(self._files, ("server.pem", "ca.pem"), strict=True):
            shutil.copy(source, self.folder / name)
        (self.folder / "users").write_text(
            "".join(f"{name}:{password}::::::\n" for name, password in self.users.items()), "utf-8"
        )
        for attempt in range(3):
            self._configure()
            self._launch()
            if self._is_up():
                return
            self._stop()
            # Another process may have been given one of the ports in between: a few more tries.
            if attempt == 2 or "in use" not in self.log():
                raise RuntimeError(f"Dovecot did not start:\n{self.log()}")

    def _configure(self) -> None:
        self.ports = dict(zip(("submission", "submissions", "lmtp"), _free_ports(3), strict=True))
        values = {
            "folder": self.folder,
            "relay": self.relay.port,
            "mechanisms": " ".join(self._mechanisms),
            "more": "\n".join(f"{name} = {value}" for name, value in self._more.items()),
            **self.ports,
        }
        oauth2 = _OAUTH2 if self._introspection_url is None else _INTROSPECTED
        (self.folder / "oauth2.conf").write_text(
            oauth2.format(url=self._introspection_url, **values)
        )
        (self.folder / "dovecot.conf").write_text(_CONF.format(**values))

    def _launch(self) -> None:
        with (self.folder / "output").open("wb") as output:
            self._master = subprocess.Popen(
                ["dovecot", "-F", "-c", str(self.folder / "dovecot.conf")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=self._environment,
            )

    def _is_up(self) -> bool:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._master.poll() is None:
            if self._greets():
                return True
            time.sleep(0.01)
        return False

    def _greets(self) -> bool:
        with socket.socket() as client:
            client.settimeout(5)
            address = (self.host, self.ports["submission"])
            return client.connect_ex(address) == 0 and client.recv(3) == b"220"

    def _stop(self) -> None:
        self._master.terminate()
        try:
            self._master.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._master.pid, signal.SIGKILL)
            self._master.wait()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind((HOST, 0))
        return [found.getsockname()[1] for found in sockets]
