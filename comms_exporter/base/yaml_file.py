"""Load YAML files, reject duplicate keys, and report errors with a line number but without quoting the file.

PyYAML's own messages quote the file, which may contain secrets.
"""

from typing import Any

import yaml


class YamlError(ValueError):
    """The text is not valid YAML; *line* counts from 1, or is None if unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.message = message
        self.line = line


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Reject a duplicate key; PyYAML would use the last one."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem="duplicate key", problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def load(text: str) -> Any:
    """Return *text* as Python values, or raise a YamlError."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  it is a SafeLoader
    except yaml.YAMLError as error:
        problem = _problem(error)
    except Exception:  # noqa: BLE001  `!!int x` and its like raise anything
        problem = YamlError("not valid YAML; a value does not match its tag")
    raise problem


def compose(text: str) -> yaml.Node | None:
    """Return *text* as nodes, which keep the spelling and line of every value, or raise a YamlError."""
    try:
        return yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        problem = _problem(error)
    raise problem


def _problem(error: Exception) -> YamlError:
    if isinstance(error, RecursionError):
        return YamlError("not valid YAML; it is nested too deeply")
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return YamlError("not valid YAML; it contains a character that YAML does not allow")
    problem = (error.problem or "").removeprefix("but ")
    if "'\\t'" in problem:
        problem = "a tab is used for indentation"
    elif "'" in problem or '"' in problem:
        problem = "syntax error"
    return YamlError(f"not valid YAML; {problem}", error.problem_mark.line + 1)
