"""Sizes of the objects in a compiled model."""

import numpy as np
import pytest

from smolvla_gym.parol6 import GRIPPERS
from smolvla_gym.sim.object_size import SIZE_FIELDS, ObjectSizes
from smolvla_gym.sim.scene import CUBE, DISC, PUCK, ObjectKind, build_model

NAMES = ("object_0", "object_1", "object_2")


def compiled(kind):
    return build_model(GRIPPERS["ssg48"], kind, goal=False, timestep=0.004)


@pytest.mark.parametrize("kind", [CUBE, PUCK, DISC], ids=lambda kind: kind.name)
@pytest.mark.parametrize("scale", [0.85, 1.15])
def test_a_resized_object_is_as_one_that_was_compiled_in_this_size(kind, scale):
    model = compiled(kind)
    sizes = ObjectSizes(model, NAMES)
    for i in range(3):
        sizes.resize(i, 0.9)  # it does not add up
        sizes.resize(i, scale)
        assert sizes.scale(i) == pytest.approx(scale)
    expected = compiled(ObjectKind(kind.name, kind.geom, tuple(scale * s for s in kind.size), kind.solid))
    for name in SIZE_FIELDS:
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), rtol=1e-9, atol=1e-12, err_msg=name)
    for i in range(3):
        sizes.resize(i, 1.0)
    for name in SIZE_FIELDS:
        np.testing.assert_allclose(getattr(model, name), getattr(compiled(kind), name), rtol=1e-12, err_msg=name)


def test_no_other_array_of_a_model_depends_on_the_size():
    model = compiled(CUBE)
    large = compiled(ObjectKind("cube", CUBE.geom, tuple(1.15 * s for s in CUBE.size)))
    differ = {
        name
        for name in dir(model)
        if isinstance(value := getattr(model, name), np.ndarray) and not np.array_equal(value, getattr(large, name))
    }
    # Of cameras and lights that track a centre of mass, of which there are none; and the speed at which bodies sleep.
    assert differ - set(SIZE_FIELDS) <= {"cam_poscom0", "light_poscom0", "dof_length"}, differ
