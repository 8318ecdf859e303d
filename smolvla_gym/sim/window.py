"""A window that shows a MuJoCo scene while it runs."""

from __future__ import annotations

import threading
from typing import Any

import mujoco

from smolvla_gym.sim.rendering import check_display


class Window:
    """MuJoCo's viewer, opened when it is first shown."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Remembers what to show.

        Args:
            model: The model.
            data: Its state; whoever changes it calls :meth:`sync` then.
        """
        self._model, self._data = model, data
        self._viewer: Any = None
        self._threads: list[threading.Thread] = []

    def sync(self) -> None:
        """Brings the window up to date, and opens it the first time.

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
        """Closes the window; doing it twice does no harm."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
            # It only asks the window to close. The process must not end while that thread still draws.
            for thread in self._threads:
                thread.join(timeout=5.0)
