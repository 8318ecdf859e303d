import contextlib

import pytest

from smolvla_gym.agent.policies.remote.client import RemotePolicy
from smolvla_gym.utils.tokens import TOKEN_VARIABLE
from tests.agent.policies.connections import serving
from tests.agent.policies.policies import Wave


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
