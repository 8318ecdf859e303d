"""The fast sampler against LeRobot's own code, and where its time goes: stages beside bare matrix products."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.benchmark.inputs import INPUTS
from smolvla_gym.benchmark.measure import Progress, spread, time_chunks
from smolvla_gym.benchmark.report import compare_chunks
from smolvla_gym.benchmark.variant import Variant

if TYPE_CHECKING:
    import torch

    from smolvla_gym.agent.policies.local import LocalPolicy

_PRODUCTS: Final = {"cuda": 64}
"""Products that are timed in a row, else 8: so many that their weights do not fit the cache of a GPU."""


def measure_speedup(fast: LocalPolicy, variant: Variant, progress: Progress) -> dict[str, Any]:
    """Measure the fast sampler and LeRobot's own code on the same inputs and noise, in turn.

    Returns:
        ``reference_ms`` and ``fast_ms``, the times of chunks; ``ratio``, the median over the pairs of chunks of the
        time of LeRobot's code over that of the fast sampler; ``difference`` of their chunks; and ``stages``.
    """
    from smolvla_gym.agent.policies.local import LocalPolicy

    reference = LocalPolicy(fast.checkpoint, num_steps=variant.num_steps, name=variant.policy, sampler="reference")
    requests, infers = INPUTS[variant.inputs](fast.card, variant.samples), [reference.infer, fast.infer]
    time_chunks("warm-up", infers, requests[:1], 2)
    slow, quick = time_chunks("both ways", infers, requests, variant.chunks, variant.budget_s, progress)
    return {
        "reference_ms": spread(slow),
        "fast_ms": spread(quick),
        "ratio": float(np.median(np.array(slow) / quick)),
        "difference": compare_chunks(*([infer(request) for request in requests] for infer in infers)),
        "stages": measure_stages(fast, requests[0]),
    }


def measure_stages(policy: LocalPolicy, request: ChunkRequest) -> list[dict[str, Any]]:
    """Measure the stages of a chunk of the fast sampler one by one; on CUDA each as a graph of its own.

    Args:
        policy: A policy with the fast sampler.
        request: The request whose chunk is computed.

    Returns:
        For vision, prefix and flow ``name``; ``ms``; ``flops``, the operations of products and attention; ``weights``,
        the bytes of weights that are read; ``product``, rows, inner width and columns of the typical matrix product;
        and ``product_rate``, the operations a second of that product alone on the same device and in the same type.
        Of the rest, which is pre- and postprocessing and all copies, only ``name`` and ``ms``.
    """
    import torch

    sampler, model = policy.fast, policy.checkpoint.policy.model
    with torch.no_grad():
        inputs = sampler.inputs(*policy.prepare(request))
        embedded = sampler.encode_images(inputs)
        prefix = sampler.encode_prefix(embedded, inputs)
    expert, vlm = model.vlm_with_expert.lm_expert, model.vlm_with_expert.get_vlm_model()
    vision, text, size = vlm.vision_model, vlm.text_model, vlm.vision_model.embeddings.patch_size
    patches = sum((image.shape[-2] // size) * (image.shape[-1] // size) for image in inputs.images)
    heads = [model.action_in_proj, model.action_out_proj, model.action_time_mlp_in, model.action_time_mlp_out]
    # Name, computation, modules with weights, passes, typical linear layer and its rows.
    parts: list[tuple[str, Callable[[], object], list[Any], int, Any, int]] = [
        ("vision", lambda: sampler.encode_images(inputs), [vision, vlm.connector], 1,
         vision.encoder.layers[0].mlp.fc1, patches),
        ("prefix", lambda: sampler.encode_prefix(embedded, inputs), [text.layers, model.state_proj], 1,
         text.layers[0].mlp.up_proj, prefix.keys[0].shape[2]),
        ("flow", lambda: sampler.flow(prefix, inputs), [expert, *heads], policy.card.num_steps,
         expert.layers[0].mlp.up_proj, policy.card.chunk_size),
    ]  # fmt: skip
    # Times before counts: compiled code may be slow after its operations were counted.
    whole = _seconds(lambda: policy.infer(request), inputs.noise.device, as_graph=False)
    times = [_seconds(compute, inputs.noise.device) for _, compute, *_ in parts]
    stages: list[dict[str, Any]] = [
        {
            "name": name,
            "ms": 1e3 * seconds,
            "flops": count_flops(compute),
            "weights": passes * sum(weight.nbytes for module in modules for weight in module.parameters()),
            "product": (rows, layer.weight.shape[1], layer.weight.shape[0]),
            "product_rate": _product_rate(rows, layer.weight),
        }
        for seconds, (name, compute, modules, passes, layer, rows) in zip(times, parts, strict=True)
    ]
    return [*stages, {"name": "rest", "ms": 1e3 * max(0.0, whole - sum(times))}]


def count_flops(compute: Callable[[], object]) -> int:
    """Return the floating point operations of the products and the attention in a computation."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    from smolvla_gym.agent.sampler.linear import ONEDNN

    def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def linear(states: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(states) * weight[0]

    def added(states: Sequence[int], rows: Sequence[int], columns: Sequence[int], *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(rows) * columns[1]

    unknown_to_torch: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten.addmm_: added,
        ONEDNN: linear,
    }
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=unknown_to_torch) as counter:
        compute()
    return int(counter.get_total_flops())


def _product_rate(rows: int, weight: torch.Tensor) -> float:
    """Measure a linear layer alone, with several weights in turn, as a stage has them: one would stay in the cache."""
    import torch

    from smolvla_gym.agent.sampler.linear import linear

    with torch.no_grad():
        states = torch.randn((rows, weight.shape[1]), device=weight.device).to(weight.dtype)
        weights = [torch.randn_like(weight) for _ in range(_PRODUCTS.get(weight.device.type, 8))]
    seconds = _seconds(lambda: [linear(states, each) for each in weights], weight.device)
    return 2.0 * rows * weight.numel() * len(weights) / seconds


def _seconds(compute: Callable[[], object], device: torch.device, *, as_graph: bool = True) -> float:
    """Return the median time of a computation in s, on CUDA as a graph where that is asked for."""
    import torch
    from torch.utils.benchmark import Timer

    def now() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    with torch.no_grad():
        if as_graph and device.type == "cuda":
            from smolvla_gym.agent.sampler.cuda_graph import capture

            compute = capture(compute, device)[0].replay
        timer = Timer("compute()", timer=now, globals={"compute": compute}, num_threads=torch.get_num_threads())
        return timer.adaptive_autorange(min_run_time=0.5, max_run_time=6.0).median
