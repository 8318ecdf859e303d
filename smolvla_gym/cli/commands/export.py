"""``smolvla-gym export``: copy a policy so that LeRobot's own programs can load it."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smolvla_gym.cli.options.parser import AddParser, Options, command, option
from smolvla_gym.cli.progress import steady_lines

_EXAMPLES: Final = """example:
  smolvla-gym export bundled outputs/parol6
  lerobot-eval --policy.path=outputs/parol6 --env.type=parol6 \\
      --env.discover_packages_path=smolvla_gym.integrations.lerobot.env \\
      --env.cameras='[wrist, scene]' --env.image_size='[64, 64]' --eval.n_episodes=10 --seed=0
"""


@dataclass(kw_only=True)
class ExportOptions(Options):
    """Options of ``smolvla-gym export``."""

    policy: str = option("bundled, a checkpoint folder, or a Hub repository OWNER/NAME", flag="policy")
    out: Path = option("folder of the copy; it must not exist yet", flag="DIR")


def run(options: ExportOptions) -> int:
    """Copy the policy."""
    from smolvla_gym.agent.checkpoint.load import fetch_checkpoint
    from smolvla_gym.agent.checkpoint.saving import copy_checkpoint, make_plain
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
            copy_checkpoint(source, part)
            make_plain(part, out)
            sync_tree(part)
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    print(options.out)
    return 0


add_parser: AddParser = command(
    "export", ExportOptions, run, examples=_EXAMPLES,
    help="Copy a policy so that LeRobot's own programs can load it.",
    description="Copies a policy of this project so that lerobot-eval, lerobot-rollout and the others can load it. "
    "They search its vision-language model from their working directory, so the copy holds the absolute path: "
    "export again to move it.",
)  # fmt: skip
