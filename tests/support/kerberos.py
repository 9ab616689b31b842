"""A Kerberos realm of its own, run from a throwaway folder: a KDC, a user and a service.

Nothing of the machine's own Kerberos is used but its programs and library: who is given
`environment` (or has it in ``os.environ``) is in the realm.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

REALM = "EXAMPLE.TEST"
USER = "ann"
HOSTNAME = "localhost"

PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE = 20.0

_KRB5 = """
[libdefaults]
  default_realm = {realm}
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
[realms]
  {realm} = {{
    kdc = 127.0.0.1:{port}
  }}
[domain_realm]
  {hostname} = {realm}
"""
_KDC = """
[kdcdefaults]
  kdc_listen = ""
  kdc_tcp_listen = 127.0.0.1:{port}
[realms]
  {realm} = {{
    database_name = {folder}/principal
    key_stash_file = {folder}/stash
    acl_file = {folder}/acl
  }}
[logging]
  kdc = FILE:{folder}/kdc.log
"""


def why_not() -> str | None:
    """Why there can be no realm here; None if there can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    return f"Kerberos is not installed here: no {' and no '.join(missing)}" if missing else None


class Kerberos:
    """A context manager: the realm exists inside it, and the user has a ticket."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        """What a process in the realm has in its environment."""

    @property
    def keytab(self) -> Path:
        """The key of the service smtp on `HOSTNAME`."""
        return self._folder / "keytab"

    def __enter__(self) -> Kerberos:
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="anysmtp-kerberos-"))
            stack.callback(shutil.rmtree, self._folder)
            self._folder.chmod(0o755)
            self._configure()
            self._launch()
            stack.callback(self._stop)
            self._run("kinit", USER, input="secret\n")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _configure(self) -> None:
        folder = self._folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        values = {"folder": folder, "realm": REALM, "port": self._port, "hostname": HOSTNAME}
        (folder / "krb5.conf").write_text(_KRB5.format(**values))
        (folder / "kdc.conf").write_text(_KDC.format(**values))
        (folder / "acl").touch()
        self.environment = {
            "KRB5_CONFIG": str(folder / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{folder}/cache",
        }
        self._run("kdb5_util", "create", "-s", "-P", "master", "-r", REALM)
        self._run("kadmin.local", "-q", f"addprinc -pw secret {USER}")
        self._run("kadmin.local", "-q", f"addprinc -randkey smtp/{HOSTNAME}")
        self._run("kadmin.local", "-q", f"ktadd -k {self.keytab} smtp/{HOSTNAME}")
        self.keytab.chmod(0o644)

    def _launch(self) -> None:
        self._kdc = subprocess.Popen(
            ["krb5kdc", "-n"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": _PATH, **self.environment},
        )
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._kdc.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.01)
        self._stop()
        raise RuntimeError("the KDC did not start")

    def _stop(self) -> None:
        self._kdc.send_signal(signal.SIGTERM)
        self._kdc.wait(_PATIENCE)

    def _run(self, *command: str, input: str = "") -> None:
        subprocess.run(
            command,
            input=input,
            text=True,
            capture_output=True,
            check=True,
            env={"PATH": _PATH, **self.environment},
        )
