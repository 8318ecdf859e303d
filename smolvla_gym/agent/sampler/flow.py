"""From noise to actions: the flow steps of the action expert, with an observation's keys and values at hand."""

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
    """What all flow steps of a chunk share.

    Attributes:
        keys: For each layer the keys, (batch, heads, length, head width): of the prefix, and where the actions look at
            each other, behind them room for theirs.
        values: The values.
        length: Length of the prefix.
        alone: Angles of the actions where they look at the prefix alone.
        behind: Angles where they look at each other too.
        prefix_mask: Which action looks at which token of the prefix; None: all at all.
        mask: The same of prefix and actions.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int
    alone: Rotary
    behind: Rotary
    prefix_mask: Mask | None
    mask: Mask


def prepare_context(layers: Sequence[DecoderLayer], prefix: Prefix, chunk: int) -> Context:
    """Computes what does not change from one flow step to the next.

    Args:
        layers: Of the expert.
        prefix: The observation.
        chunk: Actions a chunk.
    """
    length, width, device = prefix.keys[0].shape[2], layers[0].head_width, prefix.keys[0].device
    if prefix.exists is None:
        alone, behind, mask = _of_whole_prefixes(length, chunk, width, device)
        prefix_mask = None
    else:
        place = torch.arange(chunk, device=device)[None]
        alone, behind = rotary(place, width), rotary(prefix.exists.sum(dim=1, keepdim=True) + place, width)
        rows = prefix.exists[:, None].expand(-1, chunk, -1)
        prefix_mask, mask = Mask(rows), Mask(torch.cat([rows, _causal(chunk, device).expand(len(rows), -1, -1)], dim=2))
    keys, values = (
        [
            part if layer.cross_attention else _with_room(part, chunk, layer)
            for layer, part in zip(layers, parts, strict=True)
        ]
        for parts in (prefix.keys, prefix.values)
    )
    return Context(keys, values, length, alone, behind, prefix_mask, mask)


@lru_cache(maxsize=16)
def _of_whole_prefixes(length: int, chunk: int, width: int, device: torch.device) -> tuple[Rotary, Rotary, Mask]:
    """Returns angles and mask of a chunk behind a prefix without gaps: the same for each observation of a length."""
    place = torch.arange(chunk, device=device)[None]
    causal = _causal(chunk, device)
    sees = torch.cat([causal.new_ones(1, chunk, length), causal], dim=2)
    return rotary(place, width), rotary(length + place, width), Mask(sees)


def _causal(chunk: int, device: torch.device) -> Tensor:
    place = torch.arange(chunk, device=device)
    return (place[:, None] >= place)[None]


def _with_room(states: Tensor, more: int, layer: DecoderLayer) -> Tensor:
    dtype = torch.promote_types(states.dtype, layer.stacks[0].dtype)
    room = states.new_empty((*states.shape[:2], states.shape[2] + more, states.shape[3]), dtype=dtype)
    room[:, :, : states.shape[2]] = states
    return room


def velocity(
    model: Any, layers: Sequence[DecoderLayer], norm: Any, x: Tensor, bias: Tensor, context: Context
) -> Tensor:
    """Returns the velocity at a place.

    Args:
        model: The policy's ``VLAFlowMatching``.
        layers: Of the expert.
        norm: What comes after the last of them.
        x: The place, shape (batch, chunk, padded action width).
        bias: What the time adds in the first layer of the action's and time's network, shape (expert's width,), or
            (batch, 1, expert's width) where each has a time of its own.
        context: What all steps share. Its room for the actions' keys and values is written.

    Returns:
        The shape of ``x``.
    """
    actions = model.action_in_proj(x)
    weight = model.action_time_mlp_in.weight[:, : actions.shape[-1]]
    hidden = F.linear(actions, weight, bias) if bias.ndim == 1 else F.linear(actions, weight) + bias
    hidden = model.action_time_mlp_out(F.silu(hidden))
    for layer, keys, values in zip(layers, context.keys, context.values, strict=True):
        normed = layer.normed(hidden)
        if layer.cross_attention:
            query, mask = layer.query(normed, context.alone), context.prefix_mask
        else:
            query, key, value = layer.project(normed, context.behind)
            keys[:, :, context.length :] = key.transpose(1, 2)
            values[:, :, context.length :] = value.transpose(1, 2)
            mask = context.mask
        hidden = layer.finish(hidden, attention(query, keys, values, mask))
    result: Tensor = model.action_out_proj(rms_norm(norm, hidden).float())
    return result
