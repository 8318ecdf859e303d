"""Sizes of the objects in a compiled model, which level 2 of the domain randomization varies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import mujoco
import numpy as np

from smolvla_gym.parol6 import Array

SIZE_FIELDS: Final = (
    "geom_size", "geom_rbound", "geom_aabb", "bvh_aabb", "body_mass", "body_subtreemass", "body_inertia",
    "body_invweight0", "dof_invweight0", "dof_M0",
)  # fmt: skip
"""Arrays of a model that depend on the size of an object."""


class ObjectSizes:
    """Sizes of the objects of a model, as multiples of those that it was compiled with."""

    def __init__(self, model: mujoco.MjModel, names: tuple[str, ...]) -> None:
        """Copy the compiled values.

        Args:
            model: The model.
            names: Names of the objects, each a body with one geom of the same name.
        """
        self._model, self._compiled = model, {name: getattr(model, name).copy() for name in SIZE_FIELDS}
        self._bodies = [model.body(name).id for name in names]
        self._geoms = [model.geom(name).id for name in names]

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore the sizes at the end of a block."""
        scales = [self.scale(i) for i in range(len(self._geoms))]
        try:
            yield
        finally:
            for i, scale in enumerate(scales):
                self.resize(i, scale)

    def scale(self, index: int) -> float:
        """Return the size of an object, 1 for that of the compiled model."""
        geom = self._geoms[index]
        return float(self._model.geom_size[geom, 0] / self._compiled["geom_size"][geom, 0])

    def resize(self, index: int, scale: float) -> None:
        """Give an object another size; its density stays, and mass and inertia follow.

        Args:
            index: The object.
            scale: Its size; 1 is that of the compiled model.
        """
        model, compiled, body, geom = self._model, self._compiled, self._bodies[index], self._geoms[index]
        first, count = model.body_bvhadr[body], model.body_bvhnum[body]
        for name, rows in (("geom_size", geom), ("geom_rbound", geom), ("geom_aabb", geom),
                           ("bvh_aabb", slice(first, first + count))):  # fmt: skip
            getattr(model, name)[rows] = compiled[name][rows] * scale
        model.body_mass[body] = compiled["body_mass"][body] * scale**3
        model.body_inertia[body] = compiled["body_inertia"][body] * scale**5
        model.body_subtreemass[body] = compiled["body_subtreemass"][body] * scale**3
        model.body_subtreemass[0] = model.body_mass.sum()
        model.body_invweight0[body] = compiled["body_invweight0"][body] / (scale**3, scale**5)
        dofs = slice(model.body_dofadr[body], model.body_dofadr[body] + model.body_dofnum[body])
        growth: Array = np.repeat([scale**3, scale**5], 3)[: model.body_dofnum[body]]  # a mark has no joint
        model.dof_invweight0[dofs] = compiled["dof_invweight0"][dofs] / growth
        model.dof_M0[dofs] = compiled["dof_M0"][dofs] * growth
