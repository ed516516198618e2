"""The command `rules`: print the rule files, write them, or compare them with those that are deployed."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from comms_exporter.base.suggestions import suggestion
from comms_exporter.config.values import SettingsError, UnreadableError, read_text
from comms_exporter.rules import config, source
from comms_exporter.rules.compare import NotRulesError, differences, groups_in
from comms_exporter.rules.render import render

_STDIN = "-"
_FILE_OF = {"rules": source.RECORDINGS, "alerts": source.ALERTS}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError([message])


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [flags]",
        description="Print the recording and alerting rules with your thresholds, links and labels, as two YAML documents.",
        epilog="Exit codes: 0, 1 if --check found a difference, 2 if something is wrong with the configuration or a file.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="What to change. Default: nothing. See docs/alerts.md.")
    parser.add_argument("--only", choices=_FILE_OF, help="Only the recording rules, or only the alerts.")
    parser.add_argument("--output", metavar="DIR", help="Write the files to DIR instead of printing them.")
    parser.add_argument(
        "--check",
        metavar="DIR|FILE",
        action="append",
        help="Compare with the rules in DIR or FILE and print what differs. FILE can be a rule file, a PrometheusRule, or - "
        "for the standard input. Can be repeated.",
    )
    return parser


def run(arguments: Sequence[str], parser: argparse.ArgumentParser, say: Callable[[str], None]) -> int:
    """Run the command, and return its exit code; *say* prints a line, SettingsError says what is wrong."""
    own, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001  there is no other list
        raise SettingsError(f"{word}: unknown argument{suggestion(word, known, '--')}" for word in unknown)
    if own.check is not None and own.output is not None:
        raise SettingsError(["--output: cannot be used with --check"])
    texts = render(config.RulesConfig() if own.config is None else config.load(Path(own.config)))
    if own.only is not None:
        texts = {_FILE_OF[own.only]: texts[_FILE_OF[own.only]]}
    if own.check is not None:
        found = _check(texts, own.check)
        for line in found or ["no differences"]:
            say(line)
        return 1 if found else 0
    if own.output is not None:
        for name, text in texts.items():
            say(str(_write(Path(own.output) / name, text)))
        return 0
    # Not line by line: what is printed is byte for byte what --output writes.
    sys.stdout.write("---\n".join(texts.values()))
    sys.stdout.flush()
    return 0


def _check(texts: Mapping[str, str], places: Sequence[str]) -> list[str]:
    """Return a line for each difference between the rules in *texts* and those in *places*."""
    lines: list[str] = []
    compared: set[str] = set()
    deployed: list[Mapping[str, Any]] = []
    for place in places:
        if place == _STDIN:
            compared.update(texts)
            deployed += _groups("--check -", sys.stdin.read())
        elif not Path(place).is_dir():
            path = Path(place)
            compared.update({path.name} & {*texts} or texts)
            deployed += _groups(str(path), _read(path))
        else:
            for path in (Path(place) / name for name in texts):
                if path.exists():
                    compared.add(path.name)
                    deployed += _groups(str(path), _read(path))
                else:
                    lines.append(f"{path}: is missing")
    expected = [group for name in texts if name in compared for group in groups_in(texts[name])]
    all_of_ours = [group["name"] for name in texts if name in compared for group in groups_in(source.shipped(name))]
    left = {group["name"] for group in expected}
    return lines + differences(expected, deployed, unwanted=[name for name in all_of_ours if name not in left])


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except UnreadableError as error:
        problem = f"--check: {error}"
    raise SettingsError([problem])


def _groups(where: str, text: str) -> list[Mapping[str, Any]]:
    try:
        found = groups_in(text)
    except NotRulesError as error:
        problem = f"{where}: {error}"
    else:
        if found:
            return found
        problem = f"{where}: there are no rule groups in it"
    raise SettingsError([problem])


def _write(path: Path, text: str) -> Path:
    """Replace the file at *path*, whole or not at all, and return the path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        # Prometheus reads it as another user.
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        problem = f"--output: cannot write {path}: {error.strerror or error}"
    else:
        return path
    raise SettingsError([problem])
