"""Imports between the folders of the package run one way: downward."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "comms_exporter"
# What each part may import, beside itself. `top` are the modules directly in the package.
ALLOWED = {
    "top": {
        "config",
        "web",
        "expose",
        "collect",
        "store",
        "api",
        "model",
        "base",
        "commands",
        "simulator",
        "logs",
        "rules",
    },
    "commands": {"api", "model", "base"},
    "logs": {"base"},
    "config": {"base"},
    "rules": {"config", "base"},
    "web": {"base"},
    "expose": {"collect", "api", "model", "base"},
    "collect": {"store", "api", "model", "base"},
    "store": {"model", "base"},
    "api": {"model", "base"},
    "model": {"base"},
    "base": set(),
    "simulator": set(),
}
# Everything else gets plain values.
KNOW_SETTINGS = {"cli.py", "service.py", "wiring.py"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def part_of(module):
    """Return the folder that a dotted module of the package is in."""
    name = module.removeprefix("comms_exporter").removeprefix(".").partition(".")[0]
    return name if name in ALLOWED else "top"


def imports(path):
    """Yield (module, name) of everything that *path* imports from the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("comms_exporter"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("comms_exporter"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / inner.replace(".", "/")).with_suffix(".py").exists()
                is_package = (PACKAGE.parent / inner.replace(".", "/")).is_dir()
                yield (inner, "") if is_module or is_package else (node.module, alias.name)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    here = part_of(".".join(("comms_exporter", *path.relative_to(PACKAGE).parts)))
    # The version is everybody's.
    used = {part_of(module) for module, name in imports(path) if name != "__version__"}

    assert set() == used - {here} - ALLOWED[here]


def test_the_parts_are_the_folders():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}

    assert folders == ALLOWED.keys() - {"top"}


def test_only_the_root_knows_settings():
    knowing = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if "config" not in path.relative_to(PACKAGE).parts
        for _, name in imports(path)
        if name == "Settings"
    }

    assert knowing <= KNOW_SETTINGS
