"""What can be chosen about a training run, and what it reports at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from smolvla_gym.errors import OptionError
from smolvla_gym.training.tiny.augmentation import Augmentation


@dataclass(frozen=True)
class TrainOptions:
    """How to train. Give ``steps``, which makes a run repeatable, or ``minutes``, or both: the first one ends it.

    Attributes:
        steps: Optimiser steps.
        minutes: Wall-clock time.
        vision_share: Share of the run, at its beginning, in which only the vision tower learns the auxiliary targets.
        freeze_vision: Leaves the vision tower as it is. What it sees in each picture, augmented once, is computed
            before the first step and kept in memory, 4 kB a picture of the tiny policy's.
        batch_size: Frames a step.
        noise_draws: Draws of noise for each frame of a batch; they share one pass through the vision-language model.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine down to a hundredth of it.
        warmup_steps: Steps of the warm-up.
        weight_decay: AdamW's.
        clip: Largest norm of the gradient.
        ema: Decay of the running mean of the weights; the mean is what is saved.
        auxiliary_weight: Weight of the auxiliary losses beside the flow loss: where everything is, of the vision
            tower, and where that is what the sentence speaks of, of the language model.
        augmentation: How pictures are changed.
        garbled_words: Share of the instructions in which words are replaced and put in at random, besides those that
            all paraphrases of it have in common. Without paraphrases there are no others.
        threads: Threads of torch.
        seed: Seed of everything that is drawn.
        report_s: Seconds between progress lines.
        save_minutes: Minutes between savings during the run.
        save_steps: Steps between savings, in place of minutes; ``None``: minutes count.
        device: ``"cpu"`` or any other that the agent takes.
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
    threads: int = 2
    seed: int = 0
    report_s: float = 10.0
    save_minutes: float = 5.0
    save_steps: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Checks what would fail late or without a word."""
        if self.steps is None and self.minutes is None:
            raise OptionError("steps", None, "a number of steps, unless minutes is given")
        for name in ("steps", "minutes", "batch_size", "noise_draws", "learning_rate", "threads", "save_steps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(name, value, "above 0")
        if not 0 <= self.vision_share < 1:
            raise OptionError("vision_share", self.vision_share, "from 0 to below 1")
        if not 0 <= self.garbled_words <= 1:
            raise OptionError("garbled_words", self.garbled_words, "from 0 to 1")
        if self.freeze_vision and self.vision_share:
            raise OptionError("vision_share", self.vision_share, "0 where the vision tower is frozen")


@dataclass(frozen=True)
class TrainProgress:
    """Where a run stands.

    Attributes:
        step: Optimiser steps done.
        loss: Mean flow loss since the last report; NaN if there was none.
        vision_loss: The same of the vision tower's auxiliary loss: 1 is as good as always guessing the mean.
        grounding_loss: The same of the language model's.
        rate: Steps a second since the last report.
        left: Time that the rest will take, in s.
    """

    step: int
    loss: float
    vision_loss: float
    grounding_loss: float
    rate: float
    left: float

    def __str__(self) -> str:
        """Returns a line for people."""
        return (
            f"step {self.step:6d}  loss {self.loss:.4f}  vision {self.vision_loss:.4f}  "
            f"grounding {self.grounding_loss:.4f}  {self.rate:.2f} steps/s  {self.left / 60:.1f} min left"
        )


@dataclass(frozen=True)
class TrainReport:
    """How a run ended.

    Attributes:
        directory: The checkpoint that was written.
        steps: Optimiser steps done.
        seconds: Wall-clock time of them.
        loss: Mean flow loss since the last progress line; NaN if there was none.
        vision_loss: The same of the vision tower's auxiliary loss: 1 is as good as always guessing the mean.
        grounding_loss: The same of the language model's.
    """

    directory: Path
    steps: int
    seconds: float
    loss: float
    vision_loss: float
    grounding_loss: float
