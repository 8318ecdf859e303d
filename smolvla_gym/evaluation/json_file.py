"""Writing results, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from smolvla_gym.errors import RecordingError


def save_json(path: str | os.PathLike[str], values: Any, what: str) -> None:
    """Writes JSON. A reader sees the old file or the whole new one, never a part.

    Args:
        path: Where to; folders are made.
        values: What can be written as JSON.
        what: What it is, for the message.

    Raises:
        RecordingError: It could not be written; what stood there before still does.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RecordingError(f"The {what} {path} could not be written: {error.strerror or error}.") from error
