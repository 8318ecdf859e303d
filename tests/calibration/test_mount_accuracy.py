"""How small a shift of a camera mount the guard finds, and how often it warns of none."""

import numpy as np
import pytest

from smolvla_gym.calibration.mount_check import Verdict
from tests.calibration.mount_rig import Mounts, direction

SIZES = {"wrist": (1.0, 0.5), "scene": (2.0, 0.2)}
"""Smallest shift in mm and turn in deg that each camera has to show."""


@pytest.fixture(scope="module", params=[False, True], ids=["light", "busy"])
def mounts(request):
    made = Mounts(busy=request.param)
    yield made
    made.close()


def verdicts(mounts, camera, seed, count, change):
    rng = np.random.default_rng(seed)
    reference = mounts.reference(camera, rng)
    checks = [mounts.check(reference, rng, **change(rng)) for _ in range(count)]
    shifts = [check.shift.rms for check in checks]
    print(f"{camera}: {min(shifts):.2f} to {max(shifts):.2f} px, median {np.median(shifts):.2f}")
    return [check.verdict for check in checks]


@pytest.mark.parametrize("camera", SIZES)
def test_a_camera_in_place_hardly_ever_alarms(mounts, camera):
    found = verdicts(mounts, camera, 401, 100, lambda rng: {})
    assert found.count(Verdict.IN_PLACE) >= 99


@pytest.mark.parametrize("camera", SIZES)
def test_a_camera_that_was_shifted_is_found(mounts, camera):
    size = SIZES[camera][0]
    found = verdicts(mounts, camera, 402, 20, lambda rng: {"shift": 1e-3 * direction(rng, size)})
    assert found.count(Verdict.MOVED) >= 18


@pytest.mark.parametrize("camera", SIZES)
def test_a_camera_that_was_turned_is_found(mounts, camera):
    size = SIZES[camera][1]
    found = verdicts(mounts, camera, 403, 20, lambda rng: {"turn": direction(rng, size)})
    assert found.count(Verdict.MOVED) >= 18


@pytest.mark.parametrize("camera", SIZES)
@pytest.mark.parametrize("factor", [5, 20, 60])
def test_a_large_shift_is_never_taken_for_none(mounts, camera, factor):
    shift, turn = (factor * size for size in SIZES[camera])
    for change in ({"shift": (1e-3 * shift, 0.0, 0.0)}, {"turn": (0.0, turn, 0.0)}, {"turn": (turn, 0.0, 0.0)}):
        found = verdicts(mounts, camera, 404, 3, lambda rng, change=change: change)
        assert set(found) <= {Verdict.MOVED, Verdict.NOT_RECOGNISED}
