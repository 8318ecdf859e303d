"""Layers of SmolVLA's transformers, with few operations and the policy's own weights."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from smolvla_gym.agent.sampler.linear import has_bfloat16_instructions, has_hooks, is_plain, linear, uses_onednn
from smolvla_gym.agent.sampler.stacked_linear import StackedLinear

_WAVELENGTH: Final = 10_000.0
"""Wavelength of SmolVLA's rotary embedding; the language model's configuration does not change it."""

_ALIGNMENT: Final = 8
"""Mask rows start at multiples of this number; CUDA's attention would copy other masks each time."""

_MIN_PATCHES_BY_HEAD: Final = 512
"""Number of patches from which on attention in bfloat16 is computed head by head on a CPU; below it is slower."""

Rotary = tuple[Tensor, Tensor]
"""Cosine, and sine with the sign of its half, each of shape (1 or batch, length, 1, head width), float32."""


class UnsupportedPolicyError(Exception):
    """The policy has parts that only LeRobot's own code supports."""


class DecoderLayer:
    """A layer of the language model or of the action expert."""

    def __init__(self, layer: Any, head_width: int, *, cross_attention: bool = False, trains: bool = False) -> None:
        """Wrap a layer.

        Args:
            layer: A module like transformers' ``LlamaDecoderLayer``.
            head_width: Width of a head.
            cross_attention: Whether its keys and values come from the prefix instead of its own input.
            trains: Whether gradients have to reach its weights.
        """
        attend, mlp = layer.self_attn, layer.mlp
        self._layer, self._trains = layer, trains
        self.head_width: int = head_width
        self.cross_attention: bool = cross_attention
        self.heads: int = attend.q_proj.out_features // head_width
        self.kv_heads: int = attend.k_proj.out_features // head_width
        projections = ("q_proj",) if cross_attention else ("q_proj", "k_proj", "v_proj")
        self.stacks: list[StackedLinear] = [StackedLinear(attend, *projections, trains=trains)]
        self._gate_up: StackedLinear | None = None
        if type(mlp).__name__ == "LlamaMLP":
            self._gate_up = StackedLinear(mlp, "gate_proj", "up_proj", trains=trains)
            self.stacks.append(self._gate_up)

    def normed(self, hidden: Tensor) -> Tensor:
        """Return the input of the attention's projections."""
        return rms_norm(self._layer.input_layernorm, hidden).to(self.stacks[0].dtype)

    def project(self, normed: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys with rotary embedding, and values: shape (batch, length, heads, head width)."""
        projected = self._split(self.stacks[0](normed))
        both = self.heads + self.kv_heads
        rotated = _apply_rotary(projected[:, :, :both], rotary)
        return rotated[:, :, : self.heads], rotated[:, :, self.heads :], projected[:, :, both:]

    def query(self, normed: Tensor, rotary: Rotary) -> Tensor:
        """Return the queries of a cross-attention layer."""
        return _apply_rotary(self._split(self.stacks[0](normed)), rotary)

    def keys_and_values(self, normed: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Return keys and values only; see :meth:`project`."""
        projected = self._split(self.stacks[0](normed, skip=1))
        return _apply_rotary(projected[:, :, : self.kv_heads], rotary), projected[:, :, self.kv_heads :]

    def cross(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Project keys and values of another layer, (batch, length, heads, head width), for this layer's queries."""
        attend = self._layer.self_attn
        return (
            self._split(attend.k_proj(keys.flatten(2).to(attend.k_proj.weight.dtype))),
            self._split(attend.v_proj(values.flatten(2).to(attend.v_proj.weight.dtype))),
        )

    def finish(self, states: Tensor, attended: Tensor) -> Tensor:
        """Compute the rest of the layer after the attention.

        Without training it may overwrite ``states``; the caller must not use them afterwards.

        Args:
            states: Input of the layer.
            attended: Result of the attention, shape (batch, length, heads * head width).
        """
        layer = self._layer
        between = self._added(states, layer.self_attn.o_proj, attended)
        normed = rms_norm(layer.post_attention_layernorm, between)
        if self._gate_up is None:
            result: Tensor = layer.mlp(normed)
            result += between
            return result
        gate, up = self._gate_up(normed).chunk(2, dim=-1)
        return self._added(between, layer.mlp.down_proj, layer.mlp.act_fn(gate) * up)

    def _added(self, states: Tensor, layer: Any, change: Tensor) -> Tensor:
        """Return states plus the output of a linear layer for ``change``, in the type of its weights, like LeRobot."""
        weight = layer.weight
        change = change.to(weight.dtype)
        if self._trains or states.dtype != weight.dtype or layer.bias is not None or not is_plain(layer):
            result: Tensor = layer(change)
            result += states
            return result
        if uses_onednn(change, weight):
            result = linear(change, weight)
            result += states
            return result
        states.view(-1, states.shape[-1]).addmm_(change.flatten(0, -2), weight.t())
        return states

    def _split(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], -1, self.head_width)


class VisionLayer:
    """A layer of the vision tower."""

    def __init__(self, layer: Any, *, trains: bool = False) -> None:
        """Wrap a layer.

        Args:
            layer: A module like transformers' ``SmolVLMEncoderLayer``.
            trains: Whether gradients have to reach its weights.
        """
        attend = layer.self_attn
        self._layer, self._heads, self._trains = layer, attend.num_heads, trains
        self.stacks: list[StackedLinear] = [StackedLinear(attend, "q_proj", "k_proj", "v_proj", trains=trains)]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the layer's output; shapes (images, patches, width)."""
        layer = self._layer
        projected = self.stacks[0](layer.layer_norm1(hidden))
        projected = projected.view(*projected.shape[:-1], 3, self._heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind()
        attended = vision_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = self._apply(layer.self_attn.out_proj, attended) + hidden
        normed = layer.layer_norm2(hidden)
        if not self._trains and _is_gelu_mlp(layer.mlp):
            return self._apply(layer.mlp.fc2, self._apply(layer.mlp.fc1, normed, gelu=True)) + hidden
        result: Tensor = layer.mlp(normed)
        return result + hidden

    def _apply(self, layer: Any, states: Tensor, *, gelu: bool = False) -> Tensor:
        """Return the output of a linear layer."""
        if not self._trains and is_plain(layer):
            return linear(states, layer.weight, layer.bias, gelu=gelu)
        result: Tensor = layer(states)
        return F.gelu(result, approximate="tanh") if gelu else result


def _is_gelu_mlp(mlp: Any) -> bool:
    """Return whether a block is two linear layers with a GELU in its tanh approximation between them."""
    activation: Any = getattr(mlp, "activation_fn", None)
    kinds = type(mlp).__name__, type(activation).__name__
    return kinds == ("SmolVLMVisionMLP", "GELUTanh") and not (has_hooks(mlp) or has_hooks(activation))


class Mask:
    """Attention mask, converted once for all layers that share it."""

    def __init__(self, attends: Tensor) -> None:
        """Create a mask.

        Args:
            attends: Whether each query attends to each key, bool, shape (1 or batch, queries, keys).
        """
        self._attends = attends
        self._additive: dict[tuple[torch.dtype, int], Tensor] = {}

    def additive(self, dtype: torch.dtype, group: int) -> Tensor:
        """Return the term of the scores, shape (1 or batch, 1, group * queries, keys): 0, or minus infinity.

        Args:
            dtype: Type of the queries.
            group: Number of query heads that share a key head; they follow each other.
        """
        key = dtype, group
        if key not in self._additive:
            batch, queries, keys = self._attends.shape
            width = -(-keys // _ALIGNMENT) * _ALIGNMENT
            padded = torch.zeros((batch, 1, group * queries, width), dtype=dtype, device=self._attends.device)
            hidden = self._attends.logical_not().repeat(1, group, 1)[:, None]
            self._additive[key] = padded[..., :keys].masked_fill_(hidden, -torch.inf)
        return self._additive[key]


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
    """Compute grouped-query attention.

    Query heads that share a key head become one head with more queries: no key is copied, and every kernel supports it.

    Args:
        query: Queries, shape (batch, queries, heads, head width).
        key: Keys, shape (batch, key heads, keys, head width).
        value: Values, of the shape of the keys.
        mask: Which query attends to which key; None: all to all.

    Returns:
        Result, shape (batch, queries, heads * head width).
    """
    # LeRobot saves a mixture of types; the widest is used.
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    batch, length, heads, width = query.shape
    shared = key.shape[1]
    group = heads // shared
    rows = query.view(batch, length, shared, group, width).permute(0, 2, 3, 1, 4).reshape(batch, shared, -1, width)
    additive = None if mask is None else mask.additive(dtype, group)
    out = F.scaled_dot_product_attention(rows, key, value, attn_mask=additive)
    return out.view(batch, shared, group, length, width).permute(0, 3, 1, 2, 4).reshape(batch, length, heads * width)


def vision_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute attention of all patches to all patches; shapes (images, heads, patches, head width).

    On a CPU with bfloat16 instructions torch's attention is not faster in bfloat16 than in float32. Products of one
    head after the other, whose scores stay in the cache, take two thirds of the time. Scores are rounded, as in
    transformers' eager attention.
    """
    by_head = (
        not torch.compiler.is_compiling()
        and query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.shape[2] >= _MIN_PATCHES_BY_HEAD
        and not torch.is_grad_enabled()
        and has_bfloat16_instructions()
    )
    if not by_head:
        return F.scaled_dot_product_attention(query, key, value)
    scaled, keys = query * query.shape[-1] ** -0.5, key.transpose(2, 3)
    # In memory the heads of a patch are adjacent, as the following layer needs them.
    out = query.new_empty((len(query), query.shape[2], *query.shape[1::2])).transpose(1, 2)
    for image in range(len(query)):
        for head in range(query.shape[1]):
            at = image, head
            out[at] = torch.softmax(scaled[at] @ keys[at], dim=-1) @ value[at]
    return out


def rotary(positions: Tensor, head_width: int) -> Rotary:
    """Return the rotary angles for positions of shape (1 or batch, length)."""
    half = head_width // 2
    exponents = (2.0 / head_width) * torch.arange(half, dtype=torch.float32, device=positions.device)
    angles = (positions[..., None].float() / _WAVELENGTH**exponents)[:, :, None]
    cosine, sine = torch.cos(angles), torch.sin(angles)
    return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)


def _apply_rotary(states: Tensor, angles: Rotary) -> Tensor:
    """Return heads of shape (batch, length, heads, width) with rotary embedding."""
    cosine, sine = angles
    wide = states.float()
    return torch.addcmul(wide * cosine, wide.roll(wide.shape[-1] // 2, dims=-1), sine).to(states.dtype)


def rms_norm(norm: Any, states: Tensor) -> Tensor:
    """Apply an RMS norm: in one operation for the usual module with the states' type, otherwise by the module."""
    if type(norm).__name__ != "LlamaRMSNorm" or states.dtype != norm.weight.dtype:
        result: Tensor = norm(states)
        return result
    return F.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)
