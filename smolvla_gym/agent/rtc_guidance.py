"""Real-time chunking: a new chunk is drawn towards what is left of the one that is being executed.

The method is that of "Real-Time Execution of Action Chunking Flow Policies" (Black, Galliker, Levine; 2025) with the
Jacobian of the denoiser taken for the identity, as LeRobot has it. That makes the correction a closed form: no
autograd graph is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SCHEDULES: Final = ("linear", "exp", "ones", "zeros")
"""How the weight of what is left falls off behind the actions that are executed in any case."""


def prefix_weights(delay: int, left: int, length: int, schedule: str = "linear") -> NDArray[np.float32]:
    """Returns how strongly each action of a new chunk is held to the old one.

    1 for those that will be executed before the chunk arrives, 0 from the last planned one on, in between falling.

    Args:
        delay: How many actions will be executed before the chunk arrives; counts up to ``left``.
        left: How many actions of the old chunk are left.
        length: Length of the new chunk.
        schedule: One of ``SCHEDULES``.

    Returns:
        Weights 0..1, shape (length,).
    """
    end = min(left, length)
    start = min(max(delay, 0), end)
    weights = np.zeros(length, np.float32)
    weights[:start] = 1.0
    falling = np.linspace(1.0, 0.0, end - start + 2, dtype=np.float32)[1:-1]
    if schedule == "exp":
        falling = falling * np.expm1(falling) / np.float32(np.e - 1.0)
    elif schedule == "ones":
        falling = np.ones_like(falling)
    elif schedule == "zeros":
        falling = np.zeros_like(falling)
    weights[start:end] = falling
    return weights


def guidance_weight(time: float, max_weight: float) -> float:
    """Returns the paper's weight (1 - tau) / (tau r^2), where tau = 1 - time, r^2 = time^2 / (tau^2 + time^2).

    Args:
        time: From 1 (noise) to 0 (actions).
        max_weight: What it is at most.
    """
    tau = 1.0 - time
    if tau <= 0.0 or time <= 0.0:
        return max_weight
    return min((tau**2 + time**2) / (tau * time), max_weight)


@dataclass(frozen=True)
class GuidanceTarget:
    """What a chunk is drawn to.

    Attributes:
        actions: Actions in the policy's units, shape (chunk, action width).
        weights: How strongly each is meant, 0..1, shape (chunk,).
    """

    actions: Any
    weights: Any


class PrefixGuidance:
    """Takes the place of LeRobot's ``RTCProcessor``; LeRobot's flow loop calls :meth:`denoise_step` in each step.

    It differs from LeRobot 0.6.1's in three ways. What is left is continued by its last action, not by zeros, which
    would mean the mean of the training data; the weights end where it ends, not at a fixed horizon; no gradient is
    recorded.
    """

    def __init__(self, max_weight: float, schedule: str = "exp") -> None:
        """Chooses how strong the guidance is.

        Args:
            max_weight: Largest factor of the correction. A flow of n steps moves by 1/n of it in each, so more than n
                overshoots.
            schedule: One of ``SCHEDULES``.
        """
        self.max_weight, self.schedule = max_weight, schedule

    def is_debug_enabled(self) -> bool:
        """Tells LeRobot that nothing is tracked."""
        return False

    def denoise_step(
        self,
        x_t: Any,
        prev_chunk_left_over: Any,
        inference_delay: int | None,
        time: float,
        original_denoise_step_partial: Callable[[Any], Any],
        execution_horizon: int | None = None,
    ) -> Any:
        """Returns the guided velocity.

        Args:
            x_t: Where the flow is, shape (batch, chunk, width).
            prev_chunk_left_over: What is left, in the policy's units, shape (n, action width); None: no guidance.
            inference_delay: How many of those will be executed before the chunk arrives.
            time: From 1 (noise) to 0 (actions).
            original_denoise_step_partial: Gives the velocity at a place.
            execution_horizon: Not used; the weights end with what is left.
        """
        velocity = original_denoise_step_partial(x_t)
        if prev_chunk_left_over is None or len(prev_chunk_left_over) == 0:
            return velocity
        target, width = (
            self.make_target(prev_chunk_left_over, inference_delay, x_t.shape[1]),
            prev_chunk_left_over.shape[1],
        )
        # The padding beyond the actions' width is left to the flow.
        guess = x_t[..., :width] - time * velocity[..., :width]
        error = (target.actions.to(x_t) - guess) * target.weights.to(x_t)[:, None]
        velocity = velocity.clone()
        velocity[..., :width] -= guidance_weight(time, self.max_weight) * error
        return velocity

    def make_target(self, left: Any, delay: int | None, length: int) -> GuidanceTarget:
        """Returns what a chunk is drawn to.

        Args:
            left: What is left of the chunk before, shape (n, action width); n is at least 1.
            delay: How many of those will be executed before the new one arrives.
            length: Actions a chunk.
        """
        weights = prefix_weights(int(delay or 0), len(left), length, self.schedule)
        target = left[[min(i, len(left) - 1) for i in range(length)]]
        return GuidanceTarget(target, target.new_tensor(weights))
