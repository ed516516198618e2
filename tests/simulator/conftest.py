import pytest
from simulator_client import Clock

from comms_exporter.simulator import World


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world(clock):
    return World(seed=1, clock=clock)
