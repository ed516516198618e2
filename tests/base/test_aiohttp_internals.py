"""aiohttp still has the undocumented names that we use, and only one module uses them."""

import ast
import inspect
import re
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


def missing(name):
    return (
        f"aiohttp {aiohttp.__version__} no longer has {name}: change comms_exporter/base/{INTERNALS} "
        "and the bound on aiohttp in pyproject.toml"
    )


class TestUndocumentedNames:
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
    def test_of_the_request_handler(self, name):
        assert hasattr(web.RequestHandler, name) or name in web.RequestHandler.__slots__, missing(
            f"RequestHandler.{name}"
        )

    @pytest.mark.parametrize("name", ["loop", "keepalive_timeout", "access_log", "lingering_time", "max_headers"])
    def test_of_its_constructor(self, name):
        assert name in parameters_of(web.RequestHandler.__init__), missing(f"RequestHandler({name}=…)")

    def test_of_its_error_handler(self):
        parameters = list(parameters_of(web.RequestHandler.handle_error))
        assert ["self", "request", "status", "exc", "message"] == parameters, missing(
            "handle_error() with these parameters"
        )
        assert issubclass(BadHttpMethod, HttpProcessingError), missing("BadHttpMethod as an HttpProcessingError")

    async def test_of_the_client(self):
        async with aiohttp.ClientSession() as session:
            assert getattr(session, "_retry_connection", None) is True, missing("ClientSession._retry_connection")


def parameters_of(function):
    return inspect.signature(function).parameters


def modules():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


class TestOurModules:
    def test_only_one_uses_private_names_of_aiohttp(self):
        private = {"_retry_connection", "_request_count", "_waiter", "_loop", "RequestHandler"}
        users = {
            path.name
            for path, tree in modules().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in private
        }
        assert {INTERNALS} == users

    def test_import_exactly_the_declared_dependencies(self):
        imported = set()
        for tree in modules().values():
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.partition(".")[0])
        imported -= sys.stdlib_module_names | {"comms_exporter"}

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        optional = [text for texts in project["optional-dependencies"].values() for text in texts]
        declared = {re.split("[>[]", text)[0].replace("-", "_") for text in (*project["dependencies"], *optional)}
        assert imported == {{"pyyaml": "yaml"}.get(name, name) for name in declared}
