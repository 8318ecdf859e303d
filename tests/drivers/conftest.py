"""What the tests of the drivers share."""

import pytest

from tests.drivers.rig import Rig


@pytest.fixture
def make_rig():
    rigs = []

    def make(**options) -> Rig:
        rigs.append(Rig(**options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig) -> Rig:
    return make_rig()
