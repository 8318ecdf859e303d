"""Base class of the tasks: instructions, layout of the scene, success, reward and expert."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from string import Formatter
from typing import ClassVar

import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import COLORS, GOAL_HEIGHT, MAX_OBJECTS, PARKING, ObjectKind
from smolvla_gym.sim.world import World

WORKSPACES = {"ssg48": ((0.12, 0.32), (-0.13, 0.13)), "pneumatic": ((0.27, 0.38), (-0.14, 0.14))}
"""Area of the objects by gripper, x and y in m: the arm reaches all of it with the fingers pointing down."""

_TRIES = 1000

SIZE_SPREAD = 0.15
"""Largest deviation of an object's size at level 2 as a share of the nominal one."""

MOVED = 0.03
"""Distance in m from its first place at which an object counts as moved, rather than in contact in passing."""


@dataclass(frozen=True)
class Layout:
    """Scene of an episode, drawn at reset.

    Attributes:
        instruction: The instruction.
        instruction_template: The instruction with fields in place of the colours.
        colors: Colour names of the objects that are present.
        positions: Centres of the objects in m, shape (n, 3).
        yaws: Turns of the objects about the vertical in rad, shape (n,).
        target: Index of the object that the instruction names.
        base: Index of the second object that it names, or -1.
        goal: Centre of the goal mark in m, shape (3,), or None.
        scales: Sizes of the objects as multiples of the nominal ones, shape (n,); None: all 1.
    """

    instruction: str
    instruction_template: str
    colors: tuple[str, ...]
    positions: Array
    yaws: Array
    target: int
    base: int = -1
    goal: Array | None = None
    scales: Array | None = None


class Task(ABC):
    """Task on the table. It has no state of an episode: the layout and the world have that.

    Class attributes:
        name: The value of the env's ``task=`` option.
        instruction_templates: Sentences with the fields ``{color}`` and, for a second object, ``{base}``.
        unseen_instruction_templates: Others of the same meaning, which no training data may contain: the success rate
            with them shows whether a policy understands instructions that it was not trained on.
        kind: Kind of the objects.
        has_goal: Whether there is a white goal mark.
        has_belt: Whether the objects stand on a moving belt.
        min_distance: Least distance in m between the centres of two objects, or an object and the mark.
        hold_time: Time in s for which the goal has to be met before the task counts as succeeded.
    """

    name: ClassVar[str]
    instruction_templates: ClassVar[tuple[str, ...]]
    unseen_instruction_templates: ClassVar[tuple[str, ...]]
    kind: ClassVar[ObjectKind]
    has_goal: ClassVar[bool] = False
    has_belt: ClassVar[bool] = False
    min_distance: ClassVar[float] = 0.065
    hold_time: ClassVar[float] = 0.5

    def layout(self, rng: np.random.Generator, gripper: str, num_objects: int, randomization: int) -> Layout:
        """Draw a scene and an instruction.

        Args:
            rng: Random generator.
            gripper: Name of the gripper, which determines the reach.
            num_objects: Number of objects.
            randomization: 0 keeps the objects at fixed places; the named one is still drawn. 2 also draws their sizes.
        """
        places = self._places(rng, gripper, num_objects + int(self.has_goal), randomization)
        colors = tuple(str(c) for c in rng.permutation(list(COLORS))[:num_objects])
        target, base = 0, -1
        order = rng.permutation(num_objects)
        target = int(order[0])
        templates = self.instruction_templates
        template = templates[int(rng.integers(len(templates)))] if randomization else templates[0]
        fields = {"color": colors[target]}
        if "{base}" in template:
            base = int(order[1])
            fields["base"] = colors[base]
        yaws = rng.uniform(-np.pi, np.pi, num_objects) if randomization else np.zeros(num_objects)
        positions = np.column_stack([places[:num_objects], np.full(num_objects, self.kind.half_height)])
        goal = np.array([*places[num_objects], GOAL_HEIGHT / 2]) if self.has_goal else None
        scales = rng.uniform(1.0 - SIZE_SPREAD, 1.0 + SIZE_SPREAD, num_objects) if randomization >= 2 else None
        if scales is not None:
            positions[:, 2] *= scales
        return Layout(template.format(**fields), template, colors, positions, yaws, target, base, goal, scales)

    def with_instruction(self, layout: Layout, *, target: object = None, instruction_template: object = None) -> Layout:
        """Return a scene with the same objects in the same places and another instruction.

        Args:
            layout: The scene.
            target: Colour of the object to name; None keeps it. If the second object has this colour, the two change
                places in the instruction.
            instruction_template: A sentence with the fields ``{color}`` and, for a second object, ``{base}``; None
                keeps the template.

        Raises:
            OptionError: There is no object of this colour, or a field is missing or unknown.
        """
        index, base = layout.target, layout.base
        if target is not None:
            if target not in layout.colors:
                raise OptionError('options["target"]', target, f"one of the colours on the table, {layout.colors}")
            index = layout.colors.index(target)
            base = layout.target if index == base else base
        fields = {"color": layout.colors[index]} | ({"base": layout.colors[base]} if base >= 0 else {})
        template = layout.instruction_template if instruction_template is None else instruction_template
        if not isinstance(template, str) or template_fields(template) != set(fields):
            allowed = "a sentence with the fields " + " and ".join(f"{{{name}}}" for name in fields)
            raise OptionError('options["instruction_template"]', template, allowed)
        instruction = template.format(**fields)
        return replace(layout, instruction=instruction, instruction_template=template, target=index, base=base)

    def _places(self, rng: np.random.Generator, gripper: str, count: int, randomization: int) -> Array:
        (x0, x1), (y0, y1) = WORKSPACES[gripper]
        if not randomization:
            y = np.linspace(y0 + 0.04, y1 - 0.04, count)
            return np.column_stack([np.full(count, 0.6 * x0 + 0.4 * x1), y])
        # Three objects and a mark in the air gripper's small area have to lie closer together.
        for share in (1.0, 0.85, 0.7):
            for _ in range(_TRIES):
                places = rng.uniform((x0, y0), (x1, y1), (count, 2))
                gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(count)
                if gaps.min() >= share * self.min_distance and self.allowed(places):
                    return places
        raise AssertionError("the workspace is too small for the objects")  # pragma: no cover

    def allowed(self, places: Array) -> bool:
        """Return whether the task can succeed with objects at these places, shape (n, 2), the goal mark last."""
        return True

    @property
    def example(self) -> str:
        """An instruction of the task."""
        return self.instruction_templates[0].format(color="red", base="blue")

    def another(self, layout: Layout) -> str:
        """Return the colour, or the name, of an object on the table that is not the one to be named."""
        return layout.colors[(layout.target + 1) % len(layout.colors)]

    def call(self, layout: Layout, index: int) -> str:
        """Return what messages call an object."""
        return f"{layout.colors[index]} {self.kind.name}"

    def arrange(self, world: World, layout: Layout) -> None:
        """Place the objects of a layout on the table, in their sizes."""
        for i in range(MAX_OBJECTS):
            drawn = layout.scales is not None and i < len(layout.scales)
            world.sizes.resize(i, float(layout.scales[i]) if drawn and layout.scales is not None else 1.0)
            if i < len(layout.colors):
                world.place_object(i, layout.positions[i], float(layout.yaws[i]))
            else:
                world.place_object(i, PARKING[i], 0.0)
        if layout.goal is not None:
            world.place_goal(layout.goal)

    @abstractmethod
    def achieved(self, world: World, layout: Layout) -> bool:
        """Return whether the goal is met now."""

    @abstractmethod
    def progress(self, world: World, layout: Layout) -> float:
        """Return how near the goal is, 0..1: the dense reward of a step."""

    def failure(self, world: World, layout: Layout) -> str:
        """Return the failure mode of an episode that ends now, a few words."""
        for i, start in enumerate(layout.positions):
            if i not in (layout.target, layout.base) and np.linalg.norm(world.object_position(i) - start) > MOVED:
                return "moved another object"
        return self.shortfall(world, layout)

    @abstractmethod
    def shortfall(self, world: World, layout: Layout) -> str:
        """Return the failure mode of an episode in which no other object moved, a few words."""

    @abstractmethod
    def expert(self, world: World, layout: Layout) -> Array:
        """Return the action of a scripted expert.

        It depends on the present state alone, so it labels any state, also one that only a policy gets into.

        Returns:
            Joint targets in rad and gripper opening 0..1, shape (7,).
        """


def template_fields(template: str) -> set[str]:
    """Return the names of the fields of a template; of a malformed one, and of one with formats, none."""
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        return set()
    # A format such as {color:>1000000000} or {color!r} is not allowed.
    return set() if any(spec or conversion for _, _, spec, conversion in parts) else {str(part[1]) for part in parts}
