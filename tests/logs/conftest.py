import logging

import pytest
import structlog
from logs.stream import LogStream


@pytest.fixture(autouse=True)
def _restore_logging():
    """Logging is global to the process, so every test restores it."""
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    handlers, level, disabled = root.handlers[:], root.level, access.disabled
    yield
    root.handlers[:], access.disabled = handlers, disabled
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stream():
    return LogStream()
