"""Options of a training run, and the checks that need neither the dataset nor a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from smolvla_gym.cli.options.arguments import at_least, filled, positive
from smolvla_gym.cli.options.dataset import ConversionOptions
from smolvla_gym.cli.options.parser import option
from smolvla_gym.cli.options.resuming import kept_values, restore
from smolvla_gym.training.run_folder import MAX_BATCH, MAX_SEED, MAX_STEPS

TINY: Final = "tiny"
"""Start that is built from nothing."""

STEPS: Final = {"memory": 3000, "lerobot": 20_000}
BATCH: Final = {"memory": 64, "lerobot": 8}
WORKERS: Final = 4
FEWEST_STEPS: Final = 100
"""Default of the optimiser steps between savings, at least: each saving is followed by a trial."""


@dataclass(kw_only=True)
class TrainOptions(ConversionOptions):
    """Options of ``smolvla-gym train``. Those that must not change during a run are kept when it resumes."""

    dataset: Path = option("folder that `smolvla-gym record` or lerobot-record wrote", metavar="DIR", kept=True)
    start: str | None = option(
        "tiny (from nothing), bundled, a checkpoint folder, or a Hub repository such as lerobot/smolvla_base (default: "
        "tiny)", None, parse=filled, flag="--from", metavar="P", kept=True,
    )  # fmt: skip
    out: Path | None = option("folder of the run (default: outputs/train/<date>_<time>)", None, metavar="DIR")
    resume: bool = option("go on with the run in --out from its last saving", False)
    steps: int = option(
        "optimiser steps in all (default: 3000; by LeRobot 20000; with --resume those of before)", 0,
        parse=at_least(1, MAX_STEPS), metavar="N",
    )  # fmt: skip
    batch_size: int | None = option(
        "frames a step and GPU (default: 64; by LeRobot 8)", None, parse=at_least(1, MAX_BATCH), metavar="N", kept=True
    )
    learning_rate: float | None = option(
        "peak of the schedule (default: 0.001; or the policy's)", None, parse=positive, metavar="LR", kept=True
    )
    freeze_vision: bool | None = option(
        "in memory: do not train the vision tower, for about twice the steps a second", None, kept=True
    )
    rtc_delay: int | None = option(
        "train for inference delays of up to MAX actions: the policy learns to continue the actions that are executed "
        "until a chunk arrives; 0: none (default: that of --from)", None, parse=at_least(0), metavar="MAX", kept=True,
    )  # fmt: skip
    save_steps: int = option(
        f"steps between savings (default: a tenth of --steps, at least {FEWEST_STEPS})", 0,
        parse=at_least(1, MAX_STEPS), metavar="N",
    )  # fmt: skip
    cameras: list[str] | None = option(
        "cameras of the dataset, in the order of the policy's (default: all)", None, metavar="NAME", kept=True
    )
    device: str = option("auto, cpu, cuda, mps", "auto", metavar="D")
    gpus: int = option("GPUs that share the work", 1, parse=at_least(1), metavar="N")
    workers: int | None = option(
        f"processes that decode for LeRobot (default: {WORKERS})", None, parse=at_least(0), metavar="N"
    )
    seed: int | None = option(
        "seed of everything drawn (default: 0)", None, parse=at_least(0, MAX_SEED), metavar="S", kept=True
    )
    trainer: Literal["memory", "lerobot"] | None = option(
        "memory: the built-in one, for small images; lerobot: lerobot-train (default: what the size of the policy's "
        "images suggests)", None, kept=True,
    )  # fmt: skip
    task: list[str] | None = option(
        "tasks of the trial after each saving (default: those of the dataset's sentences)", None, metavar="T"
    )
    eval_episodes: int = option(
        "episodes a task after each saving, on seeds that are not in the dataset; 0: none", 20, parse=at_least(0),
        metavar="N",
    )  # fmt: skip
    eval_seed: int = option("the first of their seeds", 0, parse=at_least(0), metavar="S")

    def check_out(self) -> None:
        """Make sure that no policy is overwritten: the folder of a run is a new one.

        Raises:
            OptionError: It is none.
        """
        if self.resume:
            if self.out is None or not self.out.is_dir():
                self.expect("out", "the folder of a run, with --resume")
        elif self.out is not None and self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            self.expect("out", "a new folder, or --resume to go on with the run in it")

    def recall(self) -> None:
        """Restore the options of a run that resumes, and set the defaults of those that remain.

        Raises:
            OptionError: The folder is none of a run, or an option differs from the beginning of the run.
            CheckpointError: There is a link in the folder.
        """
        self.dataset = self.dataset.absolute()
        if self.resume and self.out is not None:
            from smolvla_gym.training.run_folder import RUN, read_run

            try:
                stored = read_run(self.out)
            except (OSError, ValueError) as error:
                self.expect("out", f"the folder of a run, with {RUN} ({error})")
            self.steps = self.steps or stored.get("steps") or 0
            self.save_steps = self.save_steps or stored.get("save_steps") or 0
            # A run of an earlier version lacks options that did not exist.
            restore(self, dict.fromkeys(kept_values(self)) | stored, self.out / RUN)
        self.start, self.seed = self.start or TINY, self.seed or 0

    def run_values(self) -> dict[str, Any]:
        """Return what the file of the run holds: the kept options, and how far the run goes."""
        return kept_values(self) | {"steps": self.steps, "save_steps": self.save_steps}
