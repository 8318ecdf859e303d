"""The Gymnasium environments, their backends and wrappers.

:mod:`make_sim` and :mod:`make_real` are the factories of the two ids, :mod:`make_twin` is that of the virtual arm.
:mod:`parol6_env` is the environment that they return, ``backends/`` has the simulated, the real and the virtual arm.
The names below are imported when they are used: ``import smolvla_gym`` reads :mod:`time_limit` from here, and must not
import MuJoCo.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from smolvla_gym.envs.backends.base import Backend, Reading
    from smolvla_gym.envs.make_real import make_real_env
    from smolvla_gym.envs.make_sim import make_sim_env
    from smolvla_gym.envs.parol6_env import PAROL6Env
    from smolvla_gym.envs.wrappers.action import DeltaJointAction, ToolAction
    from smolvla_gym.envs.wrappers.flat_observation import FlatObservation
    from smolvla_gym.safety import Intervention, SafetyGate

_MODULES: Final = {
    "Backend": "smolvla_gym.envs.backends.base",
    "DeltaJointAction": "smolvla_gym.envs.wrappers.action",
    "FlatObservation": "smolvla_gym.envs.wrappers.flat_observation",
    "Intervention": "smolvla_gym.safety",
    "PAROL6Env": "smolvla_gym.envs.parol6_env",
    "Reading": "smolvla_gym.envs.backends.base",
    "SafetyGate": "smolvla_gym.safety",
    "ToolAction": "smolvla_gym.envs.wrappers.action",
    "make_real_env": "smolvla_gym.envs.make_real",
    "make_sim_env": "smolvla_gym.envs.make_sim",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


__all__ = [
    "Backend", "DeltaJointAction", "FlatObservation", "Intervention", "PAROL6Env", "Reading", "SafetyGate",
    "ToolAction", "make_real_env", "make_sim_env",
]  # fmt: skip
