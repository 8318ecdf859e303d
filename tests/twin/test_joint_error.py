import numpy as np
import pytest

from smolvla_gym.envs import make_real_env
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import HOME
from smolvla_gym.twin.joint_error import JointError
from smolvla_gym.twin.twin import Twin

HOMING = tuple(np.deg2rad([0.3, -0.2, 0.1, 0.0, -0.3, 0.2]).tolist())


def test_errors_of_gears_are_bounded_and_repeat():
    error = JointError(gears=0.002, seed=3)
    joints = np.random.default_rng(0).uniform(-2.0, 2.0, (500, 6))
    found = np.array([error.at(one) for one in joints])
    assert np.abs(found).max() <= 0.002
    assert found.std(axis=0).min() > 5e-4
    np.testing.assert_array_equal(error.at(joints[0]), JointError(gears=0.002, seed=3).at(joints[0]))


def test_the_board_does_not_know_the_errors():
    twin = Twin(homed=True, joint_error=JointError(HOMING))
    try:
        np.testing.assert_allclose(twin.joints - HOME, HOMING, atol=2e-3)
        twin.clear_table()
        twin.advance(twin.time + 1.0)
        np.testing.assert_allclose(twin.joints - HOME, HOMING, atol=2e-3)
        np.testing.assert_allclose(twin.world.joints, HOME, atol=1e-3)
    finally:
        twin.close()


@pytest.mark.parametrize("name", ["joint_error", "plate"])
def test_other_values_are_refused_before_anything_starts(name):
    with pytest.raises(OptionError, match=name):
        make_real_env(port="twin", camera="twin", twin_options={name: 1.0})
