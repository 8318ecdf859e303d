"""How far a chunk is from what the machine can do: its work and time stage by stage, beside a bare matrix product."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from smolvla_gym.agent.policies.base import ChunkRequest

if TYPE_CHECKING:
    from torch import Tensor

    from smolvla_gym.agent.policies.local import LocalPolicy

_ROUNDS: Final = 3
"""Times that each stage and each product is measured at least; the median counts."""

_BUDGET: Final = 2.0
"""Time in s after which no further round is begun."""

_PRODUCTS: Final = {"cuda": 64}
"""Products that are timed in a row, else 8: so many that their weights do not fit the cache of a GPU."""

_IN_A_ROW: Final = 5e-3
"""Time in s that a measurement on a GPU takes at least: to launch a graph and to wait for it takes some 20 us."""


@dataclass(frozen=True)
class Stage:
    """A part of a chunk.

    Attributes:
        name: ``"vision"``, ``"prefix"``, ``"flow"`` or ``"rest"``: pre- and postprocessing, and all copies.
        ms: Its time.
        flops: Floating point operations of its products and attention, as torch counts them.
        weights: Bytes of the weights of its modules, times its passes: about what has to be read from memory.
        product: Rows, inner width and columns of its typical matrix product.
        product_rate: Operations a second of that product alone, on the same device and in the same type.
    """

    name: str
    ms: float
    flops: int
    weights: int
    product: tuple[int, int, int] | None
    product_rate: float | None

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / (1e-3 * self.ms) if self.ms else 0.0

    @property
    def share(self) -> float | None:
        """What part of the product's rate it reaches; attention and everything element by element is in it."""
        return self.rate / self.product_rate if self.product_rate else None

    def to_dict(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return {**asdict(self), "flops_per_s": self.rate, "share": self.share}


def measure_stages(policy: LocalPolicy, request: ChunkRequest) -> list[Stage]:
    """Measures the stages of a chunk of the fast sampler, each by itself; on CUDA each as a graph of its own.

    Args:
        policy: It uses the fast sampler.
        request: What it is asked.

    Returns:
        Vision, prefix, flow, and the rest of what ``policy.infer`` takes.
    """
    import torch

    sampler, model = policy.fast, policy.checkpoint.policy.model
    with torch.no_grad():
        inputs = sampler.inputs(*policy.prepare(request))
        pictures = sampler.encode_images(inputs)
        prefix = sampler.encode_prefix(pictures, inputs)
    network = model.vlm_with_expert
    vlm = network.get_vlm_model()
    steps, chunk = policy.card.num_steps, policy.card.chunk_size
    patches = sum(
        (image.shape[-2] // patch) * (image.shape[-1] // patch)
        for patch in (vlm.vision_model.embeddings.patch_size,)
        for image in inputs.images
    )
    heads = [model.action_in_proj, model.action_out_proj, model.action_time_mlp_in, model.action_time_mlp_out]
    parts: list[tuple[str, Callable[[], object], Any, int, Any, int]] = [
        ("vision", lambda: sampler.encode_images(inputs), [vlm.vision_model, vlm.connector], 1,
         vlm.vision_model.encoder.layers[0].mlp.fc1, patches),
        ("prefix", lambda: sampler.encode_prefix(pictures, inputs), [vlm.text_model.layers, model.state_proj], 1,
         vlm.text_model.layers[0].mlp.up_proj, prefix.keys[0].shape[2]),
        ("flow", lambda: sampler.flow(prefix, inputs), [network.lm_expert, *heads], steps,
         network.lm_expert.layers[0].mlp.up_proj, chunk),
    ]  # fmt: skip
    # Before anything is counted: what torch.compile made may be slow after that.
    whole = 1e3 * _median_time(lambda: policy.infer(request), inputs.noise.device)
    timed = [1e3 * _median_time_captured(part[1], inputs.noise.device) for part in parts]
    stages = []
    for ms, (name, run, modules, passes, linear, rows) in zip(timed, parts, strict=True):
        weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
        columns, inner = linear.weight.shape
        rate = _product_rate(rows, linear.weight)
        stages.append(Stage(name, ms, _count(run), passes * weights, (rows, int(inner), int(columns)), rate))
    rest = max(0.0, whole - sum(stage.ms for stage in stages))
    return [*stages, Stage("rest", rest, 0, 0, None, None)]


def _count(run: Callable[[], object]) -> int:
    """Counts the operations of products and attention."""
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
        run()
    return int(counter.get_total_flops())


def _product_rate(rows: int, weight: Tensor) -> float:
    """Measures a linear layer alone, with several weights in turn, as a stage has them: one would stay in the cache."""
    import torch

    from smolvla_gym.agent.sampler.linear import linear

    with torch.no_grad():
        states = torch.randn((rows, weight.shape[1]), device=weight.device).to(weight.dtype)
        weights = [torch.randn_like(weight) for _ in range(_PRODUCTS.get(weight.device.type, 8))]

        def run() -> None:
            for each in weights:
                linear(states, each)

        seconds = _median_time_captured(run, weight.device)
    return 2.0 * rows * weight.numel() * len(weights) / seconds


def _median_time(run: Callable[[], object], device: Any) -> float:
    import torch

    times: list[float] = []
    began = time.perf_counter()
    with torch.no_grad():
        run()
        while len(times) < _ROUNDS or (time.perf_counter() - began < _BUDGET and len(times) < 100):
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def _median_time_captured(run: Callable[[], object], device: Any) -> float:
    """Measures what on CUDA is launched as a graph, as the sampler does it: no time of Python's is in it."""
    import torch

    if torch.device(device).type != "cuda":
        return _median_time(run, device)
    from smolvla_gym.agent.sampler.cuda_graph import capture

    with torch.no_grad():
        graph, _ = capture(run, torch.device(device))
    count = max(1, round(_IN_A_ROW / _median_time(graph.replay, device)))

    def several() -> None:
        for _ in range(count):
            graph.replay()

    return _median_time(several, device) / count


def _wait(device: Any) -> None:
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
