"""Rendering of a world that runs on in other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.sim.rendering import QUALITIES, Frustum, Image, OffscreenRenderer, Quality
from smolvla_gym.sim.scene import OVERVIEW
from smolvla_gym.sim.world import World

OVERVIEW_SIZE: Final = (480, 640)
"""Height and width in px of the images for people."""


class SnapshotRenderer:
    """Renderer of a copy of the world's state, so that time passes while it renders.

    Attributes:
        model: Model of the world.
        data: The copy.
    """

    def __init__(
        self,
        world: World,
        lock: threading.RLock,
        *,
        camera: str = OVERVIEW,
        quality: Quality | None = None,
        size: tuple[int, int] = OVERVIEW_SIZE,
        colour: Intrinsics | None = None,
        depth: Intrinsics | None = None,
        update: Callable[[], object] = lambda: None,
    ) -> None:
        """Prepare to render, by default the scene for people.

        Args:
            world: The world.
            lock: Held while its state is copied.
            camera: Name of the camera in it.
            quality: Rendering quality; None: ``"high"``.
            size: Height and width of the images in px.
            colour: Pinhole model of the image; that of the MuJoCo camera where None.
            depth: Pinhole model of the distances; None for no distances.
            update: Advances the world to the present.
        """
        self._world, self._lock, self._camera, self._size = world, lock, camera, size
        self._colour, self._depth = _frustum(colour), _frustum(depth)
        self._update = update
        self.model: Any = world.model
        self.data: Any = mujoco.MjData(world.model)
        self._renderer = OffscreenRenderer(world.model, quality or QUALITIES["high"], size)

    def render(self) -> tuple[Image, NDArray[np.float32] | None]:
        """Render the present state.

        Returns:
            The image, shape (H, W, 3), and the distances in m, shape (H, W), or None.
        """
        self.copy_state()
        pixels, _ = self._renderer.render(self.data, self._camera, self._size, frustum=self._colour)
        if self._depth is None:
            return pixels, None
        return pixels, self._renderer.render(self.data, self._camera, self._size, depth=True, frustum=self._depth)[1]

    def copy_state(self) -> None:
        """Update the copy."""
        with self._lock:
            self._update()
            mujoco.mj_copyData(self.data, self._world.model, self._world.data)

    def close(self) -> None:
        """Free the OpenGL context; doing it twice does no harm."""
        self._renderer.close()


def _frustum(view: Intrinsics | None) -> Frustum | None:
    if view is None:
        return None
    left, right = -(view.ppx + 0.5) / view.fx, (view.width - 0.5 - view.ppx) / view.fx
    bottom, top = -(view.height - 0.5 - view.ppy) / view.fy, (view.ppy + 0.5) / view.fy
    return left, right, bottom, top
