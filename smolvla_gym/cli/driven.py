"""The env and the agent of commands that run until they are told to end: ``ros2`` and ``view``."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from smolvla_gym.cli import agent as agent_options
from smolvla_gym.cli import real

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.evaluation.scripted import Agent


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
    from smolvla_gym.evaluation.scripted import ExpertAgent, RandomAgent

    smolvla, size = None, (256, 256)
    if arguments.policy is not None and arguments.policy not in agent_options.SCRIPTED:
        from smolvla_gym.agent.images import legible_size

        smolvla = agent_options.load(arguments, realtime=arguments.env == "real" and not arguments.lockstep)
        stack.callback(smolvla.close)
        cameras, size = smolvla.cameras, legible_size(smolvla.image_size)
    options = real.env_options(arguments, cameras) if arguments.env == "real" else {}
    made = {"task": arguments.task, "cameras": cameras, "image_size": size, "gripper": arguments.gripper}
    env = gym.make(
        REAL_ID if arguments.env == "real" else SIM_ID,
        **{**made, "control_hz": arguments.control_hz, **options, "max_episode_steps": -1},
    )
    stack.callback(env.close)
    if smolvla is not None:
        smolvla.attach(env)
        return env, smolvla
    if arguments.policy is None:
        return env, None
    return env, ExpertAgent(env) if arguments.policy == "expert" else RandomAgent(env.action_space)
