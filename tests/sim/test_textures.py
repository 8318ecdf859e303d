"""Textures and light of the table."""

import mujoco
import numpy as np
import pytest

from smolvla_gym.parol6 import GRIPPERS
from smolvla_gym.sim.extras import Extras
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.scene import CUBE, ObjectKind
from smolvla_gym.sim.textures import TEXTURE_SIZE, TEXTURES, mean_brightness, texture
from smolvla_gym.sim.world import World, start_pose

SIZE = (96, 96)


@pytest.fixture
def world():
    worlds = []

    def build(kind=CUBE, **extras):
        made = World(
            GRIPPERS["ssg48"], kind, goal=False, control_hz=30.0, cameras=("wrist", "scene"), image_size=SIZE,
            depth=False, quality=QUALITIES["fast"], extras=Extras(**extras),
        )  # fmt: skip
        made.reset(start_pose(made.gripper))
        worlds.append(made)
        return made

    yield build
    for made in worlds:
        made.close()


def shown(world, camera="wrist"):
    world.settle()
    return world.observe().pixels[camera].astype(float)


@pytest.mark.parametrize("name", TEXTURES)
def test_a_texture_repeats_without_a_seam_and_is_bright(name):
    pixels = texture(name).astype(float)
    assert pixels.shape == (TEXTURE_SIZE, TEXTURE_SIZE, 3)
    for axis in (0, 1):
        steps = np.abs(np.diff(pixels, axis=axis)).mean(axis=(1 - axis, 2))
        seam = np.abs(pixels.take(0, axis) - pixels.take(-1, axis)).mean()
        assert seam <= 1.5 * steps.max()
    assert 0.6 < mean_brightness(name) < 0.95
    assert pixels.std() > 5.0


def test_each_texture_shows_on_the_table(world):
    varied = world(varied=True)
    images = [shown(varied)]
    for name in TEXTURES:
        varied.model.geom_matid[varied.model.geom("table_top").id] = varied.model.material(f"table_{name}").id
        images.append(shown(varied))
    images.append(shown(varied, "scene"))
    for i, image in enumerate(images[:-1]):
        assert all(np.abs(image - other).mean() > 1.0 for other in images[:i])
    np.testing.assert_array_equal(images[0], shown(world()))  # compiled along, they change nothing by themselves


def test_the_table_is_lit_as_if_its_light_were_computed_everywhere(world):
    fine = world()
    fine.model.vis.quality.numquads = 30
    for camera in ("wrist", "scene"):
        assert np.abs(shown(world(), camera) - shown(fine, camera)).mean() < 1.0


def test_a_ball_is_round(world):
    ball = world(ObjectKind("ball", mujoco.mjtGeom.mjGEOM_SPHERE, (0.02, 0.0, 0.0)))
    ball.model.geom("object_0").rgba[:] = (0.0, 0.0, 1.0, 1.0)
    ball.place_object(0, np.array([0.25, 0.0, 0.02]), 0.0)
    image = shown(ball)
    mask = image[..., 2] > 1.5 * image[..., 0]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert mask.sum() > 50
    assert mask.sum() / box == pytest.approx(np.pi / 4, abs=0.05)  # an octahedron's outline fills half of it
