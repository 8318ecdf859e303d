"""``smolvla-gym table``: begin, check and show a table of one's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.parser import Options, UsageError, command, option
from smolvla_gym.cli.output import print_table, say

if TYPE_CHECKING:
    from smolvla_gym.sim.own_table import OwnTable

_EXAMPLES: Final = """examples:
  smolvla-gym table new table.toml             a file to begin with
  smolvla-gym table check table.toml           errors, or a line for each object and the tasks that work
  smolvla-gym table show table.toml            table.png: the table with all of its objects
  smolvla-gym rollout --policy expert --table table.toml
"""


@dataclass(kw_only=True)
class NewOptions(Options):
    """Options of ``smolvla-gym table new``."""

    file: Path = option("the new file", flag="FILE")
    schema: Path | None = option("also write the JSON schema, with which editors check the file", None, metavar="FILE")


@dataclass(kw_only=True)
class CheckOptions(Options):
    """Options of ``smolvla-gym table check``."""

    file: str = option("the table file", flag="FILE")
    json: bool = option("print JSON and nothing else on stdout", False)


@dataclass(kw_only=True)
class ShowOptions(Options):
    """Options of ``smolvla-gym table show``."""

    file: str = option("the table file", flag="FILE")
    out: Path | None = option("the image (default: the table file's name with .png)", None, metavar="FILE")
    seed: int = option("seed of the places of the objects", 0, metavar="S")


def add_parser(commands: Any) -> None:
    """Add the command to the program."""
    parser = commands.add_parser(
        "table", help="Begin, check or show a table of your own.",
        description="Commands for table files, which describe a table with its objects, obstacles and cameras.",
    )  # fmt: skip
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command(
        "new", NewOptions, run_new, examples=_EXAMPLES, help="Write a table file to begin with.",
        description="Writes a table file with an example of each section. An existing file stays as it is.",
    )(actions)  # fmt: skip
    command(
        "check", CheckOptions, run_check, examples=_EXAMPLES, help="Check a table file.",
        description="Reads a table file with its meshes, and prints its objects and the tasks that work with them.",
    )(actions)  # fmt: skip
    command(
        "show", ShowOptions, run_show, examples=_EXAMPLES, help="Write an image of a table.",
        description="Writes an image of a table with all of its objects.",
    )(actions)  # fmt: skip


def run_new(options: NewOptions) -> int:
    """Write the file."""
    from smolvla_gym.sim.own_table.keys import json_schema
    from smolvla_gym.sim.own_table.template import TEMPLATE

    texts = [(options.file, TEMPLATE)]
    if options.schema is not None:
        texts.append((options.schema, json.dumps(json_schema(), indent=2) + "\n"))
    for path, _ in texts:
        if path.exists():
            raise UsageError("FILE", str(path), "the name of a file that does not exist yet")
    for path, text in texts:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        say(f"wrote {path}")
    return 0


def run_check(options: CheckOptions) -> int:
    """Check the file and print what it has."""
    from smolvla_gym.errors import OptionError
    from smolvla_gym.sim.own_table import read_table
    from smolvla_gym.tasks.own_table import OWN_TASKS

    table = read_table(options.file)
    tasks = {}
    for name, kind in OWN_TASKS.items():
        try:
            tasks[name] = kind(table).example
        except OptionError:  # no object suits the task
            continue
    objects = _objects(table)
    if options.json:
        print(json.dumps({"objects": objects, "tasks": tasks}))
        return 0
    widths = ["no" if o["held_width"] is None else f"{1e3 * o['held_width']:.0f} mm" for o in objects]
    rows = [
        [o["name"], f"{1e3 * o['mass']:.0f} g", f"{1e3 * o['height']:.0f} mm",
         width, f"{o['fell_over']:.0f}°", ", ".join(o["phrases"])]
        for o, width in zip(objects, widths, strict=True)
    ]  # fmt: skip
    print_table(["object", "mass", "height", "held at", "fell over by", "called"], rows, ("object", "called"))
    for name, example in tasks.items():
        print(f"{name:6} {example}")
    return 0


def _objects(table: OwnTable) -> list[dict[str, Any]]:
    from smolvla_gym.sim.own_table.rest import at_rest

    return [
        {
            "name": thing.name, "shape": thing.shape, "parts": max(1, len(thing.parts)), "mass": thing.mass,
            "height": round(2.0 * thing.half_height, 4), "radius": round(thing.radius, 4),
            "held_width": width, "fell_over": round(57.29578 * at_rest(thing)[1], 1), "phrases": list(thing.phrases),
        }
        for thing, width in zip(table.objects, _held_widths(table), strict=True)
    ]  # fmt: skip


def _held_widths(table: OwnTable) -> list[float | None]:
    """Return the width in m of each object where the jaws hold it; None where they cannot."""
    import gymnasium as gym

    from smolvla_gym import SIM_ID

    env: Any = gym.make(SIM_ID, table=table, task="lift", cameras=(), disable_env_checker=True)
    stage = env.unwrapped.backend.stage
    widths = [stage.task.handling.width(stage.world, i) for i in range(len(table.objects))]
    env.close()
    return [None if width is None else round(width, 4) for width in widths]


def run_show(options: ShowOptions) -> int:
    """Write the image."""
    import gymnasium as gym
    from PIL import Image

    from smolvla_gym import SIM_ID

    out = options.out if options.out is not None else Path(options.file).with_suffix(".png")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError("--out", str(out), "the name of a .png or .jpg file")
    env = gym.make(
        SIM_ID, table=options.file, task="lift", cameras=(), render_mode="rgb_array", disable_env_checker=True
    )
    try:
        env.reset(seed=options.seed)
        image: Any = env.render()
    finally:
        env.close()
    Image.fromarray(image).save(out)
    say(f"wrote {out}")
    return 0
