"""The simulated arm on its table: physics and cameras, without a task and without a driver of the motors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import NUM_JOINTS, Array, Gripper, rad_from_steps, steps_from_rad
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.belt import Belt
from smolvla_gym.sim.distractors import Distractors
from smolvla_gym.sim.extras import NO_EXTRAS, Extras
from smolvla_gym.sim.image_effects import ImageEffects
from smolvla_gym.sim.motion import spring_aims
from smolvla_gym.sim.object_size import ObjectSizes
from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.sim.readings import Observed, Snapshot
from smolvla_gym.sim.rendering import Image, OffscreenRenderer, Quality
from smolvla_gym.sim.scene import (
    DEPTH_RANGES,
    GRIPPER_PREFIX,
    MAX_OBJECTS,
    OVERVIEW,
    ObjectKind,
    build_model,
    crop_camera,
    object_name,
    place_camera,
)

MAX_TIMESTEP = 0.004
"""Upper bound of the physics time step in s: a control step has the fewest equal physics steps that keep it."""

LINK_PERIOD = 0.01
"""Approximate period of the setpoints in s: that of the real board, which holds each setpoint until the next."""

DEPTH_UNIT = 1e-4
"""The D405's unit of depth in m."""

_VIDEO_SIZE = (480, 640)

_ROUNDING: Final = 1e-9  # m


_PHYSICS: Final = mujoco.mjtState.mjSTATE_INTEGRATION.value


def start_pose(gripper: Gripper) -> Array:
    """Return the joint angles in rad, shape (6,), at which episodes begin: fingers down, over the workspace."""
    position = (0.20, 0.0, 0.17) if gripper.dh_a == 0.0 else (0.27, 0.0, 0.17)
    pose = solve(position, np.pi / 2, gripper)
    assert pose is not None  # noqa: S101 - the poses above are reachable
    return pose


class World:
    """Simulated arm with its objects.

    Attributes:
        model: The MuJoCo model.
        data: Its state.
        gripper: The gripper that is mounted.
        ticks: Number of setpoints in a control step.
        steps: Number of physics steps in a control step, a multiple of ``ticks``.
        zero_error: True minus reported joint angles in rad, shape (6,): the error of homing, which no arm can measure.
        render_observations: Whether :meth:`observe` renders images; False saves the time of images that are not used.
        image_effects: Effects of lens and sensor on the observed images by camera; a camera without any is ideal.
        sizes: Sizes of the objects.
        belt: The belt on which the objects stand, or None.
        distractors: The distractors of level 2, or None.
        table: A table of one's own with its objects, or None.
        table_height: Height of the table's top above the foot of the arm in m.
        num_objects: Number of objects of the scene, on the table or parked.
    """

    def __init__(
        self,
        gripper: Gripper,
        kind: ObjectKind,
        *,
        goal: bool,
        control_hz: float,
        cameras: tuple[str, ...],
        image_size: tuple[int, int],
        depth: bool,
        quality: Quality,
        extras: Extras = NO_EXTRAS,
    ) -> None:
        """Build the scene.

        Args:
            gripper: The gripper to mount.
            kind: Kind of the objects.
            goal: Whether there is a goal mark.
            control_hz: Control rate in Hz.
            cameras: Names of the observed cameras.
            image_size: Height and width of their images in px.
            depth: Whether they measure depth.
            quality: Rendering quality of the observed images.
            extras: A belt, a table of one's own, and what level 2 of the domain randomization needs.
        """
        self.table: OwnTable | None = extras.table
        self.table_height: float = 0.0 if extras.table is None else extras.table.height
        self.num_objects: int = MAX_OBJECTS if extras.table is None else len(extras.table.objects)
        self.gripper: Gripper = gripper
        self.kind: ObjectKind = kind
        self.ticks: int = max(1, round(1.0 / (control_hz * LINK_PERIOD)))
        self.steps: int = self.ticks * int(np.ceil(1.0 / (control_hz * self.ticks * MAX_TIMESTEP) - 1e-9))
        self.timestep: float = 1.0 / (control_hz * self.steps)
        self.model: Any = build_model(gripper, kind, goal=goal, timestep=self.timestep, extras=extras)
        self.data: Any = mujoco.MjData(self.model)
        self._cameras, self._image_size, self._depth = cameras, image_size, depth
        self.render_observations = True
        self.image_effects: dict[str, ImageEffects] = {}
        of_table = {} if extras.table is None else extras.table.cameras
        for name, pose in (*of_table.items(), *extras.camera_poses.items()):
            place_camera(self.model, name, pose)
        for name in cameras:
            crop_camera(self.model, name, image_size)
        self._renderer = OffscreenRenderer(self.model, quality, image_size)
        self._overview: OffscreenRenderer | None = None
        self.zero_error: Array = np.zeros(NUM_JOINTS)
        self._jaw_target = 0.0
        jaws = [GRIPPER_PREFIX + n for n in ("jaw_left", "jaw_right")]
        self._arm_qpos = np.array([self.model.joint(f"joint_{i + 1}").qposadr[0] for i in range(NUM_JOINTS)])
        self._jaw_qpos = np.array([self.model.joint(n).qposadr[0] for n in jaws])
        self._arm_ctrl = np.array([self.model.actuator(f"joint_{i + 1}").id for i in range(NUM_JOINTS)])
        self._jaw_ctrl = np.array([self.model.actuator(n).id for n in jaws])
        self._tcp = self.model.site(GRIPPER_PREFIX + "tcp").id
        self._pads = tuple(self.model.geom(GRIPPER_PREFIX + n).id for n in ("pad_left", "pad_right"))
        gain, damping = self.model.actuator_gainprm[self._arm_ctrl, 0], -self.model.actuator_biasprm[self._arm_ctrl, 2]
        self._motor_lead: Array = damping / gain
        self._window = self.steps // self.ticks
        self._motors: Array = np.zeros((self._window, NUM_JOINTS))
        self._stall_torques = 0.999 * self.model.actuator_forcerange[self._arm_ctrl, 1]
        names = tuple(object_name(i) for i in range(self.num_objects))
        self.sizes: ObjectSizes = ObjectSizes(self.model, names)
        self.belt: Belt | None = None if extras.belt_speed is None else Belt(self.model, extras.belt_speed)
        self.distractors: Distractors | None = Distractors(self.model) if extras.varied else None
        self._object_bodies = tuple(self.model.body(name).id for name in names)
        roots = self.model.body_rootid[self.model.geom_bodyid]
        self._object_geoms: tuple[NDArray[np.bool_], ...] = tuple(roots == body for body in self._object_bodies)

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def joints(self) -> Array:
        """Joint angles in rad as the board reports them, whole microsteps, shape (6,)."""
        return rad_from_steps(steps_from_rad(self._motors[-1]))

    @property
    def measured_joints(self) -> Array:
        """True joint angles in rad, shape (6,); the arm has no encoders and cannot measure them."""
        return np.array(self.data.qpos[self._arm_qpos])

    @property
    def stalled(self) -> NDArray[np.bool_]:
        """Mask of the motors of the arm that are at their largest torque, shape (6,)."""
        force = np.abs(self.data.actuator_force[self._arm_ctrl])
        return np.asarray(force >= self._stall_torques)

    @property
    def opening(self) -> float:
        """Opening of the gripper, 0 (closed) to 1 (open)."""
        if self.gripper.binary:  # an air gripper has no feedback: the command
            return 1.0 if self._jaw_target > 0.0 else 0.0
        left, right = self.data.qpos[self._jaw_qpos].tolist()
        return min(max(0.5 * float(left + right) / self.gripper.stroke, 0.0), 1.0)

    @property
    def tool_position(self) -> Array:
        """Tool centre point in the world in m, shape (3,)."""
        return np.array(self.data.site_xpos[self._tcp])

    @property
    def tool_rotation(self) -> Array:
        """Orientation of the tool frame in the world, shape (3, 3)."""
        return np.array(self.data.site_xmat[self._tcp]).reshape(3, 3)

    def object_position(self, index: int) -> Array:
        """Centre of an object in the world in m, shape (3,)."""
        return np.array(self.data.xpos[self._object_bodies[index]])

    def object_rotation(self, index: int) -> Array:
        """Orientation of an object in the world, shape (3, 3)."""
        return np.array(self.data.xmat[self._object_bodies[index]]).reshape(3, 3)

    def half_height(self, index: int) -> float:
        """Half of the height of an object in m."""
        nominal = self.kind.half_height if self.table is None else self.table.objects[index].half_height
        return nominal * self.sizes.scale(index)

    def object_body(self, index: int) -> int:
        """MuJoCo's id of the body of an object."""
        return int(self._object_bodies[index])

    def object_speed(self, index: int) -> float:
        """Speed of an object in m/s."""
        return float(np.linalg.norm(self.data.cvel[self._object_bodies[index]][3:]))

    def object_velocity(self, index: int) -> Array:
        """Linear velocity in m/s and angular velocity in rad/s of an object in the world, shape (6,)."""
        angular, linear = np.split(self.data.cvel[self._object_bodies[index]], 2)
        return np.concatenate([linear, angular])

    def contacts(self, index: int) -> frozenset[int]:
        """Return the ids of the geoms in contact with an object."""
        contacts = self.data.contact.geom[: self.data.ncon]
        own = self._object_geoms[index][contacts]
        pairs, own = contacts[own.any(axis=1)], own[own.any(axis=1)]
        return frozenset(pairs[~own].tolist())

    def grasped(self, index: int) -> bool:
        """Return whether both jaws' pads are in contact with an object."""
        return self.contacts(index).issuperset(self._pads)

    def released(self, index: int) -> bool:
        """Return whether no jaw's pad is in contact with an object."""
        return self.contacts(index).isdisjoint(self._pads)

    def objects_in_contact(self, joints: Array, opening: float, arrange: Callable[[], None]) -> list[int]:
        """Return the objects in contact with the arm in another pose; the present state stays.

        Args:
            joints: Joint angles in rad, shape (6,).
            opening: Opening of the gripper, 0..1.
            arrange: Places the objects with :meth:`place_object`.

        Returns:
            Indices of the objects that the arm or its gripper penetrates.
        """
        data, self.data = self.data, mujoco.MjData(self.model)
        try:
            self.data.qpos[self._arm_qpos] = joints
            self.data.qpos[self._jaw_qpos] = self._jaw_command(opening)
            with self.sizes.preserved():
                arrange()
                self.settle()
            contact = self.data.contact
            pairs = [
                set(geoms)
                for geoms, depth in zip(contact.geom.tolist(), contact.dist.tolist(), strict=True)
                if depth < -_ROUNDING
            ]
        finally:
            self.data = data
        bodies = self.model.geom_bodyid
        roots, base = self.model.body_rootid, self.model.body_rootid[self.model.site_bodyid[self._tcp]]
        arm = {geom for geom in range(self.model.ngeom) if roots[bodies[geom]] == base}
        return [
            i for i, own in enumerate(self._object_geoms)
            if any(pair & arm and any(own[geom] for geom in pair) for pair in pairs)
        ]  # fmt: skip

    def snapshot(self) -> Snapshot:
        """Return a copy of the state."""
        physics = np.empty(mujoco.mj_stateSize(self.model, _PHYSICS))
        mujoco.mj_getState(self.model, self.data, physics, _PHYSICS)
        return Snapshot(physics, self._motors.copy(), self.zero_error.copy(), self._jaw_target)

    # -- change ----------------------------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot) -> None:
        """Set the state to that of this world, or of another one of the same scene; end with :meth:`settle`."""
        mujoco.mj_setState(self.model, self.data, snapshot.physics, _PHYSICS)
        self._motors, self.zero_error = snapshot.motors.copy(), snapshot.zero_error.copy()
        self._jaw_target = snapshot.jaw_target

    def reset(self, joints: Array, opening: float = 1.0) -> None:
        """Put the arm at rest at joint angles in rad, shape (6,), with the gripper at an opening 0..1.

        The objects are parked; place them with :meth:`place_object` and end with :meth:`settle`.
        """
        mujoco.mj_resetData(self.model, self.data)
        self.zero_error = np.zeros(NUM_JOINTS)
        self._motors[:] = joints
        self._jaw_target = self._jaw_command(opening)
        self.data.qpos[self._arm_qpos] = joints
        self.data.qpos[self._jaw_qpos] = self._jaw_target
        self.data.ctrl[self._arm_ctrl] = joints
        self.data.ctrl[self._jaw_ctrl] = self._jaw_target

    def misplace_zero(self, error: Array) -> None:
        """Displace the joints by an error in rad, shape (6,), which the board does not report, until the next reset."""
        self.zero_error = np.array(error)
        self.data.qpos[self._arm_qpos] += error
        self.data.ctrl[self._arm_ctrl] += error
        self.settle()

    def shift_motor(self, index: int, angle: float) -> None:
        """Move a motor by an angle in rad at once, as one that loses steps does: it has no speed from that."""
        self._motors[:, index] += angle

    def place_object(self, index: int, position: Array, yaw: float) -> None:
        """Place an object at a position in m, shape (3,), turned about the vertical by a yaw in rad."""
        quaternion = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        if self.kind.solid or self.table is not None:
            address = self.model.joint(object_name(index)).qposadr[0]
            self.data.qpos[address : address + 7] = [*position, *quaternion]
        else:
            self._place_mark(object_name(index), position, quaternion)

    def place_goal(self, position: Array) -> None:
        """Place the goal mark at a position in m, shape (3,)."""
        self._place_mark("goal", position, [1.0, 0.0, 0.0, 0.0])

    def _place_mark(self, body: str, position: Array, quaternion: list[float]) -> None:
        mocap = self.model.body(body).mocapid[0]
        self.data.mocap_pos[mocap], self.data.mocap_quat[mocap] = position, quaternion

    def settle(self) -> None:
        """Recompute everything that depends on the state; no time passes."""
        # While sleeping is enabled MuJoCo does not recompute static geoms, cameras and lights, which may have moved.
        option, sleep = self.model.opt, mujoco.mjtEnableBit.mjENBL_SLEEP.value
        option.enableflags &= ~sleep
        mujoco.mj_forward(self.model, self.data)
        option.enableflags |= sleep

    def drive(self, motors: Array, opening: float) -> None:
        """Advance the physics while the motors turn.

        Args:
            motors: Joint angles in rad to which the motors turn in each physics step, as the board counts them, shape
                (steps, 6); the joints follow as far as their torque allows.
            opening: Target of the gripper, 0..1.
        """
        steps = len(motors)
        path = np.concatenate([self._motors, motors])
        aims = spring_aims(path, self._window, self._motor_lead / self.timestep) + self.zero_error
        self._motors = path[-self._window :].copy()
        travel = self._jaw_command(opening) - self._jaw_target
        reach = self.gripper.jaw_speed * self.timestep * np.arange(1, steps + 1)
        jaws = self._jaw_target + np.minimum(np.maximum(travel, -reach), reach)
        self._jaw_target = float(jaws[-1])
        controls = np.empty((steps, self.model.nu))
        controls[:, self._arm_ctrl], controls[:, self._jaw_ctrl] = aims, jaws[:, None]
        model, data, belt = self.model, self.data, self.belt
        if belt is not None:
            belt.turn(data, [self.object_position(i) for i in range(self.num_objects)])
        for control in controls:
            data.ctrl = control
            if belt is not None:
                belt.move(data)
            # mj_step leaves values that depend on the positions one step behind them; its halves, swapped, do not.
            mujoco.mj_step2(model, data)
            mujoco.mj_step1(model, data)

    def _jaw_command(self, opening: float) -> float:
        if self.gripper.binary:
            opening = float(opening >= 0.5)
        return float(opening) * self.gripper.stroke

    # -- images ----------------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        """Return the readings of the sensors."""
        observed = Observed(np.append(self.joints, self.opening).astype(np.float32))
        moment = round(float(self.data.time) / self.timestep)
        for name in self._cameras if self.render_observations else ():
            pixels, distance = self._renderer.render(self.data, name, self._image_size, depth=self._depth)
            effects = self.image_effects.get(name)
            observed.pixels[name] = pixels if effects is None else effects.apply(pixels, moment)
            if distance is not None:
                near, far = DEPTH_RANGES[name]
                distance = np.where((distance >= near) & (distance <= far), distance, 0.0)
                observed.depth[name] = np.rint(distance / DEPTH_UNIT).astype(np.uint16)[..., None]
        return observed

    def overview(self, quality: Quality) -> Image:
        """Render the scene for people, shape (480, 640, 3)."""
        if self._overview is None:
            self._overview = OffscreenRenderer(self.model, quality, _VIDEO_SIZE)
        return self._overview.render(self.data, OVERVIEW, _VIDEO_SIZE)[0]

    def device_name(self) -> str:
        """Return OpenGL's name of the renderer of the observed images; empty before the first one."""
        return self._renderer.device_name()

    def close(self) -> None:
        """Free the OpenGL contexts; may be called from any thread, and twice."""
        with contextlib.ExitStack() as each:
            each.callback(self._renderer.close)
            if self._overview is not None:
                each.callback(self._overview.close)
