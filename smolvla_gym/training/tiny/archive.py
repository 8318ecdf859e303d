"""Archives of arrays that may come from elsewhere: NumPy's and torch's files are zip archives."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_archive(path: Path) -> None:
    """Refuse a file that blocks when it is opened, such as a FIFO, or that unpacks to more than its size.

    Args:
        path: The file.

    Raises:
        OSError, zipfile.BadZipFile: The file cannot be read, or is not a zip archive.
        ValueError: The file is one of those above.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its parts overlap")
