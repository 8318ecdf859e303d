"""Options, progress and result of a training run in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smolvla_gym.errors import OptionError
from smolvla_gym.training.tiny.augmentation import Augmentation


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run.

    Give ``steps``, which makes a run repeatable, or ``minutes``, or both: the run ends at the first limit.

    Attributes:
        steps: Optimiser steps.
        minutes: Wall-clock time in min.
        vision_share: Share of the run, at its start, in which only the vision tower learns the auxiliary targets.
        freeze_vision: Whether the vision tower is not trained. The tokens of each image, augmented once, are then
            computed before the first step and kept in memory, 4 kB an image of the tiny policy.
        batch_size: Frames a step.
        noise_draws: Draws of noise for each frame of a batch, which share one pass through the vision-language model.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine down to a hundredth of it.
        warmup_steps: Steps of the warm-up.
        weight_decay: Weight decay of AdamW.
        clip: Largest norm of the gradient.
        ema: Decay of the running mean of the weights, which is saved.
        auxiliary_weight: Weight of the auxiliary losses relative to the flow loss: positions of all objects, for the
            vision tower, and positions of the named objects, for the language model.
        augmentation: Random changes of the images.
        garbled_words: Share of the instructions in which words are replaced and inserted at random, except the words
            that all paraphrases have in common. An instruction without paraphrases is not changed.
        max_delay: Largest number of given actions at the start of a chunk, in the policy's control steps: it learns to
            continue what the arm executes until a chunk arrives. It has to be below the chunk size. None: that of the
            checkpoint the run starts from; 0: no actions are given.
        absent: By camera the share of the frames in which that camera is absent, so that the policy also acts without
            it; the checkpoint then states that one camera may be absent (``empty_cameras``).
        threads: Threads of torch.
        seed: Seed of all random numbers.
        report_s: Time in s between progress reports.
        save_minutes: Time in min between savings.
        save_steps: Steps between savings, in place of ``save_minutes``; None: not used.
        device: ``"cpu"``, or another device that the agent accepts.
    """

    steps: int | None = None
    minutes: float | None = None
    vision_share: float = 0.0
    freeze_vision: bool = False
    batch_size: int = 64
    noise_draws: int = 2
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.998
    auxiliary_weight: float = 0.5
    augmentation: Augmentation = field(default_factory=Augmentation)
    garbled_words: float = 0.3
    max_delay: int | None = None
    absent: Mapping[str, float] = field(default_factory=dict)
    threads: int = 2
    seed: int = 0
    report_s: float = 10.0
    save_minutes: float = 5.0
    save_steps: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: An option has a value that is not allowed.
        """
        if self.steps is None and self.minutes is None:
            raise OptionError("steps", None, "a number of steps, unless minutes is given")
        for name in ("steps", "minutes", "batch_size", "noise_draws", "learning_rate", "threads", "save_steps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(name, value, "above 0")
        if self.max_delay is not None and (isinstance(self.max_delay, bool) or self.max_delay < 0):
            raise OptionError("max_delay", self.max_delay, "a whole number from 0, or None")
        if not 0 <= self.vision_share < 1:
            raise OptionError("vision_share", self.vision_share, "from 0 to below 1")
        if not 0 <= self.garbled_words <= 1:
            raise OptionError("garbled_words", self.garbled_words, "from 0 to 1")
        if any(not share >= 0 for share in self.absent.values()) or sum(self.absent.values()) > 1:
            raise OptionError("absent", dict(self.absent), "shares from 0, at most 1 together")
        if self.freeze_vision and self.vision_share:
            raise OptionError("vision_share", self.vision_share, "0 with a frozen vision tower")


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a run.

    Attributes:
        step: Optimiser steps done.
        loss: Mean flow loss since the last report; NaN if it was not computed.
        vision_loss: Mean auxiliary loss of the vision tower since then; predicting the mean has a loss of 1.
        grounding_loss: Mean auxiliary loss of the language model since then.
        rate: Steps a second since then.
        left: Estimated remaining time in s.
    """

    step: int
    loss: float
    vision_loss: float
    grounding_loss: float
    rate: float
    left: float

    def __str__(self) -> str:
        """Return the progress as a line of text."""
        return (
            f"step {self.step:6d}  loss {self.loss:.4f}  vision {self.vision_loss:.4f}  "
            f"grounding {self.grounding_loss:.4f}  {self.rate:.2f} steps/s  {self.left / 60:.1f} min left"
        )


@dataclass(frozen=True)
class TrainReport:
    """Result of a run.

    Attributes:
        directory: Folder of the policy.
        steps: Optimiser steps done.
        seconds: Wall-clock time in s.
        loss: Mean flow loss since the last progress report; NaN if it was not computed.
        vision_loss: Mean auxiliary loss of the vision tower since then; predicting the mean has a loss of 1.
        grounding_loss: Mean auxiliary loss of the language model since then.
    """

    directory: Path
    steps: int
    seconds: float
    loss: float
    vision_loss: float
    grounding_loss: float
