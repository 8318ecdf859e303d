"""Comparison of conditions as a table and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.errors import MissingExtraError
from smolvla_gym.utils.json_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""Figures of a condition, see :func:`smolvla_gym.evaluation.summary.summarise`."""

LEGEND: Final = (
    "ms: latency of a chunk. 95 %: interval of the success rate. time: median of the episodes that succeeded. "
    "waited, stalled: steps an episode in which the arm held, before the first chunk and later. border, inner: change "
    "of a joint from one command to the next in rad, where a new chunk begins and elsewhere: 99th percentile/largest."
)
"""Meaning of the columns."""

_Cells = dict[str, Callable[[Row], str]]

_NAME: Final[_Cells] = {"task": lambda row: name(row)}
_FIGURES: Final[_Cells] = {
    "mode": lambda row: f"{row['mode']}: {row['chosen_mode']}" if "chosen_mode" in row else str(row["mode"]),
    "ms": lambda row: f"{row['latency_ms']:g}",
    "success": lambda row: f"{row['successes']}/{row['episodes']}",
    "95 %": lambda row: f"{100 * row['success_low']:.0f}-{100 * row['success_high']:.0f}",
    "time, s": lambda row: _number(row["time_to_success_s"], ".1f"),
}
_CHUNKS: Final[_Cells] = {
    "waited": lambda row: f"{row['waited_steps']:.1f}",
    "stalled": lambda row: f"{row['stalled_steps']:.1f}",
    "border": lambda row: _jump(row, "border"),
    "inner": lambda row: _jump(row, "inner"),
}


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the table as text: its heads, and a row for each condition.

    To fit into a terminal it has no column for what is the same in all conditions.
    """
    several = len({name(row) for row in rows}) > 1
    late = any(row.get("chosen_mode", row["mode"]) != "sync" or row["latency_ms"] > 0.0 for row in rows)
    columns = (_NAME if several else {}) | _FIGURES | (_CHUNKS if late else {})
    return [tuple(columns), *(tuple(cell(row) for cell in columns.values()) for row in rows)]


def name(row: Row) -> str:
    """Return a short name of a condition."""
    instruction = "" if row["words"] == "given" else f", {row['words']} instruction"
    steps = "" if row["num_steps"] is None else f", {row['num_steps']} flow step{'s'[: row['num_steps'] > 1]}"
    level = f", level {row['randomization']}" if "randomization" in row else ""
    cameras = f", {' and '.join(row['cameras'])} alone" if "cameras" in row else ""
    return f"{row['task']}{instruction}{steps}{level}{cameras}"


def failures(rows: Sequence[Row]) -> list[str]:
    """Return for each condition with failures a line with its failure modes and their numbers."""
    return [
        f"{name(row)}, {row['mode']}, {row['latency_ms']:g} ms failed: "
        + ", ".join(f"{kind} {count}" for kind, count in row["failures"].items())
        for row in rows
        if row["failures"]
    ]


def _jump(row: Row, place: str) -> str:
    return "/".join(_number(row[f"{place}_jump_{figure}_rad"], ".3f") for figure in ("p99", "max"))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, the meaning of its columns, and the failure modes."""
    heads, *cells = table(rows)
    lines = [heads, ("---",) * len(heads), *cells]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{LEGEND}\n"
    return text + "".join(f"\n- {line}" for line in failures(rows)) + "\n" * any(row["failures"] for row in rows)


def paired(pair: Row, first: str, second: str) -> str:
    """Return a comparison of two policies as a sentence.

    Args:
        pair: Figures of :func:`smolvla_gym.evaluation.summary.compare`.
        first: Name of the first one.
        second: Name of the second one.
    """
    return (
        f"{name(pair)}, {pair['mode']}, {pair['latency_ms']:g} ms, the same seeds: both {pair['both']}, only {first} "
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
    """Plot the figures over the latency, a line a mode, or the success rates where there are several tasks.

    Args:
        rows: Figures of the conditions.
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
    figure = Figure(figsize=(10.0, 6.4), layout="constrained")
    figure.suptitle(title)
    if len({name(row) for row in rows}) > 1:
        _plot_bars(figure, rows)
    else:
        _plot_lines(figure, rows)
    with whole_file(path, "plot") as part:
        figure.savefig(part, dpi=110, format=path.suffix[1:])


def _plot_bars(figure: Figure, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    names = list(dict.fromkeys(name(row) for row in rows))
    ways = list(dict.fromkeys((row["mode"], row["latency_ms"]) for row in rows))
    width = 0.8 / len(ways)
    for number, (mode, latency) in enumerate(ways):
        mine = [row for row in rows if (row["mode"], row["latency_ms"]) == (mode, latency)]
        x = [names.index(name(row)) + (number - (len(ways) - 1) / 2) * width for row in mine]
        rate, low, high = ([100.0 * row[f"success_{end}"] for row in mine] for end in ("rate", "low", "high"))
        below = [middle - end for middle, end in zip(rate, low, strict=True)]
        above = [end - middle for middle, end in zip(rate, high, strict=True)]
        bars = axes.bar(
            x, rate, 0.9 * width, color=f"C{number}", label=f"{mode}, {latency:g} ms", yerr=[below, above], capsize=3
        )
        axes.bar_label(bars, [f"{r:.0f}" for r in rate], label_type="center", color="white")
    crowded = len(names) > 6
    axes.set_xticks(range(len(names)), names, rotation=30 * crowded, ha="right" if crowded else "center")
    axes.set_ylabel("success rate, % (bars: 95 % interval)")
    axes.set_ylim(0.0, 105.0)
    axes.grid(axis="y", alpha=0.3)
    if len(ways) > 1:
        axes.legend(loc="lower left")


def _plot_lines(figure: Figure, rows: Sequence[Row]) -> None:
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    for axes, (figure_name, label, scale, unit) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for number, mode in enumerate(modes):
            mine = [row for row in rows if row["mode"] == mode and row[figure_name] is not None]
            x, y = [row["latency_ms"] for row in mine], [scale * row[figure_name] for row in mine]
            axes.plot(x, y, "o-", color=f"C{number}", label=mode)
            if figure_name == "success_rate":
                low, high = ([scale * row[f"success_{end}"] for row in mine] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
            if figure_name == "border_jump_p99_rad":
                inner = [row["inner_jump_p99_rad"] for row in mine]
                axes.plot(x, inner, "--", color=f"C{number}", linewidth=1)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("latency of a chunk, ms")
        axes.set_ylabel(unit)
        axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
