"""A linear layer, by the library that computes it fastest on the device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

_LARGE: Final = 1 << 26
"""Multiplications of a product from which on oneDNN pays off on a CPU; for smaller ones its calls cost more."""

ONEDNN: Final[Any] = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""Its linear layer: states, weight, bias, and what comes after; None: torch was built without it."""


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Returns what a linear layer makes of states.

    On a CPU torch gives float32 to MKL, after it has copied the bias to each row. Large products go to oneDNN instead,
    by the operation that torch.compile would put there: it knows bias and GELU, and on AMD it is faster by a fifth and
    more (Intel was not measured). It keeps what it made for a shape, 0.65 MB each: some 100 MB where instructions of
    every length come to a policy of the full size.

    Args:
        states: Shape (..., inputs).
        weight: Shape (outputs, inputs), of the same type.
        bias: Shape (outputs,).
        gelu: Whether a GELU, in its approximation by tanh, comes after it.
    """
    # Of a bias with gaps torch's operation would take what lies in them.
    usual = bias is None or (bias.dtype == weight.dtype and bias.is_contiguous())
    if usual and uses_onednn(states, weight):
        name, variant = ("gelu", "tanh") if gelu else ("none", "")
        result: Tensor = ONEDNN(states, weight, bias, name, [], variant)
        return result
    result = F.linear(states, weight, bias)
    return F.gelu(result, approximate="tanh") if gelu else result


def uses_onednn(states: Tensor, weight: Tensor) -> bool:
    """Says whether a product goes to oneDNN.

    Not where gradients are wanted, which its operation does not know, nor where the compiler chooses.
    """
    return (
        not torch.compiler.is_compiling()
        and states.numel() * len(weight) >= _LARGE
        and states.device.type == "cpu"
        and not torch.is_grad_enabled()
        and states.dtype == weight.dtype
        and (states.dtype == torch.float32 or (states.dtype == torch.bfloat16 and has_bfloat16_instructions()))
        and ONEDNN is not None
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.backends.mkldnn.enabled)
    )


@lru_cache(maxsize=1)
def has_bfloat16_instructions() -> bool:
    """Says whether the CPU has instructions for bfloat16; without them oneDNN's layer fails, and products are slow."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


def is_plain(layer: Any) -> bool:
    """Says whether a layer is its weight and bias alone: no subclass, such as an adapter, and no hook."""
    return type(layer) is nn.Linear and not has_hooks(layer)


def has_hooks(module: nn.Module) -> bool:
    """Says whether somebody wants to see, or to change, what goes in or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
