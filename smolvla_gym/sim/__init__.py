"""The simulated arm: scene, motion law, physics and rendering."""

from __future__ import annotations

import os

from smolvla_gym.errors import RenderingError

try:
    import mujoco as mujoco
except Exception as _err:  # MuJoCo loads the backend that MUJOCO_GL names when it is imported
    if "MUJOCO_GL" not in os.environ:
        raise
    raise RenderingError(
        f"MuJoCo cannot work with MUJOCO_GL={os.environ['MUJOCO_GL']} here ({_err}). Unset it, and on Debian and "
        "Ubuntu install EGL: apt-get install libegl1 libgl1-mesa-dri (or, for osmesa: libosmesa6)."
    ) from _err
