"""A real Exim, run from a throwaway folder on a free loopback port.

It conflicts with Postfix, so it is not installed: ``ANYSMTP_EXIM`` names the folder that its Debian
package was unpacked into (``dpkg -x``), with libraries that the machine does not have; else an
``exim4`` on the path will do. Configuration, spool, log and mail are in a folder of its own. Every
address at `DOMAIN` has a mailbox, but for ``unknown@``, which is refused at RCPT; nothing is sent
on. Mail is stored with CRLF line ends, one file per message.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from anyio import sleep

DOMAIN = "example.test"
HOST = "127.0.0.1"

_USER = "Debian-exim"
_PATIENCE = 20.0

_CONF = """
primary_hostname = mail.example.test
exim_user = {user}
exim_group = {group}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
domainlist local_domains = example.test
message_size_limit = 1000000
host_lookup =
rfc1413_query_timeout = 0s
never_users =
deliver_drop_privilege
queue_only = false
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
chunking_advertise_hosts = *
pipelining_advertise_hosts = *
tls_advertise_hosts =
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
acl_smtp_vrfy = accept

begin acl
rcpt:
  deny local_parts = unknown
       message = 5.1.1 no such user
  accept domains = +local_domains
  deny message = 5.7.1 no mail leaves here

begin routers
all:
  driver = accept
  domains = +local_domains
  transport = store

begin transports
store:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  create_directory
  use_crlf
  return_path_add
  envelope_to_add
  user = {user}
  group = {group}

begin retry
* * F,1h,10m
"""


def why_not() -> str | None:
    """Why Exim cannot be run here; None if it can."""
    if _program() is None:
        return "Exim is not here: neither in the folder ANYSMTP_EXIM nor on the path"
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return f"Exim needs the user {_USER}"
    return None if os.geteuid() == 0 else "Exim runs as root only"


class Exim:
    """A context manager: the server runs inside it."""

    def __init__(self) -> None:
        self.host = HOST
        self.port = 0
        self._count = 0

    def __enter__(self) -> Exim:
        self.folder = Path(tempfile.mkdtemp(prefix="anysmtp-exim-"))
        owner = pwd.getpwnam(_USER)
        self.folder.chmod(0o755)
        for name in ("spool", "log", "mail"):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, owner.pw_uid, owner.pw_gid)
        try:
            self._start(owner)
        except BaseException:
            self._stop()
            shutil.rmtree(self.folder)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        shutil.rmtree(self.folder)

    def address(self, label: str = "box") -> str:
        """An address that nobody else has been given."""
        self._count += 1
        return f"{label}-{self._count}@{DOMAIN}"

    async def wait_for(self, recipient: str) -> bytes:
        """The one message that is, or will soon be, there for a recipient: the file."""
        end = time.monotonic() + _PATIENCE
        pattern = re.compile(rb"^Envelope-to: %s\r$" % re.escape(recipient.encode()), re.MULTILINE)
        while True:
            for path in (self.folder / "mail" / "new").glob("*"):
                if pattern.search(data := path.read_bytes()):
                    return data
            assert time.monotonic() < end, f"no mail for {recipient}:\n{self.log()}"
            await sleep(0.005)

    def log(self) -> str:
        """What Exim has to say."""
        logs = sorted((self.folder / "log").glob("*"))
        return "\n".join(path.read_text("utf-8", "replace") for path in logs)

    def _start(self, owner: pwd.struct_passwd) -> None:
        with socket.socket() as found:
            found.bind((HOST, 0))
            self.port = found.getsockname()[1]
        conf = self.folder / "exim.conf"
        group = owner.pw_gid
        conf.write_text(_CONF.format(folder=self.folder, port=self.port, user=_USER, group=group))
        program = _program()
        assert program is not None
        with (self.folder / "log" / "output").open("wb") as output:
            # A session of its own: its children end with it, by the process group.
            self._daemon = subprocess.Popen(
                [program, "-C", str(conf), "-bdf", "-q1h"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **_libraries()},
            )
        end = time.monotonic() + _PATIENCE
        while not self._greets():
            if time.monotonic() > end or self._daemon.poll() is not None:
                raise RuntimeError(f"Exim did not start:\n{self.log()}")
            time.sleep(0.01)

    def _greets(self) -> bool:
        with socket.socket() as client:
            client.settimeout(5)
            return client.connect_ex((self.host, self.port)) == 0 and client.recv(3) == b"220"

    def _stop(self) -> None:
        if hasattr(self, "_daemon") and self._daemon.returncode is None:
            os.killpg(self._daemon.pid, signal.SIGKILL)
            self._daemon.wait()


def _program() -> str | None:
    folder = os.environ.get("ANYSMTP_EXIM")
    path = f"{folder}/usr/sbin" if folder else os.pathsep.join(["/usr/sbin", os.defpath])
    return shutil.which("exim4", path=path)


def _libraries() -> dict[str, str]:
    """The environment in which it finds the libraries that were unpacked beside it."""
    folder = os.environ.get("ANYSMTP_EXIM")
    if not folder:
        return {}
    folders = sorted({str(path.parent) for path in Path(folder).rglob("*.so*")})
    return {"LD_LIBRARY_PATH": os.pathsep.join(folders)}
