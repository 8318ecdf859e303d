"""Video of an episode: the images it is made of, and when they are rendered and encoded."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smolvla_gym.agent.protocol import Agent
from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.overlay import Caption, compose_frame
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.episodes.video_recorder import VideoRecorder

ImageArray = NDArray[np.uint8]

_HEIGHT: Final = 480
"""Height in px of the scene in a video that is made of the cameras' images."""

_MEMORY: Final = 512_000_000
"""Bytes of images that may wait for the end of an episode: 40 s of two cameras at 256x256 and 30 Hz."""


class EpisodeVideo(Callback):
    """Records the video of one episode: a frame for the reset and one for each step.

    In simulated time a frame shows ``env.render()`` with the wrist camera's view beside it. In real time rendering and
    encoding would make steps late. So a frame shows the observed images, the scene camera's with the wrist camera's
    beside it or else the wrist camera's alone, and they are drawn and encoded once the episode has ended, as far as the
    memory reaches. Only an env without cameras is rendered in the loop.
    """

    _env: gym.Env[Any, Any]
    _fps: float
    _realtime: bool
    _recorder: VideoRecorder

    def __init__(self, path: str | os.PathLike[str], agent: Agent) -> None:
        """Prepare a video; its folder is made when the episode begins.

        Args:
            path: Path of the video, ending in ``.mp4``.
            agent: Agent of the episode; the video says where it holds the arm because it has no action chunk.
        """
        self._path, self._agent = Path(path), agent
        self._waiting = deque[tuple[ImageArray, ImageArray | None, Caption]]()
        self._bytes = 0

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Prepare the folder.

        Raises:
            RecordingError: The folder cannot be made.
        """
        self._env, self._realtime = env, bool(env.metadata.get("realtime", False))
        self._fps = float(env.metadata["render_fps"])
        self._recorder = VideoRecorder(self._path, self._fps)

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Append a frame.

        Raises:
            RecordingError: This or an earlier frame could not be written.
        """
        pixels = step.observation.get("pixels", {})
        wrist: ImageArray | None = pixels.get("wrist")
        caption = self._caption(record)
        if not self._realtime or not pixels:
            scene: Any = self._env.render()
            self._recorder.add(compose_frame(scene, wrist, caption))
            return
        scene, wrist = (pixels["scene"], wrist) if "scene" in pixels else (next(iter(pixels.values())), None)
        self._waiting.append((scene, wrist, caption))
        self._bytes += _size(scene, wrist)
        # The first frame is written at once: a folder that cannot be written must not show after the episode.
        while self._waiting and (self._bytes > _MEMORY or self._recorder.frames == 0):
            self._write_waiting()

    def end(self, record: EpisodeRecord) -> None:
        """Write the images that wait, finish the file and note its name, unless it could not be finished.

        Raises:
            RecordingError: The file could not be written.
        """
        try:
            while self._waiting:
                self._write_waiting()
        finally:
            self._recorder.close()
            record.video = self._path.name if self._recorder.saved else None

    def _caption(self, record: EpisodeRecord) -> Caption:
        clock = f"seed {record.seed}    step {record.steps:4d}    {record.steps / self._fps:6.2f} s"
        holding = getattr(getattr(self._agent, "statistics", None), "holding", False)
        note = f"FAULT {record.fault}" if record.fault else "holds: no chunk yet" if holding else ""
        return Caption((record.instruction, f"{clock}    {note}".rstrip()), record.success, record.failure)

    def _write_waiting(self) -> None:
        scene, wrist, caption = self._waiting.popleft()
        self._bytes -= _size(scene, wrist)
        size = (round(_HEIGHT * scene.shape[1] / scene.shape[0]), _HEIGHT)
        large = np.asarray(Image.fromarray(scene).resize(size, Image.Resampling.BILINEAR))
        self._recorder.add(compose_frame(large, wrist, caption))


def _size(scene: ImageArray, wrist: ImageArray | None) -> int:
    return scene.nbytes + (0 if wrist is None else wrist.nbytes)
