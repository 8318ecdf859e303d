"""Compute several linear layers with the same input as one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from smolvla_gym.agent.sampler.linear import is_plain, linear


class StackedLinear:
    """Linear layers whose weights are contiguous in memory, so that one product returns the outputs of all.

    The layers' parameters become views of the common memory: in-place changes affect both, and no weight is stored
    twice.
    """

    def __init__(self, parent: Any, *names: str, trains: bool = False) -> None:
        """Join the weights if the layers are plain and of one type; otherwise the layers are called one by one.

        Args:
            parent: The module of the layers.
            names: Their names in it, such as q_proj, k_proj and v_proj; all have the same input.
            trains: Whether gradients have to reach the weights. Then the weights keep their memory, and each call
                concatenates them.
        """
        self._parent, self._names, self._trains = parent, names, trains
        self._layers: tuple[Any, ...] = ()
        self._plain = False
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._places: tuple[int, ...] = ()
        self.refresh()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        dtype: torch.dtype = self._layers[0].weight.dtype
        return dtype

    def refresh(self) -> None:
        """Use the current layers and weights, which may have been replaced, such as by an adapter."""
        self._layers = tuple(getattr(self._parent, name) for name in self._names)
        self._plain = _alike(self._layers)
        if not self._plain:
            self._weight, self._bias, self._places = None, None, ()
            return
        places = tuple(part.data_ptr() for part in self._parameters())
        if self._trains or places == self._places:
            return
        self._weight = _joined([layer.weight for layer in self._layers])
        biases = [layer.bias for layer in self._layers]
        self._bias = None if biases[0] is None else _joined(biases)
        self._places = tuple(part.data_ptr() for part in self._parameters())
        for layer in self._layers:
            if len(self._layers) > 1 and _own_memory not in layer._state_dict_hooks.values():
                layer.register_state_dict_post_hook(_own_memory)

    def _parameters(self) -> list[nn.Parameter]:
        return [part for layer in self._layers for part in (layer.weight, layer.bias) if part is not None]

    def __call__(self, states: Tensor, skip: int = 0) -> Tensor:
        """Return the concatenated outputs.

        Args:
            states: Inputs, shape (..., width).
            skip: Number of layers to leave out, from the first on.
        """
        layers = self._layers[skip:]
        if not self._plain:
            return torch.cat([layer(states) for layer in layers], dim=-1)
        if self._trains:
            bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
            return F.linear(states, torch.cat([layer.weight for layer in layers]), bias)
        assert self._weight is not None  # noqa: S101 - narrows a type
        rows = sum(int(layer.out_features) for layer in self._layers[:skip])
        return linear(states, self._weight[rows:], None if self._bias is None else self._bias[rows:])


def _alike(layers: Sequence[Any]) -> bool:
    """Return whether the layers can be computed as one product."""
    if not all(is_plain(layer) for layer in layers):
        return False
    kinds = {(layer.weight.dtype, layer.weight.device, layer.bias is None, layer.in_features) for layer in layers}
    return len(kinds) == 1


def _own_memory(layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Copy saved weights to their own memory: safetensors refuses views of a larger tensor."""
    for name in ("weight", "bias"):
        entry = state.get(prefix + name)
        if entry is not None and not isinstance(entry, nn.Parameter):  # with keep_vars nothing is saved
            state[prefix + name] = entry.clone()


@torch.inference_mode(False)  # the weights outlive the caller's inference mode, and may be trained later
@torch.no_grad()
def _joined(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Make parameters views of common memory, unless they are already, and return it."""
    first = parameters[0].data
    if len(parameters) == 1:
        return first
    rows = sum(len(parameter) for parameter in parameters)
    end = first.data_ptr()
    for parameter in parameters:
        if parameter.data_ptr() != end or not parameter.is_contiguous():
            break
        end += parameter.numel() * parameter.element_size()
    else:
        memory = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        if len(memory) == 1:  # another sampler of the same policy has joined them
            return first.as_strided((rows, *first.shape[1:]), first.stride())
    common = torch.cat([parameter.data for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = common[start : start + len(parameter)]
        start += len(parameter)
    return common
