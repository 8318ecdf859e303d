"""Images of cameras whose mounts were knocked, under other light and after another homing."""

from __future__ import annotations

import mujoco
import numpy as np
from PIL import Image, ImageFilter

from smolvla_gym.calibration.mount_check import compare
from smolvla_gym.calibration.mount_guard import make_reference
from smolvla_gym.calibration.mount_mask import draw_mark
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Intrinsics
from smolvla_gym.drivers.cameras.whole_image import WholeImage
from smolvla_gym.parol6 import get_gripper
from smolvla_gym.sim.extras import Extras
from smolvla_gym.sim.plate import Plate
from smolvla_gym.sim.rendering import QUALITIES, OffscreenRenderer
from smolvla_gym.sim.scene import CUBE, CUBE_SIZE, MAX_OBJECTS, object_name
from smolvla_gym.sim.textures import TEXTURES
from smolvla_gym.sim.world import World, start_pose

GRIPPER = get_gripper("ssg48")
POSE = start_pose(GRIPPER)
VIEWS = {"wrist": D405_COLOUR, "scene": Intrinsics.from_fovy(42.5, 640, 480)}
"""Views of the twin's cameras."""

NOISE = 3.0  # grey levels
HOMING = np.deg2rad(0.2)
_KEPT = ("cam_pos", "cam_quat", "light_diffuse", "light_pos", "mat_rgba", "geom_rgba", "geom_matid")


def direction(rng, size):
    """Return a vector of a length in a random direction, shape (3,)."""
    vector = rng.normal(size=3)
    return vector * size / np.linalg.norm(vector)


class Mounts:
    """A scene whose cameras and light can be changed.

    Args:
        busy: Whether there are shadows, and other days move the lamps, change the table's texture and lay three cubes
            anywhere.
        plate: A plate with a board on the table, or None.
    """

    def __init__(self, *, busy: bool = False, plate: Plate | None = None) -> None:
        self.world = World(
            GRIPPER, CUBE, goal=False, control_hz=30.0, cameras=(), image_size=(480, 640), depth=False,
            quality=QUALITIES["fast"], extras=Extras(varied=busy, plate=plate),
        )  # fmt: skip
        self._kept = {name: getattr(self.world.model, name).copy() for name in _KEPT}
        self._ambient = self.world.model.vis.headlight.ambient.copy()
        self._busy = busy
        self._renderer = OffscreenRenderer(self.world.model, QUALITIES["balanced" if busy else "fast"], (480, 640))

    def image(self, camera, rng, *, shift=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0), other_day=True) -> WholeImage:
        """Return an image of a camera.

        Args:
            camera: Its name.
            rng: Random generator of light, homing and noise.
            shift: How far the mount has moved in m, in its own frame.
            turn: How far it has turned in deg.
            other_day: Whether light, table and homing are other ones.
        """
        model, world = self.world.model, self.world
        for name, values in self._kept.items():
            getattr(model, name)[:] = values
        model.vis.headlight.ambient[:] = self._ambient
        mount, frame, angle = model.camera(camera), np.empty(9), np.deg2rad(turn)
        before, change = np.array(mount.quat), np.empty(4)
        mujoco.mju_quat2Mat(frame, before)
        mount.pos[:] += frame.reshape(3, 3) @ np.asarray(shift)
        size = float(np.linalg.norm(angle))
        mujoco.mju_axisAngle2Quat(change, angle / max(size, 1e-12), size)
        mujoco.mju_mulQuat(mount.quat, before, change)
        joints = POSE
        if other_day:
            model.light_diffuse[:] *= rng.uniform(0.7, 1.3)
            model.vis.headlight.ambient[:] *= rng.uniform(0.8, 1.2)
            model.material("table").rgba[:3] *= rng.uniform(0.85, 1.15, 3)
            joints = POSE + rng.uniform(-HOMING, HOMING, 6)
        world.reset(joints, 1.0)
        if self._busy and other_day:
            self._lay(rng)
        world.settle()
        view = VIEWS[camera]
        pixels, _ = self._renderer.render(world.data, camera, (view.height, view.width), frustum=_frustum(view))
        blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7)), np.float32)
        noisy = np.clip(np.rint(blurred + rng.normal(0.0, NOISE, blurred.shape)), 0, 255).astype(np.uint8)
        return WholeImage(f"serial of {camera}", view, noisy)

    def _lay(self, rng):
        """Move the lamps, change the texture of the table, and lay three cubes anywhere."""
        model = self.world.model
        model.light_pos[:] += rng.uniform(-0.3, 0.3, model.light_pos.shape)
        model.geom_matid[model.geom("table_top").id] = model.material(f"table_{rng.choice(TEXTURES)}").id
        for i in range(MAX_OBJECTS):
            model.geom(object_name(i)).rgba[:3] = rng.uniform(0.0, 1.0, 3)
            place = np.array([rng.uniform(0.12, 0.32), rng.uniform(-0.15, 0.15), CUBE_SIZE / 2])
            self.world.place_object(i, place, rng.uniform(0.0, 3.0))

    def reference(self, camera, rng):
        """Return the image that is kept of a camera in its place."""
        drawn = draw_mark(camera, VIEWS[camera], GRIPPER, POSE, 1.0)
        return make_reference(camera, self.image(camera, rng, other_day=False), POSE, 1.0, GRIPPER, drawn)

    def check(self, reference, rng, **change):
        """Return the verdict on a camera on another day."""
        return compare(reference, self.image(reference.camera, rng, **change), POSE, 1.0, GRIPPER.name)

    def close(self):
        self._renderer.close()
        self.world.close()


def _frustum(view):
    left, right = -(view.ppx + 0.5) / view.fx, (view.width - 0.5 - view.ppx) / view.fx
    return left, right, -(view.height - 0.5 - view.ppy) / view.fy, (view.ppy + 0.5) / view.fy
