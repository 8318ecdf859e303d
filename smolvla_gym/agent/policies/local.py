"""Run inference of a SmolVLA checkpoint in this process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, override

import numpy as np

from smolvla_gym.agent.cameras import map_checkpoint_cameras
from smolvla_gym.agent.checkpoint.configuration import IMAGES
from smolvla_gym.agent.checkpoint.load import LoadedCheckpoint, check_options
from smolvla_gym.agent.checkpoint.provenance import PROVENANCE, Provenance, read_provenance
from smolvla_gym.agent.images import resize_area
from smolvla_gym.agent.input_validation import check_observation
from smolvla_gym.agent.instructions import InstructionReader
from smolvla_gym.agent.policies.base import Array, Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.rtc_guidance import PrefixGuidance
from smolvla_gym.agent.single_thread import is_small, single_thread
from smolvla_gym.errors import ActionError, CheckpointError, UnknownNameError, with_causes
from smolvla_gym.utils.option_values import check_whole

if TYPE_CHECKING:
    from smolvla_gym.agent.sampler import FastSampler

SAMPLERS: Final = ("fast", "reference")
"""Names of the samplers: :mod:`smolvla_gym.agent.sampler`, and LeRobot's own code."""

MAX_FLOW_STEPS: Final = 4096
"""Largest number of flow steps; it is also the largest that a policy server may announce."""

_MAX_DIFFERENCE: Final = 1e-3
"""Largest difference between a fast chunk in float32 and the reference, in the policy's normalized units."""

_MIN_COSINE: Final = 0.999
"""Smallest cosine similarity of the two in half precision."""

_MAX_RELATIVE_DIFFERENCE: Final = 0.05
"""Largest norm of their difference in half precision, relative to the norm of the reference."""

_LANGUAGE: Final = "observation.language."


class LocalPolicy(ChunkPolicy):
    """LeRobot's SmolVLA, with its own modules and weights.

    The first request also checks the fast sampler against LeRobot's own code. If their chunks differ, LeRobot's code is
    used from then on.

    A small policy on a CPU computes with one thread of torch, whatever number the program has set; it is restored after
    each chunk. See :mod:`smolvla_gym.agent.single_thread`.

    Attributes:
        sampler: The sampler in use, one of ``SAMPLERS``.
        fallback: Why the sampler in use is not the requested one; None: it is the requested one.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        *,
        num_steps: int | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        name: str | None = None,
        sampler: str = "fast",
        compile_mode: str | None = None,
    ) -> None:
        """Create a policy of a loaded checkpoint.

        Args:
            checkpoint: The checkpoint; its number of flow steps and its guidance are changed in place.
            num_steps: Flow steps of a chunk; None: the checkpoint's number.
            camera_map: Env camera by policy camera, for cameras whose names differ; None leaves a camera out.
            name: Name of the policy; None: the folder's name.
            sampler: One of ``SAMPLERS``.
            compile_mode: A mode of ``torch.compile``, such as ``"default"``, for the fast sampler; the first chunk
                then takes minutes. LeRobot's own code is compiled if the checkpoint was loaded with such a mode.

        Raises:
            OptionError: ``num_steps`` is not a whole number from 1 on, or there is no such mode.
            UnknownNameError: There is no such sampler.
            PolicyMismatchError: ``camera_map`` names a camera that the policy does not have, or leaves all out.
            CheckpointError: The checkpoint's provenance file cannot be read, or contradicts the checkpoint.
        """
        import torch
        from lerobot.policies.rtc.configuration_rtc import RTCConfig

        from smolvla_gym.agent.clean_times import clean_times

        self._torch, self._checkpoint, self._clean_times = torch, checkpoint, clean_times
        spec, config = checkpoint.spec, checkpoint.policy.config
        steps = spec.num_steps
        if num_steps is not None:
            allowed = f"a whole number from 1 to {MAX_FLOW_STEPS}"
            steps = check_whole("num_steps", num_steps, allowed, low=1, high=MAX_FLOW_STEPS)
        if sampler not in SAMPLERS:
            raise UnknownNameError("sampler", sampler, SAMPLERS)
        check_options("auto", compile_mode)
        # LeRobot compiles its own code in a checkpoint that was loaded with a mode of torch.compile.
        self.sampler = sampler = "reference" if config.compile_model else sampler
        self.fallback: str | None = None
        self._fast = self._make_fast(compile_mode) if sampler == "fast" else None
        self._verified = False
        self._is_small = is_small(checkpoint.policy, checkpoint.device)
        self._preprocess_without_text = _without_tokenizer(checkpoint.preprocessor)
        self._tokens: tuple[str, dict[str, Any]] | None = None  # the latest instruction and its tokens
        # LeRobot's flow loop calls the model's RTC processor only with this switch in the configuration.
        config.rtc_config = RTCConfig(enabled=True)
        provenance = read_provenance(spec.directory)
        max_delay = self._read_max_delay(provenance)
        self._guidance = PrefixGuidance(max_weight=float(steps), max_delay=max_delay)
        cameras = map_checkpoint_cameras(spec, camera_map)
        absent = tuple(camera for camera in spec.cameras if camera not in cameras)
        self._card = PolicyCard(
            name=name or spec.directory.name,
            cameras={camera: spec.cameras[camera] for camera in cameras},
            camera_map=cameras,
            chunk_size=spec.chunk_size,
            n_action_steps=spec.n_action_steps,
            num_steps=steps,
            noise_width=int(config.max_action_dim),
            device=checkpoint.device,
            empty_cameras=max(0, spec.empty_cameras - len(absent)),
            absent_cameras=absent,
            control_hz=None if provenance is None else float(provenance.control_hz),
            gripper=None if provenance is None else provenance.gripper,
            max_delay=max_delay,
        )
        self._reader = _make_reader(self._card.name, checkpoint.preprocessor, provenance)

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        """The checkpoint."""
        return self._checkpoint

    @override
    def check_instruction(self, instruction: object) -> str:
        return self._reader.read(instruction)

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        torch, checkpoint = self._torch, self._checkpoint
        # no_grad, not inference_mode: the same program may train the policy later.
        one_thread = single_thread() if self._is_small else contextlib.nullcontext()
        with checkpoint.lock, one_thread, torch.no_grad():
            # Another policy may share the checkpoint, with another number of flow steps.
            checkpoint.policy.config.num_steps = self._card.num_steps
            checkpoint.policy.model.rtc_processor = self._guidance
            batch, noise = self.prepare(request)
            leftover = request.leftover
            left = None if leftover is None or not len(leftover) else torch.from_numpy(np.array(leftover))
            normalized = self._sample(batch, noise, left, request.inference_delay)
            actions: Array = checkpoint.postprocessor(normalized)[0].float().cpu().numpy()
            normalized = normalized[0].float().cpu().numpy()
        if not np.isfinite(actions).all():
            raise ActionError(
                f"The policy {self._card.name!r} returned actions that are not finite. Nothing was sent to the arm. "
                "Its weights or its observation hold such numbers: take another copy of the checkpoint."
            )
        return Chunk(actions, normalized)

    @property
    def fast(self) -> FastSampler:
        """The fast sampler.

        Raises:
            ValueError: The policy uses LeRobot's own code.
        """
        if self._fast is None:
            raise ValueError("This policy uses LeRobot's own code.")
        return self._fast

    def prepare(self, request: ChunkRequest) -> tuple[dict[str, Any], Any]:
        """Return the policy's batch and the noise, shape (1, chunk, padded action width), on the device."""
        instruction = self._reader.read(request.instruction)
        frame = self._frame(request, instruction)
        if self._tokens is not None and self._tokens[0] == instruction:
            batch = self._preprocess_without_text(frame) | self._tokens[1]
        else:  # tokenizing takes most of the time of preprocessing, so the tokens are kept
            batch = self._checkpoint.preprocessor(frame)
            tokens = {name: value for name, value in batch.items() if name.startswith(_LANGUAGE)}
            self._tokens = instruction, tokens
        noise = self._torch.from_numpy(np.array(request.noise, dtype=np.float32))[None]
        return batch, noise.to(self._checkpoint.device)

    def _read_max_delay(self, provenance: Provenance | None) -> int:
        """Return the largest inference delay that the policy continues given actions for."""
        spec = self._checkpoint.spec
        delay = 0 if provenance is None else provenance.rtc_max_delay
        if delay >= spec.chunk_size:
            raise CheckpointError(
                f"{spec.directory / PROVENANCE} states rtc_max_delay {delay}, and a chunk of the checkpoint has "
                f"{spec.chunk_size} actions; expected fewer. Take another copy of the checkpoint."
            )
        if delay and self._checkpoint.policy.config.compile_model:
            # Given actions take a hook, which compiled code does not call once it is compiled without.
            warnings.warn(
                "LeRobot's own compiled code cannot be given the actions in execution, so that RTC guides the chunks. "
                "Compile the fast sampler instead, with compile_mode.",
                stacklevel=4,
            )
            return 0
        return delay

    def _make_fast(self, compile_mode: str | None) -> FastSampler | None:
        from smolvla_gym.agent.sampler import FastSampler, UnsupportedPolicyError

        try:
            return FastSampler(self._checkpoint.policy, compile_mode=compile_mode)
        except UnsupportedPolicyError as reason:
            self._fall_back(f"the fast sampler does not support {reason}")
            return None

    def _fall_back(self, reason: str) -> None:
        warnings.warn(f"Chunks are computed by LeRobot's own code, which is slower: {reason}.", stacklevel=4)
        self.sampler, self._fast, self.fallback = "reference", None, reason

    def _sample(self, batch: dict[str, Any], noise: Any, left: Any, delay: int) -> Any:
        """Return a chunk in the policy's normalized units, shape (1, chunk, action width)."""
        if self._fast is not None and self._checkpoint.policy.training:
            self._checkpoint.policy.eval()
        if self._fast is not None and not self._verified:
            self._verify(batch, noise)
            self._verified = True
        if self._fast is None:
            return self._sample_reference(batch, noise, left, delay)
        return self._sample_fast(batch, noise, left, delay)

    def _verify(self, batch: dict[str, Any], noise: Any) -> None:
        """Compare both samplers: for the request, and for random images with leftover actions (RTC), guided or held.

        The first request is often the warm-up with black images, so it alone would not be a test. Later requests are
        not checked, because the arm waits for them.
        """
        torch, chunk = self._torch, noise.shape[1]
        generator = torch.Generator().manual_seed(0)
        noisy = {
            name: torch.rand(value.shape, generator=generator).to(value) if name.startswith(IMAGES) else value
            for name, value in batch.items()
        }
        width = self._checkpoint.policy.config.action_feature.shape[0]
        left = torch.randn((max(1, chunk // 2), width), generator=generator)
        for inputs in ((batch, noise, None, 0), (noisy, noise, left, chunk // 4)):
            reference = self._sample_reference(*inputs)
            try:
                fast = self._sample_fast(*inputs)
            except Exception as error:  # the reference has worked, so inference goes on with it
                self._fall_back(f"the fast sampler failed ({with_causes(error)})")
                return
            difference = self._describe_difference(fast, reference)
            if difference is not None:
                self._fall_back(f"the fast chunk differs from it ({difference})")
                return

    def _sample_fast(self, batch: dict[str, Any], noise: Any, left: Any, delay: int) -> Any:
        guidance = None if left is None else self._guidance.make_target(left, delay, noise.shape[1])
        return self.fast.sample(batch, noise, guidance)

    def _sample_reference(self, batch: dict[str, Any], noise: Any, left: Any, delay: int) -> Any:
        policy = self._checkpoint.policy
        if left is None:
            return policy.predict_action_chunk(dict(batch), noise=noise)
        held = self._guidance.make_target(left, delay, noise.shape[1]).held
        given = self._torch.arange(noise.shape[1])[None] < held
        with self._clean_times(policy.model, given) if held else contextlib.nullcontext():
            chunk = policy.predict_action_chunk(
                dict(batch), noise=noise, prev_chunk_left_over=left, inference_delay=delay
            )
        chunk[:, :held] = left[:held].to(chunk)
        return chunk

    def _describe_difference(self, fast: Any, reference: Any) -> str | None:
        """Return how two chunks differ, or None if they differ by rounding at most."""
        fast, reference = fast.float().flatten(), reference.float().flatten()
        if not reference.isfinite().all():
            return None  # infer() raises an error for it
        half = any(p.dtype != self._torch.float32 for p in self._checkpoint.policy.parameters())
        if half:
            cosine = float(self._torch.cosine_similarity(fast, reference, dim=0))
            relative = float((fast - reference).norm() / reference.norm().clamp_min(1e-6))
            is_close = cosine >= _MIN_COSINE and relative <= _MAX_RELATIVE_DIFFERENCE
            return None if is_close else f"cosine {cosine:.4f}, {100 * relative:.1f} %"
        largest = float((fast - reference).abs().max())
        return None if largest <= _MAX_DIFFERENCE * max(1.0, float(reference.abs().max())) else f"by {largest:.2g}"

    def _frame(self, request: ChunkRequest, instruction: str) -> dict[str, Any]:
        """Return an observation with LeRobot's names: images as float 0..1 with the channels first.

        A camera that is left out has no entry: LeRobot computes without it.
        """
        torch, device = self._torch, self._checkpoint.device
        observation = check_observation(self._card, request.observation, request.absent)
        frame: dict[str, Any] = {"task": instruction, "observation.state": torch.tensor(observation["agent_pos"])}
        for policy_camera, env_camera in self._card.camera_map.items():
            if env_camera not in observation["pixels"] or policy_camera in request.absent:
                continue
            image = resize_area(observation["pixels"][env_camera], self._card.cameras[policy_camera])
            # Copying uint8 and widening it on the device is a quarter of the traffic.
            pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)
            frame[f"{IMAGES}{policy_camera}"] = pixels.float() / 255.0
        return frame


def _make_reader(policy: str, preprocessor: Any, provenance: Provenance | None) -> InstructionReader:
    """Return a reader of instructions that counts tokens like a preprocessor of LeRobot."""
    from lerobot.processor import NewLineTaskProcessorStep, TokenizerProcessorStep

    step = next(step for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep))
    ends_lines = any(isinstance(step, NewLineTaskProcessorStep) for step in preprocessor.steps)
    # A tokenizer is not thread-safe, and the policy's own is in use while a chunk is computed.
    tokenizer: Any = copy.deepcopy(step.input_tokenizer)

    def count_tokens(text: str) -> int:
        ended = text if text.endswith("\n") or not ends_lines else f"{text}\n"
        # Without verbose=False the tokenizer warns of a length limit that SmolVLA does not use.
        return len(tokenizer(ended, verbose=False)["input_ids"])

    return InstructionReader(
        policy,
        count_tokens,
        limit=step.max_length if step.truncation else None,
        special=tuple(getattr(tokenizer, "all_special_tokens", ())),
        provenance=provenance,
    )


def _without_tokenizer(preprocessor: Any) -> Any:
    """Return a preprocessor with the same steps, without the tokenizer."""
    from lerobot.processor import TokenizerProcessorStep

    steps = [step for step in preprocessor.steps if not isinstance(step, TokenizerProcessorStep)]
    return dataclasses.replace(preprocessor, steps=steps)
