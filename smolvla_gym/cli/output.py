"""Output of the commands: lines for the user, and the folder that results go to."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smolvla_gym.errors import OptionError
from smolvla_gym.utils.file_lock import lock_folder

if TYPE_CHECKING:
    from rich.text import Text


def say(*lines: str) -> None:
    """Print lines for the user to standard error."""
    for line in lines:
        print(f"smolvla-gym: {line}", file=sys.stderr, flush=True)


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str | Text]], left: Collection[str] = (), title: str | None = None
) -> None:
    """Print a table.

    Args:
        heads: Heads of the columns.
        rows: Cells of each row.
        left: Heads of the columns of text, which are aligned to the left and may wrap.
        title: Title of the table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", no_wrap=head not in left)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    Console(highlight=False).print(table)


@contextlib.contextmanager
def output_folder(chosen: Path | None, command: str) -> Iterator[Path]:
    """Make the output folder and lock it; an exception carries a note that says where the files are.

    No empty folder is left.

    Args:
        chosen: The folder; None: one named after the time in ``outputs/<command>``.
        command: The command that writes there.

    Raises:
        OptionError: A file has this name.
        RecordingError: Another program is writing there.
        OSError: The folder cannot be made.
    """
    is_new = chosen is None or not chosen.exists()
    out = chosen or new_folder(command)
    if out.exists() and not out.is_dir():
        raise OptionError("--out", str(out), "the name of a folder; this is a file")
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out):
        before = _contents(out)
        try:
            yield out
        except BaseException as error:
            after = _contents(out)
            if after - before and not getattr(error, "__notes__", ()):  # a command may have said more
                error.add_note(f"what was recorded until then is in {out}")
            elif is_new and not after:
                with contextlib.suppress(OSError):
                    out.rmdir()
            raise


def _contents(folder: Path) -> set[tuple[Path, int]]:
    try:
        return {(path, path.lstat().st_mtime_ns) for path in folder.iterdir()}
    except OSError:  # the folder was removed meanwhile
        return set()


def new_folder(command: str) -> Path:
    """Make a folder named after the time; programs that start together get folders of their own."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        out = Path("outputs", command) / (name if number == 1 else f"{name}_{number}")
        with contextlib.suppress(FileExistsError):
            out.mkdir(parents=True)
            break
    return out
