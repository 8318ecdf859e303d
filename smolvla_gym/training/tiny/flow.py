"""SmolVLA's flow-matching loss with several draws of noise for one pass through the vision-language model.

LeRobot's own loss runs the whole network for each draw. Pictures, words and state do not depend on the noise, and the
vision tower is most of the work, so here their keys and values are computed once, as the sampler does at inference, and
the action expert alone sees every draw. With one draw the loss is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smolvla_gym.agent.sampler.flow import prepare_context, velocity
from smolvla_gym.agent.sampler.network import Network
from smolvla_gym.agent.sampler.prefix import Prefix, encode_prefix


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Draws the times at which the flow is learnt, as SmolVLA does: Beta(1.5, 1), from 0.001 to 1.

    Args:
        count: How many.
        generator: Where they come from.

    Returns:
        Shape (count,).
    """
    # The distribution function of Beta(a, 1) is t^a, so a uniform number to the power 1/a follows it.
    return torch.rand(count, generator=generator) ** (1 / 1.5) * 0.999 + 0.001


class FlowLoss:
    """The loss of a policy, through the sampler's few operations and with gradients for all that it uses."""

    def __init__(self, policy: Any) -> None:
        """Takes the policy apart.

        Args:
            policy: A ``SmolVLAPolicy``.

        Raises:
            UnsupportedPolicyError: It has parts that are not handled here.
        """
        self._policy, self._network = policy, Network(policy, trains=True)

    def see(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Runs the vision tower alone.

        Args:
            batch: With the pictures of all cameras.

        Returns:
            The tokens of each camera, shape (B, tokens, width).
        """
        return self._network.vision(self._network.images(batch)[0])

    def read(self, batch: dict[str, Tensor], pictures: list[Tensor]) -> Prefix:
        """Runs the language model over pictures, words and state.

        Args:
            batch: What the policy's preprocessor gives; it needs no pictures.
            pictures: What :meth:`see` gave.
        """
        tokens, words = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
        embedded = self._network.prefix_tokens(pictures, tokens, self._policy.prepare_state(batch))
        seen = sum(picture.shape[1] for picture in pictures)
        exists = torch.cat([words.new_ones((len(words), seen)), words, words.new_ones((len(words), 1))], dim=1)
        return encode_prefix(self._network.text, self._network.expert, embedded, exists, seen + tokens.shape[1])

    def __call__(self, batch: dict[str, Tensor], noise: Tensor, times: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Computes the mean squared error of the predicted flow over the actions that are not padding.

        Args:
            batch: What the policy's preprocessor gives, with ``"action"`` of shape (B, chunk, 7) and
                ``"action_is_pad"`` of shape (B, chunk), True where there is nothing to learn.
            noise: Shape (draws * B, chunk, max_action_dim); the draws of one frame follow each other.
            times: Shape (draws * B,), from 0 (actions) to 1 (noise).
            prefix: What :meth:`read` gave, where that is known already; the batch needs no pictures then.

        Returns:
            The loss, a scalar.
        """
        policy, network = self._policy, self._network
        prefix = self.read(batch, self.see(batch)) if prefix is None else prefix
        draws = len(noise) // len(batch["action"])
        actions = policy.prepare_action(batch).repeat_interleave(draws, dim=0)
        learnt = ~batch["action_is_pad"].repeat_interleave(draws, dim=0)
        exists = None if prefix.exists is None else prefix.exists.repeat_interleave(draws, dim=0)
        keys, values = (
            [part.repeat_interleave(draws, dim=0) for part in parts] for parts in (prefix.keys, prefix.values)
        )
        context = prepare_context(network.expert, Prefix(keys, values, exists, prefix.tokens), noise.shape[1])
        share = times[:, None, None]
        speed = velocity(
            network.model, network.expert, network.norm, share * noise + (1 - share) * actions,
            network.time_biases(network.embed_times(times))[:, None], context,
        )  # fmt: skip
        width = policy.config.action_feature.shape[0]
        errors: Tensor = (speed - (noise - actions))[:, :, :width].square().mean(dim=-1)
        return (errors * learnt).sum() / learnt.sum().clamp_min(1)
