"""Log of a training run: losses and success rates by step, as lines of JSON and as a plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import CheckpointError, needs_extra
from smolvla_gym.evaluation.success import wilson_interval
from smolvla_gym.utils import schema
from smolvla_gym.utils.json_file import save_text, whole_file
from smolvla_gym.utils.untrusted import parse_json, read_file

_LOG: Final = "training.jsonl"
_PLOT: Final = "training.png"
_MAX_BYTES: Final = 256 << 20

_COUNT: Final = schema.whole(0, 10**9)
_LOSS: Final = {"step": _COUNT, "loss": schema.number(-1e30, 1e30)}
_SUCCESS: Final = {"step": _COUNT, "task": schema.text(), "successes": _COUNT, "episodes": schema.whole(1, 10**9)}
"""Fields of the two kinds of rows; other lines are ignored."""


class TrainingLog:
    """Log in a folder, to which each row is appended; a resumed run continues it.

    An error while writing does not end the training: it is printed once, and the next row is written again.

    Attributes:
        rows: All rows, in the order of their addition.
    """

    def __init__(self, folder: Path) -> None:
        """Read the rows of an earlier run; incomplete lines are ignored.

        Args:
            folder: Folder of ``training.jsonl`` and ``training.png``.

        Raises:
            CheckpointError: ``training.jsonl`` is not a log, or is too large.
        """
        self._path, self._plot = folder / _LOG, folder / _PLOT
        self.rows: list[dict[str, Any]] = []
        self._reported = False
        if self._path.is_file():
            try:
                lines = read_file(self._path, _MAX_BYTES).decode("utf-8", "replace").splitlines()
            except ValueError as error:
                raise CheckpointError(f"{self._path} is not the log of a training run ({error}). Remove it.") from error
            self.rows = [row for line in lines if (row := _parse(line)) is not None]

    def loss(self, step: int, loss: float) -> None:
        """Add the loss of a step."""
        self._add({"step": step, "loss": round(loss, 6)})

    def success(self, step: int, task: str, successes: int, episodes: int) -> None:
        """Add the number of successful episodes on held-out seeds."""
        self._add({"step": step, "task": task, "successes": successes, "episodes": episodes})

    def _add(self, row: dict[str, Any]) -> None:
        # A resumed run repeats the steps after its last checkpoint.
        self.rows = [old for old in self.rows if old["step"] < row["step"] or _kind(old) != _kind(row)]
        self.rows.append(row)
        try:
            save_text(self._path, "".join(json.dumps(r) + "\n" for r in self.rows), "log")
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not self._reported:
            print(f"smolvla-gym: {error} Training continues.", file=sys.stderr, flush=True)
        self._reported = True

    def plot(self) -> Path:
        """Draw the curves and return the path of the image file.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        with needs_extra("A plot", "smolvla"):
            from matplotlib.figure import Figure
        losses = [(row["step"], row["loss"]) for row in self.rows if "loss" in row]
        tasks = list(dict.fromkeys(row["task"] for row in self.rows if "task" in row))
        figure = Figure(figsize=(8.0, 6.0 if tasks else 3.6), layout="constrained")
        panels = list(figure.subplots(2 if tasks else 1, 1, sharex=True, squeeze=False).flat)
        if losses:
            panels[0].plot(*zip(*losses, strict=True), color="C0")
        panels[0].set_ylabel("flow loss")
        panels[0].set_yscale("log")
        for color, task in enumerate(tasks):
            rows = [row for row in self.rows if row.get("task") == task]
            steps = [row["step"] for row in rows]
            bounds = [wilson_interval(row["successes"], row["episodes"]) for row in rows]
            rates = [100.0 * row["successes"] / row["episodes"] for row in rows]
            panels[1].plot(steps, rates, "o-", color=f"C{color}", label=task)
            low, high = [100.0 * b[0] for b in bounds], [100.0 * b[1] for b in bounds]
            panels[1].fill_between(steps, low, high, color=f"C{color}", alpha=0.15, linewidth=0)
        if tasks:
            panels[1].set_ylabel("success on held-out seeds, %")
            panels[1].set_ylim(0.0, 105.0)
            panels[1].legend(loc="upper left")
        for panel in panels:
            panel.grid(alpha=0.3)
        panels[-1].set_xlabel("step")
        try:
            with whole_file(self._plot, "plot") as part:
                figure.savefig(part, dpi=110, format="png")
        except OSError as error:
            self._report(error)
        return self._plot


def _parse(line: str) -> dict[str, Any] | None:
    """Return a row; None for a line that is not a complete row."""
    try:
        row = parse_json(line)
        fields = _SUCCESS if isinstance(row, dict) and "task" in row else _LOSS
        checked = schema.check_fields(row, fields, tuple(fields))
    except ValueError:
        return None
    return checked if checked.get("successes", 0) <= checked.get("episodes", 0) else None


def _kind(row: dict[str, Any]) -> str:
    return str(row.get("task", ""))
