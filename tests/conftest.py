import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import aioresponses.core
import hypothesis
import pytest
from prometheus import Binaries, MissingBinariesError, find_victoria_metrics

# The duration of an example depends more on the load of the machine than on the code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


# Whoever runs the tests in the background of a script has SIGINT ignored, and so would the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=[pytest.param(2, id="2.42"), pytest.param(3, id="3")])
def prometheus_binaries(request) -> Binaries:
    """The oldest Prometheus we promise to work with, and the current major version."""
    return _binaries(request.param)


def _binaries(major) -> Binaries:
    return _found(Binaries.find, major)


def _found(find, *arguments):
    try:
        return find(*arguments)
    except MissingBinariesError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def prometheus_three():
    """The current major version of Prometheus; without its binaries, the test is skipped."""
    return _binaries(3)


@pytest.fixture
def victoria_metrics() -> Callable[[str], Path]:
    """Finds a program of VictoriaMetrics; without it, the test is skipped."""
    return lambda program: _found(find_victoria_metrics, program)


class AnsweredResponse(aiohttp.ClientResponse):
    """A response of aioresponses, which lacks the writer that aiohttp 3.14 asks how much was sent."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0), **kwargs})


@pytest.fixture(name="aioresponses")
def answering_aiohttp(monkeypatch) -> Iterator[aioresponses.aioresponses]:
    """Answer all requests of aiohttp's client, except those to this machine."""
    # https://github.com/pnuckowski/aioresponses/issues/289
    monkeypatch.setattr(aioresponses.core, "ClientResponse", AnsweredResponse)
    with aioresponses.aioresponses(passthrough=["http://127.0.0.1"]) as answers:
        yield answers
