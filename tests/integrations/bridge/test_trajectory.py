"""Trajectories are followed to their end or not at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.errors import ActionError
from smolvla_gym.integrations.bridge.trajectory import Trajectory
from smolvla_gym.parol6 import HOME, JOINT_LOWER, JOINT_NAMES, JOINT_UPPER
from tests.integrations.bridge.messages import trajectory


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_it_passes_through_its_points(gaps, seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(np.round(gaps, 2))
    rows = rng.uniform(JOINT_LOWER, JOINT_UPPER, (len(times), 6))
    plan = Trajectory(trajectory(*zip(times, rows, strict=True)), HOME)
    assert plan.duration == pytest.approx(times[-1])
    now = 0.0
    for moment, row in zip(times, rows, strict=True):
        np.testing.assert_allclose(plan.advance(moment - now), row, atol=1e-6)
        now = moment
    assert plan.done
    np.testing.assert_allclose(plan.advance(5.0), rows[-1], atol=1e-6)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (trajectory(), "without points"),
        (trajectory((1.0, HOME), names=[*JOINT_NAMES[:5], "elbow"]), "elbow"),
        (trajectory((1.0, HOME[:5])), "Point 0"),
        (trajectory((1.0, HOME), (1.0, HOME)), "Point 1 comes at 1 s"),
        (trajectory((1.0, HOME), (2.0, HOME + 9)), "Point 1 sends joint_1"),
        (trajectory((1.0, HOME * np.nan)), "Point 0"),
    ],
)
def test_what_cannot_be_followed_to_its_end_is_refused(message, why):
    with pytest.raises(ActionError, match=why):
        Trajectory(message, HOME)


def test_joints_that_are_not_named_stay():
    plan = Trajectory(trajectory((1.0, [0.5]), names=["joint_1"]), HOME)
    np.testing.assert_allclose(plan.advance(2.0), [0.5, *HOME[1:]])
