"""Several linear layers over the same input, computed as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn


class Stacked:
    """Linear layers whose weights lie one behind the other, so that one product gives the outputs of all.

    The layers stay what they are: their parameters become views of the common memory. Whoever changes them in place
    changes both, and no weight is there twice.
    """

    def __init__(self, *layers: Any, trains: bool = False) -> None:
        """Lays the weights together where the layers are plain and of one type; others are called one by one.

        Args:
            layers: Modules that map the same input, such as q_proj, k_proj and v_proj.
            trains: Whether gradients are to reach the weights: then they stay where they are, and are put together in
                each call.
        """
        self._layers, self._trains = layers, trains
        self._plain = _alike(layers)
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._places: tuple[int, ...] = ()
        self.refresh()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        dtype: torch.dtype = self._layers[0].weight.dtype
        return dtype

    def refresh(self) -> bool:
        """Lays the weights together again where somebody put others in their place; returns whether that was so."""
        if not self._plain or self._trains:
            return False
        weights = [layer.weight for layer in self._layers]
        if self._places == tuple(weight.data_ptr() for weight in weights):
            return False
        if not _alike(self._layers):
            self._plain, self._weight = False, None
            return True
        self._weight = _joined([layer.weight for layer in self._layers])
        for layer in self._layers:
            if _own_memory not in layer._state_dict_hooks.values():
                layer.register_state_dict_post_hook(_own_memory)
        biases = [layer.bias for layer in self._layers]
        self._bias = None if biases[0] is None else _joined(biases)
        self._places = tuple(weight.data_ptr() for weight in weights)
        return True

    def __call__(self, states: Tensor, skip: int = 0) -> Tensor:
        """Returns the outputs side by side.

        Args:
            states: Shape (..., width).
            skip: How many of the layers, from the first on, are left out.
        """
        if self._trains and self._plain:
            layers = self._layers[skip:]
            bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
            return F.linear(states, torch.cat([layer.weight for layer in layers]), bias)
        if self._weight is None:
            return torch.cat([layer(states) for layer in self._layers[skip:]], dim=-1)
        if not skip:
            return F.linear(states, self._weight, self._bias)
        rows = sum(int(layer.out_features) for layer in self._layers[:skip])
        return F.linear(states, self._weight[rows:], None if self._bias is None else self._bias[rows:])


def _alike(layers: Sequence[Any]) -> bool:
    """Says whether the layers can be one: no subclass, such as an adapter, whose forward does something else."""
    if any(type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
        return False
    kinds = {(layer.weight.dtype, layer.weight.device, layer.bias is None, layer.in_features) for layer in layers}
    return len(kinds) == 1


def _own_memory(layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Gives what is saved memory of its own: safetensors refuses a part of something larger."""
    for name in ("weight", "bias"):
        if prefix + name in state:
            state[prefix + name] = state[prefix + name].clone()


@torch.no_grad()
def _joined(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Copies parameters into common memory and makes them views of it."""
    if len(parameters) == 1:
        return parameters[0].data
    common = torch.cat([parameter.data for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = common[start : start + len(parameter)]
        start += len(parameter)
    return common
