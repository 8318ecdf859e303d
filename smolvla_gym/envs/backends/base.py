"""The body behind the environment: what a simulated and a real arm have to be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.board.state import Fault
from smolvla_gym.envs.reset_options import SCENE_OPTIONS, ResetOptions
from smolvla_gym.parol6 import Array
from smolvla_gym.safety import Intervention, Shaping

Image = NDArray[np.uint8]

OPERATOR_STOP: Final = str(Fault.OPERATOR_STOP)
"""The fault of an arm that somebody stopped by ``env.unwrapped.stop()``."""


@dataclass
class Reading:
    """What a body tells after a reset or a step.

    Attributes:
        observation: The observation as the env's space describes it.
        reward: Reward of the step; 0 where nobody can judge it.
        is_success: Whether the task is done; False where nobody can judge it.
        safety: Interventions of the safety functions.
        shaping: Number of joints that each limit slowed down; normal for a far target.
        fault: Name of what holds the arm, or None.
        state_age_s: Age of the joint state in s.
        frame_age_s: Age of the oldest picture in s.
        timing: Where the time of the step went, in s, by phase. It is the body's time: a simulation's is simulated, so
            that the same seed gives the same info.
    """

    observation: dict[str, Any]
    reward: float = 0.0
    is_success: bool = False
    safety: tuple[Intervention, ...] = ()
    shaping: Shaping = field(default_factory=dict)
    fault: str | None = None
    state_age_s: float = 0.0
    frame_age_s: float = 0.0
    timing: dict[str, float] = field(default_factory=dict)


class Backend(ABC):
    """A body. The environment knows spaces and episodes; a backend knows how to move safely and how to look.

    Attributes:
        realtime: Whether its steps take real time.
        reset_options: Names of the options that ``env.reset`` takes here.
    """

    realtime = False
    reset_options: tuple[str, ...] = SCENE_OPTIONS

    @abstractmethod
    def reset(self, rng: np.random.Generator, options: ResetOptions) -> Reading:
        """Bring the arm to its start pose.

        Args:
            rng: Source of all chance of the coming episode.
            options: Checked options of ``env.reset``.

        Raises:
            OptionError: A start pose in which the arm touches the table, itself or an object, or an option that does
                not fit the scene. Nothing moved, and the present episode stays.
        """

    @abstractmethod
    def step(self, action: object, dt: float) -> Reading:
        """Moves for one control step, through a ``SafetyGate``.

        Args:
            action: What the caller gave: joint targets in rad and gripper opening 0..1, shape (7,).
            dt: Duration of the step in s.

        Raises:
            ActionError: It is malformed or not finite. Nothing moved, no time passed.
        """

    @property
    @abstractmethod
    def commanded(self) -> Array:
        """The joint angles in rad that the body was last sent to, shape (6,)."""

    @property
    @abstractmethod
    def instruction(self) -> str:
        """The sentence that says what to do in this episode."""

    @abstractmethod
    def expert(self) -> Array:
        """Returns the action, shape (7,), of the task's scripted expert in the present state."""

    @abstractmethod
    def render(self) -> Image:
        """Draws the scene for people, shape (H, W, 3)."""

    @abstractmethod
    def show(self) -> None:
        """Brings the window of ``render_mode="human"`` up to date, and opens it the first time."""

    @abstractmethod
    def stop(self) -> None:
        """Stops the arm at once and latches the fault ``OPERATOR_STOP``. May be called from any thread."""

    @abstractmethod
    def clear_fault(self) -> None:
        """Acknowledges a fault whose cause is gone."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the body held and gives back what was taken; doing it twice does no harm."""
