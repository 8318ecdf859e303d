"""A comparison of conditions, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import MissingExtraError

Row = dict[str, Any]
"""What :func:`smolvla_gym.evaluation.evaluate.summarise` returns."""

COLUMNS: Final = (
    "mode",
    "ms",
    "success",
    "95 %",
    "time, s",
    "waited",
    "stalled",
    "border",
    "inner",
)
"""Short enough for a terminal; ``LEGEND`` says what they mean."""

LEGEND: Final = (
    "ms: latency of a chunk. 95 %: interval of the success rate. time: median of the episodes that succeeded. "
    "waited, stalled: steps an episode in which the arm held, before the first chunk and later. border, inner: change "
    "of a joint from one command to the next in rad, where a new chunk begins and elsewhere: 99th percentile/largest."
)


def cells(row: Row) -> tuple[str, ...]:
    """Returns a row's text, one for each of ``COLUMNS``."""
    return (
        row["mode"],
        f"{row['latency_ms']:g}",
        f"{row['successes']}/{row['episodes']}",
        f"{100 * row['success_low']:.0f}-{100 * row['success_high']:.0f}",
        _number(row["time_to_success_s"], ".1f"),
        f"{row['waited_steps']:.1f}",
        f"{row['stalled_steps']:.1f}",
        *(
            "/".join(_number(row[f"{place}_jump_{figure}_rad"], ".3f") for figure in ("p99", "max"))
            for place in ("border", "inner")
        ),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table in Markdown, and what its columns mean."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{LEGEND}\n"


def paired(pair: Row, first: str, second: str) -> str:
    """Returns a comparison of two policies in words.

    Args:
        pair: What :func:`smolvla_gym.evaluation.evaluate.compare` returns.
        first: Name of the first one.
        second: Name of the second one.
    """
    return (
        f"{pair['mode']}, {pair['latency_ms']:g} ms, the same seeds: both {pair['both']}, only {first} "
        f"{pair['first_only']}, only {second} {pair['second_only']}, neither {pair['neither']}; p = "
        f"{pair['p_value']:.3f} (McNemar)"
    )


_PANELS: Final = (
    ("success_rate", "success rate", 100.0, "%"),
    ("time_to_success_s", "median time to success", 1.0, "s"),
    ("stalled_steps", "stalled steps an episode", 1.0, ""),
    ("border_jump_p99_rad", "99th percentile of the jumps\nbetween chunks (dashed: inside)", 1.0, "rad"),
)


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draws the figures over the latency, a line a mode.

    Args:
        rows: The conditions.
        path: Where to, ending in ``.png`` or another format of matplotlib's.
        title: Stands above.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("A plot", "smolvla", error) from error
    figure = Figure(figsize=(10.0, 6.4), layout="constrained")
    figure.suptitle(title)
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    for axes, (name, label, scale, unit) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for number, mode in enumerate(modes):
            mine = [row for row in rows if row["mode"] == mode and row[name] is not None]
            x, y = [row["latency_ms"] for row in mine], [scale * row[name] for row in mine]
            axes.plot(x, y, "o-", color=f"C{number}", label=mode)
            if name == "success_rate":
                low, high = ([scale * row[f"success_{end}"] for row in mine] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
            if name == "border_jump_p99_rad":
                inner = [row["inner_jump_p99_rad"] for row in mine]
                axes.plot(x, inner, "--", color=f"C{number}", linewidth=1)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("latency of a chunk, ms")
        axes.set_ylabel(unit)
        axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
