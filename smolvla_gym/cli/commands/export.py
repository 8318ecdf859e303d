"""``smolvla-gym export``: copy a policy for LeRobot's own programs, or export it to ONNX."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from smolvla_gym.cli.options.parser import AddParser, Options, command, option
from smolvla_gym.cli.output import say
from smolvla_gym.cli.progress import steady_lines

_EXAMPLES: Final = """examples:
  smolvla-gym export bundled outputs/parol6
  lerobot-eval --policy.path=outputs/parol6 --env.type=parol6 \\
      --env.discover_packages_path=smolvla_gym.integrations.lerobot.env \\
      --env.cameras='[wrist, scene]' --env.image_size='[64, 64]' --eval.n_episodes=10 --seed=0
  smolvla-gym export bundled outputs/parol6_onnx --format onnx
  smolvla-gym rollout --policy outputs/parol6_onnx
"""

Format = Literal["lerobot", "onnx"]


@dataclass(kw_only=True)
class ExportOptions(Options):
    """Options of ``smolvla-gym export``."""

    policy: str = option("bundled, a checkpoint folder, or a Hub repository OWNER/NAME", flag="policy")
    out: Path = option("folder of the copy; it must not exist yet", flag="DIR")
    format: Format = option(
        "lerobot: a checkpoint for LeRobot's programs; onnx: graphs for ONNX Runtime, which run without torch",
        "lerobot",
    )


def run(options: ExportOptions) -> int:
    """Copy or export the policy."""
    from smolvla_gym.agent.checkpoint.load import fetch_checkpoint
    from smolvla_gym.data.disk import sync_tree
    from smolvla_gym.utils.file_lock import lock_folder

    if options.out.exists():
        options.expect("out", "a folder that does not exist yet")
    with contextlib.redirect_stdout(sys.stderr), steady_lines(lambda: f"copying policy {options.policy}"):
        source = fetch_checkpoint(options.policy)
    out = options.out.absolute()  # "." has no name
    part = out.with_name(f".{out.name}.part")
    if part.is_symlink() or part.is_junction():
        options.refuse("out", f"remove the link {part} beside it")
    part.mkdir(parents=True, exist_ok=True)
    with lock_folder(part, out):
        try:
            for entry in part.iterdir():  # of an interrupted export
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            _write(options, source, part, out)
            sync_tree(part)
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    print(options.out)
    return 0


def _write(options: ExportOptions, source: Path, part: Path, out: Path) -> None:
    """Write the files of the policy in ``source`` to ``part``, which will be renamed to ``out``."""
    if options.format == "onnx":
        from smolvla_gym.agent.onnx.export import export_onnx

        with contextlib.redirect_stdout(sys.stderr), steady_lines(lambda: f"exporting policy {options.policy} to ONNX"):
            difference = export_onnx(source, part)
        say(f"largest difference from the sampler: {difference:.1e} of the largest value of a chunk")
        return
    from smolvla_gym.agent.checkpoint.saving import copy_checkpoint, make_plain

    copy_checkpoint(source, part)
    make_plain(part, out)


add_parser: AddParser = command(
    "export", ExportOptions, run, examples=_EXAMPLES,
    help="Copy a policy so that LeRobot's own programs can load it, or export it to ONNX.",
    description="Copies a policy of this project so that lerobot-eval, lerobot-rollout and the others can load it. "
    "They search its vision-language model from their working directory, so the copy holds the absolute path: "
    "export again to move it. With --format onnx it writes graphs that run without torch, and compares their chunks "
    "with those of the sampler; rollout, eval and serve take the folder as --policy.",
)  # fmt: skip
