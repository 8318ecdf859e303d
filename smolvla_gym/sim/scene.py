"""The MuJoCo model of the scene: arm, gripper, cameras, table and a task's objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from smolvla_gym.assets import asset_path
from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.parol6 import Array, Gripper
from smolvla_gym.sim.extras import NO_EXTRAS, Extras, add_extras
from smolvla_gym.sim.own_table.build import add_own_objects
from smolvla_gym.sim.own_table.description import CameraPose, OwnTable
from smolvla_gym.sim.table import add_table, table_box

CAMERAS = ("wrist", "scene")
"""Cameras of the observation: the D405 on the wrist, and one that views the arm and the table from the front."""

OVERVIEW = "overview"
"""The camera of ``render()``."""

SCENE_FOVY = 38.0
"""Vertical field of view of the scene camera in degrees."""

DEPTH_RANGES = {"wrist": (0.07, 0.50), "scene": (0.10, 6.50)}
"""Range of the cameras' depth in m; outside it they read 0. The wrist's is that of the D405. The scene camera is too
far from the table for a D405: its range is that of 16 bits in units of 0.1 mm."""

CAMERA_RESOLUTION = (640, 480)
"""Width and height in px of the images before cropping."""

COLORS = {
    "red": (0.80, 0.08, 0.07),
    "green": (0.10, 0.55, 0.15),
    "blue": (0.07, 0.22, 0.75),
    "yellow": (0.90, 0.72, 0.05),
}
"""Colours that an instruction can name, as RGB in 0..1."""

GRIPPER_PREFIX = "gripper/"
"""Prefix of the names of a gripper's parts in the model."""

MAX_OBJECTS = 3
CUBE_SIZE = 0.028
PUCK_RADIUS, PUCK_HEIGHT = 0.024, 0.024
DISC_RADIUS, DISC_HEIGHT = 0.025, 0.002
GOAL_RADIUS, GOAL_HEIGHT = 0.045, 0.0015
"""Sizes of the objects in m."""

# Objects that an episode does not use lie on the floor below the table, out of view of all cameras.
PARKING = np.array([[-1.5, 0.3 * i, -0.68] for i in range(MAX_OBJECTS)])

_DENSITY = 700.0  # printed plastic with sparse infill, kg/m^3
_FLOOR_HEIGHT = -0.70


# The shapes of objects, and the number of MuJoCo's size parameters of each.
_SIZES = {
    mujoco.mjtGeom.mjGEOM_BOX: 3,
    mujoco.mjtGeom.mjGEOM_CYLINDER: 2,
    mujoco.mjtGeom.mjGEOM_CAPSULE: 2,
    mujoco.mjtGeom.mjGEOM_SPHERE: 1,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: 3,
}


# MuJoCo draws round ends with as many rings as the walls of its cylinders, of which the arm has many: only a scene with
# objects that need more of them pays for it.
_ROUND = (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_ELLIPSOID)
_ROUND_STACKS = 12


@dataclass(frozen=True)
class ObjectKind:
    """Kind of object.

    Attributes:
        name: The noun an instruction uses.
        geom: MuJoCo geom type.
        size: MuJoCo geom size in m, shape (3,).
        solid: False for a mark on the table, which has no contacts.
    """

    name: str
    geom: mujoco.mjtGeom
    size: tuple[float, float, float]
    solid: bool = True

    def __post_init__(self) -> None:
        """Check shape and size.

        Raises:
            OptionError: The shape or the size is not allowed.
        """
        needed = _SIZES.get(self.geom)
        if needed is None:
            names = ", ".join(geom.name for geom in _SIZES)
            raise OptionError("geom", self.geom, f"one of MuJoCo's {names}")
        size = self.size
        if len(size) != 3 or not all(math.isfinite(s) for s in size) or not all(s > 0.0 for s in size[:needed]):
            raise OptionError("size", size, f"three numbers in m, the first {needed} above 0")

    @property
    def half_height(self) -> float:
        """Half of the height in m."""
        geom, (x, y, z) = self.geom, self.size
        if geom in (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_ELLIPSOID):
            return z
        if geom == mujoco.mjtGeom.mjGEOM_CYLINDER:
            return y
        return x if geom == mujoco.mjtGeom.mjGEOM_SPHERE else x + y  # a capsule's size is its radius and half length


CUBE = ObjectKind("cube", mujoco.mjtGeom.mjGEOM_BOX, (CUBE_SIZE / 2,) * 3)
PUCK = ObjectKind("puck", mujoco.mjtGeom.mjGEOM_CYLINDER, (PUCK_RADIUS, PUCK_HEIGHT / 2, 0.0))
DISC = ObjectKind("disc", mujoco.mjtGeom.mjGEOM_CYLINDER, (DISC_RADIUS, DISC_HEIGHT / 2, 0.0), solid=False)


def object_name(index: int) -> str:
    """Return the MuJoCo body and geom name of an object."""
    return f"object_{index}"


def check_cameras(cameras: object) -> tuple[str, ...]:
    """Return camera names as a tuple, each once; there may be none.

    Raises:
        UnknownNameError: A name is not in ``CAMERAS``.
    """
    names = tuple(cameras) if isinstance(cameras, (list, tuple)) else (cameras,)
    for name in names:
        if not isinstance(name, str) or name not in CAMERAS:
            raise UnknownNameError("camera", name, CAMERAS)
    return tuple(dict.fromkeys(names))


def arm_spec(gripper: Gripper) -> mujoco.MjSpec:
    """Return the arm with a gripper and nothing around it."""
    spec = mujoco.MjSpec.from_file(str(asset_path("mjcf", "parol6.xml")))
    tool = mujoco.MjSpec.from_file(str(asset_path("mjcf", f"{gripper.name}.xml")))
    spec.site("flange").attach_body(tool.body("gripper"), GRIPPER_PREFIX, "")
    # Within the joint limits these cannot collide. During homing J5 goes farther, where the collision boxes, which are
    # wider than the real parts, would.
    for body in ("link6", GRIPPER_PREFIX + "gripper"):
        spec.add_exclude(bodyname1="link4", bodyname2=body)
    spec.modelname = "PAROL6"
    return spec


def build_model(
    gripper: Gripper, kind: ObjectKind, *, goal: bool, timestep: float, extras: Extras = NO_EXTRAS
) -> mujoco.MjModel:
    """Compile the scene.

    Args:
        gripper: The gripper to mount.
        kind: The kind of the ``MAX_OBJECTS`` objects.
        goal: Whether a round white mark lies on the table (body ``goal``).
        timestep: Physics time step in s.
        extras: A belt, a table of one's own, whose objects replace those of ``kind``, and what level 2 of the domain
            randomization needs.

    Returns:
        The compiled model. Bodies: the arm's, ``object_0`` .. ``object_2``, ``goal``, and those of the extras.
    """
    spec = arm_spec(gripper)
    spec.camera(GRIPPER_PREFIX + "wrist").name = "wrist"
    spec.option.timestep = timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    # Objects at rest sleep, which makes a step several times cheaper; a contact wakes them.
    spec.option.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP.value

    table = extras.table
    _add_surroundings(spec, table)
    if table is None:
        for i in range(MAX_OBJECTS):
            _add_object(spec, i, kind)
    else:
        add_own_objects(spec, table)
    if goal:
        height = GOAL_HEIGHT / 2 + (0.0 if table is None else table.height)
        body = spec.worldbody.add_body(name="goal", pos=[0.25, 0, height], mocap=True)
        body.add_geom(
            name="goal", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[GOAL_RADIUS, GOAL_HEIGHT / 2, 0],
            rgba=[0.93, 0.93, 0.93, 1], contype=0, conaffinity=0, group=2,
        )  # fmt: skip
    add_extras(spec, extras, gripper.name)
    round_shapes = (
        kind.geom in _ROUND if table is None else any(o.shape in ("sphere", "capsule") for o in table.objects)
    )
    if round_shapes:
        spec.visual.quality.numstacks = _ROUND_STACKS
    if extras.edit is not None:
        extras.edit(spec)
    model = spec.compile()
    # The D405 measures from 7 cm on; the near plane has to lie before the lens, not behind the fingertips.
    model.stat.extent = 1.0
    model.vis.map.znear, model.vis.map.zfar = 0.01, 10.0
    return model


def _add_surroundings(spec: mujoco.MjSpec, table: OwnTable | None) -> None:
    world = spec.worldbody
    spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.82, 0.86, 0.90], rgb2=[0.50, 0.56, 0.62], width=128, height=768,
    )  # fmt: skip
    spec.add_material(name="floor", rgba=[0.55, 0.57, 0.60, 1], specular=0.0)
    world.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0, 0, _FLOOR_HEIGHT], size=[4, 4, 0.1], material="floor"
    )
    add_table(spec, table)
    (middle, side, _), (half_x, half_y, _) = table_box(table)
    xs, ys = ((-0.2, 0.52), (-0.4, 0.4)) if table is None else _legs(middle, half_x, side, half_y)
    for x in xs:
        for y in ys:
            world.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX, pos=[x, y, -0.37], size=[0.02, 0.02, 0.33],
                rgba=[0.25, 0.25, 0.27, 1], contype=0, conaffinity=0, group=2,
            )  # fmt: skip
    if table is not None:
        _add_obstacles(spec, table)
    # One light casts shadows in the videos; the second only fills in.
    world.add_light(
        name="key", pos=[0.35, -0.5, 1.3], dir=[-0.15, 0.35, -1.0], castshadow=True,
        diffuse=[0.55, 0.54, 0.52], ambient=[0.0, 0.0, 0.0], specular=[0.3, 0.3, 0.3], cutoff=60, exponent=1,
    )  # fmt: skip
    world.add_light(
        name="fill", pos=[0.9, 0.7, 1.0], dir=[-0.6, -0.5, -0.7], castshadow=False,
        diffuse=[0.28, 0.28, 0.30], ambient=[0.0, 0.0, 0.0], specular=[0.05, 0.05, 0.05],
    )  # fmt: skip
    spec.visual.headlight.ambient = [0.34, 0.34, 0.35]
    spec.visual.headlight.diffuse = [0.18, 0.18, 0.18]
    spec.visual.headlight.specular = [0.1, 0.1, 0.1]
    # The scene camera belongs to the observation and may be cropped and moved; the overview is for people.
    for name, position, target, fovy in (
        ("scene", (0.60, -0.32, 0.44), (0.21, 0.0, 0.04), SCENE_FOVY),
        (OVERVIEW, (0.70, -0.46, 0.38), (0.13, 0.0, 0.13), 40.0),
    ):
        world.add_camera(name=name, pos=position, quat=_look_at(position, target), fovy=fovy)


def _legs(x: float, half_x: float, y: float, half_y: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return x and y in m of the table's legs, 5 cm inside its corners."""
    return (x - half_x + 0.05, x + half_x - 0.05), (y - half_y + 0.05, y + half_y - 0.05)


def _add_obstacles(spec: mujoco.MjSpec, table: OwnTable) -> None:
    for number, obstacle in enumerate(table.obstacles):
        low, high = np.array(obstacle.corners)
        spec.worldbody.add_geom(
            name=f"obstacle_{number}", type=mujoco.mjtGeom.mjGEOM_BOX, pos=0.5 * (low + high), size=0.5 * (high - low),
            rgba=[*obstacle.color, 1], friction=[0.6, 0.005, 0.0001], group=2,
        )  # fmt: skip


def place_camera(model: mujoco.MjModel, name: str, pose: CameraPose) -> None:
    """Give a camera of a compiled model another pose and field of view."""
    camera = model.camera(name).id
    position, rotation = pose.position, pose.rotation
    if pose.parent == "tool" and position is not None and rotation is not None:
        position, rotation = _on_mount(model, camera, position, rotation)
    if position is not None:
        model.cam_pos[camera] = position
    if rotation is not None:
        model.cam_quat[camera] = rotation
    if pose.fovy is not None:
        model.cam_fovy[camera] = pose.fovy


def _on_mount(model: mujoco.MjModel, camera: int, position: Sequence[float], rotation: Sequence[float]) -> Any:
    """Return a pose in the frame of the tool centre point as one in that of the body on which a camera is mounted."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    tool, body = model.site(GRIPPER_PREFIX + "tcp").id, model.cam_bodyid[camera]
    axes = data.xmat[body].reshape(3, 3).T
    turn = axes @ data.site_xmat[tool].reshape(3, 3)
    own, quaternion = np.empty(9), np.empty(4)
    mujoco.mju_quat2Mat(own, np.array(rotation, np.float64))
    mujoco.mju_mat2Quat(quaternion, (turn @ own.reshape(3, 3)).ravel())
    return turn @ position + axes @ (data.site_xpos[tool] - data.xpos[body]), quaternion


def _look_at(position: Sequence[float], target: Sequence[float]) -> Array:
    """Return the orientation, a quaternion of shape (4,), of a camera at a position with its axis through a target."""
    backward = np.subtract(position, target)
    right = np.cross([0.0, 0.0, 1.0], backward)
    axes = np.column_stack([right, np.cross(backward, right), backward])
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, (axes / np.linalg.norm(axes, axis=0)).flatten())
    return quaternion


def _add_object(spec: mujoco.MjSpec, index: int, kind: ObjectKind) -> None:
    name = object_name(index)
    body = spec.worldbody.add_body(name=name, pos=PARKING[index], mocap=not kind.solid)
    geom = body.add_geom(name=name, type=kind.geom, size=kind.size, rgba=[0.5, 0.5, 0.5, 1], group=2)
    if kind.solid:
        body.add_freejoint(name=name)
        geom.density, geom.condim, geom.friction = _DENSITY, 4, [0.8, 0.01, 0.0005]
    else:
        geom.contype = geom.conaffinity = 0


def crop_camera(model: mujoco.MjModel, name: str, size: tuple[int, int]) -> None:
    """Narrow a camera to the largest centred part of its image that has the aspect ratio of ``size``."""
    camera = model.camera(name).id
    width, height = CAMERA_RESOLUTION
    aspect = size[1] / size[0]
    share = np.array([min(1.0, aspect * height / width), min(1.0, width / (aspect * height))])
    if np.all(model.cam_sensorsize[camera] > 0):
        # MuJoCo keeps focal lengths and the principal point in m on the sensor: a smaller sensor is a crop.
        model.cam_sensorsize[camera] *= share
    else:
        half = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2) * share[1]
        model.cam_fovy[camera] = np.rad2deg(2 * np.arctan(half))
