"""A SmolVLA checkpoint on this machine, as a policy that answers requests."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, override

import numpy as np

from smolvla_gym.agent.checkpoint.load import LoadedCheckpoint, check_options
from smolvla_gym.agent.checkpoint.provenance import Provenance, read_provenance
from smolvla_gym.agent.checkpoint.validation import map_checkpoint_cameras
from smolvla_gym.agent.images import resize_area
from smolvla_gym.agent.input_validation import check_observation
from smolvla_gym.agent.instructions import InstructionReader
from smolvla_gym.agent.policies.base import Array, Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.rtc_guidance import PrefixGuidance
from smolvla_gym.errors import ActionError, OptionError, UnknownNameError, with_causes

if TYPE_CHECKING:
    from smolvla_gym.agent.sampler import FastSampler


SAMPLERS: Final = ("fast", "reference")
"""How chunks are computed: by :mod:`smolvla_gym.agent.sampler`, or by LeRobot's own code."""

_CLOSE: Final = 1e-3
"""By how much at most a fast chunk in float32 differs from the reference, in the policy's units (deviations)."""

_SIMILAR: Final = 0.999
"""Least cosine between the two in half precision."""

_IMAGES: Final = "observation.images."

_LANGUAGE: Final = "observation.language."

_APART: Final = 0.05
"""Largest length of their difference, as a share of the chunk's."""


class LocalPolicy(ChunkPolicy):
    """LeRobot's SmolVLA, with its own modules and weights.

    With the first chunk some are computed both ways; where they differ LeRobot's own code stays in use.

    Attributes:
        sampler: The way that is in use, one of ``SAMPLERS``.
        fallback: Why that is not the one that was asked for; None: it is.
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
        """Wraps a loaded checkpoint.

        Args:
            checkpoint: The checkpoint; its number of flow steps and its guidance are changed in place.
            num_steps: Flow steps a chunk; None takes the checkpoint's number.
            camera_map: Env camera by policy camera, for those whose names differ; None leaves a camera out.
            name: What it is called; None: the folder's name.
            sampler: One of ``SAMPLERS``.
            compile_mode: A mode of ``torch.compile``, such as ``"default"``, for the fast sampler; the first chunk
                then takes minutes. LeRobot's own code is compiled where its checkpoint was loaded with one.

        Raises:
            OptionError: ``num_steps`` is below 1, or there is no such mode.
            UnknownNameError: There is no such sampler.
            PolicyMismatchError: ``camera_map`` names a camera that the policy does not have, or leaves all out.
            CheckpointError: What the checkpoint says of its training cannot be read.
        """
        import torch
        from lerobot.policies.rtc.configuration_rtc import RTCConfig

        self._torch, self._checkpoint = torch, checkpoint
        spec, config = checkpoint.spec, checkpoint.policy.config
        if num_steps is not None and (isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1):
            raise OptionError("num_steps", num_steps, "a whole number, at least 1")
        if sampler not in SAMPLERS:
            raise UnknownNameError("sampler", sampler, SAMPLERS)
        check_options("auto", compile_mode)
        # A checkpoint that was loaded to be compiled is compiled by LeRobot, with LeRobot's code.
        self.sampler = sampler = "reference" if config.compile_model else sampler
        self.fallback: str | None = None
        self._fast = self._make_fast(compile_mode) if sampler == "fast" else None
        self._verified = False
        self._wordless = _without_tokenizer(checkpoint.preprocessor)
        self._words: tuple[str, dict[str, Any]] | None = None
        # LeRobot looks at the switch in its configuration and at the model's processor: its hook for guidance.
        config.rtc_config = RTCConfig(enabled=True)
        steps = spec.num_steps if num_steps is None else num_steps
        self._guidance = PrefixGuidance(max_weight=float(steps))
        provenance = read_provenance(spec.directory)
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
        )
        self._reader = _make_reader(self._card.name, checkpoint.preprocessor, provenance)

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        """What it runs."""
        return self._checkpoint

    @override
    def check_instruction(self, instruction: object) -> str:
        return self._reader.read(instruction)

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        torch, checkpoint = self._torch, self._checkpoint
        # no_grad, not inference_mode: a policy may be trained on in the same program.
        with checkpoint.lock, torch.no_grad():
            # Another policy may share the checkpoint, with other flow steps.
            checkpoint.policy.config.num_steps = self._card.num_steps
            checkpoint.policy.model.rtc_processor = self._guidance
            batch, noise = self.prepare(request)
            left = request.leftover
            kept = None if left is None or not len(left) else torch.from_numpy(np.array(left))
            latent = self._sample(batch, noise, kept, request.inference_delay)
            actions: Array = checkpoint.postprocessor(latent)[0].float().cpu().numpy()
            latent = latent[0].float().cpu().numpy()
        if not np.isfinite(actions).all():
            raise ActionError(
                f"The policy {self._card.name!r} gave actions that are not finite. Nothing was sent to the arm. "
                "Its weights or its observation hold such numbers: take another copy of the checkpoint."
            )
        return Chunk(actions, latent)

    @property
    def fast(self) -> FastSampler:
        """The fast sampler.

        Raises:
            ValueError: LeRobot's own code is in use.
        """
        if self._fast is None:
            raise ValueError("This policy is computed by LeRobot's own code.")
        return self._fast

    def prepare(self, request: ChunkRequest) -> tuple[dict[str, Any], Any]:
        """Returns the policy's batch and the noise, shape (1, chunk, padded action width), on the device."""
        instruction = self._reader.read(request.instruction)
        frame = self._frame(request, instruction)
        if self._words is not None and self._words[0] == instruction:
            batch = self._wordless(frame) | self._words[1]
        else:  # the same words have the same tokens, and most of the preprocessing is making them
            batch = self._checkpoint.preprocessor(frame)
            tokens = {name: value for name, value in batch.items() if name.startswith(_LANGUAGE)}
            self._words = instruction, tokens
        noise = self._torch.from_numpy(np.array(request.noise, dtype=np.float32))[None]
        return batch, noise.to(self._checkpoint.device)

    def _make_fast(self, compile_mode: str | None) -> FastSampler | None:
        from smolvla_gym.agent.sampler import FastSampler, UnsupportedPolicyError

        try:
            return FastSampler(self._checkpoint.policy, compile_mode=compile_mode)
        except UnsupportedPolicyError as reason:
            self._fall_back(f"this policy has {reason}")
            return None

    def _fall_back(self, why: str) -> None:
        warnings.warn(f"Chunks are computed by LeRobot's own code, which is slower: {why}.", stacklevel=4)
        self.sampler, self._fast, self.fallback = "reference", None, why

    def _sample(self, batch: dict[str, Any], noise: Any, left: Any, delay: int) -> Any:
        """Returns a chunk in the policy's own units, shape (1, chunk, action width)."""
        if self._fast is not None and self._checkpoint.policy.training:
            self._checkpoint.policy.eval()
        if self._fast is not None and not self._verified:
            self._verify(batch, noise)
            self._verified = True
        if self._fast is None:
            return self._by_lerobot(batch, noise, left, delay)
        return self._by_sampler(batch, noise, left, delay)

    def _verify(self, batch: dict[str, Any], noise: Any) -> None:
        """Computes two chunks both ways: as asked, and from random pictures with a rest to continue.

        What is asked first is often the warm-up's black pictures, and later there is an arm that waits.
        """
        torch, chunk = self._torch, noise.shape[1]
        generator = torch.Generator().manual_seed(0)
        noisy = {
            name: torch.rand(value.shape, generator=generator).to(value) if name.startswith(_IMAGES) else value
            for name, value in batch.items()
        }
        width = self._checkpoint.policy.config.action_feature.shape[0]
        left = torch.randn((max(1, chunk // 2), width), generator=generator)
        for inputs in ((batch, noise, None, 0), (noisy, noise, left, chunk // 4)):
            reference = self._by_lerobot(*inputs)
            try:
                latent = self._by_sampler(*inputs)
            except Exception as error:  # what LeRobot's own code can do, this agent can do
                self._fall_back(f"the fast way failed ({with_causes(error)})")
                return
            difference = self._difference(latent, reference)
            if difference is not None:
                self._fall_back(f"the fast chunk differs from it ({difference})")
                return

    def _by_sampler(self, batch: dict[str, Any], noise: Any, left: Any, delay: int) -> Any:
        guidance = None if left is None else self._guidance.make_target(left, delay, noise.shape[1])
        return self.fast.sample(batch, noise, guidance)

    def _by_lerobot(self, batch: dict[str, Any], noise: Any, left: Any, delay: int) -> Any:
        guided = {} if left is None else {"prev_chunk_left_over": left, "inference_delay": delay}
        return self._checkpoint.policy.predict_action_chunk(dict(batch), noise=noise, **guided)

    def _difference(self, fast: Any, reference: Any) -> str | None:
        """Says in what two chunks differ by more than rounding; None: they do not."""
        fast, reference = fast.float().flatten(), reference.float().flatten()
        if not reference.isfinite().all():
            return None  # that is said elsewhere
        half = any(p.dtype != self._torch.float32 for p in self._checkpoint.policy.parameters())
        if half:
            cosine = float(self._torch.cosine_similarity(fast, reference, dim=0))
            apart = float((fast - reference).norm() / reference.norm().clamp_min(1e-6))
            return None if cosine >= _SIMILAR and apart <= _APART else f"cosine {cosine:.4f}, {100 * apart:.1f} %"
        largest = float((fast - reference).abs().max())
        return None if largest <= _CLOSE * max(1.0, float(reference.abs().max())) else f"by {largest:.2g}"

    def _frame(self, request: ChunkRequest, instruction: str) -> dict[str, Any]:
        """Return an observation under LeRobot's names: images as float 0..1 with the channels first.

        A camera that is left out is not in it: LeRobot computes without it.
        """
        torch, device = self._torch, self._checkpoint.device
        observation = check_observation(self._card, request.observation, request.absent)
        frame: dict[str, Any] = {"task": instruction, "observation.state": torch.tensor(observation["agent_pos"])}
        for ours, theirs in self._card.camera_map.items():
            if theirs not in observation["pixels"] or ours in request.absent:
                continue
            image = resize_area(observation["pixels"][theirs], self._card.cameras[ours])
            # Bytes are moved and widened on the device: a quarter of the traffic.
            pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)
            frame[f"observation.images.{ours}"] = pixels.float() / 255.0
        return frame


def _make_reader(policy: str, preprocessor: Any, provenance: Provenance | None) -> InstructionReader:
    """Return what reads instructions as a preprocessor of LeRobot's does."""
    from lerobot.processor import NewLineTaskProcessorStep, TokenizerProcessorStep

    step = next(step for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep))
    ends_lines = any(isinstance(step, NewLineTaskProcessorStep) for step in preprocessor.steps)
    # A tokenizer is for one thread; the policy's own is busy while a chunk is computed.
    tokenizer: Any = copy.deepcopy(step.input_tokenizer)

    def count_tokens(text: str) -> int:
        ended = text if text.endswith("\n") or not ends_lines else f"{text}\n"
        # Without verbose=False it warns of lengths that nobody uses.
        return len(tokenizer(ended, verbose=False)["input_ids"])

    return InstructionReader(
        policy,
        count_tokens,
        limit=step.max_length if step.truncation else None,
        special=tuple(getattr(tokenizer, "all_special_tokens", ())),
        provenance=provenance,
    )


def _without_tokenizer(preprocessor: Any) -> Any:
    """Returns a preprocessor with the same steps but the one that makes tokens of words."""
    from lerobot.processor import TokenizerProcessorStep

    steps = [step for step in preprocessor.steps if not isinstance(step, TokenizerProcessorStep)]
    return dataclasses.replace(preprocessor, steps=steps)
