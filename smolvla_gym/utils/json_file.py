"""Writing results, whole or not at all."""

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
    """Give a name to write a file under; it gets its own once the block is done and the content is on the disk.

    A reader sees the old file or the whole new one, never a part.

    Args:
        path: Where to; folders are made.
        what: What it is, for the message.

    Yields:
        Another name in the same folder.

    Raises:
        RecordingError: It could not be written; what stood there before still does.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # it may be a link to a file elsewhere
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
    """Writes JSON. A reader sees the old file or the whole new one, never a part.

    Args:
        path: Where to; folders are made.
        values: What can be written as JSON.
        what: What it is, for the message.

    Raises:
        RecordingError: It could not be written; what stood there before still does.
    """
    save_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n", what)


def save_text(path: str | os.PathLike[str], text: str, what: str) -> None:
    """Writes a text as :func:`save_json` does."""
    with whole_file(path, what) as part:
        part.write_text(text, encoding="utf-8")
