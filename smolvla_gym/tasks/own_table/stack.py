"""Task: stack the first named object of one's own on the second."""

from __future__ import annotations

from typing import ClassVar, Final, override

import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout
from smolvla_gym.tasks.own_table.place import OwnPutDown
from smolvla_gym.tasks.stack import Stack

_LEAST: Final = 0.018
"""Smallest edge in m of a flat side on which an object stands."""

_HIGHEST: Final = 0.11
"""Greatest height in m of a stack."""


def _templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(t.replace("{color} cube", "{object}").replace("{base} cube", "{base}") for t in templates)


class OwnStack(OwnPutDown):
    """The first named object has to stand on the second one, released; the second one has a flat top."""

    name: ClassVar[str] = Stack.name
    instruction_templates: ClassVar[tuple[str, ...]] = _templates(Stack.instruction_templates)
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = _templates(Stack.unseen_instruction_templates)
    second = True
    tolerance: ClassVar[float] = Stack.tolerance
    aligned: ClassVar[float] = 0.004

    def __init__(self, table: OwnTable) -> None:
        """Keep a table.

        Args:
            table: The table.

        Raises:
            OptionError: It has no two objects of which one can stand on the other.
        """
        super().__init__(table)
        if not any(self.suits(i) for i in range(len(table.objects))):
            allowed = f"a table with an object that has a flat top of {1e3 * _LEAST:g} mm, and one to stand on it"
            raise OptionError("table", table.source, allowed)

    def _stands(self, top: int, base: int) -> bool:
        above, below = self.table.objects[top], self.table.objects[base]
        high = 2.0 * (above.half_height + below.half_height) <= _HIGHEST
        return top != base and high and above.flat_base >= _LEAST and below.flat_top >= _LEAST and below.flat_base > 0.0

    @override
    def suits(self, index: int) -> bool:
        return any(self._stands(index, base) for base in range(len(self.table.objects)))

    @override
    def supports(self, index: int, target: int) -> bool:
        return self._stands(target, index)

    @override
    def spot(self, world: World, layout: Layout) -> Array:
        below = world.object_position(layout.base)
        height = world.half_height(layout.base) + world.half_height(layout.target)
        return np.array([below[0], below[1], below[2] + height])
