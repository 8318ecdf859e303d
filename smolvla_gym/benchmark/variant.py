"""A policy under certain options, and loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smolvla_gym.benchmark.random_450m import MAX_CAMERAS, RANDOM_450M, build_random_450m
from smolvla_gym.errors import OptionError, PolicyMismatchError

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.local import LocalPolicy


@dataclass(frozen=True)
class Variant:
    """A policy and how it is run.

    Attributes:
        policy: ``"bundled"``, ``"random-450m"``, a folder or a repository.
        dtype: Type of its weights, see ``load_checkpoint``.
        device: Device that it computes on.
        cameras: Number of its cameras; None: a checkpoint's own, and one of ``random-450m``.
        num_steps: Flow steps of a chunk; None: the checkpoint's.
        compile_mode: Mode of ``torch.compile``; None: it is not compiled.
        sampler: How chunks are computed, see ``LocalPolicy``.
        absent: Number of further cameras that ``random-450m`` knows and that are absent.
        compare: Whether the fast sampler is also measured against LeRobot's code, which is never compiled then.
    """

    policy: str
    dtype: str = "auto"
    device: str = "auto"
    cameras: int | None = None
    num_steps: int | None = None
    compile_mode: str | None = None
    sampler: str = "fast"
    absent: int = 0
    compare: bool = False

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: A checkpoint was given a number of cameras, or there are too many.
        """
        if self.cameras is not None and not 1 <= self.cameras <= MAX_CAMERAS:
            raise OptionError("cameras", self.cameras, f"from 1 to {MAX_CAMERAS}")
        if self.cameras is not None and self.policy != RANDOM_450M:
            allowed = f"only with {RANDOM_450M}: a checkpoint has the cameras that it was trained with"
            raise OptionError("cameras", self.cameras, allowed)
        if self.absent and self.policy != RANDOM_450M:
            raise OptionError("absent", self.absent, f"only with {RANDOM_450M}")
        if self.compare and self.sampler != "fast":
            raise OptionError("sampler", self.sampler, "'fast', where it is compared with LeRobot's code")

    @property
    def name(self) -> str:
        """Name that distinguishes the variants of one run."""
        parts = [
            self.policy,
            self.dtype,
            self.cameras is not None and f"{self.cameras} camera{'s'[: self.cameras > 1]}",
            self.absent and f"{self.absent} absent",
            self.num_steps is not None and f"{self.num_steps} step{'s'[: self.num_steps > 1]}",
            self.compile_mode is not None and f"compiled ({self.compile_mode})",
            self.sampler != "fast" and self.sampler,
        ]
        return ", ".join(part for part in parts if isinstance(part, str))


def load_variant(variant: Variant) -> LocalPolicy:
    """Load a variant into this process.

    Raises:
        CheckpointError: The checkpoint is absent, cannot be downloaded, or is broken.
        PolicyMismatchError: The checkpoint cannot drive this arm.
        OptionError: An option has a value that is not allowed.
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    from smolvla_gym.agent.checkpoint.load import load_checkpoint
    from smolvla_gym.agent.policies.local import LocalPolicy

    fast = variant.sampler == "fast"
    options: dict[str, Any] = {
        "device": variant.device,
        "dtype": variant.dtype,
        "compile_mode": None if fast else variant.compile_mode,
    }
    if variant.policy == RANDOM_450M:
        checkpoint = build_random_450m(variant.cameras or 1, absent=variant.absent, **options)
    else:
        try:
            checkpoint = load_checkpoint(variant.policy, **options)
        except PolicyMismatchError as error:
            error.add_note(f"the speed of a SmolVLA of the usual size can be measured with --policy {RANDOM_450M}")
            raise
    return LocalPolicy(
        checkpoint,
        num_steps=variant.num_steps,
        name=variant.policy,
        sampler=variant.sampler,
        compile_mode=variant.compile_mode if fast else None,
    )
