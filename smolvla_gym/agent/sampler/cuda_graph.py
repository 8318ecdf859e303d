"""Capture a function of tensors as a CUDA graph: its kernels are launched together, not one by one from Python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

_WARM_UP: Final = 3
"""Number of calls before the capture, in which libraries choose kernels, as PyTorch's notes on CUDA graphs advise."""

_capturing = threading.Lock()
"""Allows one capture at a time, because captures share the allocator."""


def capture[Result](function: Callable[[], Result], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture a function as a CUDA graph.

    Args:
        function: The function. It must not synchronize with the device or copy data from the host.
        device: CUDA device on which the function computes.

    Returns:
        The graph, and the function's result: each replay of the graph overwrites its memory.
    """
    graph = torch.cuda.CUDAGraph()
    # The stream must be on this device; torch's own capture stream is on the device that was current first.
    with _capturing, torch.cuda.device(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                function()
            # Other threads, such as a camera's or a server's, may use the device meanwhile, except its random numbers:
            # torch's captures lock them.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = function()
        torch.cuda.current_stream(device).wait_stream(stream)
    return graph, result


class GraphReplay:
    """Captured function for inputs of fixed shapes and types."""

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        """Capture a function.

        Args:
            function: Returns a tensor, without synchronization with the device and without data from the host.
            inputs: Example arguments with the shapes and types of later ones, all on one CUDA device.
        """
        self._inputs, self._device = [tensor.clone() for tensor in inputs], inputs[0].device
        self._graph, self._output = capture(lambda: function(*self._inputs), self._device)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the function's result for these inputs."""
        with torch.cuda.device(self._device):
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given, non_blocking=True)
            self._graph.replay()
            return self._output.clone()
