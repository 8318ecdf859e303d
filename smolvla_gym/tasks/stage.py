"""A task in a simulated world: scene, reward, success and expert, for the simulation and the twin."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array
from smolvla_gym.safety.collision import refuse_contact
from smolvla_gym.sim.distractors import draw_distractors
from smolvla_gym.sim.image_effects import ImageEffects
from smolvla_gym.sim.randomization import ArmVariation, Randomizer
from smolvla_gym.sim.scene import CAMERAS
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout, Task
from smolvla_gym.tasks.instruction import instructed
from smolvla_gym.tasks.own_table import OwnTask
from smolvla_gym.tasks.privileged import privileged_observation

REWARDS: Final = ("dense", "sparse")


class Stage:
    """Task in a world: it lays out the scene of each episode, and returns reward and success of each step.

    Attributes:
        world: The arm and its objects.
        task: The task.
    """

    def __init__(
        self, world: World, task: Task, *, control_hz: float, randomization: int, num_objects: int, reward: str
    ) -> None:
        """Keep a world, which its owner closes.

        Args:
            world: The arm and its objects.
            task: The task.
            control_hz: Control rate in Hz: :meth:`judge` is called in each step.
            randomization: 0 none, 1 object poses, 2 everything: see :mod:`smolvla_gym.sim.randomization`.
            num_objects: Number of objects on the table.
            reward: ``"dense"`` or ``"sparse"``.
        """
        self.world: World = world
        self.task: Task = task
        self._randomization, self._num_objects, self._reward = randomization, num_objects, reward
        self._randomizer = Randomizer(world.model, world.table)
        self._needed = max(1, round(task.hold_time * control_hz))
        self._held = 0
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Scene of the present episode.

        Raises:
            RuntimeError: There was no reset.
        """
        if self._layout is None:
            raise RuntimeError("There is no episode yet: call env.reset() first.")
        return self._layout

    def draw(
        self,
        rng: np.random.Generator,
        *,
        target: str | None = None,
        instruction_template: str | None = None,
        instruction: str | None = None,
        start: tuple[Array, float] | None = None,
    ) -> None:
        """Draw the scene of a new episode; nothing moves yet.

        Args:
            rng: Random generator.
            target: Colour of the object to name, see :meth:`Task.with_instruction`.
            instruction_template: Instruction template, see :meth:`Task.with_instruction`.
            instruction: The whole instruction; the objects that it names are laid out, see
                :func:`smolvla_gym.tasks.instruction.instructed`.
            start: Joint angles in rad, shape (6,), and opening at which the arm must have no contact with an object;
                None checks nothing, since the tasks keep their objects below the default start pose.

        Raises:
            OptionError: An option does not fit the scene that was drawn; the present episode stays.
        """
        layout = self.task.layout(rng, self.world.gripper.name, self._num_objects, self._randomization)
        layout = self.task.with_instruction(layout, target=target, instruction_template=instruction_template)
        if instruction is not None:
            if isinstance(self.task, OwnTask):
                layout = self.task.instructed(layout, instruction)
            else:
                layout = instructed(layout, instruction)
        if start is not None:
            found = self.world.objects_in_contact(*start, lambda: self.task.arrange(self.world, layout))
            refuse_contact(start[0], [f"the arm and the {self.task.call(layout, i)}" for i in found])
        self._layout = layout

    def arrange(self, rng: np.random.Generator) -> ArmVariation:
        """Put the drawn scene into the world, around the arm as it stands.

        Returns:
            Variation of the arm in this episode, which the backend applies.
        """
        world, layout = self.world, self.layout
        variation = self._randomizer.apply(rng, layout.colors, self._randomization)
        self.task.arrange(world, layout)
        world.image_effects = {}
        if self._randomization >= 2:
            world.image_effects = {camera: ImageEffects.draw(rng) for camera in CAMERAS}
            self._place_distractors(rng)
        world.settle()
        self._held = 0
        return variation

    def _place_distractors(self, rng: np.random.Generator) -> None:
        world, layout = self.world, self.layout
        if world.distractors is None:
            return
        places = layout.positions[:, :2]
        end = layout.goal if layout.goal is not None else layout.positions[layout.base] if layout.base >= 0 else None
        if layout.goal is not None:
            places = np.vstack([places, layout.goal[:2]])
        way = None if end is None else (layout.positions[layout.target, :2], end[:2])
        if isinstance(self.task, OwnTask):
            drawn = self.task.draw_distractors(rng, layout, way)
        else:
            drawn = draw_distractors(rng, places, way)
        world.distractors.place(world.data, drawn)
        world.settle()
        world.distractors.park_touching(world.data)

    def judge(self) -> tuple[float, bool]:
        """Evaluate a control step.

        Returns:
            The reward, 0..1, and whether the task succeeded.
        """
        self._held = self._held + 1 if self.task.achieved(self.world, self.layout) else 0
        success = self._held >= self._needed
        progress = self.task.progress(self.world, self.layout) if self._reward == "dense" else 0.0
        return (1.0 if success else progress), success

    def privileged(self) -> dict[str, NDArray[np.float32]]:
        """Return the ground truth of the scene, see :mod:`smolvla_gym.tasks.privileged`."""
        return privileged_observation(self.world, self.layout)

    def failure(self) -> str:
        """Return the failure mode of an episode that ends now, a few words."""
        return self.task.failure(self.world, self.layout)

    def expert(self) -> Array:
        """Return the action of the task's expert: joint targets in rad and opening 0..1, shape (7,)."""
        return self.task.expert(self.world, self.layout)
