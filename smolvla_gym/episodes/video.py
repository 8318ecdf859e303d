"""The film of an episode: which pictures it is made of, and when they are drawn and encoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smolvla_gym.episodes.overlay import compose_frame
from smolvla_gym.episodes.video_recorder import VideoRecorder

Picture = NDArray[np.uint8]

_HEIGHT: Final = 480
"""Height in px of a film that is made of the cameras' pictures."""

_MEMORY: Final = 512_000_000
"""Bytes of pictures that may wait for the end of an episode: 40 s of two cameras at 256x256 and 30 Hz."""


class EpisodeVideo:
    """Films an env's episode; a context manager, as the recorder below it.

    In simulated time a frame shows ``env.render()`` with the wrist's view in a corner. In real time drawing and
    encoding would make steps late. So it shows the observed pictures, the scene camera's with the wrist's in a corner
    or else the wrist's alone, and they are drawn and encoded once the episode has ended, as far as the memory reaches.
    Only where an env has no cameras its rendering is filmed, in the loop.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, *, realtime: bool) -> None:
        """Prepares the folder.

        Args:
            path: Where the video shall stand, ending in ``.mp4``.
            fps: Frames a second.
            realtime: Whether the steps are in real time.

        Raises:
            RecordingError: The folder cannot be made.
        """
        self._recorder, self._realtime = VideoRecorder(path, fps), realtime
        self._waiting = deque[tuple[Picture, Picture | None, Sequence[str], bool]]()
        self._bytes = 0

    @property
    def saved(self) -> bool:
        """Whether the finished file stands under its final name."""
        return self._recorder.saved

    def add(
        self, env: gym.Env[Any, Any], observation: dict[str, Any], lines: Sequence[str], success: bool = False
    ) -> None:
        """Appends the present state.

        Args:
            env: The env.
            observation: Its observation; its pictures are kept.
            lines: What stands below.
            success: Whether to say SUCCESS.

        Raises:
            RecordingError: This or an earlier frame could not be written.
        """
        pixels = observation.get("pixels", {})
        wrist: Picture | None = pixels.get("wrist")
        if not self._realtime or not pixels:
            scene: Any = env.render()
            self._recorder.add(compose_frame(scene, wrist, lines, success))
            return
        scene, wrist = (pixels["scene"], wrist) if "scene" in pixels else (next(iter(pixels.values())), None)
        self._waiting.append((scene, wrist, lines, success))
        self._bytes += _size(scene, wrist)
        # The first frame tells at once whether anything can be written.
        while self._waiting and (self._bytes > _MEMORY or self._recorder.frames == 0):
            self._write()

    def _write(self) -> None:
        scene, wrist, lines, success = self._waiting.popleft()
        self._bytes -= _size(scene, wrist)
        size = (round(_HEIGHT * scene.shape[1] / scene.shape[0]), _HEIGHT)
        large = np.asarray(Image.fromarray(scene).resize(size, Image.Resampling.BILINEAR))
        self._recorder.add(compose_frame(large, wrist, lines, success))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            while self._waiting:
                self._write()
        finally:
            self._recorder.__exit__(kind, error, trace)


def _size(scene: Picture, wrist: Picture | None) -> int:
    return scene.nbytes + (0 if wrist is None else wrist.nbytes)
