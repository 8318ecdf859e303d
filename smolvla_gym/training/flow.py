"""SmolVLA's flow-matching loss with several draws of noise for one pass through the vision-language model.

LeRobot's own loss runs the whole network for each draw. Pictures, words and state do not depend on the noise, and the
vision tower is most of the work, so here their keys and values are computed once, as LeRobot does at inference, and
the action expert alone sees every draw. With one draw the loss is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


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


def flow_loss(policy: Any, batch: dict[str, Tensor], noise: Tensor, times: Tensor) -> Tensor:
    """Computes the mean squared error of the predicted flow over the actions that are not padding.

    Args:
        policy: A ``SmolVLAPolicy``.
        batch: What its preprocessor gives, with ``"action"`` of shape (B, chunk, 7) and ``"action_is_pad"`` of shape
            (B, chunk), True where there is nothing to learn.
        noise: Shape (draws * B, chunk, max_action_dim); the draws of one frame follow each other.
        times: Shape (draws * B,), from 0 (actions) to 1 (noise).

    Returns:
        The loss, a scalar.
    """
    draws = len(noise) // len(batch["action"])
    actions = policy.prepare_action(batch).repeat_interleave(draws, dim=0)
    learnt = ~batch["action_is_pad"].repeat_interleave(draws, dim=0)
    mask, cache = _encode_prefix(policy, batch)
    cache.batch_repeat_interleave(draws)
    share = times[:, None, None]
    velocity = policy.model.denoise_step(
        prefix_pad_masks=mask.repeat_interleave(draws, dim=0),
        past_key_values=cache,
        x_t=share * noise + (1 - share) * actions,
        timestep=times,
    )
    width = policy.config.action_feature.shape[0]
    errors: Tensor = (velocity - (noise - actions))[:, :, :width].square().mean(dim=-1)
    return (errors * learnt).sum() / learnt.sum().clamp_min(1)


def _encode_prefix(policy: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """Runs pictures, words and state through the VLM; returns their padding mask and their keys and values."""
    from lerobot.policies.common.vla_utils import make_att_2d_masks

    images, image_masks = policy.prepare_images(batch)
    embedded, mask, blocks = policy.model.embed_prefix(
        images,
        image_masks,
        batch["observation.language.tokens"],
        batch["observation.language.attention_mask"],
        state=policy.prepare_state(batch),
    )
    _, cache = policy.model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(mask, blocks),
        position_ids=torch.cumsum(mask, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    return mask, cache


def embed_images(policy: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Runs the vision tower alone; returns the tokens of each camera, shape (B, tokens, width)."""
    images, _ = policy.prepare_images(batch)
    return [policy.model.vlm_with_expert.embed_image(image) for image in images]


@contextmanager
def captured_image_tokens(policy: Any) -> Iterator[list[Tensor]]:
    """Collects the image tokens of each camera, shape (B, tokens, width), as a loss computes them on its way."""
    tokens: list[Tensor] = []
    connector = policy.model.vlm_with_expert.get_vlm_model().connector
    handle = connector.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    try:
        yield tokens
    finally:
        handle.remove()
