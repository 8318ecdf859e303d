"""Several linear layers over the same input, computed as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from smolvla_gym.agent.sampler.linear import is_plain, linear


class StackedLinear:
    """Linear layers whose weights lie one behind the other, so that one product gives the outputs of all.

    The layers stay what they are: their parameters become views of the common memory. Whoever changes them in place
    changes both, and no weight is there twice.
    """

    def __init__(self, parent: Any, *names: str, trains: bool = False) -> None:
        """Lays the weights together where the layers are plain and of one type; others are called one by one.

        Args:
            parent: The module that has the layers.
            names: Their names in it, such as q_proj, k_proj and v_proj; all map the same input.
            trains: Whether gradients are to reach the weights: then they stay where they are, and are put together in
                each call.
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
        """Follows layers or weights that were put in the place of others, such as an adapter."""
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
        """Returns the outputs side by side.

        Args:
            states: Shape (..., width).
            skip: How many of the layers, from the first on, are left out.
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
    """Says whether the layers can be one."""
    if not all(is_plain(layer) for layer in layers):
        return False
    kinds = {(layer.weight.dtype, layer.weight.device, layer.bias is None, layer.in_features) for layer in layers}
    return len(kinds) == 1


def _own_memory(layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Gives what is saved memory of its own: safetensors refuses a part of something larger."""
    for name in ("weight", "bias"):
        entry = state.get(prefix + name)
        if entry is not None and not isinstance(entry, nn.Parameter):  # those who keep parameters save nothing
            state[prefix + name] = entry.clone()


@torch.inference_mode(False)  # the weights stay when the caller's mode is over, and may be trained then
@torch.no_grad()
def _joined(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Makes parameters views of common memory, unless they are that already, and returns it."""
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
        if len(memory) == 1:  # another sampler of the same policy laid them together
            return first.as_strided((rows, *first.shape[1:]), first.stride())
    common = torch.cat([parameter.data for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = common[start : start + len(parameter)]
        start += len(parameter)
    return common
