"""Flow steps of the action expert: from noise to actions, with the keys and values of the prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from smolvla_gym.agent.sampler.layers import DecoderLayer, Mask, Rotary, attention, rms_norm, rotary
from smolvla_gym.agent.sampler.prefix import Prefix


@dataclass(frozen=True)
class Context:
    """Values that all flow steps of a chunk share.

    Attributes:
        keys: Keys of each layer, shape (batch, heads, length, head width): those of the prefix, and in self-attention
            layers space for those of the actions after them.
        values: Values of each layer, of the same shapes.
        length: Length of the prefix.
        cross_rotary: Rotary angles of the actions in cross-attention layers, which attend to the prefix alone.
        self_rotary: Rotary angles of the actions in self-attention layers, which also attend to the actions.
        prefix_mask: Which action attends to which token of the prefix; None: all to all.
        mask: The same for the tokens of prefix and actions.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int
    cross_rotary: Rotary
    self_rotary: Rotary
    prefix_mask: Mask | None
    mask: Mask


def prepare_context(layers: Sequence[DecoderLayer], prefix: Prefix, chunk: int) -> Context:
    """Compute the values that all flow steps share.

    Args:
        layers: Layers of the expert.
        prefix: Prefix of the observation.
        chunk: Number of actions in a chunk.
    """
    length, width, device = prefix.keys[0].shape[2], layers[0].head_width, prefix.keys[0].device
    if prefix.exists is None:
        cross_rotary, self_rotary, mask = _angles_and_mask(length, chunk, width, device)
        prefix_mask = None
    else:
        place = torch.arange(chunk, device=device)[None]
        cross_rotary = rotary(place, width)
        self_rotary = rotary(prefix.exists.sum(dim=1, keepdim=True) + place, width)
        rows = prefix.exists[:, None].expand(-1, chunk, -1)
        prefix_mask, mask = Mask(rows), Mask(torch.cat([rows, _causal(chunk, device).expand(len(rows), -1, -1)], dim=2))
    keys, values = (
        [
            part if layer.cross_attention else _with_space(part, chunk, layer)
            for layer, part in zip(layers, parts, strict=True)
        ]
        for parts in (prefix.keys, prefix.values)
    )
    return Context(keys, values, length, cross_rotary, self_rotary, prefix_mask, mask)


@lru_cache(maxsize=16)
def _angles_and_mask(length: int, chunk: int, width: int, device: torch.device) -> tuple[Rotary, Rotary, Mask]:
    """Return angles and mask of a chunk after a prefix without masked tokens; they depend on its length only."""
    place = torch.arange(chunk, device=device)[None]
    causal = _causal(chunk, device)
    sees = torch.cat([causal.new_ones(1, chunk, length), causal], dim=2)
    return rotary(place, width), rotary(length + place, width), Mask(sees)


def _causal(chunk: int, device: torch.device) -> Tensor:
    place = torch.arange(chunk, device=device)
    return (place[:, None] >= place)[None]


def _with_space(states: Tensor, more: int, layer: DecoderLayer) -> Tensor:
    dtype = torch.promote_types(states.dtype, layer.stacks[0].dtype)
    extended = states.new_empty((*states.shape[:2], states.shape[2] + more, states.shape[3]), dtype=dtype)
    extended[:, :, : states.shape[2]] = states
    return extended


def velocity(
    model: Any, layers: Sequence[DecoderLayer], norm: Any, x: Tensor, bias: Tensor, context: Context
) -> Tensor:
    """Return the velocity for a state of the flow.

    Args:
        model: The policy's ``VLAFlowMatching``.
        layers: Layers of the expert.
        norm: Norm after the last layer.
        x: State of the flow, shape (batch, chunk, padded action width).
        bias: Contribution of the flow times in the first layer of the action-time network, shape (batch, chunk, expert
            width); a dimension of 1 stands for equal times.
        context: Values that all steps share. Its space for the actions' keys and values is overwritten.

    Returns:
        The shape of ``x``.
    """
    actions = model.action_in_proj(x)
    weight = model.action_time_mlp_in.weight[:, : actions.shape[-1]]
    hidden = model.action_time_mlp_out(F.silu(F.linear(actions, weight) + bias))
    for layer, keys, values in zip(layers, context.keys, context.values, strict=True):
        normed = layer.normed(hidden)
        if layer.cross_attention:
            query, mask = layer.query(normed, context.cross_rotary), context.prefix_mask
        else:
            query, key, value = layer.project(normed, context.self_rotary)
            keys[:, :, context.length :] = key.transpose(1, 2)
            values[:, :, context.length :] = value.transpose(1, 2)
            mask = context.mask
        hidden = layer.finish(hidden, attention(query, keys, values, mask))
    result: Tensor = model.action_out_proj(rms_norm(norm, hidden).float())
    return result
