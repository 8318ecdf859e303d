"""The Gymnasium environments, their backends and wrappers."""

from smolvla_gym.envs.backends.base import Backend, Reading
from smolvla_gym.envs.make_sim import make_sim_env
from smolvla_gym.envs.parol6_env import PAROL6Env
from smolvla_gym.envs.wrappers.action import DeltaJointAction, ToolAction
from smolvla_gym.envs.wrappers.flat_observation import FlatObservation
from smolvla_gym.safety import Intervention, SafetyGate

__all__ = [
    "Backend",
    "DeltaJointAction",
    "FlatObservation",
    "Intervention",
    "PAROL6Env",
    "Reading",
    "SafetyGate",
    "ToolAction",
    "make_sim_env",
]
