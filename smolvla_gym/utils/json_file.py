"""Write result files completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolvla_gym.errors import RecordingError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], what: str) -> Iterator[Path]:
    """Yield a temporary name for a file, and rename the file once its content is on the disk.

    A reader sees the old file or the complete new one, never a part.

    Args:
        path: The file; missing folders are created.
        what: Kind of file, for the error.

    Yields:
        Another name in the same folder.

    Raises:
        RecordingError: The file could not be written; an old file is unchanged.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # may be a link to a file elsewhere
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RecordingError(f"The {what} {path} could not be written: {error.strerror or error}.") from error
        raise


def save_json(path: str | os.PathLike[str], values: Any, what: str) -> None:
    """Write JSON. A reader sees the old file or the complete new one, never a part.

    Args:
        path: The file; missing folders are created.
        values: A value that JSON can represent.
        what: Kind of file, for the error.

    Raises:
        RecordingError: The file could not be written; an old file is unchanged.
    """
    save_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n", what)


def save_text(path: str | os.PathLike[str], text: str, what: str) -> None:
    """Write a text in the same way as :func:`save_json`."""
    with whole_file(path, what) as part:
        part.write_text(text, encoding="utf-8")
