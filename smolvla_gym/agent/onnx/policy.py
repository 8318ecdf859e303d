"""Run inference of an exported policy in this process, without torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, override

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.cameras import map_checkpoint_cameras
from smolvla_gym.agent.checkpoint.spec import find_step
from smolvla_gym.agent.input_validation import check_observation
from smolvla_gym.agent.instructions import InstructionReader
from smolvla_gym.agent.onnx.folder import ExportedFiles, read_exported
from smolvla_gym.agent.onnx.network import OnnxNetwork, Sizes
from smolvla_gym.agent.onnx.processing import Processing, make_tokenizer, pad_tokens
from smolvla_gym.agent.policies.base import Array, Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.local import MAX_FLOW_STEPS
from smolvla_gym.agent.rtc_guidance import GuidanceTarget, PrefixGuidance
from smolvla_gym.errors import ActionError, CheckpointError, OptionError
from smolvla_gym.utils.option_values import check_whole
from smolvla_gym.utils.untrusted import printable

_MAX_PIXELS: Final = 1 << 23
"""Largest number of pixels of all images of a request. SmolVLA with three cameras of 512 x 512 has a tenth."""

_ONLY: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "device": (("auto", "cpu"), "an exported policy computes on the CPU: 'auto' or 'cpu'"),
    "dtype": (("auto", "float32"), "an exported policy computes in float32: 'auto' or 'float32'"),
    "sampler": (("fast",), "an exported policy has one sampler, 'fast'; the checkpoint that it came from has both"),
    "compile_mode": ((None,), "an exported policy is not compiled; leave it out"),
    "vlm": ((None,), "an exported policy has the VLM's files; leave it out"),
    "revision": ((None,), "an exported policy is a folder; leave it out"),
}
"""Values of the loading options that an exported policy can have, and what the error says of others."""


def open_exported(
    folder: Path,
    *,
    num_steps: int | None = None,
    camera_map: Mapping[str, str | None] | None = None,
    name: str | None = None,
    **loading: Any,
) -> OnnxPolicy:
    """Load an exported policy.

    Args:
        folder: The folder.
        num_steps: As for :class:`OnnxPolicy`.
        camera_map: As for :class:`OnnxPolicy`.
        name: As for :class:`OnnxPolicy`.
        **loading: Options of loading a checkpoint; those without effect on an exported policy are refused.

    Raises:
        OptionError: An option has a value that an exported policy does not have.
        CheckpointError: A file is missing or broken, or has content that the exporter does not write.
        PolicyMismatchError: The policy cannot drive this arm.
        MissingExtraError: onnxruntime or tokenizers is not installed.
    """
    for option, value in loading.items():
        allowed, reason = _ONLY[option]
        if value not in allowed:
            raise OptionError(option, value, reason)
    return OnnxPolicy(read_exported(folder), num_steps=num_steps, camera_map=camera_map, name=name)


class OnnxPolicy(ChunkPolicy):
    """Exported policy on ONNX Runtime."""

    def __init__(
        self,
        files: ExportedFiles,
        *,
        num_steps: int | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        name: str | None = None,
    ) -> None:
        """Create a policy of checked files.

        Args:
            files: Content of the folder.
            num_steps: Flow steps of a chunk; None: the checkpoint's number.
            camera_map: Env camera by policy camera, for cameras whose names differ; None leaves a camera out.
            name: Name of the policy; None: the folder's name.

        Raises:
            OptionError: ``num_steps`` is not a whole number from 1 on.
            PolicyMismatchError: ``camera_map`` names a camera that the policy does not have, or leaves all out.
            CheckpointError: The files contradict each other.
            MissingExtraError: onnxruntime or tokenizers is not installed.
        """
        spec, provenance = files.spec, files.provenance
        steps = spec.num_steps
        if num_steps is not None:
            allowed = f"a whole number from 1 to {MAX_FLOW_STEPS}"
            steps = check_whole("num_steps", num_steps, allowed, low=1, high=MAX_FLOW_STEPS)
        max_delay = 0 if provenance is None else provenance.rtc_max_delay
        if max_delay >= spec.chunk_size:
            raise CheckpointError(
                f"{spec.directory} states rtc_max_delay {max_delay}, and a chunk has {spec.chunk_size} actions; "
                "expected fewer. Export the policy again."
            )
        self._guidance = PrefixGuidance(max_weight=float(steps), max_delay=max_delay)
        self._cameras, self._processing = tuple(spec.cameras), Processing(spec)
        sizes = Sizes(
            images=tuple(self._processing.input_size(camera) for camera in spec.cameras),
            state=int(spec.config["max_state_dim"]),
            chunk=spec.chunk_size,
            noise=int(spec.config["max_action_dim"]),
            action=spec.action_dim,
            min_period=float(spec.config["min_period"]),
            max_period=float(spec.config["max_period"]),
        )
        pixels = sum(height * width for height, width in sizes.images)
        if pixels > _MAX_PIXELS:
            raise CheckpointError(
                f"{spec.directory} takes images of {pixels} px together; expected at most {_MAX_PIXELS}. Take another "
                "copy of the policy."
            )
        ends_lines = find_step(spec.preprocessor, "smolvla_new_line_processor") is not None
        try:
            self._network = OnnxNetwork(files.prefix, files.velocity, files.times, sizes)
            self._tokenize = make_tokenizer(files.tokenizer, ends_lines=ends_lines)
            self._try(sizes)
        except ValueError as error:
            raise CheckpointError(
                f"{spec.directory} is not an export of its checkpoint ({printable(error)}). Take another copy, or "
                "export the policy again with smolvla-gym export --format onnx."
            ) from error
        self._tokens: tuple[str, tuple[NDArray[np.int64], NDArray[np.bool_]]] | None = None
        self._blank = {
            camera: np.full((1, 3, *size), -1.0, np.float32)
            for camera, size in zip(spec.cameras, sizes.images, strict=True)
        }
        cameras = map_checkpoint_cameras(spec, camera_map)
        absent = tuple(camera for camera in spec.cameras if camera not in cameras)
        self._card = PolicyCard(
            name=name or spec.directory.name,
            cameras={camera: spec.cameras[camera] for camera in cameras},
            camera_map=cameras,
            chunk_size=spec.chunk_size,
            n_action_steps=spec.n_action_steps,
            num_steps=steps,
            noise_width=sizes.noise,
            device="cpu",
            empty_cameras=max(0, spec.empty_cameras - len(absent)),
            absent_cameras=absent,
            control_hz=None if provenance is None else float(provenance.control_hz),
            gripper=None if provenance is None else provenance.gripper,
            max_delay=max_delay,
        )
        step = find_step(spec.preprocessor, "tokenizer_processor")
        truncates = step is None or bool(step.config.get("truncation", True))
        self._reader = InstructionReader(
            self._card.name,
            lambda text: len(self._tokenize(text)),
            limit=spec.text_length if truncates else None,
            special=files.special_tokens,
            provenance=provenance,
        )
        self._lock = threading.Lock()

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @override
    def check_instruction(self, instruction: object) -> str:
        return self._reader.read(instruction)

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        with self._lock:
            inputs = self._prepare(request)
            normalized = self._network.chunk(inputs, request.noise, self._card.num_steps, self._make_target(request))
        actions = self._processing.actions(normalized)
        if not np.isfinite(actions).all():
            raise ActionError(
                f"The policy {self._card.name!r} returned actions that are not finite. Nothing was sent to the arm. "
                "Its weights or its observation hold such numbers: take another copy of the policy."
            )
        return Chunk(actions, normalized)

    def _prepare(self, request: ChunkRequest) -> dict[str, NDArray[Any]]:
        """Return the inputs of the prefix by name. A camera that is left out is black and masked."""
        instruction = self._reader.read(request.instruction)
        observation = check_observation(self._card, request.observation, request.absent)
        if self._tokens is None or self._tokens[0] != instruction:
            self._tokens = instruction, pad_tokens(self._tokenize(instruction))
        tokens, token_mask = self._tokens[1]
        state = self._processing.state(observation["agent_pos"])
        inputs: dict[str, NDArray[Any]] = {"tokens": tokens, "token_mask": token_mask, "state": state}
        exists = np.zeros((1, len(self._cameras)), np.bool_)
        for i, camera in enumerate(self._cameras):
            image = observation["pixels"].get(self._card.camera_map.get(camera))
            exists[0, i] = image is not None and camera not in request.absent
            inputs[f"images_{i}"] = self._processing.image(camera, image) if exists[0, i] else self._blank[camera]
        return inputs | {"camera_mask": exists}

    def _try(self, sizes: Sizes) -> None:
        """Compute a step, which refuses graphs whose operators do not fit each other before the arm moves."""
        tokens, token_mask = pad_tokens(self._tokenize("try"))
        inputs: dict[str, NDArray[Any]] = {"tokens": tokens, "token_mask": token_mask}
        inputs["camera_mask"] = np.ones((1, len(sizes.images)), np.bool_)
        inputs["state"] = np.zeros((1, sizes.state), np.float32)
        images = {f"images_{i}": np.zeros((1, 3, *size), np.float32) for i, size in enumerate(sizes.images)}
        try:
            self._network.chunk(inputs | images, np.zeros((sizes.chunk, sizes.noise), np.float32), 1, None)
        except Exception as error:  # of many types, all of ONNX Runtime
            raise ValueError(f"its graphs cannot be computed ({type(error).__name__}: {str(error)[:200]})") from error

    def _make_target(self, request: ChunkRequest) -> GuidanceTarget | None:
        if request.leftover is None or not len(request.leftover):
            return None
        left: Array = np.asarray(request.leftover, np.float32)
        length = self._card.chunk_size
        weights, held = self._guidance.make_weights(len(left), request.inference_delay, length)
        return GuidanceTarget(left[np.minimum(np.arange(length), len(left) - 1)], weights, held)
