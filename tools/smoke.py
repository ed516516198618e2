"""Install a wheel with every other supported Python, and check that it starts, responds and stops.

    tools/smoke.py dist/comms_exporter-0.1.0-py3-none-any.whl

It looks for Pythons on PATH and in ~/.pyenv. It skips the one that runs this script, because the test suite covers it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST = (3, 11)
IDENTIFY = "import json, os, sys; print(json.dumps([os.path.realpath(sys._base_executable), sys.version_info[:3]]))"
STARTING_SECONDS = 30
STOPPING_SECONDS = 10


class SmokeError(Exception):
    """A wheel does not work; the message contains the output."""


def main() -> int:
    """Test the wheel on the command line with each Python, and return the exit code."""
    (wheel,) = map(Path, sys.argv[1:])
    failed = 0
    for python, version in other_pythons():
        name = f"Python {'.'.join(map(str, version))}, {python}"
        with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
            began = time.monotonic()
            try:
                smoke(python, wheel.resolve(), Path(folder))
            except SmokeError as error:
                failed += 1
                print(f"FAIL  {name}: {error}", flush=True)
            else:
                print(f"ok    {name}: {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


def other_pythons() -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Yield path and version of every Python that can create a virtualenv, except the one that runs this script."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"))
    seen = {identify(Path(sys.executable))}
    for folder in folders:
        for path in sorted(folder.glob("python3*")):
            if not re.fullmatch(r"python3(\.\d+)?", path.name):
                continue
            found = identify(path)
            if found is None or found in seen or found[1] < OLDEST:
                continue
            seen.add(found)
            if run(found[0], "-c", "import ensurepip, venv").returncode:
                print(f"skip  {found[0]} has no ensurepip", flush=True)
                continue
            yield found


def identify(python: Path) -> tuple[Path, tuple[int, ...]] | None:
    """Return the real path of *python* and its version; None if it does not run, such as a shim without a version."""
    try:
        done = run(python, "-c", IDENTIFY)
    except OSError:
        return None
    if done.returncode:
        return None
    path, version = json.loads(done.stdout)
    return Path(path), tuple(version)


def smoke(python: Path, wheel: Path, folder: Path) -> None:
    """Install *wheel* into an empty virtualenv of *python*, run each of its commands, and stop them with SIGINT."""
    run_checked(python, "-m", "venv", folder / "venv")
    pip = (folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check")
    run_checked(*pip, "--require-hashes", "-r", ROOT / "requirements.lock")
    run_checked(*pip, "--no-deps", wheel)
    exporter = folder / "venv/bin/comms-exporter"
    free_port = "--web.listen-address=127.0.0.1:0"
    # The wheel contains the rules of the repository.
    run_checked(exporter, "rules", "--check", ROOT / "deploy/prometheus")
    with started(exporter, "simulator", free_port, ready=r"API is at (\S+?)/\s") as api:
        environ = {"TWILIO_ACCOUNT_SID": "ACsmoke", "TWILIO_AUTH_TOKEN": "smoke"}
        settings = (f"--api.base-url={api}/v1", f"--state.path={folder / 'state.db'}")
        run_checked(exporter, "check", *settings, environ=environ)
        with started(exporter, *settings, free_port, ready=r"msg=listening.*?address=(\S+)", environ=environ) as url:
            until(f"{url}/metrics", r"^comms_up\{.*\} 1\.0$")
        with started(exporter, *settings, free_port, ready=r"msg=listening.*?address=(\S+)", environ=environ) as url:
            until(f"{url}/metrics", r"^comms_up\{.*\} 1\.0$")
    with started(exporter, "demo", free_port, ready=r"Metrics: +(\S+)") as url:
        until(url, r"^comms_emails_sent_total\{.*\} [1-9]")


@contextmanager
def started(*command: str | Path, ready: str, environ: dict[str, str] | None = None) -> Iterator[str]:
    """Run *command*, yield the first group of *ready* in its output, and stop it: it must exit with 0 and without errors."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environ or {}, text=True)

        def log() -> str:
            output.seek(0)
            return output.read()

        try:
            deadline = time.monotonic() + STARTING_SECONDS
            while (match := re.search(ready, log())) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SmokeError(f"{command[1]} does not start:\n{log()}")
                time.sleep(0.05)
            yield match[1]
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                raise SmokeError(f"{command[1]} does not stop:\n{log()}") from None
            if code != 0 or re.search(r"Traceback|level=error|Warning:", log()):
                raise SmokeError(f"{command[1]} exited with {code}:\n{log()}")
        finally:
            process.kill()
            process.wait()


def until(url: str, pattern: str) -> None:
    """Scrape *url* until the page matches *pattern*."""
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        with urllib.request.urlopen(url, timeout=10) as response:
            page = response.read().decode()
        if re.search(pattern, page, re.MULTILINE):
            return
        if time.monotonic() > deadline:
            raise SmokeError(f"no {pattern} at {url}")
        time.sleep(0.2)


def run_checked(*command: str | Path, environ: dict[str, str] | None = None) -> None:
    done = run(*command, environ=environ)
    if done.returncode:
        raise SmokeError(f"{command[0]} {command[1]}: {done.stdout}{done.stderr}")


def run(*command: str | Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
