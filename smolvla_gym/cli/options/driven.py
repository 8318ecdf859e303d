"""What ``ros2`` and ``view`` share: an arm that others drive until the program is told to end."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from smolvla_gym.cli.options import agent as agent_options
from smolvla_gym.cli.options import real
from smolvla_gym.cli.options.arguments import at_least, positive

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.agent.protocol import Agent
    from smolvla_gym.integrations.bridge.bridge import Bridge
    from smolvla_gym.integrations.bridge.transport import Transport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the arm and of what may drive it; ``--policy`` is the command's own."""
    add = parser.add_argument
    add("--env", choices=("sim", "real"), default="sim", help="which arm (default: %(default)s)")
    add("--task", default="lift", help="what lies on the simulated table (default: %(default)s)")
    add("--seed", type=at_least(0), default=2, metavar="S", help="of the first scene (default: %(default)s)")
    add("--gripper", default="ssg48", help="the gripper that is mounted (default: %(default)s)")
    add("--control-hz", type=positive, default=30, metavar="HZ", help="control rate (default: %(default)s)")
    add("--duration", type=positive, metavar="S", help="end after so many seconds (default: never)")
    agent_options.add_arguments(parser)
    real.add_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    """Refuses options that have no meaning, and an arm that is not there, before anything that takes seconds to load.

    Raises:
        OptionError: An option has a value that is not allowed, or does not fit another.
        UnknownNameError: There is no task, gripper or policy of this name.
        DeviceError: The arm or its camera is not connected.
    """
    from smolvla_gym.envs.env_options import check_control_hz
    from smolvla_gym.parol6 import get_gripper
    from smolvla_gym.tasks import get_task

    get_task(arguments.task)
    get_gripper(arguments.gripper)
    check_control_hz(arguments.control_hz)
    if arguments.policy is not None:
        agent_options.check(arguments)
    real.check(arguments)
    if arguments.env == "real":
        real.find_devices(arguments)


def driven_env(
    arguments: argparse.Namespace, stack: contextlib.ExitStack, cameras: tuple[str, ...]
) -> tuple[gym.Env[Any, Any], Agent | None]:
    """Makes an env without an end, and what drives it.

    Args:
        arguments: Of the command.
        stack: Closes both.
        cameras: Those that are observed where no SmolVLA policy brings its own.
    """
    import gymnasium as gym

    from smolvla_gym import REAL_ID, SIM_ID
    from smolvla_gym.agent.scripted import ExpertAgent, RandomAgent

    smolvla, size = None, (256, 256)
    if arguments.policy is not None and arguments.policy not in agent_options.SCRIPTED:
        from smolvla_gym.agent.images import env_image_size

        smolvla = agent_options.load(arguments, realtime=arguments.env == "real" and not arguments.lockstep)
        stack.callback(smolvla.close)
        cameras, size = smolvla.cameras, env_image_size(smolvla.image_size)
    options = real.env_options(arguments, cameras) if arguments.env == "real" else {}
    made = {"task": arguments.task, "cameras": cameras, "image_size": size, "gripper": arguments.gripper}
    env = gym.make(
        REAL_ID if arguments.env == "real" else SIM_ID,
        **{**made, "control_hz": arguments.control_hz, **options, "max_episode_steps": -1},
    )
    stack.callback(env.close)
    if arguments.policy is None:
        return env, None
    return env, smolvla or (ExpertAgent() if arguments.policy == "expert" else RandomAgent())


def make_bridge(
    arguments: argparse.Namespace,
    env: gym.Env[Any, Any],
    transport: Transport,
    agent: Agent | None,
    *,
    raw_images: bool,
) -> Bridge:
    """Returns what lets others drive the arm, once it may move.

    Args:
        arguments: Of the command.
        env: The arm.
        transport: The way to the others.
        agent: What drives between start and stop.
        raw_images: Whether pictures are sent uncompressed, too.

    Raises:
        NotHomedError: The arm has to be homed and nobody asked for that.
    """
    from smolvla_gym.integrations.bridge.bridge import Bridge

    if arguments.env == "real":
        real.announce_homing(env, arguments)
    return Bridge(env, transport, agent=agent, seed=arguments.seed, raw_images=raw_images)
