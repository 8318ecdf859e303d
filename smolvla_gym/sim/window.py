"""Window of a running MuJoCo scene."""

from __future__ import annotations

import threading
from typing import Any

import mujoco

from smolvla_gym.sim.rendering import check_display


class Window:
    """MuJoCo's viewer; the first :meth:`sync` opens it."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Keep a scene; nothing is opened.

        Args:
            model: The model.
            data: Its state; call :meth:`sync` after each change.
        """
        self._model, self._data = model, data
        self._viewer: Any = None
        self._threads: list[threading.Thread] = []

    def sync(self) -> None:
        """Update the window; open it the first time.

        Raises:
            RenderingError: There is no display.
        """
        if self._viewer is None:
            check_display()
            from mujoco import viewer

            others = threading.enumerate()
            self._viewer = viewer.launch_passive(self._model, self._data, show_left_ui=False, show_right_ui=False)
            self._threads = [thread for thread in threading.enumerate() if thread not in others]
            camera = self._viewer.cam
            camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0.15, 0.0, 0.1), 0.9, 145.0, -25.0
        self._viewer.sync()

    def close(self) -> None:
        """Close the window; may be called twice."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
            # This only asks the window to close. The process must not end while its thread still renders.
            for thread in self._threads:
                thread.join(timeout=5.0)
