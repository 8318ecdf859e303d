"""Matrix of an evaluation: the success rate of each task in good and in bad conditions, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.errors import MissingExtraError
from smolvla_gym.evaluation.conditions import Condition
from smolvla_gym.utils.json_file import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
"""Figures of a condition, see :func:`smolvla_gym.evaluation.summary.summarise`."""

_LINES: Final[Mapping[str, Mapping[str, Any]]] = {
    "no latency": {},
    "100 ms": {"latency_ms": 100.0},
    "466 ms": {"latency_ms": 466.0},
    "1,000 ms": {"latency_ms": 1000.0},
    "level 2": {"randomization": 2},
    "unseen phrasing": {"instruction": "unseen"},
    "other colour": {"instruction": "swapped"},
    "wrist alone": {"cameras": ("wrist",)},
    "scene alone": {"cameras": ("scene",)},
}
"""Lines of the table, each with what differs from the first one. 466 ms is SmolVLA's latency on an RTX 4060 Ti."""


def matrix_conditions(
    tasks: Sequence[str], mode: str, num_steps: int | None, cameras: Sequence[str], absent: int
) -> dict[Condition, str]:
    """Return the conditions of a matrix, each with the name of its line.

    Args:
        tasks: Names of the tasks, which are the columns.
        mode: Mode of the agent.
        num_steps: Flow steps a chunk; None: the checkpoint's own.
        cameras: Env cameras that the policy uses.
        absent: Number of them that may be absent. Lines of one camera are left out for a policy that needs both.
    """
    found = {}
    for name, changes in _LINES.items():
        kept = changes.get("cameras")
        if kept is not None and not (set(kept) < set(cameras) and len(cameras) - len(kept) <= absent):
            continue
        for task in tasks:
            values = {"mode": mode, "latency_ms": 0.0, "num_steps": num_steps, **changes}
            found[Condition(task=task, **values)] = name
    return found


def table(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the matrix as text: its heads, and a row for each line, with the success rate and its 95 % interval.

    Args:
        rows: Figures of the conditions.
        names: Name of the line of each of them.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    cells = {(name, row["task"]): _cell(row) for name, row in zip(names, rows, strict=True)}
    lines = [(name, *(cells.get((name, task), "-") for task in tasks)) for name in dict.fromkeys(names)]
    return [("condition", *tasks), *lines]


def _cell(row: Row) -> str:
    rate, low, high = (100 * row[f"success_{end}"] for end in ("rate", "low", "high"))
    return f"{rate:.4g} ({low:.0f}-{high:.0f})"


def markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return the matrix in Markdown."""
    heads, *cells = table(rows, names)
    lines = [heads, ("---",) * len(heads), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(rows: Sequence[Row], names: Sequence[str], path: Path, title: str) -> None:
    """Plot the success rates with their intervals, a panel a line of the table.

    Args:
        rows: Figures of the conditions.
        names: Name of the line of each of them.
        path: Path of the plot, ending in ``.png`` or another format of matplotlib's.
        title: Title of the plot.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RecordingError: The file could not be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("A plot", "smolvla", error) from error
    lines = list(dict.fromkeys(names))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(10.0, 1.2 + 0.75 * len(lines)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    for number, task in enumerate(tasks):
        mine = {name: row for name, row in zip(names, rows, strict=True) if row["task"] == task}
        _plot_task(axes, [mine.get(name) for name in lines], number, len(tasks), task)
    axes.set_yticks(range(len(lines)), lines)
    axes.invert_yaxis()
    axes.set_xlabel("success rate, % (bars: 95 % interval)")
    axes.set_xlim(right=100.5)
    axes.grid(axis="x", alpha=0.3)
    for border in range(1, len(lines)):
        axes.axhline(border - 0.5, color="0.85", linewidth=0.8)
    axes.legend(loc="lower left")
    with whole_file(path, "plot") as part:
        figure.savefig(part, dpi=110, format=path.suffix[1:])


def _plot_task(axes: Axes, rows: Sequence[Row | None], number: int, tasks: int, label: str) -> None:
    there = [(place, row) for place, row in enumerate(rows) if row is not None]
    y = [place + 0.7 * ((number + 0.5) / tasks - 0.5) for place, _ in there]
    rate, low, high = ([100.0 * row[f"success_{end}"] for _, row in there] for end in ("rate", "low", "high"))
    below = [middle - end for middle, end in zip(rate, low, strict=True)]
    above = [end - middle for middle, end in zip(rate, high, strict=True)]
    axes.errorbar(rate, y, xerr=[below, above], fmt="o", markersize=4, capsize=2, color=f"C{number}", label=label)
