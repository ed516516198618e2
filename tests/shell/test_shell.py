"""The man page and the completions of bash, zsh and fish name what the commands take, and the shells understand them."""

import os
import pty
import re
import runpy
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from comms_exporter import cli

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/shell"
MAN_PAGE = FOLDER / "comms-exporter.1"
COMPLETIONS = [FOLDER / name for name in ("comms-exporter.bash", "comms-exporter.fish", "_comms-exporter")]
SECONDS = 20


def program(name):
    """Return the program *name*; skip the test if it is not installed, fail in CI."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
    return found


def output(*command, **environ):
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert 0 == done.returncode, done.stdout
    return done.stdout


class TestFiles:
    def test_are_up_to_date(self):
        """`make docs` writes them."""
        written = runpy.run_path(str(ROOT / "tools/write_cli.py"))["files"]()

        assert {path: path.read_text(encoding="utf-8") for path in written} == written
        assert {MAN_PAGE, *COMPLETIONS} == written.keys()

    def test_every_command_has_a_parser(self):
        assert re.findall(r"^  (\w+)", cli.COMMANDS, re.MULTILINE) == list(cli.parsers())

    @pytest.mark.parametrize("path", [MAN_PAGE, *COMPLETIONS], ids=lambda path: path.name)
    def test_name_every_flag(self, path):
        text = path.read_text(encoding="utf-8").replace("\\-", "-").replace("-l ", "--")
        flags = {
            flag
            for parser in cli.parsers().values()
            for flag in re.findall(r"^  (?:-h, )?(--[\w.-]+)", parser.format_help(), re.MULTILINE)
        }

        assert len(flags) > 50
        assert {"--help", "--version"} >= flags - set(re.findall(r"--[\w.-]*\w", text))


class TestManPage:
    def test_has_no_warnings(self):
        assert "" == output(program("groff"), "-ww", "-man", "-Tutf8", "-z", MAN_PAGE)

    def test_shows_settings_with_their_variables(self):
        shown = re.sub(r"\s+", " ", output(program("man"), "-l", MAN_PAGE, MANWIDTH="200", LC_ALL="C.UTF-8"))

        assert "comms-exporter - Prometheus exporter for" in shown
        assert "--collect.interval=DURATION Interval between polls of an account." in shown
        assert "Environment variable: COMMS_EXPORTER_COLLECT_INTERVAL." in shown
        assert "--show-addresses With --emails, show the recipients' addresses." in shown


# What is typed before the Tab key, and the words on the line after it.
EVERY_SHELL = [
    (("che",), ["check"]),
    (("--collect.oper",), ["--collect.operations="]),
    (("--web.dis",), ["--web.disable-exporter-metrics"]),
    (("--collect.operations=tr",), ["--collect.operations=troubled"]),
    (("--log.format", "js"), ["--log.format", "json"]),
    (("--config.file", "a.y"), ["--config.file", "a.yml"]),
    (("--config.file=a.y",), ["--config.file=a.yml"]),
    (("check", "--js"), ["check", "--json"]),
    (("check", "--log.le"), ["check", "--log.level="]),
    (("operation", "--show"), ["operation", "--show-addresses"]),
    (("rules", "--output", "fol"), ["rules", "--output", "folder/"]),
    (("rules", "--only=al"), ["rules", "--only=alerts"]),
    (("simulator", "--reading=ex"), ["simulator", "--reading=exclusive"]),
    (("state", "im"), ["state", "import"]),
    (("state", "export", "a.y"), ["state", "export", "a.yml"]),
    # Flags of other commands, and values that only their owner knows.
    (("--js",), ["--js"]),
    (("rules", "--collect"), ["rules", "--collect"]),
    (("--account.name=a.y",), ["--account.name=a.y"]),
]
typed = pytest.mark.parametrize(("words", "expected"), EVERY_SHELL, ids=[" ".join(words) for words, _ in EVERY_SHELL])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.yml").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.txt").touch()
    return tmp_path


def completed(shell, setup, words, folder):
    """Return the words on the line of an interactive *shell* after the Tab key."""
    line = " ".join(["comms-exporter", *words])
    # To the beginning of the line, to print it instead of running it.
    keys = f"{line}\t\x01printf '<%s>' \x05 end; exit\n"
    # The shell itself reads the keys once it has run the setup.
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        environ = {"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        os.execve(shell[0], shell, environ)
    seen = b""
    try:
        os.write(terminal, f"{setup}; echo rea''dy\n".encode())
        seen = _read_until(terminal, b"ready")
        os.write(terminal, keys.encode())
        seen = _read_until(terminal, b"<end>")
    finally:
        os.close(terminal)
        with suppress(ProcessLookupError):
            os.kill(process, 9)
        os.waitpid(process, 0)
    *_, found = re.findall(r"<comms-exporter>((?:<[^<>]*>)*)<end>", seen.decode())
    return re.findall(r"<(.*?)>", found)


def _read_until(terminal, marker):
    seen = b""
    deadline = time.monotonic() + SECONDS
    while marker not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 4096)
    return seen


class TestBash:
    PATH = FOLDER / "comms-exporter.bash"

    def test_is_valid(self):
        assert "" == output(program("bash"), "-n", self.PATH)

    @typed
    def test_completes(self, words, expected, folder):
        bash = program("bash")
        setup = f"bind 'set enable-bracketed-paste off'; source {self.PATH}"

        assert expected == completed([bash, "--norc", "--noprofile", "-i"], setup, words, folder)


class TestZsh:
    def test_is_valid(self):
        assert "" == output(program("zsh"), "-n", FOLDER / "_comms-exporter")

    @typed
    def test_completes(self, words, expected, folder):
        zsh = program("zsh")
        setup = f"unset zle_bracketed_paste; fpath=({FOLDER} $fpath); autoload -Uz compinit; compinit -u -D; bindkey -e"

        # Zsh takes the end of a flag or a folder back when something else follows.
        *others, last = expected
        assert [*others, last.rstrip("=/")] == completed([zsh, "-f", "-i"], setup, words, folder)


class TestFish:
    PATH = FOLDER / "comms-exporter.fish"

    def test_is_valid(self):
        assert "" == output(program("fish"), "-n", self.PATH)

    @typed
    def test_completes(self, words, expected, folder):
        """It lists what fits; one candidate completes the last word."""
        script = f"cd {folder}; source {self.PATH}; complete -C {' '.join(['comms-exporter', *words])!r}"
        listed = output(program("fish"), "--no-config", "-c", script, HOME=str(folder))
        candidates = {line.split("\t")[0] for line in listed.splitlines()}

        # Fish adds the equals sign only when the value is typed.
        last = expected[-1].removesuffix("=")
        assert candidates == ({last} if list(words) != expected else set())
