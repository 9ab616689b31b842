"""What a run ran on: the machine, its programs, and the versions of all that takes part."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("anysmtp", "anyio", "trio", "uvloop", "aiosmtplib", "smtpproto")


def find_program(name: str) -> str | None:
    """A program of Postfix; where it is installed, its folder need not be on the path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def environment() -> dict[str, str]:
    """That of a process which is to find this package, and what it stands on."""
    folder = str(Path(__file__).parents[1])
    paths = [folder, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def choose_cores(how: str) -> int | None:
    """Put this process, and so its children, on one processor: ``shared``, or ``apart`` from the
    one that is returned. None if there is no other for the clients, as with ``free``.
    """
    if how == "free" or not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    return cores[0] if how == "apart" else None


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "OpenSSL": ssl.OPENSSL_VERSION.split()[1]}
    found |= {package: number for package in _PACKAGES if (number := _version(package))}
    if postfix := _postfix_version():
        found["Postfix"] = postfix
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _postfix_version() -> str | None:
    path = find_program("postconf")
    if path is None:
        return None
    ran = subprocess.run([path, "-d", "-h", "mail_version"], capture_output=True, text=True)
    return ran.stdout.strip() or None
