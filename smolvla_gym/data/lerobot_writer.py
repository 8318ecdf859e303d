"""Write the frames of an episode with LeRobot's own writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from smolvla_gym.data.spec import ROBOT_TYPE, DatasetSpec
from smolvla_gym.errors import needs_extra

STAGED: Final = "images"
"""Folder of the image files that LeRobot writes before it encodes their video."""

_CODEC: Final = {"vcodec": "h264", "crf": 18}
"""H.264 decodes fast everywhere; at crf 18 the loss is not visible."""

_REPOSITORY: Final = "local/parol6"


def write_frames(root: Path, frames: Iterable[Mapping[str, Any]], spec: DatasetSpec, *, first: bool) -> None:
    """Append an episode to a dataset.

    Args:
        root: Folder of the dataset.
        frames: For each frame its features by name, and the instruction as ``task``.
        spec: Format of the frames.
        first: Whether to make the dataset.

    Raises:
        Exception: Of any type, from LeRobot, which does not check the metadata that it reads.
    """
    import datasets
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    encoder = RGBEncoderConfig(**_CODEC)
    # By default LeRobot tries torchcodec, which prints a page of errors where it finds no FFmpeg.
    if first:
        dataset = LeRobotDataset.create(
            _REPOSITORY, spec.fps, spec.features(), root, ROBOT_TYPE, rgb_encoder=encoder, video_backend="pyav"
        )
    else:
        dataset = LeRobotDataset.resume(_REPOSITORY, root, rgb_encoder=encoder, video_backend="pyav")
    datasets.disable_progress_bars()  # LeRobot enables them
    try:
        for frame in frames:
            dataset.add_frame(dict(frame))  # LeRobot removes the task from the dictionary, and keeps the arrays
        # Parallel encoding forks, and a fork of a process with rendering or computing threads hangs.
        dataset.save_episode(parallel_encoding=False)
    finally:
        # Also after an error: otherwise the garbage collector finalizes later, and writes into repaired files.
        try:
            dataset.finalize()
        finally:
            dataset.meta.finalize()


def import_quietly() -> None:
    """Import LeRobot's datasets and silence FFmpeg.

    Raises:
        MissingExtraError: LeRobot is not installed.
    """
    with needs_extra("A dataset", "train"):
        import av
        import lerobot.datasets.lerobot_dataset  # noqa: F401
    av.logging.set_libav_level(av.logging.ERROR)
