"""Completion of commands, options and values in the shell: a script that shtab writes once, so that no TAB waits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, override

from smolvla_gym.cli.options.arguments import path

SHELLS: Final = ("bash", "zsh", "fish")

COMPLETION_HELP: Final = """completion of commands, options and values in the shell:
  bash: eval "$(smolvla-gym --print-completion bash)" in ~/.bashrc
  zsh:  smolvla-gym --print-completion zsh > DIR/_smolvla-gym, with a DIR of $fpath
  fish: smolvla-gym --print-completion fish > ~/.config/fish/completions/smolvla-gym.fish
"""


class _Print(argparse.Action):
    """Option that prints the script and ends the program."""

    @override
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: object,
        values: str | Sequence[Any] | None,
        flag: object = "",
    ) -> None:
        import shtab  # only here: the import takes 0.1 s

        _complete_paths(parser)
        print(shtab.complete(parser, str(values)))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints the script of a shell."""
    parser.add_argument(
        "--print-completion", action=_Print, choices=SHELLS, help="print the completion script of a shell, see below"
    )


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Mark the options that name files, for shtab."""
    import shtab

    for action in parser._actions:
        if action.type is path:
            action.complete = shtab.FILE  # type: ignore[attr-defined] # shtab's attribute
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)
