"""Views of the scene that ``env.render()`` and the window show of a real arm."""

from __future__ import annotations

import contextlib
from typing import Protocol

from smolvla_gym.drivers.board.state import BoardState
from smolvla_gym.envs.backends.base import Image
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.window import Window
from smolvla_gym.sim.world import World


class SceneView(Protocol):
    """View of the scene with the arm in a state."""

    def draw(self, state: BoardState) -> Image:
        """Return an image, uint8, shape (480, 640, 3)."""

    def show(self, state: BoardState) -> None:
        """Update the window."""

    def close(self) -> None:
        """Free everything."""


class MirrorView:
    """View of the arm in its measured pose on an empty table, as no camera records the real one."""

    def __init__(self, world: World) -> None:
        """Keep a world in which the arm is posed; :meth:`close` closes it."""
        self._world = world
        self._window = Window(world.model, world.data)

    def _follow(self, state: BoardState) -> None:
        self._world.reset(state.joints, state.opening)
        self._world.settle()

    def draw(self, state: BoardState) -> Image:
        """Return an image, uint8, shape (480, 640, 3)."""
        self._follow(state)
        return self._world.overview(QUALITIES["fast"])

    def show(self, state: BoardState) -> None:
        """Update the window."""
        self._follow(state)
        self._window.sync()

    def close(self) -> None:
        """Close the window and free the OpenGL context."""
        with contextlib.ExitStack() as each:
            each.callback(self._world.close)
            each.callback(self._window.close)
