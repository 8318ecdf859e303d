"""Compute chunks with ONNX Runtime: the flow around the two graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.policies.base import Array
from smolvla_gym.agent.rtc_guidance import GuidanceTarget, guidance_weight
from smolvla_gym.errors import needs_extra

_SMALL: Final = 80_000_000
"""Bytes of both graphs below which one thread computes: more threads gain little and wait for each other."""

_FATAL: Final = 4
"""Severity from which on ONNX Runtime logs: it raises what it would log as an error."""

_MAX_OUTPUTS: Final = 257
"""Largest number of outputs: keys and values of 128 layers, and one more."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that the graphs must have.

    Attributes:
        images: Height and width in px of each camera's image in the graph.
        state: Padded width of the state.
        chunk: Number of actions in a chunk.
        noise: Padded width of an action.
        action: Width of an action.
        min_period: Shortest period of the embedding of flow times.
        max_period: Longest period.
    """

    images: tuple[tuple[int, int], ...]
    state: int
    chunk: int
    noise: int
    action: int
    min_period: float
    max_period: float


class OnnxNetwork:
    """The two graphs of a policy, and the flow from noise to actions in NumPy. Only one thread at a time may use it."""

    def __init__(self, prefix: bytes, velocity: bytes, times: Mapping[str, NDArray[Any]], sizes: Sizes) -> None:
        """Load the graphs.

        Args:
            prefix: Checked content of the prefix's file.
            velocity: Checked content of the velocity's file.
            times: Weight and bias of the flow times in the first layer of the action-time network.
            sizes: Sizes that the graphs must have.

        Raises:
            ValueError: ONNX Runtime refuses a graph, or a graph has other inputs or outputs.
            MissingExtraError: onnxruntime is not installed.
        """
        small = len(prefix) + len(velocity) < _SMALL
        self._prefix, self._velocity = (_make_session(content, small=small) for content in (prefix, velocity))
        self._sizes = sizes
        self._times = times["weight"], times["bias"]
        self._biases: dict[int, Array] = {}
        self._kept = _check_interface(self._prefix, self._velocity, sizes, len(self._times[1]))

    def chunk(
        self, inputs: Mapping[str, NDArray[Any]], noise: Array, steps: int, target: GuidanceTarget | None
    ) -> Array:
        """Compute a chunk.

        Args:
            inputs: Inputs of the prefix by name.
            noise: Start of the flow, shape (chunk, padded action width).
            steps: Number of flow steps.
            target: Actions of the previous chunk to continue; None: none.

        Returns:
            Actions in the policy's normalized units, shape (chunk, action width).
        """
        prefix = dict(zip(self._kept, self._prefix.run(None, dict(inputs)), strict=True))
        x, width = np.array(noise, np.float32)[None], self._sizes.action
        biases, length = self._time_biases(steps), self._sizes.chunk
        held = target.held if target is not None else 0
        for step in range(steps):
            time, bias = 1.0 - step / steps, np.repeat(biases[None, None, step], length, axis=1)
            if target is not None and held:
                x[:, :held, :width], x[:, :held, width:] = target.actions[:held], 0.0
                bias[:, :held] = biases[-1]  # given actions have the time 0
            speed = self._velocity.run(None, {"x": x, "bias": bias, **prefix})[0]
            if target is not None:
                guess = x[..., :width] - np.float32(time) * speed[..., :width]
                error = (target.actions - guess) * target.weights[:, None]
                # Guidance does not change the padding beyond the action width.
                speed[..., :width] -= np.float32(guidance_weight(time, float(steps))) * error
            x = x - speed / np.float32(steps)
        actions: Array = x[0, :, :width].copy()
        if target is not None:
            actions[:held] = target.actions[:held]
        return actions

    def _time_biases(self, steps: int) -> Array:
        """Return the contributions of the flow times, shape (steps + 1, expert width); the last is time 0."""
        if steps not in self._biases:
            weight, bias = self._times
            times = np.array([1.0 - step / steps for step in range(steps + 1)], np.float32).astype(np.float64)
            low, high = self._sizes.min_period, self._sizes.max_period
            period = low * (high / low) ** np.linspace(0.0, 1.0, weight.shape[1] // 2)
            angles = times[:, None] * (2.0 * np.pi / period)
            embedded = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
            self._biases = {steps: embedded @ weight.T + bias}  # one number is in use at a time
        return self._biases[steps]


def _make_session(content: bytes, *, small: bool) -> Any:
    with needs_extra("An exported policy", "onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    if small:
        options.intra_op_num_threads = 1
    # Threads that wait busily would take the cores of the control loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many types, all of ONNX Runtime
        raise ValueError(f"ONNX Runtime refuses it ({type(error).__name__}: {str(error)[:200]})") from error


def _check_interface(prefix: Any, velocity: Any, sizes: Sizes, expert: int) -> tuple[str, ...]:
    """Refuse graphs with other inputs or outputs; return the names by which the velocity takes the prefix's outputs."""
    expected: dict[str, tuple[str, list[Any]]] = {
        "tokens": ("tensor(int64)", [1, None]),
        "token_mask": ("tensor(bool)", [1, None]),
        "camera_mask": ("tensor(bool)", [1, len(sizes.images)]),
        "state": ("tensor(float)", [1, sizes.state]),
    }
    expected |= {f"images_{i}": ("tensor(float)", [1, 3, *size]) for i, size in enumerate(sizes.images)}
    _compare("inputs of the prefix", prefix.get_inputs(), expected)
    outputs = prefix.get_outputs()
    count = len(outputs) - 1
    if not 2 <= count < _MAX_OUTPUTS or count % 2:
        raise ValueError(f"the prefix has {len(outputs)} outputs; expected one and the keys and values of each layer")
    kept = ("exists", *(f"prefix_{i}" for i in range(count)))
    between: dict[str, tuple[str, list[Any]]] = {"exists": ("tensor(bool)", [1, None])}
    for name, output in zip(kept[1:], outputs[1:], strict=True):
        shape = output.shape
        if len(shape) != 4 or not all(isinstance(shape[i], int) for i in (1, 3)):
            raise ValueError(f"the prefix's output {output.name!r:.40} has the shape {shape!r:.80}")
        between[name] = "tensor(float)", [1, shape[1], None, shape[3]]
    _compare("outputs of the prefix", outputs, dict(zip((o.name for o in outputs), between.values(), strict=True)))
    chunk = [1, sizes.chunk, sizes.noise]
    steps = {"x": ("tensor(float)", chunk), "bias": ("tensor(float)", [1, sizes.chunk, expert]), **between}
    _compare("inputs of the velocity", velocity.get_inputs(), steps)
    _compare("outputs of the velocity", velocity.get_outputs(), {"velocity": ("tensor(float)", chunk)})
    return kept


def _compare(what: str, found: Any, expected: Mapping[str, tuple[str, list[Any]]]) -> None:
    """Refuse other names, types and sizes; None is any size."""
    if [each.name for each in found] != list(expected):
        raise ValueError(f"the {what} are {[each.name for each in found]!r:.200}; expected {list(expected)!r:.200}")
    for each, (kind, shape) in zip(found, expected.values(), strict=True):
        fits = len(each.shape) == len(shape) and all(
            (isinstance(size, str | None) if wanted is None else size == wanted)
            for size, wanted in zip(each.shape, shape, strict=True)
        )
        if each.type != kind or not fits:
            raise ValueError(
                f"{each.name!r:.40} of the {what} is {each.type} of shape {each.shape!r:.80}; expected {kind} of "
                f"{shape}, where None is any size"
            )
