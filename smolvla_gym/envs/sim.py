"""``PAROL6Sim-v0``: what ``gym.make`` calls."""

from __future__ import annotations

from collections.abc import Sequence

from smolvla_gym.envs.options import check_choice, check_control_hz, check_image_size
from smolvla_gym.envs.parol6_env import RENDER_MODES, PAROL6Env
from smolvla_gym.envs.sim_backend import SimBackend
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import get_gripper
from smolvla_gym.safety import SafetyGate
from smolvla_gym.safety.collision import CollisionGuard
from smolvla_gym.sim.randomization import MAX_LEVEL
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.scene import MAX_OBJECTS, check_cameras
from smolvla_gym.sim.world import World
from smolvla_gym.tasks import REWARDS, Stage, get_task


def make_sim_env(
    *,
    task: str = "lift",
    cameras: Sequence[str] = ("wrist",),
    image_size: Sequence[int] = (256, 256),
    depth: bool = False,
    control_hz: float = 30.0,
    gripper: str = "ssg48",
    randomization: int = 1,
    num_objects: int = 2,
    reward: str = "dense",
    render_mode: str | None = None,
    render_quality: str = "fast",
) -> PAROL6Env:
    """Makes the simulated environment.

    Args:
        task: ``"reach"``, ``"lift"``, ``"place"``, ``"stack"`` or ``"push"``.
        cameras: Which cameras are observed: ``"wrist"``, ``"scene"``, both or none.
        image_size: Height and width of the pictures in px. The camera's 640x480 is cropped to this shape, centred,
            and scaled.
        depth: Whether ``observation["depth"]`` is there.
        control_hz: Steps a second, 5 to 100.
        gripper: ``"ssg48"`` or ``"pneumatic"``.
        randomization: 0 none, 1 object poses, 2 also colours, lights, camera pose, friction and a small delay.
        num_objects: How many coloured objects lie there, 2 or 3.
        reward: ``"dense"`` (how near the goal is, 0..1) or ``"sparse"`` (1 on success).
        render_mode: None, ``"rgb_array"`` or ``"human"``.
        render_quality: Quality of the observed pictures: ``"fast"``, ``"balanced"`` (shadows) or ``"high"``.

    Raises:
        UnknownNameError: No task, camera or gripper has this name.
        OptionError: Another option has a value that is not allowed.
    """
    options = dict(locals())
    chosen_task, chosen_gripper, names = get_task(task), get_gripper(gripper), check_cameras(cameras)
    size, hz = check_image_size(image_size), check_control_hz(control_hz)
    if not isinstance(depth, bool):
        raise OptionError("depth", depth, "True or False")
    check_choice("randomization", randomization, range(MAX_LEVEL + 1))
    check_choice("num_objects", num_objects, range(2, MAX_OBJECTS + 1))
    check_choice("reward", reward, REWARDS)
    check_choice("render_mode", render_mode, (None, *RENDER_MODES))
    check_choice("render_quality", render_quality, tuple(QUALITIES))

    world = World(
        chosen_gripper,
        chosen_task.kind,
        goal=chosen_task.has_goal,
        control_hz=hz,
        cameras=names,
        image_size=size,
        depth=depth,
        quality=QUALITIES[render_quality],
    )
    stage = Stage(
        world, chosen_task, control_hz=hz, randomization=randomization, num_objects=num_objects, reward=reward
    )
    gate = SafetyGate(1.0 / hz, guard=CollisionGuard(gripper))
    backend = SimBackend(stage, gate, control_hz=hz)
    return PAROL6Env(
        backend,
        task=task,
        gripper=chosen_gripper,
        cameras=names,
        image_size=size,
        depth=depth,
        control_hz=hz,
        render_mode=render_mode,
        recipe=(make_sim_env, options),
    )
