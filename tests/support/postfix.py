"""A real Postfix, run from a throwaway folder on free loopback ports.

Nothing of the machine's own Postfix is used but its programs: configuration, queue, log, users
and mail are in the folder, so any number of these run side by side. No mail leaves: what is not
for `DOMAIN` is refused, and whatever the server itself would send on, an error message for one,
bounces without having looked anything up.

With `discard` the mail for `DOMAIN` goes nowhere, as fast as Postfix can: that is for measuring.

Ports, by name: ``plain`` (no TLS), ``submission`` (STARTTLS, then login required), ``smtps``
(implicit TLS, login required), ``clear`` (login in clear text, with the old ``AUTH=`` line too),
``limits`` (3 recipients, 100000 octets, 3 seconds of patience), ``bare`` (no EHLO keyword).

What it refuses is in the name: the senders ``refused@`` (at MAIL) and ``refused-data@`` (after the
message), the recipients ``unknown@``, ``later@`` (450) and ``quit421@`` (421, and it hangs up), in
`DOMAIN`; anybody else there has a mailbox. virtual(8) writes the trace fields on top, and LF for
CRLF.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from anyio import sleep

DOMAIN = "example.test"
HOST = "127.0.0.1"
PORTS = ("plain", "submission", "smtps", "clear", "limits", "bare")

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
_PROGRAMS = ("postconf", "saslpasswd2")
_PATIENCE = 20.0

# The trace fields that virtual(8) and smtpd(8) put on top, in this order (RFC 5321 section 4.4).
_TRACE = re.compile(
    rb"Return-Path: .*\nX-Original-To: .*\nDelivered-To: .*\nReceived: .*\n(?:[ \t].*\n)*"
)

_MAIN_CF = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {daemons}
maillog_file = {folder}/log/maillog
maillog_file_prefixes = {folder}/log
mail_owner = postfix
myhostname = mail.example.test
mydomain = example.test
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
default_transport = error:5.1.2 no mail leaves here
local_transport = error:5.1.2 no mail leaves here
alias_maps =
alias_database =

# From, Date and Message-Id are the client's to add, also for clients on this machine.
local_header_rewrite_clients =
virtual_mailbox_domains = example.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:all/
virtual_mailbox_limit = 0
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1

# Each command is refused where it stands, and an error costs no time.
smtpd_delay_reject = no
smtpd_error_sleep_time = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_connection_count_limit = 0
smtpd_relay_restrictions = reject_unauth_destination
smtpd_sender_restrictions = check_sender_access regexp:{folder}/etc/senders
smtpd_recipient_restrictions = check_recipient_access regexp:{folder}/etc/recipients
smtpd_end_of_data_restrictions = check_sender_access regexp:{folder}/etc/senders_of_data
smtpd_tls_chain_files = {folder}/etc/server.pem
smtpd_tls_auth_only = yes
smtpd_sasl_local_domain = $myhostname
smtpd_sasl_security_options = noanonymous
"""

_SENDERS = "check_sender_access regexp:{folder}/etc/senders"
_LOGIN = (
    "smtpd_sasl_auth_enable = yes",
    f"smtpd_sender_restrictions = {_SENDERS}, permit_sasl_authenticated, reject",
)
_KEYWORDS = (
    "pipelining, size, vrfy, etrn, starttls, auth, enhancedstatuscodes, 8bitmime, dsn, smtputf8,"
    " chunking"
)
_OPTIONS: dict[str, Sequence[str]] = {
    "plain": (),
    "submission": ("smtpd_tls_security_level = encrypt", *_LOGIN),
    "smtps": ("smtpd_tls_wrappermode = yes", *_LOGIN),
    "clear": ("smtpd_tls_auth_only = no", "broken_sasl_auth_clients = yes", *_LOGIN),
    "limits": (
        "smtpd_recipient_limit = 3",
        "message_size_limit = 100000",
        "smtpd_timeout = 3s",
    ),
    "bare": (f"smtpd_discard_ehlo_keywords = {_KEYWORDS}",),
}

_MASTER_CF = """
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
discard   unix  - - n - - discard
tlsmgr    unix  - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""

_TABLES = {
    "senders": "/^refused@/ 550 5.7.1 the sender is refused\n",
    "senders_of_data": "/^refused-data@/ 550 5.7.1 the message is refused\n",
    "recipients": (
        "/^unknown@/ 550 5.1.1 no such user\n"
        "/^later@/ 450 4.2.0 come back later\n"
        "/^quit421@/ 421 4.7.0 go away\n"
    ),
}

_SASL_CONF = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/etc/sasl/sasldb2
mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256
"""


def why_not() -> str | None:
    """Why Postfix cannot be run here; None if it can."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        return f"Postfix is not installed here: no {' and no '.join(missing)}"
    if os.geteuid() != 0:
        return "Postfix runs as root only"
    return None


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a mailbox."""

    raw: bytes
    """The file: LF line ends."""

    @property
    def data(self) -> bytes:
        """The message as it was sent: without the server's trace fields, with CRLF line ends."""
        found = _TRACE.match(self.raw)
        assert found is not None, self.raw[:500]
        return self.raw[found.end() :].replace(b"\n", b"\r\n")

    @property
    def sender(self) -> str:
        """The reverse-path, from Return-Path."""
        return self._field(b"Return-Path").strip("<>")

    @property
    def recipient(self) -> str:
        """The forward-path, from X-Original-To."""
        return self._field(b"X-Original-To")

    def _field(self, name: bytes) -> str:
        found = re.search(rb"^%s: (.*)$" % name, self.raw, re.MULTILINE)
        assert found is not None, self.raw[:500]
        return found[1].decode()


class Postfix:
    """A context manager: the server runs inside it. See the module for what it is like.

    Its own folder is made in `parent`, or where temporary folders are.
    """

    def __init__(
        self,
        server_file: Path,
        users: Mapping[str, str],
        *,
        discard: bool = False,
        parent: Path | None = None,
    ) -> None:
        self.host = HOST
        self.ports: dict[str, int] = {}
        self.users = dict(users)
        """Names and passwords."""
        self._server_file = server_file
        self._main_cf = _MAIN_CF + ("virtual_transport = discard:\n" if discard else "")
        self._parent = parent
        self._counter = itertools.count(1)
        self._read: dict[Path, Stored] = {}

    def __enter__(self) -> Postfix:
        # Not pytest's folder for temporary files: only its owner can enter that, and most of
        # Postfix does not run as root.
        self.folder = Path(tempfile.mkdtemp(prefix="anysmtp-postfix-", dir=self._parent))
        try:
            self._make_folders()
            self._start()
        except BaseException:
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
        """An address with a mailbox that nobody else has been given."""
        return f"{label}-{next(self._counter)}@{DOMAIN}"

    def messages(self, recipient: str) -> list[Stored]:
        """What is in a mailbox by now."""
        # It is one maildir for all: virtual(8) takes no table that makes up folders' names.
        new = set((self.folder / "mail" / "all" / "new").glob("*")) - self._read.keys()
        for path in sorted(new, key=lambda path: path.stat().st_mtime_ns):
            self._read[path] = Stored(path.read_bytes())
        return [stored for stored in self._read.values() if stored.recipient == recipient]

    async def wait_for(self, recipient: str) -> Stored:
        """The one message that is, or will soon be, in a mailbox."""
        end = time.monotonic() + _PATIENCE
        while not (messages := self.messages(recipient)):
            assert time.monotonic() < end, f"no mail for {recipient}:\n{self.log()}"
            await sleep(0.002)
        (message,) = messages
        return message

    def log(self) -> str:
        """What Postfix has to say."""
        path = self.folder / "log" / "maillog"
        return path.read_text("utf-8", "replace") if path.exists() else "(no log)"

    def _make_folders(self) -> None:
        owner, mailboxes = pwd.getpwnam("postfix"), pwd.getpwnam("nobody")
        self.folder.chmod(0o755)
        for name in ("etc/sasl", "queue/pid", "log"):
            (self.folder / name).mkdir(parents=True)
        queues = "active bounce corrupt defer deferred flush hold incoming maildrop private public"
        for name in ("data", *(f"queue/{queue}" for queue in f"{queues} saved trace".split())):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, owner.pw_uid, owner.pw_gid)
        (self.folder / "mail").mkdir()
        os.chown(self.folder / "mail", mailboxes.pw_uid, mailboxes.pw_gid)

    def _start(self) -> None:
        for attempt in range(3):
            self._configure()
            self._launch()
            if self._is_up():
                return
            self._stop()
            # Another process may have been given one of the ports in between: a few more tries.
            if attempt == 2 or "in use" not in self.log():
                raise RuntimeError(f"Postfix did not start:\n{self._output()}\n{self.log()}")

    def _configure(self) -> None:
        self.ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        nobody = pwd.getpwnam("nobody")
        values = {
            "folder": self.folder,
            "daemons": _default("daemon_directory"),
            "uid": nobody.pw_uid,
            "gid": nobody.pw_gid,
        }
        etc = self.folder / "etc"
        shutil.copy(self._server_file, etc / "server.pem")
        for name, table in _TABLES.items():
            (etc / name).write_text(table)
        (etc / "sasl" / "smtpd.conf").write_text(_SASL_CONF.format(**values))
        (etc / "main.cf").write_text(self._main_cf.format(**values))
        services = "".join(self._service(name).format(**values) for name in PORTS)
        (etc / "master.cf").write_text(services + _MASTER_CF)
        self._add_users(etc / "sasl" / "sasldb2")
        for path in etc.rglob("*"):
            # Postfix waits until its files are two seconds old before it believes them.
            os.utime(path, (0, 0))

    def _service(self, name: str) -> str:
        # Two braces are one, once the values are filled in.
        options = "".join(f"  -o {{{{ {option} }}}}\n" for option in _OPTIONS[name])
        return f"{self.host}:{self.ports[name]} inet n - n - - smtpd\n{options}"

    def _add_users(self, database: Path) -> None:
        for name, password in self.users.items():
            database.touch(0o644)
            subprocess.run(
                ["saslpasswd2", "-c", "-p", "-f", str(database), "-u", "mail.example.test", name],
                input=password.encode(),
                check=True,
                env={"PATH": _PATH},
            )

    def _launch(self) -> None:
        master = Path(_default("daemon_directory")) / "master"
        with (self.folder / "log" / "output").open("wb") as output:
            # -d: it stays in the foreground. A session of its own: it ends its children by
            # the process group.
            self._master = subprocess.Popen(
                [str(master), "-c", str(self.folder / "etc"), "-d"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={"PATH": _PATH, "MAIL_CONFIG": str(self.folder / "etc")},
            )

    def _is_up(self) -> bool:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._master.poll() is None:
            if self._greets():
                return "in use" not in self.log()
            time.sleep(0.01)
        return False

    def _greets(self) -> bool:
        with socket.socket() as client:
            client.settimeout(5)
            return (
                client.connect_ex((self.host, self.ports["plain"])) == 0
                and client.recv(3) == b"220"
            )

    def _stop(self) -> None:
        if self._master.returncode is not None:
            return
        self._master.terminate()
        end = time.monotonic() + _PATIENCE
        ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while not os.waitid(os.P_PID, self._master.pid, ended) and time.monotonic() < end:
            time.sleep(0.005)
        # It is not reaped yet, so the process group is certainly still its own: what is left of
        # it goes now, and does not write into the folder any more.
        os.killpg(self._master.pid, signal.SIGKILL)
        self._master.wait()

    def _output(self) -> str:
        return (self.folder / "log" / "output").read_text("utf-8", "replace")


def _default(setting: str) -> str:
    ran = subprocess.run(
        ["postconf", "-d", "-h", setting],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": _PATH},
    )
    return ran.stdout.strip()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind((HOST, 0))
        return [found.getsockname()[1] for found in sockets]
