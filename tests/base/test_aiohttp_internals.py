"""The undocumented parts of aiohttp that we rely on are still there, and are used in one place only."""

import ast
import inspect
import sys
import tomllib
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "comms_exporter"
INTERNALS = "aiohttp_internals.py"


def lost(what):
    return (
        f"aiohttp {aiohttp.__version__} has no {what} any more: change comms_exporter/{INTERNALS}, "
        "and the bound on aiohttp in pyproject.toml"
    )


class TestWhatWeRelyOn:
    @pytest.mark.parametrize(
        "name",
        [
            "_request_count",
            "_waiter",
            "_loop",
            "peername",
            "start",
            "handle_error",
            "log_exception",
            "finish_response",
            "force_close",
        ],
    )
    def test_of_the_server(self, name):
        assert hasattr(web.RequestHandler, name) or name in web.RequestHandler.__slots__, lost(f"RequestHandler.{name}")

    @pytest.mark.parametrize("name", ["loop", "keepalive_timeout", "access_log", "lingering_time", "max_headers"])
    def test_of_how_the_server_is_made(self, name):
        assert name in accepted(web.RequestHandler.__init__), lost(f"RequestHandler({name}=…)")

    def test_of_how_the_server_tells_errors(self):
        parameters = list(accepted(web.RequestHandler.handle_error))
        assert ["self", "request", "status", "exc", "message"] == parameters, lost("handle_error() as it was")
        assert issubclass(BadHttpMethod, HttpProcessingError), lost("BadHttpMethod that is an HttpProcessingError")

    async def test_of_the_client(self):
        async with aiohttp.ClientSession() as session:
            assert getattr(session, "_retry_connection", None) is True, lost("ClientSession._retry_connection")


def accepted(function):
    return inspect.signature(function).parameters


def modules():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


class TestOurModules:
    def test_use_the_private_parts_in_one_place(self):
        private = {"_retry_connection", "_request_count", "_waiter", "_loop", "RequestHandler"}
        using = {
            path.name
            for path, tree in modules().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in private
        }
        assert {INTERNALS} == using

    def test_import_what_pyproject_declares_and_nothing_else(self):
        imported = set()
        for tree in modules().values():
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.partition(".")[0])
        imported -= sys.stdlib_module_names | {"comms_exporter"}

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        declared = {text.partition(">")[0].replace("-", "_") for text in project["dependencies"]}
        assert imported == {{"pyyaml": "yaml"}.get(name, name) for name in declared}
