import pytest

pytest.importorskip("cv2")

from tests.calibration.rendered import Rig


@pytest.fixture(scope="session")
def rig():
    made = Rig()
    yield made
    made.views.close()


@pytest.fixture(scope="session")
def poses(rig):
    return rig.poses()
