"""Prepare the inputs of the graphs and read their output, as LeRobot's processors do it with torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.configuration import ACTION, IMAGES, STATE
from smolvla_gym.agent.checkpoint.spec import CheckpointSpec, PipelineStep, find_step
from smolvla_gym.agent.images import resize_area
from smolvla_gym.agent.policies.base import Array
from smolvla_gym.errors import MissingExtraError, needs_extra

_BOUNDS: Final = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
"""Statistics of the modes that map a range to -1..1."""

_MIN_TOKENS: Final = 2
"""Smallest number of tokens that the graph takes; a masked one is added to a single token."""


def make_tokenizer(content: Mapping[str, Any], *, ends_lines: bool) -> Callable[[str], list[int]]:
    """Return the function from an instruction to its tokens.

    Args:
        content: The checked content of ``tokenizer.json``.
        ends_lines: Whether a line end is appended to the instruction.

    Raises:
        ValueError: The library cannot read the tokenizer.
        MissingExtraError: tokenizers is not installed.
    """
    with needs_extra("An exported policy", "onnx"):
        from tokenizers import Tokenizer  # type: ignore[import-untyped]
    try:
        tokenizer: Any = Tokenizer.from_str(json.dumps(content))
    # A panic of the library is not an Exception.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(f"the tokenizer cannot be read ({type(error).__name__})") from error

    def tokenize(text: str) -> list[int]:
        ended = text if text.endswith("\n") or not ends_lines else f"{text}\n"
        return list(tokenizer.encode(ended).ids)

    return tokenize


class Processing:
    """Normalisation and images of a checkpoint."""

    def __init__(self, spec: CheckpointSpec) -> None:
        """Read the statistics of a checked checkpoint."""
        before = find_step(spec.preprocessor, "normalizer_processor")
        after = find_step(spec.postprocessor, "unnormalizer_processor")
        self._width: int = spec.config["max_state_dim"]
        self._sizes = spec.cameras
        self._target = spec.config["resize_imgs_with_padding"]
        self._state = _scale(before, STATE, "STATE")
        self._action = _scale(after, ACTION, "ACTION")
        self._images = {camera: _scale(before, f"{IMAGES}{camera}", "VISUAL") for camera in spec.cameras}

    def input_size(self, camera: str) -> tuple[int, int]:
        """Return height and width in px of a camera's image in the graph."""
        return self._sizes[camera] if self._target is None else (int(self._target[1]), int(self._target[0]))

    def state(self, state: Array) -> Array:
        """Return the normalised state, padded with zeros, shape (1, padded state width)."""
        padded = np.zeros((1, self._width), np.float32)
        offset, scale, shift = self._state
        padded[0, : len(state)] = (state - offset) / scale + shift
        return padded

    def image(self, camera: str, image: NDArray[np.uint8]) -> Array:
        """Return an image for the graph, shape (1, 3, height, width), -1..1.

        Args:
            camera: Policy camera.
            image: Image of the env, shape (H, W, 3).
        """
        pixels = resize_area(image, self._sizes[camera]).astype(np.float32) / np.float32(255.0)
        offset, scale, shift = self._images[camera]
        if offset.size > 1:
            pixels = (pixels - offset) / scale + shift
        pixels = _resize_with_padding(pixels, self.input_size(camera))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] * np.float32(2.0) - np.float32(1.0))

    def actions(self, normalized: Array) -> Array:
        """Return actions in rad and gripper opening; shapes (chunk, 7)."""
        offset, scale, shift = self._action
        actions: Array = (normalized - shift) * scale + offset
        return actions


_Scale = tuple[Array, Array, Array]
"""Offset, scale and shift: a normalised value is (value - offset) / scale + shift."""


def _scale(step: PipelineStep | None, key: str, kind: str) -> _Scale:
    mode = step.config.get("norm_map", {}).get(kind, "IDENTITY") if step else "IDENTITY"
    if step is None or mode == "IDENTITY":
        return np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(1, np.float32)
    stats = {
        name.removeprefix(f"{key}."): values.astype(np.float32).ravel()
        for name, values in step.stats.items()
        if name.startswith(f"{key}.")
    }
    if mode == "MEAN_STD":
        # LeRobot adds eps only in the preprocessor.
        eps = np.float32(step.config.get("eps", 1e-8) if step.name == "normalizer_processor" else 0.0)
        return stats["mean"], stats["std"] + eps, np.zeros(1, np.float32)
    low, high = (stats[name] for name in _BOUNDS[mode])
    return low, (high - low) / np.float32(2.0), np.full(1, -1.0, np.float32)


def _resize_with_padding(pixels: Array, size: tuple[int, int]) -> Array:
    """Resize an image of shape (H, W, 3) in its proportions, and pad it with zeros at the left and the top."""
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("Resizing images", "onnx", error) from error
    ratio = max(pixels.shape[1] / width, pixels.shape[0] / height)
    inner = int(pixels.shape[0] / ratio), int(pixels.shape[1] / ratio)
    padded = np.zeros((height, width, 3), np.float32)
    resized = cv2.resize(pixels, (inner[1], inner[0]), interpolation=cv2.INTER_LINEAR)
    padded[height - inner[0] :, width - inner[1] :] = resized
    return padded


def pad_tokens(tokens: list[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return tokens and their mask for the graph, shape (1, tokens)."""
    missing = max(0, _MIN_TOKENS - len(tokens))
    padded = np.array([[*tokens, *[0] * missing]], np.int64)
    mask = np.ones(padded.shape, np.bool_)
    mask[:, len(tokens) :] = False
    return padded, mask
