"""Encode an observation with the language model: keys and values for the action expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from smolvla_gym.agent.sampler.layers import DecoderLayer, Mask, Rotary, VisionLayer, attention, rotary
from smolvla_gym.agent.sampler.stacked_linear import StackedLinear


@dataclass(frozen=True)
class Prefix:
    """Encoded observation.

    Attributes:
        keys: Keys of the prefix for each layer of the expert, shape (batch, heads, length, head width).
        values: Values, of the same shapes.
        exists: Whether each token exists, shape (batch, length); None: all.
        tokens: Normalised input of the last layer, shape (batch, length, width).
    """

    keys: list[Tensor]
    values: list[Tensor]
    exists: Tensor | None
    tokens: Tensor


class VisionTower:
    """Vision tower: from images to tokens, all cameras together."""

    def __init__(self, vision: Any, connector: Any, *, trains: bool = False) -> None:
        """Wrap a vision tower.

        Args:
            vision: The policy's ``vision_model``.
            connector: Converts its output to tokens of the language model's width.
            trains: Whether gradients have to reach its weights.
        """
        self._vision, self._connector = vision, connector
        layers = vision.encoder.layers
        supported = all(type(layer).__name__ == "SmolVLMEncoderLayer" for layer in layers)
        self._layers = [VisionLayer(layer, trains=trains) for layer in layers] if supported else []
        self.stacks: list[StackedLinear] = [stack for layer in self._layers for stack in layer.stacks]
        self._positions: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return the tokens of each image, shape (batch, tokens, width), not scaled yet.

        Args:
            images: Images of each camera, shape (batch, 3, height, width), -1..1. Images of equal size are computed
                together.
        """
        if not images:
            return []
        if len({image.shape for image in images}) != 1:
            return [part for image in images for part in self([image])]
        pixels = torch.cat(list(images)) if len(images) > 1 else images[0]
        embeddings = self._vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(embeddings.patch_embedding.weight.dtype))
        hidden = patches.flatten(2).transpose(1, 2) + embeddings.position_embedding(self._patch_positions(pixels))
        if self._layers:
            for layer in self._layers:
                hidden = layer(hidden)
        else:
            hidden = self._vision.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        tokens: Tensor = self._connector(self._vision.post_layernorm(hidden))
        return list(tokens.chunk(len(images)))

    def _patch_positions(self, pixels: Tensor) -> Tensor:
        """Return the index of each patch's position embedding, shape (1, patches), as the tower itself computes it."""
        key = (*pixels.shape[2:], pixels.device, self._vision.dtype)
        if key not in self._positions:
            chosen: list[Tensor] = []
            table: nn.Module = self._vision.embeddings.position_embedding
            hook = table.register_forward_pre_hook(lambda module, inputs: chosen.append(inputs[0]))
            try:
                self._vision(pixel_values=pixels[:1].to(self._vision.dtype))
            finally:
                hook.remove()
            self._positions[key] = chosen[0]
        return self._positions[key]


def encode_prefix(
    layers: Sequence[DecoderLayer], expert: Sequence[DecoderLayer], tokens: Tensor, exists: Tensor | None, before: int
) -> Prefix:
    """Run images, instruction and state through the language model, up to the keys and values of its last layer.

    Args:
        layers: Layers of the language model.
        expert: Layers of the expert; cross-attention layers project the keys and values once more.
        tokens: Input tokens, shape (batch, length, width).
        exists: Whether each token exists, shape (batch, length); None: all.
        before: Number of tokens before the state's.
    """
    length, width = tokens.shape[1], layers[0].head_width
    if exists is None:
        angles, mask = _angles_and_mask(length, before, width, tokens.device)
    else:
        # No token attends to a masked one. A masked token attends to itself, otherwise its result would be NaN.
        itself = torch.eye(length, dtype=torch.bool, device=tokens.device)
        mask = Mask(_attends(length, before, tokens.device) & exists[:, None, :] | itself)
        angles = rotary(exists.cumsum(1) - 1, width)
    keys, values = [], []
    for i, layer in enumerate(layers):
        normed = layer.normed(tokens)
        if i < len(layers) - 1:
            query, key, value = layer.project(normed, angles)
            attended = attention(query, key.transpose(1, 2), value.transpose(1, 2), mask)
            tokens = layer.finish(tokens, attended)
        else:  # nothing else of the last layer is used
            key, value = layer.keys_and_values(normed, angles)
        if expert[i].cross_attention:
            key, value = expert[i].cross(key, value)
        keys.append(key.transpose(1, 2))
        values.append(value.transpose(1, 2))
    return Prefix(keys, values, exists, normed)


@lru_cache(maxsize=16)
def _angles_and_mask(length: int, before: int, width: int, device: torch.device) -> tuple[Rotary, Mask]:
    """Return angles and mask of a prefix without masked tokens; they depend on its length only."""
    return rotary(torch.arange(length, device=device)[None], width), Mask(_attends(length, before, device))


def _attends(length: int, before: int, device: torch.device) -> Tensor:
    """Return which token attends to which, shape (1, length, length): none but the state attends to the state."""
    place = torch.arange(length, device=device)
    return ((place[None, :] < before) | (place[:, None] >= place[None, :]) & (place[:, None] >= before))[None]
