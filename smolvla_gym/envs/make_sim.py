"""Factory of ``PAROL6Sim-v0``, the simulated arm."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smolvla_gym.envs.backends.sim import SimBackend
from smolvla_gym.envs.env_options import BELT_SPEED, EnvOptions
from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.envs.time_limit import MAX_EPISODE_S
from smolvla_gym.safety import SafetyGate
from smolvla_gym.safety.collision import CollisionGuard
from smolvla_gym.sim.own_table import OwnTable
from smolvla_gym.sim.world import World


def make_sim_env(
    *,
    task: str = "lift",
    cameras: Sequence[str] = ("wrist",),
    image_size: Sequence[int] = (256, 256),
    depth: bool = False,
    privileged: bool = False,
    control_hz: float = 30.0,
    max_episode_s: float | None = MAX_EPISODE_S,
    gripper: str = "ssg48",
    randomization: int = 1,
    num_objects: int | None = None,
    table: str | os.PathLike[str] | OwnTable | None = None,
    camera_poses: Mapping[str, Mapping[str, Any]] | None = None,
    edit_scene: Callable[[Any], None] | None = None,
    belt_speed: float = BELT_SPEED,
    reward: str = "dense",
    render_mode: str | None = None,
    render_quality: str = "fast",
) -> PAROL6Env:
    """Make the environment of the simulated arm.

    Args:
        task: ``"reach"``, ``"lift"``, ``"place"``, ``"stack"``, ``"push"`` or ``"belt"``, or the name of a registered
            task.
        cameras: Names of the observed cameras: ``"wrist"``, ``"scene"``, both or none.
        image_size: Height and width of the images in px. The camera's 640x480 is cropped to this shape, centred, and
            scaled.
        depth: Whether observations have ``"depth"``.
        privileged: Whether observations have ``"privileged"``, the ground truth of the scene, see
            :mod:`smolvla_gym.tasks.privileged`.
        control_hz: Control rate in Hz, 5 to 100.
        max_episode_s: Time limit of an episode in s of simulated time, or None; ``gym.make`` truncates after
            ``round(max_episode_s * control_hz)`` steps. Its own ``max_episode_steps`` counts steps and comes first.
        gripper: ``"ssg48"`` or ``"pneumatic"``.
        randomization: Level of domain randomization: 0 none, 1 object poses, 2 also colours, table textures, lights,
            camera pose, lens and sensor, object sizes, distractors, friction, errors of the joints' zero and a small
            delay.
        num_objects: Number of coloured objects on the table, 2 or 3; None: 2. With ``table`` the number of its objects,
            drawn in each episode; None: all.
        table: File of a table of one's own, with its objects, obstacles and cameras, see the how-to page "Your own
            table"; or what :func:`~smolvla_gym.sim.own_table.read_table` returned. It has the tasks of
            :data:`smolvla_gym.tasks.own_table.OWN_TASKS`.
        camera_poses: Poses of cameras by name, such as ``{"scene": {"position": (0.6, 0, 0.4), "target": (0.2, 0,
            0)}}``, with the keys of a table file's ``[cameras.<name>]``; they replace those of the table.
        edit_scene: Function that gets the ``mujoco.MjSpec`` of the scene before it is compiled, and adds to it what a
            table file cannot describe. Worker processes need one of a module. No file can name it.
        belt_speed: Speed of the belt of the task ``"belt"`` in m/s, 0 to 0.1; other tasks have none.
        reward: ``"dense"`` (how near the goal is, 0..1) or ``"sparse"`` (1 on success).
        render_mode: None, ``"rgb_array"`` or ``"human"``.
        render_quality: Quality of the observed images: ``"fast"``, ``"balanced"`` (shadows) or ``"high"``.

    Raises:
        UnknownNameError: No task, camera or gripper has this name.
        OptionError: Another option has a value that is not allowed.
    """
    given = dict(locals())
    options = EnvOptions.check(given)
    world = World(
        options.gripper, options.task.kind, goal=options.task.has_goal, control_hz=options.control_hz,
        cameras=options.cameras, image_size=options.image_size, depth=options.depth, quality=options.quality,
        extras=options.extras,
    )  # fmt: skip
    gate = SafetyGate(options.period, guard=CollisionGuard(options.gripper.name, obstacles=options.obstacles))
    backend = SimBackend(options.stage(world), gate, control_hz=options.control_hz, privileged=options.privileged)
    return PAROL6Env(backend, options, (make_sim_env, given))
