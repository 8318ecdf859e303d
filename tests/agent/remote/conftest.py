import contextlib

import pytest

from smolvla_gym.agent.remote.client import RemotePolicy
from smolvla_gym.agent.remote.tokens import TOKEN_VARIABLE
from tests.agent.remote.connections import serving
from tests.agent.remote.policies import Wave


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture
def wave():
    return Wave()


@pytest.fixture
def server(wave):
    with serving(wave) as server:
        yield server


@pytest.fixture
def remote(server):
    with contextlib.closing(RemotePolicy(server.address)) as policy:
        yield policy
