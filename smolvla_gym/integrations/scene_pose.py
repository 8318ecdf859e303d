"""Poses of the arm, its cameras and the objects of a scene, for the simulated and the real arm."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.envs.make_real import REFERENCES
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import CAMERAS, CUBE, GRIPPER_PREFIX, build_model
from smolvla_gym.sim.shapes import Shape, body_poses, visible_shapes


class ScenePose:
    """Copy of a scene without physics: the arm has the observed pose, and objects lie where the simulation has them.

    It never changes the state of the simulation. For a real table it contains the arm alone.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Build the scene of an env.

        Args:
            env: A ``PAROL6Env``, wrapped or not.
        """
        bare: Any = env.unwrapped
        self._env, self._gripper = bare, bare.gripper
        twin = getattr(bare.backend, "twin", None)
        self._world = getattr(bare.backend if twin is None else twin, "world", None)
        if self._world is not None:
            self._model = self._world.model
        else:
            self._model = build_model(self._gripper, CUBE, goal=False, timestep=0.002)
        self._data = mujoco.MjData(self._model)
        self._joints = [int(self._model.joint(f"joint_{i + 1}").qposadr[0]) for i in range(6)]
        self._jaws = [
            int(self._model.jnt_qposadr[i])
            for i in range(self._model.njnt)
            if self._model.joint(i).name.startswith(GRIPPER_PREFIX)
        ]
        self._tip = self._model.site(GRIPPER_PREFIX + "tcp").id

    def shows(self, env: gym.Env[Any, Any]) -> bool:
        """Return whether it was built from this env; another env has another scene."""
        return self._env is env.unwrapped

    @property
    def shapes(self) -> list[Shape]:
        """Visible shapes of the scene; for a real table the arm alone."""
        shapes = visible_shapes(self._model)
        if self._world is not None:
            return shapes
        return [shape for shape in shapes if not shape.body.startswith(("object_", "goal"))]

    def poses(self, agent_pos: Array) -> dict[str, tuple[Array, Array]]:
        """Return position in m and rotation matrix of each MuJoCo body for an observed state, shape (7,)."""
        if self._world is not None:
            # The objects as they lie; reading the positions does not change the simulation.
            self._data.qpos[:] = self._world.data.qpos
            self._data.mocap_pos[:] = self._world.data.mocap_pos
            self._data.mocap_quat[:] = self._world.data.mocap_quat
        self._take(agent_pos)
        return body_poses(self._model, self._data)

    def frames(self, agent_pos: Array) -> dict[str, tuple[Array, Array]]:
        """Return the coordinate frames in the world: the links, the tool centre point and the cameras.

        Args:
            agent_pos: Observed state of the arm, shape (7,).

        Returns:
            Position in m and rotation of ``base``, ``link1`` to ``link6``, ``tool`` and, with the axes of
            images (x right, y down, z into the image), ``wrist_camera`` and ``scene_camera``.
        """
        poses = self.poses(agent_pos)
        frames = {name: pose for name, pose in poses.items() if name == "base" or name.startswith("link")}
        frames["tool"] = self._data.site_xpos[self._tip].copy(), self._data.site_xmat[self._tip].reshape(3, 3).copy()
        for name in CAMERAS:
            camera = self._model.camera(name).id
            # MuJoCo's cameras look along -z, with y up.
            axes = self._data.cam_xmat[camera].reshape(3, 3) * np.array([1.0, -1.0, -1.0])
            frames[f"{name}_camera"] = self._data.cam_xpos[camera].copy(), axes
        return frames

    def intrinsics(self, camera: str, size: tuple[int, int]) -> Intrinsics | None:
        """Return the intrinsics of an observed image, None for a camera that has no counterpart in the simulation.

        Args:
            camera: Name of the camera.
            size: Height and width of the image in px.
        """
        return REFERENCES[camera].framed(size) if camera in REFERENCES else None

    def tool_path(self, actions: NDArray[np.floating[Any]]) -> Array:
        """Return the position of the tool centre point at each action, in m, shape (n, 3)."""
        path = np.zeros((len(actions), 3))
        for row, action in zip(path, actions, strict=True):
            self._take(action)
            row[:] = self._data.site_xpos[self._tip]
        return path

    def _take(self, values: NDArray[np.floating[Any]]) -> None:
        self._data.qpos[self._joints] = values[:6]
        self._data.qpos[self._jaws] = float(values[6]) * self._gripper.stroke
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
