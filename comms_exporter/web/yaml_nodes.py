"""Read YAML node by node, with errors that name the key and the line but show no values that may be secret.

Nodes are not converted to objects: a value without quotes keeps its spelling (`X-XSS-Protection: 0`), and an alias is not
copied.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import yaml

from comms_exporter.base import yaml_file
from comms_exporter.base.suggestions import suggestion
from comms_exporter.base.yaml_file import YamlError

T = TypeVar("T")


class WebConfigError(Exception):
    """The web config file is invalid; the message names the key and the problem in one line, without any secret."""


class Node:
    """A value of a YAML document, or its absence; *key* says where it is, as in `tls_server_config.cert`."""

    def __init__(self, node: yaml.Node | None, key: str = "") -> None:
        self._node = None if node is None or node.tag == "tag:yaml.org,2002:null" else node
        self.key = key

    @classmethod
    def parse(cls, content: bytes) -> "Node":
        """Return the document in *content*."""
        try:
            return cls(yaml_file.compose(content.decode("utf-8-sig")))
        except UnicodeDecodeError:  # it contains the bytes, so it must not become the context of the error
            problem = "is not UTF-8 text"
        except YamlError as error:
            problem = str(error)
        raise WebConfigError(problem)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def is_null(self) -> bool:
        """Whether there is no value."""
        return self._node is None

    @property
    def is_quoted(self) -> bool:
        """Whether the value is a string in quotes."""
        return isinstance(self._node, yaml.ScalarNode) and self._node.style is not None

    def with_key(self, key: str) -> "Node":
        """Return this value under another *key* for error messages."""
        return Node(self._node, key)

    def error(self, problem: str) -> WebConfigError:
        """Return an error that names this value's key and its *problem*."""
        return WebConfigError(f"{self.key}: {problem}" if self.key else problem)

    def mapping(self, *known: str) -> "dict[str, Node]":
        """Return the values of a mapping that may have the keys *known* and no others."""
        values = {key: Node(None, self._child(key)) for key in known}
        for key, line, node in self._items():
            if key not in known:
                raise WebConfigError(f"line {line}: {self._unknown_key(key, known)}")
            values[key] = Node(node, self._child(key))
        return values

    def items(self) -> list[tuple[str, "Node"]]:
        """Return the keys and values of a mapping with any keys."""
        return [(key, Node(node, self._child(key))) for key, _, node in self._items()]

    def text(self, default: str = "") -> str:
        """Return a scalar as it is spelled."""
        if self._node is None:
            return default
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.error("is not a string")
        return str(self._node.value)

    def texts(self) -> list[str]:
        """Return a list of scalars."""
        if self._node is None:
            return []
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error("is not a list")
        return [Node(each, self.key).text() for each in self._node.value]

    def boolean(self, *, default: bool) -> bool:
        """Return a boolean, in any spelling that Go's YAML accepts."""
        text = self.text("true" if default else "false")
        if self.is_quoted or not re.fullmatch("y|yes|true|on|n|no|false|off", text, re.IGNORECASE):
            raise self.error("is not true or false")
        return text.lower() in {"y", "yes", "true", "on"}

    def choice(self, values: Mapping[str, T], default: str = "") -> T:
        """Return one of *values*."""
        return self._choose(values, self.text(default))

    def choices(self, values: Mapping[str, T]) -> list[T]:
        """Return a list of *values*."""
        return [self._choose(values, name) for name in self.texts()]

    def _choose(self, values: Mapping[str, T], name: str) -> T:
        if name in values:
            return values[name]
        known = list(filter(None, values))
        if suggested := suggestion(name, known):
            raise self.error(f"{name[:60]!r} is unknown{suggested}")
        raise self.error(f"{name[:60]!r} is not one of {', '.join(known)}")

    def _unknown_key(self, key: str, known: tuple[str, ...]) -> str:
        valid = f"; valid keys are {', '.join(known)}"
        # A long or strange key is not a typo. It may be a secret on the wrong side of a colon.
        if re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,40}", key):
            return f"{self._child(key)}: unknown key{suggestion(key, known) or valid}"
        return f"{self.key + ': ' if self.key else ''}unknown key{valid}"

    def _child(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def _items(self) -> list[tuple[str, int, yaml.Node]]:
        if self._node is None:
            return []
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error("is not a mapping")
        return [
            (Node(key, self.key or "a key").text(), key.start_mark.line + 1, value) for key, value in self._node.value
        ]
