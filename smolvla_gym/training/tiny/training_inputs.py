"""Inputs of a training step: frames drawn from demonstrations, preprocessed as the policy's own preprocessor does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smolvla_gym.agent.checkpoint.load import LoadedCheckpoint
from smolvla_gym.errors import OptionError
from smolvla_gym.training.tiny.batches import Sampler, Windows
from smolvla_gym.training.tiny.flow import sample_delays, sample_times
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.options import TrainOptions
from smolvla_gym.training.tiny.paraphraser import Paraphraser


class TrainingInputs:
    """Draws the inputs of training steps from demonstrations.

    Attributes:
        count: Number M of frames with images.
        fixed_length: Whether instructions are padded to the longest one of the dataset, as a CUDA graph needs, and
            not to the longest one of the batch.
        vision_tokens: Image tokens of each camera, shape (M, tokens, width); None: batches have images instead.
    """

    def __init__(self, checkpoint: LoadedCheckpoint, frames: Frames, options: TrainOptions) -> None:
        """Normalise states and actions and tokenise instructions, once for the whole run.

        Args:
            checkpoint: The policy; its preprocessor is used.
            frames: The demonstrations.
            options: The options of the run.

        Raises:
            OptionError: Images of a camera are missing or have another size than the policy's, or ``max_delay`` is
                not below the chunk size.
        """
        for name, size in checkpoint.spec.cameras.items():
            shape = frames.images[name].shape if name in frames.images else None
            if shape is None or shape[1:] != (*size, 3):
                raise OptionError(f"images[{name!r}]", shape, f"images of shape (N, {size[0]}, {size[1]}, 3)")
        if unknown := set(options.absent) - set(checkpoint.spec.cameras):
            raise OptionError("absent", sorted(unknown), f"cameras of the policy: {', '.join(checkpoint.spec.cameras)}")
        self._checkpoint, self._frames, self._options = checkpoint, frames, options
        self._rows = frames.with_images
        self.count: int = len(self._rows)
        self.fixed_length = False
        self.vision_tokens: list[Tensor] | None = None
        self._max_delay: int = options.max_delay or 0
        chunk = checkpoint.spec.chunk_size
        if self._max_delay >= chunk:
            raise OptionError("max_delay", self._max_delay, f"below {chunk}, the actions of a chunk")
        weights = frames.weights
        self._committed = np.zeros(self.count, np.int64) if frames.committed is None else frames.committed
        if self._committed.any():
            # The first actions of such a frame's chunk are not the expert's: they may be given, but not learned.
            weights = np.where(self._committed > self._max_delay, 0.0, 1.0 if weights is None else weights)
        self._sampler = Sampler(self.count, weights, options.seed)
        self._random = np.random.default_rng([options.seed, 1])
        self._noise = torch.Generator().manual_seed(options.seed)
        self._windows = Windows(frames.segments, chunk)
        batch = checkpoint.preprocessor(
            {
                "observation.state": torch.from_numpy(frames.states.astype(np.float32)),
                "action": torch.from_numpy(frames.actions.astype(np.float32)),
                "task": list(frames.instructions),
            }
        )
        self._states, self._actions = batch["observation.state"], batch["action"]
        self._commanded: Tensor | None = None
        if self._max_delay and frames.commanded is not None:
            commanded = torch.from_numpy(frames.commanded.astype(np.float32))
            entries = {"observation.state": commanded, "action": commanded, "task": list(frames.instructions[:1])}
            self._commanded = checkpoint.preprocessor(entries)["action"]
        self._instructions = Paraphraser(
            batch["observation.language.tokens"].cpu().numpy(),
            batch["observation.language.attention_mask"].cpu().numpy(),
            frames.paraphrases,
            checkpoint.policy.model.vlm_with_expert.vlm.config.text_config.vocab_size,
            options.garbled_words,
        )

    @property
    def state(self) -> dict[str, Any]:
        """States of the random generators, under the names in the state file; may be set."""
        return {
            "noise": self._noise.get_state(),
            "pictures": self._random.bit_generator.state,
            "sampler": self._sampler.state,
        }

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self._noise.set_state(value["noise"])
        self._random.bit_generator.state = value["pictures"]
        self._sampler.state = value["sampler"]

    def draw(self, targets: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
        """Draw the inputs of one training step.

        Args:
            targets: Auxiliary targets by name, each of shape (M, k).

        Returns:
            What :meth:`batch` returns, and ``noise``, ``times``, ``delays`` (with a ``max_delay``), padding masks of
            the cameras that some frames lack, the targets, and ``seen.0``, ``seen.1``, ... in place of images where
            ``vision_tokens`` is set.
        """
        options, config, device = self._options, self._checkpoint.policy.config, self._checkpoint.device
        chosen = self._sampler.draw(options.batch_size)
        inputs = self.batch(chosen)
        count = options.batch_size * options.noise_draws
        noise = torch.randn((count, config.chunk_size, config.max_action_dim), generator=self._noise)
        inputs["noise"], inputs["times"] = noise.to(device), sample_times(count, self._noise).to(device)
        if self._max_delay:
            committed = torch.from_numpy(self._committed[chosen]).repeat_interleave(options.noise_draws)
            inputs["delays"] = sample_delays(committed, self._max_delay, self._noise).to(device)
        inputs |= self._draw_absent()
        for name, values in targets.items():
            inputs[name] = torch.from_numpy(values[chosen]).to(device)
        if self.vision_tokens is not None:
            index = torch.from_numpy(chosen).to(device)
            inputs |= {f"seen.{i}": camera[index].float() for i, camera in enumerate(self.vision_tokens)}
        return inputs

    def _draw_absent(self) -> dict[str, Tensor]:
        """Draw which camera each frame lacks, if any; return LeRobot's padding masks."""
        shares = self._options.absent
        if not shares:
            return {}
        limits = np.cumsum([*shares.values()])
        lacking = np.searchsorted(limits, self._random.random(self._options.batch_size), side="right")
        return {
            f"observation.images.{name}_padding_mask": torch.from_numpy(lacking != i).to(self._checkpoint.device)
            for i, name in enumerate(shares)
        }

    def batch(self, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return a batch as the policy's own preprocessor would, with augmented images and paraphrased instructions.

        Args:
            chosen: Indices of frames with images, from 0 to M - 1, shape (B,).
        """
        frames, device = self._frames, self._checkpoint.device
        rows = self._rows[chosen]
        chunk, is_pad = self._windows.rows(rows)
        tokens, masks = self._instructions.draw(frames.instruction_ids[rows], self._random)
        if not self.fixed_length:
            used = masks.any(axis=0)
            tokens, masks = tokens[:, used], masks[:, used]
        batch: dict[str, Any] = {
            "observation.state": self._states[rows],
            "observation.language.tokens": torch.from_numpy(tokens).to(device),
            "observation.language.attention_mask": torch.from_numpy(masks).to(device),
            "action": self._actions[chunk],
            "action_is_pad": torch.from_numpy(is_pad).to(device),
        }
        if self._max_delay and self._commanded is not None:
            batch["commanded"] = self._commanded[chunk]
        for name in self._checkpoint.spec.cameras if self.vision_tokens is None else ():
            pixels = self._options.augmentation.apply(frames.images[name][chosen], self._random, device)
            batch[f"observation.images.{name}"] = pixels.permute(0, 3, 1, 2)
        return batch
