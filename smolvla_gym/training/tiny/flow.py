"""SmolVLA's flow-matching loss with several draws of noise for one pass through the vision-language model.

LeRobot's own loss runs the whole network for each draw. Images, instruction and state do not depend on the noise, and
the vision tower takes most of the time. Their keys and values are therefore computed once, as the sampler does at
inference, and only the action expert runs for every draw. With one draw the loss is the same as LeRobot's.

With delays the first actions of a chunk are given, as those are that the arm executes until the chunk arrives: they
enter the action expert without noise and with the flow time 0, and have no loss ("Training-Time Action Conditioning for
Efficient Real-Time Chunking", Black et al., 2025).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from smolvla_gym.agent.sampler.flow import prepare_context, velocity
from smolvla_gym.agent.sampler.network import Network
from smolvla_gym.agent.sampler.prefix import Prefix, encode_prefix

_EMPTY: Final = ".empty_camera_"
"""Part of the name of LeRobot's features for cameras that do not exist."""

_NO_DELAY: Final = 0.25
"""Share of the draws without a delay, in addition to those that the distribution of delays leads to."""


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Draw the times of the flow as SmolVLA does: Beta(1.5, 1), from 0.001 to 1.

    Args:
        count: Number of times.
        generator: Source of the random numbers.

    Returns:
        Shape (count,).
    """
    # The distribution function of Beta(a, 1) is t^a, so a uniform number to the power 1/a follows it.
    return torch.rand(count, generator=generator) ** (1 / 1.5) * 0.999 + 0.001


def sample_delays(committed: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """Draw the number of given actions for each chunk: small numbers more often, and a quarter or more of them 0.

    A long delay leaves few actions to learn from, and most policies run with a short one.

    Args:
        committed: Smallest number for each chunk, at most ``limit``, shape (count,).
        limit: Largest number.
        generator: Source of the random numbers; None: torch's own.

    Returns:
        Shape (count,).
    """
    # The square of a uniform number has a density that falls as the inverse square root.
    share = torch.rand(len(committed), generator=generator) ** 2
    drawn = committed + (share * (limit + 1 - committed)).long().clamp_max(limit - committed)
    none = (torch.rand(len(committed), generator=generator) < _NO_DELAY) & (committed == 0)
    return torch.where(none, 0, drawn)


class FlowLoss:
    """Flow-matching loss of a policy, computed with the sampler's operations and differentiable."""

    def __init__(self, policy: Any) -> None:
        """Take the networks of a policy.

        Args:
            policy: A ``SmolVLAPolicy``.

        Raises:
            UnsupportedPolicyError: The policy has parts that this loss does not support.
        """
        self._policy, self._network = policy, Network(policy, trains=True)

    def see(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Run the vision tower.

        Args:
            batch: Batch with the images of all cameras.

        Returns:
            The tokens of each camera, shape (B, tokens, width).
        """
        return self._network.vision(self._network.images(batch)[0])

    def read(self, batch: dict[str, Tensor], images: list[Tensor]) -> Prefix:
        """Run the language model on images, instruction and state.

        Args:
            batch: Output of the policy's preprocessor; it needs no images. As in LeRobot, a camera's name followed by
                ``_padding_mask`` has the rows that have an image of it, shape (B,).
            images: Image tokens of :meth:`see`.
        """
        tokens, mask = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
        embedded = self._network.prefix_tokens(images, tokens, self._policy.prepare_state(batch))
        count = sum(image.shape[1] for image in images)
        features = self._policy.config.image_features
        cameras = [name for name in features if name in batch] or [name for name in features if _EMPTY not in name]
        seen = [
            batch.get(f"{name}_padding_mask", mask.new_ones(len(mask)))[:, None].expand(-1, image.shape[1])
            for name, image in zip(cameras, images, strict=True)
        ]
        exists = torch.cat([*seen, mask, mask.new_ones((len(mask), 1))], dim=1)
        return encode_prefix(self._network.text, self._network.expert, embedded, exists, count + tokens.shape[1])

    def __call__(
        self,
        batch: dict[str, Tensor],
        noise: Tensor,
        times: Tensor,
        prefix: Prefix | None = None,
        delays: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of the predicted flow over the actions that are neither padding nor given.

        Args:
            batch: Output of the policy's preprocessor, with ``"action"`` of shape (B, chunk, 7) and the padding mask
                ``"action_is_pad"`` of shape (B, chunk). ``"commanded"``, of the shape of the actions, has the actions
                that are given; without it they are those of ``"action"``.
            noise: Shape (draws * B, chunk, max_action_dim); the draws of one frame follow each other.
            times: Shape (draws * B,), from 0 (actions) to 1 (noise).
            prefix: Output of :meth:`read`, if it is computed already; the batch needs no images then.
            delays: Number of given actions at the start of each chunk, shape (draws * B,); None: none.

        Returns:
            The loss, a scalar.
        """
        policy, network = self._policy, self._network
        prefix = self.read(batch, self.see(batch)) if prefix is None else prefix
        draws = len(noise) // len(batch["action"])
        actions = policy.prepare_action(batch).repeat_interleave(draws, dim=0)
        valid = ~batch["action_is_pad"].repeat_interleave(draws, dim=0)
        exists = None if prefix.exists is None else prefix.exists.repeat_interleave(draws, dim=0)
        keys, values = (
            [part.repeat_interleave(draws, dim=0) for part in parts] for parts in (prefix.keys, prefix.values)
        )
        context = prepare_context(network.expert, Prefix(keys, values, exists, prefix.tokens), noise.shape[1])
        share = times[:, None, None]
        place = share * noise + (1 - share) * actions
        bias = network.time_biases(network.embed_times(times))[:, None]
        if delays is not None:
            given = torch.arange(noise.shape[1], device=noise.device) < delays[:, None]
            commanded = policy.prepare_action({"action": batch.get("commanded", batch["action"])})
            clean = network.time_biases(network.embed_times(times.new_zeros(1)))
            place = torch.where(given[..., None], commanded.repeat_interleave(draws, dim=0), place)
            bias = torch.where(given[..., None], clean, bias)
            valid = valid & ~given
        speed = velocity(network.model, network.expert, network.norm, place, bias, context)
        width = policy.config.action_feature.shape[0]
        errors: Tensor = (speed - (noise - actions))[:, :, :width].square().mean(dim=-1)
        return (errors * valid).sum() / valid.sum().clamp_min(1)
