"""Describes the machine and the versions behind the figures."""

import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from bench.expose import million, nginx
from bench.processes import ROOT

LIBRARIES = ("aiohttp", "prometheus-client", "msgspec", "isal", "uvloop", "zlib-ng")


def description(seconds):
    """Return a paragraph about this machine and the run, which took *seconds*."""
    cpu = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    libraries = [f"{name} {found}" for name in LIBRARIES if (found := _version(name))]
    try:
        web_server = f"nginx {nginx.version(nginx.find())}"
    except nginx.MissingError:
        web_server = "no nginx"
    program = million.find()
    server = f"Prometheus {million.version(program)}" if program else "no Prometheus"
    return (
        f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())} at commit {_commit()}, in {seconds / 60:.0f} minutes: "
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {int(memory[1]) / 2**20:.0f} GiB, "
        f"Linux {platform.release()}; Python {platform.python_version()}, {', '.join(libraries)}; {web_server}, {server}."
    )


def _version(name):
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def _commit():
    git = ["git", "-C", ROOT]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "comms_exporter"], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + (" with changes" if changed.stdout else "")


def _read(path):
    return Path(path).read_text(encoding="utf-8")
