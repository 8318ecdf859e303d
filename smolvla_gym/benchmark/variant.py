"""A policy, how it runs, and how much of it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smolvla_gym.benchmark.random_450m import RANDOM_450M, build_random_450m
from smolvla_gym.errors import PolicyMismatchError

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.local import LocalPolicy


@dataclass(frozen=True)
class Variant:
    """A policy, how it runs, and how much of it is measured.

    Attributes:
        policy: ``"bundled"``, ``"random-450m"``, a folder or a repository.
        dtype: Type of its weights, see ``load_checkpoint``.
        device: Device that it computes on.
        cameras: Number of cameras of ``random-450m``; None: one, and those of a checkpoint.
        absent_cameras: Number of further cameras of ``random-450m`` without images.
        num_steps: Flow steps of a chunk; None: the checkpoint's.
        compile_mode: Mode of ``torch.compile``; None: it is not compiled.
        compare: Whether the fast sampler is also measured against LeRobot's code.
        inputs: Requests of the chunks that are evaluated, one of ``INPUTS``; the time of a chunk depends on none.
        chunks: Chunks that count.
        warm_up: Chunks before them.
        budget_s: Time in s after which no further chunk is begun, but for the first three; None: no limit.
        samples: Chunks whose actions are evaluated.
    """

    policy: str = "bundled"
    dtype: str = "auto"
    device: str = "auto"
    cameras: int | None = None
    absent_cameras: int = 0
    num_steps: int | None = None
    compile_mode: str | None = None
    compare: bool = False
    inputs: str = "noise"
    chunks: int = 100
    warm_up: int = 3
    budget_s: float | None = None
    samples: int = 8

    @property
    def name(self) -> str:
        """Name that distinguishes the variants of one run."""
        parts = {
            self.policy: True,
            self.dtype: True,
            f"{self.cameras} camera{'s' if self.cameras != 1 else ''}": self.cameras,
            f"{self.absent_cameras} absent": self.absent_cameras,
            f"{self.num_steps} step{'s' if self.num_steps != 1 else ''}": self.num_steps,
            f"compiled ({self.compile_mode})": self.compile_mode,
        }
        return ", ".join(part for part, is_given in parts.items() if is_given)

    def load(self) -> LocalPolicy:
        """Load the policy into this process.

        Raises:
            CheckpointError: The checkpoint is absent, cannot be downloaded, or is broken.
            PolicyMismatchError: The checkpoint cannot drive this arm.
            OptionError: An option has a value that is not allowed.
            MissingExtraError: torch, transformers or lerobot is not installed.
        """
        from smolvla_gym.agent.checkpoint.load import load_checkpoint
        from smolvla_gym.agent.policies.local import LocalPolicy

        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        if self.policy == RANDOM_450M:
            checkpoint = build_random_450m(self.cameras or 1, absent=self.absent_cameras, **options)
        else:
            try:
                checkpoint = load_checkpoint(self.policy, **options)
            except PolicyMismatchError as error:
                error.add_note(f"the speed of a SmolVLA of the usual size can be measured with --policy {RANDOM_450M}")
                raise
        return LocalPolicy(checkpoint, num_steps=self.num_steps, name=self.policy, compile_mode=self.compile_mode)
