"""Rendering of a world that runs on in other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.sim.rendering import Frustum, Image, OffscreenRenderer, Quality
from smolvla_gym.sim.world import World


class SnapshotRenderer:
    """Renderer of a copy of the world's state, so that time passes while it renders.

    Attributes:
        data: The copy.
    """

    def __init__(
        self,
        world: World,
        lock: threading.RLock,
        camera: str,
        quality: Quality,
        size: tuple[int, int],
        update: Callable[[], object] | None = None,
    ) -> None:
        """Prepare to render.

        Args:
            world: The world.
            lock: Held while its state is copied.
            camera: Name of the camera in it.
            quality: Rendering quality.
            size: Height and width of the images in px.
            update: Advances the world to the present.
        """
        self._world, self._lock, self._camera, self._size = world, lock, camera, size
        self._update = update
        self.data: mujoco.MjData = mujoco.MjData(world.model)
        self._renderer = OffscreenRenderer(world.model, quality, size)

    def render(self, colour: Intrinsics | None, depth: Intrinsics | None) -> tuple[Image, NDArray[np.float32] | None]:
        """Render the present state.

        Args:
            colour: Pinhole model of the image; that of the MuJoCo camera where None.
            depth: Pinhole model of the distances; None for no distances.

        Returns:
            The image, shape (H, W, 3), and the distances in m, shape (H, W), or None.
        """
        self.copy_state()
        pixels, _ = self._renderer.render(self.data, self._camera, self._size, frustum=_frustum(colour))
        if depth is None:
            return pixels, None
        return pixels, self._renderer.render(self.data, self._camera, self._size, depth=True, frustum=_frustum(depth))[
            1
        ]

    def copy_state(self) -> None:
        """Update the copy."""
        with self._lock:
            if self._update is not None:
                self._update()
            mujoco.mj_copyData(self.data, self._world.model, self._world.data)

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def _frustum(view: Intrinsics | None) -> Frustum | None:
    if view is None:
        return None
    left, right = -(view.ppx + 0.5) / view.fx, (view.width - 0.5 - view.ppx) / view.fx
    bottom, top = -(view.height - 0.5 - view.ppy) / view.fy, (view.ppy + 0.5) / view.fy
    return left, right, bottom, top
