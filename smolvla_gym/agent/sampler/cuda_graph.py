"""A function of tensors as one CUDA graph: its kernels are launched together, and not one by one from Python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

_WARM_UP: Final = 3
"""Calls before the capture, in which libraries choose their kernels, as PyTorch's notes on CUDA graphs advise."""

_capturing = threading.Lock()
"""One capture at a time: they share the allocator."""


def capture[Result](function: Callable[[], Result], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Captures a function.

    Args:
        function: It waits for nothing and takes no data from the host.
        device: A CUDA device, on which it computes.

    Returns:
        The graph, and what the function gave: memory that is written each time when the graph is replayed.
    """
    graph = torch.cuda.CUDAGraph()
    # The stream has to be one of this device; torch's own one for captures is of that which was current first.
    with _capturing, torch.cuda.device(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                function()
            # Other threads, such as that of a camera or of a server, may use the device meanwhile; not its random
            # numbers, which torch's captures claim.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = function()
        torch.cuda.current_stream(device).wait_stream(stream)
    return graph, result


class GraphReplay:
    """A captured function, for inputs of the same shapes and types."""

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        """Captures it.

        Args:
            function: Gives a tensor from tensors, without waiting for the device and without data from the host.
            inputs: Arguments like those that come later; all on one CUDA device.
        """
        self._inputs, self._device = [tensor.clone() for tensor in inputs], inputs[0].device
        self._graph, self._output = capture(lambda: function(*self._inputs), self._device)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns what the function gives for these inputs."""
        with torch.cuda.device(self._device):
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given, non_blocking=True)
            self._graph.replay()
            return self._output.clone()
