"""Checks of ``smolvla-gym train`` that need the checkpoint, the dataset or what a run has done already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from smolvla_gym.cli.options.training import TINY, TrainOptions

if TYPE_CHECKING:
    from smolvla_gym.data.reader import Recording

STATE: Final = "state.pt"
"""File of a run that the built-in trainer resumes from."""

_SMALL: Final = 128
"""Edge in px of images up to which a whole dataset fits into memory."""


def choose_trainer(options: TrainOptions, start: Path | None) -> Literal["memory", "lerobot"]:
    """Return the trainer: the given one, or what fits the image size of the checkpoint.

    Raises:
        OptionError: LeRobot would have to train the tiny policy.
    """
    if start is None:
        if options.trainer == "lerobot":
            options.expect("start", "a checkpoint, with --trainer lerobot")
        return "memory"
    if options.trainer is not None:
        return options.trainer
    from smolvla_gym.agent.checkpoint.spec import read_spec

    return "memory" if all(max(size) <= _SMALL for size in read_spec(start).cameras.values()) else "lerobot"


def check_trainer(options: TrainOptions, device: str) -> None:
    """Refuse options that the trainer would ignore, and more GPUs than the machine has.

    Raises:
        OptionError: There is such an option.
    """
    if options.trainer == "memory":
        reason = "only with --trainer lerobot: in memory one device trains, and all images are decoded before"
        if options.gpus > 1:
            options.refuse("gpus", reason)
        if options.workers is not None:
            options.refuse("workers", reason)
    elif options.gpus > 1:
        import torch

        if not device.startswith("cuda"):
            options.expect("gpus", f"1 with the device {device}")
        if options.gpus > (there := torch.cuda.device_count()):
            options.expect("gpus", f"at most {there}, the GPUs of this machine")
    if options.freeze_vision and options.trainer == "lerobot":
        options.refuse("freeze_vision", "only in memory: LeRobot follows the checkpoint's own freeze_vision_encoder")
    if options.freeze_vision and options.start == TINY:
        options.refuse("freeze_vision", f"only with --from: the frozen vision tower of {TINY} is untrained")


def check_steps(options: TrainOptions) -> None:
    """Refuse to resume a run that has reached its last step.

    Raises:
        OptionError: It has.
    """
    assert options.out is not None  # noqa: S101 - narrows a type
    if options.trainer == "memory":
        from smolvla_gym.training.tiny.state_file import step_of

        done = step_of(options.out / STATE)
    else:
        from smolvla_gym.training.lerobot.finetune import recover

        done = recover(options.out)
    if options.steps <= done:
        options.expect("steps", f"above {done}, which {options.out / 'policy'} has already")


def check_start(options: TrainOptions, start: Path | None, recording: Recording) -> None:
    """Refuse a checkpoint that cannot be trained on the dataset as it is.

    Args:
        options: The options.
        start: The checkpoint; None: a new one.
        recording: The dataset.

    Raises:
        OptionError: Its control rate is another one, or in memory its cameras are.
        PolicyMismatchError: It cannot drive this arm.
    """
    if start is None:
        return
    from smolvla_gym.training.provenance import read_provenance

    trained = read_provenance(start)
    if trained is not None and trained.control_hz != recording.fps:
        options.expect(
            "start",
            f"a policy of the dataset's {recording.fps} Hz, and this one was trained at {trained.control_hz:g} Hz. "
            f"Record with --control-hz {trained.control_hz:g}, or begin with --from {TINY}",
        )
    if options.trainer == "memory":
        _check_cameras(options, start, recording)


def tiny_chunk(fps: float) -> int:
    """Return the number of actions in a chunk of a new tiny policy: about a second."""
    return max(2, round(32 * fps / 30))


def check_delay(options: TrainOptions, start: Path | None, recording: Recording) -> None:
    """Refuse a delay that is not shorter than a chunk.

    Args:
        options: The options.
        start: The checkpoint; None: a new one.
        recording: The dataset.

    Raises:
        OptionError: It is not.
    """
    if options.rtc_delay is None:
        return
    from smolvla_gym.agent.checkpoint.spec import read_spec

    size = tiny_chunk(recording.fps) if start is None else read_spec(start).chunk_size
    if options.rtc_delay >= size:
        options.expect("rtc_delay", f"below {size}, the number of actions in a chunk of {options.start}")


def _check_cameras(options: TrainOptions, start: Path, recording: Recording) -> None:
    from smolvla_gym.agent.checkpoint.spec import read_spec
    from smolvla_gym.agent.checkpoint.validation import check_checkpoint

    spec = read_spec(start)
    check_checkpoint(spec)
    missing = [camera for camera in spec.cameras if camera not in recording.cameras]
    if missing:
        options.expect(
            "start",
            f"a policy with cameras of the dataset ({', '.join(recording.cameras)}), not {', '.join(missing)}; or name "
            "the dataset's cameras as the policy's, with --rename OLD=NEW",
        )
    if not options.resume and options.cameras not in (None, list(spec.cameras)):
        allowed = f"{' '.join(spec.cameras)}, as in {options.start}; --from {TINY} or --trainer lerobot takes others"
        options.expect("cameras", allowed)
