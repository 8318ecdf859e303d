"""Base class of the tasks with objects of one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Final, override

import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.distractors import Distractor, draw_distractors
from smolvla_gym.sim.own_table.build import parking
from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.sim.own_table.room import has_room
from smolvla_gym.sim.scene import CUBE, GOAL_HEIGHT, GOAL_RADIUS, object_name
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import MOVED, SIZE_SPREAD, WORKSPACES, Layout, Task, template_fields
from smolvla_gym.tasks.own_table.handling import Handling
from smolvla_gym.tasks.own_table.placing import find_places

_FIXED: Final = 12345
"""Seed of the places at level 0 of the domain randomization."""


_NOMINAL_RADIUS: Final = 0.02
"""Radius in m of the package's own objects, for which the clearance of distractors is made."""

_DISTRACTOR_RADIUS: Final = 0.045

_MARKS: Final = 40
_LAYOUTS: Final = 30
"""Layouts that are drawn until one is open for the task; the last one is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class OwnLayout(Layout):
    """Scene of an episode with objects of one's own; ``colors`` has the names of all objects of the table.

    Attributes:
        phrases: What the instruction calls each object.
        present: Indices of the objects that are on the table; the others are parked.
    """

    phrases: tuple[str, ...]
    present: tuple[int, ...]


class OwnTask(Task):
    """Task with objects of a table of one's own. Templates have the fields ``{object}`` and ``{base}``.

    Attributes:
        table: The table.
        handling: Grasps of its objects.
    """

    kind = CUBE
    second: ClassVar[bool] = False
    """Whether the instruction names a second object."""

    def __init__(self, table: OwnTable) -> None:
        """Keep a table.

        Args:
            table: The table.

        Raises:
            OptionError: The table has too few objects for the task.
        """
        self.table: OwnTable = table
        self.handling: Handling = Handling(table)
        if self.second and len(table.objects) < 2:
            raise OptionError("table", table.source, f"a table with two objects for the task {self.name}")

    def suits(self, index: int) -> bool:
        """Return whether the task can be done with an object."""
        return True

    @override
    def layout(self, rng: np.random.Generator, gripper: str, num_objects: int, randomization: int) -> OwnLayout:
        objects = self.table.objects
        suited = [i for i in range(len(objects)) if self.suits(i)]
        target = suited[int(rng.integers(len(suited)))]
        others = [int(i) for i in rng.permutation(len(objects)) if i != target]
        base = -1
        if self.second:
            base = next(i for i in others if self.supports(i, target))
            others = [base, *(i for i in others if i != base)]
        present = tuple(sorted([target, *others[: num_objects - 1]]))
        templates = self.instruction_templates
        template = templates[int(rng.integers(len(templates)))] if randomization else templates[0]
        phrases = tuple(
            thing.phrases[int(rng.integers(len(thing.phrases))) if randomization else 0] for thing in objects
        )
        scales: Array = np.ones(len(objects))
        if randomization >= 2:
            drawn = rng.uniform(1.0 - SIZE_SPREAD, 1.0 + SIZE_SPREAD, len(objects))
            # MuJoCo's meshes have the size that they were compiled with.
            fixed = [thing.shape in ("mesh", "mjcf") for thing in objects]
            scales = np.where(fixed, 1.0, drawn)
        places_rng = rng if randomization else np.random.default_rng(_FIXED)
        radii = [objects[i].radius * scales[i] + (self.margin(i) if i == target else 0.0) for i in present]
        radii += [GOAL_RADIUS] if self.has_goal else []
        area = self.table.area or WORKSPACES[gripper]
        bare = [objects[i].radius * scales[i] for i in present]
        for _ in range(_LAYOUTS):
            places = find_places(places_rng, area, radii, lambda place, radius: has_room(self.table, place, radius))
            if places is None or self._open_mark(places_rng, area, places, np.array(bare), present.index(target)):
                break
        if places is None:
            allowed = "fewer objects, or a table with a larger area: these do not fit beside one another"
            raise OptionError("num_objects", len(present), allowed)
        positions = np.array([parking(i, thing) for i, thing in enumerate(objects)])
        yaws = rng.uniform(-np.pi, np.pi, len(objects)) if randomization else np.zeros(len(objects))
        for i, place in zip(present, places, strict=False):
            positions[i] = [*place, self.table.height + objects[i].half_height * scales[i]]
        goal = np.array([*places[-1], self.table.height + GOAL_HEIGHT / 2]) if self.has_goal else None
        layout = OwnLayout(
            "", template, tuple(thing.name for thing in objects), positions, yaws, target, base, goal, scales,
            phrases=phrases, present=present,
        )  # fmt: skip
        return replace(layout, instruction=template.format(**self._fields(layout)))

    def supports(self, index: int, target: int) -> bool:
        """Return whether an object can be the second one, for another one as the first."""
        return True

    def _open_mark(
        self, rng: np.random.Generator, area: tuple[tuple[float, float], tuple[float, float]], places: Array,
        radii: Array, target: int,
    ) -> bool:  # fmt: skip
        """Move the mark, the last of the places, to where the task can be done; return whether it is there then."""
        if self.is_open(places, radii, target) or not self.has_goal:
            return True
        (x0, x1), (y0, y1) = area
        for place in rng.uniform((x0, y0), (x1, y1), (_MARKS, 2)):
            gaps = np.linalg.norm(places[:-1] - place, axis=1) - radii
            moved = np.vstack([places[:-1], place])
            clear = gaps.min() > GOAL_RADIUS and has_room(self.table, place, GOAL_RADIUS)
            if clear and self.is_open(moved, radii, target):
                places[-1] = place
                return True
        return False

    def is_open(self, places: Array, radii: Array, target: int) -> bool:
        """Return whether the task can be done with objects at certain places.

        Args:
            places: Places of the objects and, last, of the mark in m, shape (n, 2).
            radii: Radii of the objects in m.
            target: Position of the named object in both.
        """
        return True

    def margin(self, index: int) -> float:
        """Return the width in m of the ring around an object that the task needs free, beside the usual gap."""
        return 0.0

    @staticmethod
    def _fields(layout: OwnLayout) -> dict[str, str]:
        fields = {"object": layout.phrases[layout.target]}
        return fields | ({"base": layout.phrases[layout.base]} if layout.base >= 0 else {})

    @override
    def with_instruction(self, layout: Layout, *, target: object = None, instruction_template: object = None) -> Layout:
        """Return a scene with the same objects in the same places and another instruction.

        Args:
            layout: The scene.
            target: Name of the object to name, or a noun with an adjective; None keeps it. If it is the second object,
                the two change places in the instruction.
            instruction_template: A sentence with the fields ``{object}`` and, for a second object, ``{base}``; None
                keeps the template.

        Raises:
            OptionError: There is no object of this name on the table, or a field is missing or unknown.
        """
        assert isinstance(layout, OwnLayout)  # noqa: S101 - narrows a type
        index, base = layout.target, layout.base
        if target is not None:
            index = self._find(layout, target)
            base = layout.target if index == base else base
        changed = replace(layout, target=index, base=base)
        fields = self._fields(changed)
        template = layout.instruction_template if instruction_template is None else instruction_template
        if not isinstance(template, str) or template_fields(template) != set(fields):
            allowed = "a sentence with the fields " + " and ".join(f"{{{name}}}" for name in fields)
            raise OptionError('options["instruction_template"]', template, allowed)
        return replace(changed, instruction=template.format(**fields), instruction_template=template)

    def _find(self, layout: OwnLayout, target: object) -> int:
        for i in layout.present:
            thing = self.table.objects[i]
            if target == thing.name or target in thing.phrases:
                return i
        names = tuple(self.table.objects[i].name for i in layout.present)
        raise OptionError('options["target"]', target, f"one of the objects on the table, {names}")

    def instructed(self, layout: Layout, instruction: str) -> Layout:
        """Return a scene in which the objects that an instruction names are those of the task.

        Args:
            layout: The scene that was drawn.
            instruction: A sentence such as ``"pick up the red mug"``. One without an object leaves the scene as it is.

        Raises:
            OptionError: The sentence names fewer or more objects than the task has, or one that is not on the table.
        """
        assert isinstance(layout, OwnLayout)  # noqa: S101 - narrows a type
        found = self._mentions(instruction)
        if not found:
            return replace(layout, instruction=instruction)
        named = [index for index, _ in found]
        needed = 2 if self.second else 1
        if len(named) != needed or len(set(named)) != needed:
            objects = "two different objects" if needed == 2 else "one object"
            allowed = f"a sentence that names {objects}, such as {layout.instruction!r}"
            raise OptionError('options["instruction"]', instruction, allowed)
        missing = [self.table.objects[i].name for i in named if i not in layout.present]
        if missing:
            allowed = f"objects of this episode, and {missing[0]} is not on the table; num_objects=None has all there"
            raise OptionError('options["instruction"]', instruction, allowed)
        phrases = list(layout.phrases)
        for index, (start, end) in found:
            phrases[index] = instruction[start:end]
        template, last = "", 0
        for field, (_, (start, end)) in zip(("{object}", "{base}"), found, strict=False):
            template += instruction[last:start].replace("{", "{{").replace("}", "}}") + field
            last = end
        template += instruction[last:].replace("{", "{{").replace("}", "}}")
        return replace(
            layout, instruction=instruction, instruction_template=template, target=named[0],
            base=named[1] if self.second else -1, phrases=tuple(phrases),
        )  # fmt: skip

    def _mentions(self, instruction: str) -> list[tuple[int, tuple[int, int]]]:
        """Return the objects that a sentence names, and where, in their order; the longest phrase counts."""
        calls: dict[str, int] = {}
        nouns = [noun.lower() for thing in self.table.objects for noun in {*thing.nouns, thing.name}]
        for i, thing in enumerate(self.table.objects):
            alone = [noun for noun in {*thing.nouns, thing.name} if nouns.count(noun.lower()) == 1]
            calls |= {phrase.lower(): i for phrase in (*thing.phrases, *alone)}
        longest = sorted(calls, key=len, reverse=True)
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest))})\b", re.IGNORECASE)
        return [(calls[match[0].lower()], match.span()) for match in pattern.finditer(instruction)]

    @property
    @override
    def example(self) -> str:
        target = next(i for i in range(len(self.table.objects)) if self.suits(i))
        others = [i for i in range(len(self.table.objects)) if i != target and self.supports(i, target)]
        fields = {"object": self.table.objects[target].phrases[0]}
        if self.second:
            fields["base"] = self.table.objects[others[0]].phrases[0]
        return self.instruction_templates[0].format(**fields)

    @override
    def another(self, layout: Layout) -> str:
        assert isinstance(layout, OwnLayout)  # noqa: S101 - narrows a type
        suited = [i for i in layout.present if self.suits(i)]
        return layout.colors[suited[(suited.index(layout.target) + 1) % len(suited)]]

    @override
    def call(self, layout: Layout, index: int) -> str:
        return self.table.objects[index].name

    def draw_distractors(
        self, rng: np.random.Generator, layout: Layout, way: tuple[Array, Array] | None
    ) -> list[Distractor]:
        """Draw distractors, which no instruction may name, clear of objects and obstacles.

        Args:
            rng: Random generator.
            layout: The scene.
            way: Both ends of the way in m, each of shape (2,), on which an object has to go, or None.
        """
        assert isinstance(layout, OwnLayout)  # noqa: S101 - narrows a type
        scales = layout.scales if layout.scales is not None else np.ones(len(layout.colors))
        places = layout.positions[list(layout.present), :2]
        radii = [max(self.table.objects[i].radius * scales[i] - _NOMINAL_RADIUS, 0.0) for i in layout.present]
        if layout.goal is not None:
            places, radii = np.vstack([places, layout.goal[:2]]), [*radii, 0.0]
        nouns = {word for thing in self.table.objects for noun in thing.nouns for word in noun.lower().split()}

        def allowed(name: str, place: Array) -> bool:
            return name not in nouns and has_room(self.table, place, _DISTRACTOR_RADIUS)

        return draw_distractors(rng, places, way, np.array(radii), self.table.height, allowed)

    @override
    def failure(self, world: World, layout: Layout) -> str:
        assert isinstance(layout, OwnLayout)  # noqa: S101 - narrows a type
        for i in layout.present:
            way = world.object_position(i) - layout.positions[i]
            if i not in (layout.target, layout.base) and np.linalg.norm(way) > MOVED:
                return "moved another object"
        return self.shortfall(world, layout)

    @override
    def arrange(self, world: World, layout: Layout) -> None:
        assert isinstance(layout, OwnLayout)  # noqa: S101 - narrows a type
        scales = layout.scales if layout.scales is not None else np.ones(len(layout.colors))
        for i in range(len(layout.colors)):
            world.sizes.resize(i, float(scales[i]))
            world.place_object(i, layout.positions[i], float(layout.yaws[i]))
            if i not in layout.present:
                world.model.geom(object_name(i)).rgba[3] = 0.0
        if layout.goal is not None:
            world.place_goal(layout.goal)
