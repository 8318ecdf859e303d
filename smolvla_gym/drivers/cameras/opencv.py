"""Loading OpenCV."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from smolvla_gym.errors import MissingExtraError


def load(what: str) -> ModuleType:
    """Return the module ``cv2``.

    Args:
        what: The part that needs it, for the error.

    Raises:
        MissingExtraError: It is not installed.
    """
    # A camera that stops sending would hold its thread for ten seconds; OpenCV reads this when it is loaded.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError(what, "cameras", error) from error
