"""``smolvla-gym export``: a copy of a policy that LeRobot's own programs can load."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any, Final

_EXAMPLES: Final = """example:
  smolvla-gym export bundled outputs/parol6
  lerobot-eval --policy.path=outputs/parol6 --env.type=parol6 \\
      --env.discover_packages_path=smolvla_gym.integrations.lerobot.env \\
      --env.cameras='[wrist, scene]' --env.image_size='[64, 64]' --eval.n_episodes=10 --seed=0
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "export",
        help="Copy a policy so that LeRobot's own programs can load it.",
        description="Copies a policy of this project so that lerobot-eval, lerobot-rollout and the others can load it. "
        "They look for its vision-language model from where they are called, so that the copy names the place in full: "
        "export again where it is to be moved.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("policy", help="bundled, a checkpoint folder, or a Hub repository OWNER/NAME")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of the copy; it must not exist yet")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Copies the policy."""
    from smolvla_gym.agent.checkpoint.load import fetch_checkpoint
    from smolvla_gym.agent.checkpoint.saving import copy_checkpoint, make_plain
    from smolvla_gym.data.disk import sync_tree
    from smolvla_gym.errors import OptionError
    from smolvla_gym.utils.file_lock import lock_folder

    if arguments.out.exists():
        raise OptionError("DIR", str(arguments.out), "a folder that does not exist yet")
    with contextlib.redirect_stdout(sys.stderr):
        source = fetch_checkpoint(arguments.policy)
    out = arguments.out.absolute()  # "." has no name
    part = out.with_name(f".{out.name}.part")
    if part.is_symlink() or part.is_junction():
        raise OptionError("DIR", str(arguments.out), f"a folder without the link {part} beside it: remove the link")
    part.mkdir(parents=True, exist_ok=True)
    with lock_folder(part, out):
        try:
            for entry in part.iterdir():  # of an export that was cut off
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            copy_checkpoint(source, part)
            make_plain(part, out)
            sync_tree(part)
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    print(arguments.out)
    return 0
