"""Gymnasium environments of the PAROL6 arm, simulated and real, and a SmolVLA agent that drives either.

Every public name can be imported from here. All but the two ids are loaded when they are first used, so that
``import smolvla_gym`` loads neither torch and LeRobot nor the packages for devices.
"""

from __future__ import annotations

from smolvla_gym.utils.startup import exit_at_once

exit_at_once()  # before the imports below, which take long enough for a Ctrl-C

# ruff: noqa: E402
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym

from smolvla_gym.envs.time_limit import ADDITIONAL_WRAPPERS, DEFAULT_STEPS
from smolvla_gym.errors import (
    ActionError,
    CalibrationError,
    CheckpointError,
    DatasetError,
    DeviceError,
    FaultError,
    InferenceError,
    InferenceTimeoutError,
    MissingExtraError,
    NotHomedError,
    ObservationError,
    OptionError,
    PolicyConnectionError,
    PolicyMismatchError,
    PolicyServerError,
    RecordingError,
    RenderingError,
    SmolVLAGymError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from smolvla_gym.agent import RemotePolicy, SmolVLAAgent
    from smolvla_gym.agent.agent_options import AgentOptions
    from smolvla_gym.agent.protocol import Agent, Demonstrator, EpisodeOver
    from smolvla_gym.agent.scripted import ExpertAgent, RandomAgent
    from smolvla_gym.data.dagger import DaggerAgent
    from smolvla_gym.data.dataset import Dataset
    from smolvla_gym.data.reader import open_recording
    from smolvla_gym.data.record import Attempt, record
    from smolvla_gym.data.replay import ReplayAgent
    from smolvla_gym.data.spec import DatasetSpec
    from smolvla_gym.envs import DeltaJointAction, FlatObservation, PAROL6Env, ToolAction
    from smolvla_gym.episodes.callback import Callback, Step
    from smolvla_gym.episodes.record import EpisodeRecord
    from smolvla_gym.episodes.rollout import rollout
    from smolvla_gym.episodes.runner import run_episode
    from smolvla_gym.episodes.summary import RolloutSummary
    from smolvla_gym.evaluation.conditions import Condition, EvaluationOptions, Outcome
    from smolvla_gym.evaluation.evaluate import evaluate
    from smolvla_gym.parol6 import ACTION_NAMES, GRIPPERS, JOINT_NAMES, Array, forward_kinematics
    from smolvla_gym.sim.scene import COLORS, CUBE, DISC, PUCK, ObjectKind
    from smolvla_gym.sim.world import World
    from smolvla_gym.tasks import TASKS, Layout, Task, get_task, register_task
    from smolvla_gym.tasks.expert import move, square_yaw
    from smolvla_gym.training.lerobot.finetune import FinetuneOptions, finetune
    from smolvla_gym.training.tiny.imitation import train
    from smolvla_gym.training.tiny.options import TrainOptions

try:
    __version__ = version("smolvla-gym")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "0+unknown"

SIM_ID = "PAROL6Sim-v0"
"""Id of the simulated arm for ``gym.make``."""

REAL_ID = "PAROL6Real-v0"
"""Id of the real arm, and of its virtual twin, for ``gym.make``."""

# Gymnasium's checker breaks in the first step where the first reset raised, as one with a refused start pose does, and
# that of an arm not yet homed.
if SIM_ID not in gym.registry:
    gym.register(
        id=SIM_ID,
        entry_point="smolvla_gym.envs.make_sim:make_sim_env",
        max_episode_steps=DEFAULT_STEPS,
        additional_wrappers=ADDITIONAL_WRAPPERS,
        disable_env_checker=True,
    )
if REAL_ID not in gym.registry:
    gym.register(
        id=REAL_ID,
        entry_point="smolvla_gym.envs.make_real:make_real_env",
        max_episode_steps=DEFAULT_STEPS,
        additional_wrappers=ADDITIONAL_WRAPPERS,
        disable_env_checker=True,
    )

_NAMES: Final = {
    "smolvla_gym.agent": ("RemotePolicy", "SmolVLAAgent"),
    "smolvla_gym.agent.protocol": ("Agent", "Demonstrator", "EpisodeOver"),
    "smolvla_gym.agent.scripted": ("ExpertAgent", "RandomAgent"),
    "smolvla_gym.data.dagger": ("DaggerAgent",),
    "smolvla_gym.data.dataset": ("Dataset",),
    "smolvla_gym.data.reader": ("open_recording",),
    "smolvla_gym.data.record": ("Attempt", "record"),
    "smolvla_gym.data.replay": ("ReplayAgent",),
    "smolvla_gym.data.spec": ("DatasetSpec",),
    "smolvla_gym.envs": ("DeltaJointAction", "FlatObservation", "PAROL6Env", "ToolAction"),
    "smolvla_gym.episodes.callback": ("Callback", "Step"),
    "smolvla_gym.episodes.record": ("EpisodeRecord",),
    "smolvla_gym.episodes.rollout": ("rollout",),
    "smolvla_gym.episodes.runner": ("run_episode",),
    "smolvla_gym.episodes.summary": ("RolloutSummary",),
    "smolvla_gym.evaluation.conditions": ("Condition", "EvaluationOptions", "Outcome"),
    "smolvla_gym.evaluation.evaluate": ("evaluate",),
    "smolvla_gym.parol6": ("ACTION_NAMES", "GRIPPERS", "JOINT_NAMES", "Array", "forward_kinematics"),
    "smolvla_gym.sim.scene": ("COLORS", "CUBE", "DISC", "PUCK", "ObjectKind"),
    "smolvla_gym.sim.world": ("World",),
    "smolvla_gym.tasks": ("TASKS", "Layout", "Task", "get_task", "register_task"),
    "smolvla_gym.tasks.expert": ("move", "square_yaw"),
    "smolvla_gym.training.lerobot.finetune": ("FinetuneOptions", "finetune"),
    "smolvla_gym.training.tiny.imitation": ("train",),
    "smolvla_gym.training.tiny.options": ("TrainOptions",),
}
"""Public names by the module that defines them; the imports for type checkers above name the same."""

_MODULES: Final = {name: module for module, names in _NAMES.items() for name in names}


def connect(
    address: str,
    *,
    token: str | None = None,
    camera_map: Mapping[str, str | None] | None = None,
    **options: Unpack[AgentOptions],
) -> SmolVLAAgent:
    """Return an agent whose policy runs on a policy server, see :meth:`SmolVLAAgent.connect`.

    Args:
        address: ``"host:port"`` or ``"ws://host:port"`` of a server that ``smolvla-gym serve`` started.
        token: Token of the server; ``None``: that of the environment variable ``SMOLVLA_GYM_TOKEN``, if it is set.
        camera_map: Env camera by policy camera, for cameras whose names differ; ``None`` leaves a camera out.
        **options: Keywords of :class:`SmolVLAAgent`, such as ``mode``.
    """
    from smolvla_gym.agent import SmolVLAAgent

    return SmolVLAAgent.connect(address, token=token, camera_map=camera_map, **options)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


__all__ = [
    "ACTION_NAMES", "COLORS", "CUBE", "DISC", "GRIPPERS", "JOINT_NAMES", "PUCK", "REAL_ID", "SIM_ID", "TASKS",
    "ActionError", "Agent", "Array", "Attempt", "CalibrationError", "Callback", "CheckpointError", "Condition",
    "DaggerAgent", "Dataset", "DatasetError", "DatasetSpec", "DeltaJointAction", "Demonstrator", "DeviceError",
    "EpisodeOver", "EpisodeRecord", "EvaluationOptions", "ExpertAgent", "FaultError", "FinetuneOptions",
    "FlatObservation", "InferenceError", "InferenceTimeoutError", "Layout", "MissingExtraError", "NotHomedError",
    "ObjectKind", "ObservationError", "OptionError", "Outcome", "PAROL6Env", "PolicyConnectionError",
    "PolicyMismatchError", "PolicyServerError", "RandomAgent", "RecordingError", "RemotePolicy", "RenderingError",
    "ReplayAgent", "RolloutSummary", "SmolVLAAgent", "SmolVLAGymError", "Step", "Task", "ToolAction", "TrainOptions",
    "UnknownNameError", "World", "__version__", "connect", "evaluate", "finetune", "forward_kinematics", "get_task",
    "move", "open_recording", "record", "register_task", "rollout", "run_episode", "square_yaw", "train",
]  # fmt: skip
