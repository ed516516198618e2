"""Install a wheel with every other Python that runs it, and see it start, answer and stop.

    tools/smoke.py dist/comms_exporter-0.1.0-py3-none-any.whl

Every Python that the package supports is looked for on PATH and under ~/.pyenv. The one that runs this script is left
out: it has passed the whole suite.
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
    """A wheel does not work; the message says with which Python, and what it said."""


def main() -> int:
    """Try the wheel that the command line names with each Python, and return the exit code."""
    (wheel,) = map(Path, sys.argv[1:])
    failed = 0
    for python, version in other_pythons():
        name = f"Python {'.'.join(map(str, version))}, {python}"
        with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
            begun = time.monotonic()
            try:
                smoke(python, wheel.resolve(), Path(folder))
            except SmokeError as error:
                failed += 1
                print(f"FAIL  {name}: {error}", flush=True)
            else:
                print(f"ok    {name}: {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if failed else 0


def other_pythons() -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Yield path and version of every Python that can make a virtualenv, except of the one that runs this."""
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
    """Return where *python* really is and its version; None for what does not run, such as a shim without a version."""
    try:
        done = run(python, "-c", IDENTIFY)
    except OSError:
        return None
    if done.returncode:
        return None
    path, version = json.loads(done.stdout)
    return Path(path), tuple(version)


def smoke(python: Path, wheel: Path, folder: Path) -> None:
    """Install *wheel* into an empty virtualenv of *python*, run every command of it, and stop it with SIGINT."""
    need(python, "-m", "venv", folder / "venv")
    pip = (folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check")
    need(*pip, "--require-hashes", "-r", ROOT / "requirements.lock")
    need(*pip, "--no-deps", wheel)
    exporter = folder / "venv/bin/comms-exporter"
    anywhere = "--web.listen-address=127.0.0.1:0"
    with started(exporter, "simulator", anywhere, says=r"API is at (\S+?)/\s") as api:
        environ = {"TWILIO_ACCOUNT_SID": "ACsmoke", "TWILIO_AUTH_TOKEN": "smoke"}
        settings = (f"--api.base-url={api}/v1", f"--state.path={folder / 'state.db'}")
        need(exporter, "check", *settings, environ=environ)
        with started(exporter, *settings, anywhere, says=r"msg=listening.*?address=(\S+)", environ=environ) as url:
            until(f"{url}/metrics", r"^comms_up\{.*\} 1\.0$")
        with started(exporter, *settings, anywhere, says=r"msg=listening.*?address=(\S+)", environ=environ) as url:
            until(f"{url}/metrics", r"^comms_up\{.*\} 1\.0$")
    with started(exporter, "demo", anywhere, says=r"Metrics: +(\S+)") as url:
        until(url, r"^comms_emails_sent_total\{.*\} [1-9]")


@contextmanager
def started(*command: str | Path, says: str, environ: dict[str, str] | None = None) -> Iterator[str]:
    """Run *command*, give what *says* finds in its output, and stop it: it must end with 0 and without a complaint."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environ or {}, text=True)

        def said() -> str:
            output.seek(0)
            return output.read()

        try:
            deadline = time.monotonic() + STARTING_SECONDS
            while (match := re.search(says, said())) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SmokeError(f"{command[1]}: does not start:\n{said()}")
                time.sleep(0.05)
            yield match[1]
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                raise SmokeError(f"{command[1]}: does not stop:\n{said()}") from None
            if code != 0 or re.search(r"Traceback|level=error|Warning:", said()):
                raise SmokeError(f"{command[1]}: ended with {code}:\n{said()}")
        finally:
            process.kill()
            process.wait()


def until(url: str, pattern: str) -> None:
    """Scrape *url* until *pattern* is on the page."""
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        with urllib.request.urlopen(url, timeout=10) as response:
            page = response.read().decode()
        if re.search(pattern, page, re.MULTILINE):
            return
        if time.monotonic() > deadline:
            raise SmokeError(f"no {pattern} at {url}")
        time.sleep(0.2)


def need(*command: str | Path, environ: dict[str, str] | None = None) -> None:
    done = run(*command, environ=environ)
    if done.returncode:
        raise SmokeError(f"{command[0]} {command[1]}: {done.stdout}{done.stderr}")


def run(*command: str | Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
