import postgres
import pytest


@pytest.fixture(scope="session")
def server():
    with postgres.running() as server:
        yield server


@pytest.fixture
def schema(server):
    return server.schema()
