"""What the language model makes of an observation: the keys and values that the action expert looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from smolvla_gym.agent.sampler.layers import DecoderLayer, Mask, Rotary, VisionLayer, attention, rotary


@dataclass(frozen=True)
class Prefix:
    """What the flow needs of an observation.

    Attributes:
        keys: For each layer of the expert the keys of the prefix, shape (batch, heads, length, head width).
        values: The values.
        exists: Which of them exist, shape (batch, length); None: all.
        tokens: What its last layer gets, normalised, shape (batch, length, width).
    """

    keys: list[Tensor]
    values: list[Tensor]
    exists: Tensor | None
    tokens: Tensor


class VisionTower:
    """Pictures to tokens, all cameras together."""

    def __init__(self, vision: Any, connector: Any, *, trains: bool = False) -> None:
        """Looks at how the tower is built.

        Args:
            vision: The policy's ``vision_model``.
            connector: What makes tokens of the language model's width from its output.
            trains: Whether gradients are to reach its weights.
        """
        self._vision, self._connector = vision, connector
        layers = vision.encoder.layers
        known = all(type(layer).__name__ == "SmolVLMEncoderLayer" for layer in layers)
        self._layers = [VisionLayer(layer, trains=trains) for layer in layers] if known else []
        self.stacks = [stack for layer in self._layers for stack in layer.stacks]
        self._positions: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Returns the tokens of each picture, shape (batch, tokens, width), not scaled yet.

        Args:
            images: Of each camera, shape (batch, 3, height, width), -1..1; those of a size go together.
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
        """Returns the number of each patch's position embedding, shape (1, patches), as the tower itself chooses it."""
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
    """Runs pictures, words and state through the language model, as far as their keys and values.

    Args:
        layers: Of the language model.
        expert: The expert's; those that cross project the keys and values once more.
        tokens: Shape (batch, length, width).
        exists: Which tokens exist, shape (batch, length); None: all.
        before: How many come before the state's.
    """
    length, width = tokens.shape[1], layers[0].head_width
    if exists is None:
        turn, mask = _of_whole_prefixes(length, before, width, tokens.device)
    else:
        # Nobody looks at a token that is no token. It has to look at something itself, or it would be NaN.
        itself = torch.eye(length, dtype=torch.bool, device=tokens.device)
        mask = Mask(_sees(length, before, tokens.device) & exists[:, None, :] | itself)
        turn = rotary(exists.cumsum(1) - 1, width)
    keys, values = [], []
    for i, layer in enumerate(layers):
        normed = layer.normed(tokens)
        if i < len(layers) - 1:
            query, key, value = layer.project(normed, turn)
            attended = attention(query, key.transpose(1, 2), value.transpose(1, 2), mask)
            tokens = layer.finish(tokens, attended)
        else:  # of the last one nothing else is used
            key, value = layer.keys_and_values(normed, turn)
        if expert[i].cross_attention:
            key, value = expert[i].cross(key, value)
        keys.append(key.transpose(1, 2))
        values.append(value.transpose(1, 2))
    return Prefix(keys, values, exists, normed)


@lru_cache(maxsize=16)
def _of_whole_prefixes(length: int, before: int, width: int, device: torch.device) -> tuple[Rotary, Mask]:
    """Returns angles and mask of a prefix without gaps: the same for each observation of a length."""
    return rotary(torch.arange(length, device=device)[None], width), Mask(_sees(length, before, device))


def _sees(length: int, before: int, device: torch.device) -> Tensor:
    """Returns which token looks at which, shape (1, length, length): nobody at the state but itself."""
    place = torch.arange(length, device=device)
    return ((place[None, :] < before) | (place[:, None] >= place[None, :]) & (place[:, None] >= before))[None]
