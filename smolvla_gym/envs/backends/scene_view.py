"""What people see of the real body: nobody films it, so its measured pose is drawn."""

from __future__ import annotations

import contextlib
from typing import Protocol

from smolvla_gym.drivers.board.state import BoardState
from smolvla_gym.envs.backends.base import Image
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.window import Window
from smolvla_gym.sim.world import World


class SceneView(Protocol):
    """Draws the scene around an arm in a state."""

    def draw(self, state: BoardState) -> Image:
        """Returns a picture, uint8, shape (480, 640, 3)."""

    def show(self, state: BoardState) -> None:
        """Brings a window up to date."""

    def close(self) -> None:
        """Gives everything back."""


class MirrorView:
    """The arm in its measured pose on an empty table."""

    def __init__(self, world: World) -> None:
        """Takes over a world that shows what the arm does."""
        self._world = world
        self._window = Window(world.model, world.data)

    def _follow(self, state: BoardState) -> None:
        self._world.reset(state.joints, state.opening)
        self._world.settle()

    def draw(self, state: BoardState) -> Image:
        """Returns a picture, uint8, shape (480, 640, 3)."""
        self._follow(state)
        return self._world.overview(QUALITIES["fast"])

    def show(self, state: BoardState) -> None:
        """Brings the window up to date."""
        self._follow(state)
        self._window.sync()

    def close(self) -> None:
        """Closes the window and frees the OpenGL context."""
        with contextlib.ExitStack() as each:
            each.callback(self._world.close)
            each.callback(self._window.close)
