"""Real proxies, run on free loopback ports: microsocks, dante, tinyproxy.

Each lets in `USER` with `PASSWORD` and nobody else, but dante, which would ask the system for its
users: it lets everybody in, and to every address but `FORBIDDEN`. It speaks SOCKS 4 too.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

HOST = "127.0.0.1"
USER, PASSWORD = "ann", "tan-staaf"
FORBIDDEN = "127.0.0.9"

_PATIENCE = 20.0
_PROGRAMS = {"microsocks": "microsocks", "dante": "danted", "tinyproxy": "tinyproxy"}

_DANTE = """
internal: 127.0.0.1 port = {port}
external: 127.0.0.1
socksmethod: none
clientmethod: none
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
socks block {{ from: 127.0.0.0/8 to: {forbidden}/32 }}
socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
"""

_TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 100
BasicAuth {user} {password}
"""


def why_not() -> str | None:
    """Why the proxies cannot be run here; None if they can."""
    missing = [name for name, program in _PROGRAMS.items() if shutil.which(program) is None]
    return f"not installed here: {', '.join(missing)}" if missing else None


class RealProxy:
    """A context manager: the proxy of this name runs inside it, on `port`."""

    def __init__(self, name: str) -> None:
        self.port = 0
        self._name = name

    def __enter__(self) -> RealProxy:
        self._folder = Path(tempfile.mkdtemp(prefix="anysmtp-proxy-"))
        for attempt in range(3):
            self._start()
            if self._is_up():
                return self
            self._stop()
            # Another process may have been given the port in between: a few more tries.
            if attempt == 2:
                raise RuntimeError(f"{self._name} did not start: {self._output()}")
        raise AssertionError

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        shutil.rmtree(self._folder)

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        program = _PROGRAMS[self._name]
        if self._name == "microsocks":
            return [program, "-i", HOST, "-p", str(self.port), "-u", USER, "-P", PASSWORD]
        template = _DANTE if self._name == "dante" else _TINYPROXY
        conf = self._folder / "conf"
        conf.write_text(
            template.format(port=self.port, forbidden=FORBIDDEN, user=USER, password=PASSWORD)
        )
        if self._name == "dante":
            return [program, "-f", str(conf), "-p", str(self._folder / "pid")]
        return [program, "-d", "-c", str(conf)]

    def _is_up(self) -> bool:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket() as client:
                client.settimeout(5)
                if client.connect_ex((HOST, self.port)) == 0:
                    return True
            time.sleep(0.01)
        return False

    def _output(self) -> str:
        return (self._folder / "output").read_text("utf-8", "replace")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
