"""The network of a policy as two modules for export: the prefix, and the velocity of a flow step.

They use the modules and weights of the fast sampler. Only the number of instruction tokens varies. An absent
camera is masked. The number of flow steps, guidance and given actions are outside the graphs.
"""

from __future__ import annotations

from typing import Any, override

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from smolvla_gym.agent.sampler.layers import Mask, attention, rms_norm, rotary
from smolvla_gym.agent.sampler.network import Network


class _AdditiveMask(Mask):
    """Mask that is given as the term of the scores, for shapes that are symbols during export."""

    def __init__(self, term: Tensor) -> None:
        """Create a mask.

        Args:
            term: 0, or minus infinity, shape (1, 1, 1 or queries, keys).
        """
        self._term = term

    @override
    def additive(self, dtype: torch.dtype, group: int) -> Tensor:
        term = self._term.to(dtype)
        return term if term.shape[2] == 1 else term.repeat(1, 1, group, 1)


def _additive(attends: Tensor) -> Tensor:
    return torch.where(attends, 0.0, -torch.inf)


class _Part(nn.Module):
    def __init__(self, policy: Any, network: Network) -> None:
        super().__init__()
        self.policy = policy  # its parameters are those of the module
        self._network = network


class PrefixGraph(_Part):
    """From an observation to the keys and values of the action expert."""

    @override
    def forward(
        self, tokens: Tensor, token_mask: Tensor, camera_mask: Tensor, state: Tensor, *images: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode an observation.

        Args:
            tokens: Tokens of the instruction, int64, shape (1, tokens).
            token_mask: Whether each token exists, bool, of the same shape.
            camera_mask: Whether each camera exists, bool, shape (1, cameras).
            state: Normalised state, shape (1, padded state width).
            *images: Image of each camera, shape (1, 3, height, width), -1..1.

        Returns:
            Whether each token of the prefix exists, bool, shape (1, length); then the keys of each layer, shape (1,
            heads, length, head width), and the values of each layer.
        """
        network = self._network
        seen = network.vision(list(images))
        hidden = network.prefix_tokens(seen, tokens, state)
        cameras = [camera_mask[:, i : i + 1].expand(-1, part.shape[1]) for i, part in enumerate(seen)]
        exists = torch.cat([*cameras, token_mask, token_mask.new_ones((1, 1))], dim=1)
        place = torch.arange(hidden.shape[1], device=hidden.device)
        last = hidden.shape[1] - 1
        # Only the state attends to the state. A masked token attends to itself, otherwise its result would be NaN.
        attends = (place[None, :] < last) | (place[:, None] == last)
        itself = place[:, None] == place[None, :]
        mask = _AdditiveMask(_additive(attends & exists | itself)[None, None])
        angles = rotary(exists.to(torch.int64).cumsum(1) - 1, network.text[0].head_width)
        keys, values = [], []
        for i, (layer, expert) in enumerate(zip(network.text, network.expert, strict=True)):
            normed = layer.normed(hidden)
            if i < len(network.text) - 1:
                query, key, value = layer.project(normed, angles)
                hidden = layer.finish(hidden, attention(query, key.transpose(1, 2), value.transpose(1, 2), mask))
            else:
                key, value = layer.keys_and_values(normed, angles)
            if expert.cross_attention:
                key, value = expert.cross(key, value)
            keys.append(key.transpose(1, 2))
            values.append(value.transpose(1, 2))
        return exists, *keys, *values


class VelocityGraph(_Part):
    """The velocity of a flow step."""

    @override
    def forward(self, x: Tensor, bias: Tensor, exists: Tensor, *prefix: Tensor) -> Tensor:
        """Return the velocity, of the shape of ``x``.

        Args:
            x: State of the flow, shape (1, chunk, padded action width).
            bias: Contribution of the flow times in the first layer of the action-time network, shape (1, chunk,
                expert width).
            exists: First output of the prefix.
            *prefix: Its other outputs.
        """
        network, model = self._network, self._network.model
        chunk, width = x.shape[1], network.expert[0].head_width
        place = torch.arange(chunk, device=x.device)[None]
        cross_angles = rotary(place, width)
        self_angles = rotary(exists.to(torch.int64).sum(dim=1, keepdim=True) + place, width)
        row = _additive(exists)[:, None, None]
        causal = _additive(place[0, :, None] >= place)[None, None]
        cross_mask = _AdditiveMask(row)
        self_mask = _AdditiveMask(torch.cat([row.expand(-1, -1, chunk, -1), causal], dim=3))
        actions = model.action_in_proj(x)
        weight = model.action_time_mlp_in.weight[:, : actions.shape[-1]]
        hidden = model.action_time_mlp_out(F.silu(F.linear(actions, weight) + bias))
        half = len(prefix) // 2
        for layer, keys, values in zip(network.expert, prefix[:half], prefix[half:], strict=True):
            normed = layer.normed(hidden)
            if layer.cross_attention:
                query, mask = layer.query(normed, cross_angles), cross_mask
            else:
                query, key, value = layer.project(normed, self_angles)
                keys = torch.cat([keys, key.transpose(1, 2)], dim=2)
                values = torch.cat([values, value.transpose(1, 2)], dim=2)
                mask = self_mask
            hidden = layer.finish(hidden, attention(query, keys, values, mask))
        velocity: Tensor = model.action_out_proj(rms_norm(network.norm, hidden).float())
        return velocity
