"""The cameras against the D405's data."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from smolvla_gym.errors import RenderingError
from smolvla_gym.parol6 import GRIPPERS, STANDBY
from smolvla_gym.sim.rendering import QUALITIES, backend_name
from smolvla_gym.sim.scene import CUBE, PARKING
from smolvla_gym.sim.world import World, start_pose

# The colour camera of a D405 at 640x480: focal lengths and principal point in px, integers at the pixels' centres.
FX, FY, CX, CY = 431.17, 429.98, 317.47, 237.27


@pytest.fixture(autouse=True)
def _real_qualities(monkeypatch, high_quality):
    monkeypatch.setitem(QUALITIES, "high", high_quality)


@pytest.fixture
def look():
    worlds = []

    def build(size, gripper="ssg48", quality="fast", joints=None):
        world = World(
            GRIPPERS[gripper], CUBE, goal=False, control_hz=30, cameras=("wrist",), image_size=size, depth=True,
            quality=QUALITIES[quality],
        )  # fmt: skip
        worlds.append(world)
        world.reset(start_pose(world.gripper) if joints is None else joints)
        for i in range(len(PARKING)):
            world.place_object(i, PARKING[i], 0.0)
        world.settle()
        return world

    yield build
    for world in worlds:
        world.close()


def camera(world):
    """Position and axes (right, down, ahead) of the wrist camera."""
    data = world.data.camera("wrist")
    return data.xpos.copy(), data.xmat.reshape(3, 3) * [1, -1, -1]


def point(world, u, v, distance):
    """The point that the data sheet's camera sees at a pixel of its 640x480, at a distance along the optical axis."""
    position, axes = camera(world)
    return position + axes @ (distance * np.array([(u - CX) / FX, (v - CY) / FY, 1.0]))


def show_speck(world, where):
    """Place a red ball 3 mm across in the air."""
    speck = world.model.geom("object_0")
    speck.type[:], speck.size[:], speck.rgba[:] = mujoco.mjtGeom.mjGEOM_SPHERE, 0.0015, (1, 0, 0, 1)
    world.place_object(0, where, 0.0)
    world.settle()


# From full size to the shape that an env shows: crop to the middle, then scale. Pixels are squares around integers.
CROPS = {
    (480, 640): lambda u, v: (u, v),
    (256, 256): lambda u, v: ((u - 80 + 0.5) * 256 / 480 - 0.5, (v + 0.5) * 256 / 480 - 0.5),
    (240, 424): lambda u, v: ((u + 0.5) * 424 / 640 - 0.5, (v - (480 - 640 * 240 / 424) / 2 + 0.5) * 424 / 640 - 0.5),
    (96, 48): lambda u, v: ((u - 200 + 0.5) * 48 / 240 - 0.5, (v + 0.5) * 96 / 480 - 0.5),
}


@pytest.mark.parametrize("gripper", sorted(GRIPPERS))
@pytest.mark.parametrize("size", CROPS, ids=str)
def test_a_point_is_seen_where_the_data_sheets_intrinsics_put_it(look, size, gripper):
    world = look(size, gripper, "high", STANDBY)
    world.model.light_castshadow[:] = 0
    empty = world.observe().pixels["wrist"].astype(float)
    seen = 0
    for u, v in ((317.47, 237.27), (230, 70), (410, 90), (100, 100), (100, 240), (600, 100), (225, 200)):
        column, row = CROPS[size](u, v)
        if not (4 < column < size[1] - 5 and 4 < row < size[0] - 5):
            continue
        show_speck(world, point(world, u, v, 0.2))
        change = np.abs(world.observe().pixels["wrist"] - empty).sum(axis=2)
        rows, columns = np.nonzero(change > 0.1 * change.max())
        weight = change[rows, columns]
        tolerance = 0.2 if min(size) > 100 else 0.3  # of a pixel; in the small image the speck is smaller than one
        assert np.average(columns, weights=weight) == pytest.approx(column, abs=tolerance)
        assert np.average(rows, weights=weight) == pytest.approx(row, abs=tolerance)
        seen += 1
    assert seen >= 4


def test_depth_is_in_tenths_of_a_millimetre(look):
    world = look((480, 640))
    depth = world.observe().depth["wrist"]
    assert depth.shape == (480, 640, 1)
    assert depth.dtype == np.uint16
    # Where the ray of each pixel meets the table top, z = 0, along the optical axis.
    position, axes = camera(world)
    v, u = np.mgrid[:480, :640]
    rays = np.stack([(u - CX) / FX, (v - CY) / FY, np.ones(u.shape)], axis=-1) @ axes.T
    expected = -position[2] / rays[..., 2]
    on_table = np.zeros((480, 640), bool)
    on_table[40:240, 40:600] = True  # above the fingers
    on_table &= (expected > 0.075) & (expected < 0.45)
    assert on_table.sum() > 50_000
    error = depth[..., 0][on_table] * 1e-4 - expected[on_table]
    assert np.quantile(np.abs(error), 0.99) < 0.00015
    assert np.abs(error).max() < 0.001


def test_depth_is_0_outside_of_7_to_50_cm(look):
    world = look((480, 640), joints=STANDBY)
    assert np.all(world.observe().depth["wrist"][:200] == 0)  # the horizon
    u, v = 300, 120
    for distance, visible in ((0.05, False), (0.066, False), (0.08, True), (0.25, True), (0.48, True), (0.52, False)):
        show_speck(world, point(world, u, v, distance))
        near = world.observe().depth["wrist"][v, u]
        if visible:
            assert np.all(near > 0)
            np.testing.assert_allclose(near * 1e-4, distance, atol=0.0017)  # it is seen on its surface
        else:
            assert np.all(near == 0)


@pytest.mark.parametrize("gripper", sorted(GRIPPERS))
def test_the_wrist_camera_sees_the_fingertips_at_the_start(look, gripper):
    world = look((256, 256), gripper)
    picture = world.observe().pixels["wrist"].astype(int)
    orange = (
        (picture[..., 0] > 110) & (picture[..., 0] - picture[..., 2] > 70) & (picture[..., 1] < 0.75 * picture[..., 0])
    )
    rows, columns = np.nonzero(orange)
    assert (columns < 128).sum() > 20  # one pad on either side
    assert (columns >= 128).sum() > 20
    assert np.median(rows) > 128  # in the lower half: the rest is for the table


@pytest.mark.parametrize(("quality", "other"), [("fast", "balanced"), ("balanced", "high")])
def test_qualities_differ(look, quality, other):
    pictures = []
    for name in (quality, other):
        world = look((128, 128), quality=name)
        world.place_object(0, np.array([0.24, 0.0, 0.014]), 0.4)
        world.settle()
        pictures.append(world.observe().pixels["wrist"])
    assert np.any(pictures[0] != pictures[1])


def run(program, **environment):
    kept = {
        k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    }
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env={**kept, **environment}
    )


def test_opengl_waits_for_the_first_image_and_needs_no_display():
    result = run("""
import sys, gymnasium as gym, smolvla_gym
env = gym.make("PAROL6Sim-v0", render_mode="rgb_array", image_size=(32, 32))
before = sorted(name for name in sys.modules if name.startswith(("OpenGL", "mujoco.egl")))
observation, _ = env.reset(seed=0)
print(before, "mujoco.egl" in sys.modules, observation["pixels"]["wrist"].std() > 5, env.render().shape)
env.close()
""")
    assert result.stdout.strip() == "[] True True (480, 640, 3)", result.stderr
    assert result.returncode == 0


NO_EGL = [
    {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"},
    {"MUJOCO_GL": "glfw"},
]


@pytest.mark.parametrize("environment", NO_EGL, ids=str)
def test_without_opengl_the_error_names_what_to_install(environment):
    result = run(
        """
import gymnasium as gym, smolvla_gym
env = gym.make("PAROL6Sim-v0", image_size=(32, 32))
for _ in range(2):
    try:
        env.reset(seed=0)
        print("drawn")
    except smolvla_gym.errors.RenderingError as error:
        print("apt-get install libegl1" in str(error), "cameras=()" in str(error))
env.close()
blind = gym.make("PAROL6Sim-v0", cameras=())
blind.reset(seed=0)
print("blind", blind.step(blind.action_space.low)[0]["agent_pos"].shape)
""",
        **environment,
    )
    assert result.stdout.splitlines() == ["True True", "True True", "blind (7,)"], result.stderr
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("backend", ["osmesa", "nonsense"])
def test_a_backend_that_mujoco_cannot_load_raises_an_error_with_what_to_install(backend):
    result = run(
        """
import gymnasium as gym, smolvla_gym
from smolvla_gym.errors import RenderingError
try:
    gym.make("PAROL6Sim-v0", image_size=(32, 32)).reset(seed=0)
    print("drawn")
except RenderingError as error:
    print("apt-get install libegl1" in str(error), "MUJOCO_GL" in str(error))
""",
        MUJOCO_GL=backend,
    )
    assert result.stdout.strip() in ("True True", "drawn" if backend == "osmesa" else None), result.stderr
    assert result.returncode == 0, result.stderr


def test_a_window_without_a_display_is_an_error_and_not_the_end():
    result = run("""
import gymnasium as gym, smolvla_gym
env = gym.make("PAROL6Sim-v0", cameras=(), render_mode="human")
try:
    env.reset(seed=0)
except smolvla_gym.errors.RenderingError as error:
    print("rgb_array" in str(error))
env.close()
""")
    assert result.stdout.strip() == "True", result.stderr
    assert result.returncode == 0


def test_envs_without_cameras_never_use_opengl():
    result = run("""
import sys, gymnasium as gym, smolvla_gym
env = gym.make("PAROL6Sim-v0", cameras=())
env.reset(seed=0)
env.step(env.action_space.low)
env.close()
others = ("OpenGL", "mujoco.egl", "torch", "lerobot", "serial", "pyrealsense2")
print(sorted(name for name in sys.modules if name.startswith(others)))
""")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("name", [" egl ", "EGL", " ", "on"])
def test_blanks_and_case_in_the_backends_name_do_not_matter(monkeypatch, name):
    monkeypatch.setenv("MUJOCO_GL", name)
    assert backend_name() == ("egl" if sys.platform == "linux" else backend_name())


def test_rendering_that_is_switched_off_has_an_error_of_its_own(look, monkeypatch):
    world = look((16, 16))
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(RenderingError, match="MUJOCO_GL='off'"):
        world.observe()


@pytest.mark.parametrize(("value", "name"), [("egl ", "egl"), (" OSMesa", "osmesa"), (" ", None), ("", None)])
def test_blanks_around_the_backend_mean_nothing(monkeypatch, value, name):
    from smolvla_gym.sim.rendering import backend_name

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    usual = backend_name()
    monkeypatch.setenv("MUJOCO_GL", value)
    assert backend_name() == (name or usual)
