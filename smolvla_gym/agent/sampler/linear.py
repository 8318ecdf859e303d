"""Compute a linear layer with the fastest library for the device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

_LARGE: Final = 1 << 26
"""Number of multiplications from which on oneDNN is faster on a CPU; below, its calls cost more."""

ONEDNN: Final[Any] = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's linear layer (states, weight, bias, activation), or None if torch was built without it."""


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Return the output of a linear layer.

    On a CPU torch computes float32 with MKL, and first copies the bias to each row. Large products use oneDNN instead,
    through the operation that torch.compile uses: it includes bias and GELU, and on AMD it is faster by a fifth or more
    (Intel was not measured). oneDNN caches 0.65 MB for each shape: about 100 MB if a full-size policy gets instructions
    of every length.

    Args:
        states: Inputs, shape (..., inputs).
        weight: Weight, shape (outputs, inputs), of the same type.
        bias: Bias, shape (outputs,).
        gelu: Whether a GELU in its tanh approximation follows.
    """
    # For a bias that is not contiguous the operation would read wrong memory.
    usual = bias is None or (bias.dtype == weight.dtype and bias.is_contiguous())
    if usual and uses_onednn(states, weight):
        name, variant = ("gelu", "tanh") if gelu else ("none", "")
        result: Tensor = ONEDNN(states, weight, bias, name, [], variant)
        return result
    result = F.linear(states, weight, bias)
    return F.gelu(result, approximate="tanh") if gelu else result


def uses_onednn(states: Tensor, weight: Tensor) -> bool:
    """Return whether a product is computed with oneDNN.

    It is not if gradients are recorded, which the operation does not support, or in compiled code.
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
    """Return whether the CPU has bfloat16 instructions; without them oneDNN's layer fails, and products are slow."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


def is_plain(layer: Any) -> bool:
    """Return whether a layer is a linear layer without hooks and no subclass, such as an adapter."""
    return type(layer) is nn.Linear and not has_hooks(layer)


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward hooks, which may read or change inputs and outputs."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
