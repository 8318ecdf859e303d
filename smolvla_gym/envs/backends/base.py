"""Interface between the environment and a simulated or real arm."""

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
from smolvla_gym.tasks import Stage

Image = NDArray[np.uint8]

OPERATOR_STOP: Final = str(Fault.OPERATOR_STOP)
"""Fault of an arm that ``env.unwrapped.stop()`` stopped."""


@dataclass
class Reading:
    """Result of a reset or a step.

    Attributes:
        observation: The observation as the env's space describes it.
        reward: Reward of the step; 0 on a real table, where nothing measures the objects.
        is_success: Whether the task succeeded; False on a real table.
        safety: Interventions of the safety functions.
        shaping: Number of joints that each limit slowed down; normal for a far target.
        fault: Name of the fault that holds the arm, or None.
        state_age_s: Age of the joint state in s.
        frame_age_s: Age of the oldest image in s.
        timing: Duration of each phase of the step in s, in the time of the backend: simulated time in the simulation,
            so that the same seed gives the same info.
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


def draw_scene(stage: Stage, rng: np.random.Generator, options: ResetOptions, stands: bool) -> None:
    """Draw the scene of an episode; nothing moves yet.

    Args:
        stage: The task in its world.
        rng: Random generator of the episode.
        options: Checked options of ``env.reset``.
        stands: Whether the arm stays where it stands: it may begin there, whatever the scene has in its place.

    Raises:
        OptionError: An option does not fit the scene; the present episode stays.
    """
    stage.draw(
        rng,
        target=options.target,
        instruction_template=options.instruction_template,
        instruction=options.instruction,
        start=(options.joints, options.opening) if options.chosen and not stands else None,
    )


class Backend(ABC):
    """Simulated or real arm. The environment has the spaces and episodes; a backend moves the arm and reads sensors.

    Others read these attributes where a backend has them: ``stage`` (failure modes, instructions of an evaluation),
    ``link`` (timing of a board), ``world`` or ``twin`` (poses of the scene).

    Attributes:
        realtime: Whether its steps take real time; False by default.
        reset_options: Names of the options that ``env.reset`` takes here.
    """

    realtime = False
    reset_options: tuple[str, ...] = SCENE_OPTIONS

    @abstractmethod
    def reset(self, rng: np.random.Generator, options: ResetOptions) -> Reading:
        """Bring the arm to its start pose.

        Args:
            rng: Random generator of the episode.
            options: Checked options of ``env.reset``.

        Raises:
            OptionError: The start pose has contacts, or an option does not fit the scene. Nothing moved, and the
                present episode stays.
        """

    @abstractmethod
    def step(self, action: object, dt: float) -> Reading:
        """Move for one control step, through a ``SafetyGate``.

        Args:
            action: Unchecked action: joint targets in rad and gripper opening 0..1, shape (7,).
            dt: Duration of the step in s.

        Raises:
            ActionError: It is malformed or not finite. Nothing moved, no time passed.
        """

    @property
    @abstractmethod
    def commanded(self) -> Array:
        """Last commanded joint angles in rad, shape (6,)."""

    @property
    @abstractmethod
    def instruction(self) -> str:
        """Instruction of the episode."""

    @abstractmethod
    def expert(self) -> Array:
        """Return the action of the task's scripted expert in the present state, shape (7,)."""

    @abstractmethod
    def render(self) -> Image:
        """Render the scene for people, shape (H, W, 3)."""

    @abstractmethod
    def show(self) -> None:
        """Update the window of ``render_mode="human"``; open it the first time."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the arm and latch the fault ``OPERATOR_STOP``; may be called from any thread."""

    @abstractmethod
    def clear_fault(self) -> None:
        """Clear a fault whose cause is gone."""

    @abstractmethod
    def close(self) -> None:
        """Hold the arm and free everything; may be called twice."""
