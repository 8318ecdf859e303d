"""A linear layer, by the library that computes it fastest on the device."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

_LARGE: Final = 1 << 26
"""Multiplications of a product from which on oneDNN pays off on a CPU; for smaller ones its calls cost more."""

ONEDNN: Final[Any] = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""Its linear layer: states, weight, bias, and what comes after; None: torch was built without it."""

_TYPES: Final = (torch.float32, torch.bfloat16)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Returns what a linear layer makes of states, without gradients.

    On a CPU torch gives float32 to MKL, after it has copied the bias to each row. Large products go to oneDNN instead,
    by the operation that torch.compile would put there: it knows bias and GELU, and on AMD it is faster by a fifth and
    more.

    Args:
        states: Shape (..., inputs).
        weight: Shape (outputs, inputs), of the same type.
        bias: Shape (outputs,).
        gelu: Whether a GELU, in its approximation by tanh, comes after it.
    """
    # Of a bias with gaps torch's operation would take what lies in them.
    if by_onednn(states, weight) and (bias is None or bias.is_contiguous()):
        name, variant = ("gelu", "tanh") if gelu else ("none", "")
        result: Tensor = ONEDNN(states, weight, bias, name, [], variant)
        return result
    result = F.linear(states, weight, bias)
    return F.gelu(result, approximate="tanh") if gelu else result


def by_onednn(states: Tensor, weight: Tensor) -> bool:
    """Says whether a product goes to oneDNN; where things are compiled the compiler chooses."""
    return (
        states.numel() * len(weight) >= _LARGE
        and states.device.type == "cpu"
        and states.dtype == weight.dtype
        and states.dtype in _TYPES
        and ONEDNN is not None
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.compiler.is_compiling()
    )


def is_plain(layer: Any) -> bool:
    """Says whether a layer is its weight and bias alone: no subclass, such as an adapter, and no hook."""
    return type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)
