"""Real-time chunking (RTC): guide a new chunk to continue the remaining actions of the previous one.

The method is "Real-Time Execution of Action Chunking Flow Policies" (Black, Galliker, Levine; 2025), with the Jacobian
of the denoiser approximated by the identity, as in LeRobot. This makes the correction a closed form without autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SCHEDULES: Final = ("linear", "exp", "ones", "zeros")
"""Names of the decay of the weight after the actions that are executed before the new chunk arrives."""


def prefix_weights(delay: int, left: int, length: int, schedule: str = "linear") -> NDArray[np.float32]:
    """Return the guidance weight of each action of a new chunk.

    The weight is 1 for the actions that will be executed before the chunk arrives, decays after them, and is 0 after
    the last remaining action.

    Args:
        delay: Inference delay: number of actions that will be executed before the chunk arrives, at most ``left``.
        left: Number of remaining actions of the previous chunk.
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
    """Return the paper's weight (1 - tau) / (tau r^2), where tau = 1 - time, r^2 = time^2 / (tau^2 + time^2).

    Args:
        time: From 1 (noise) to 0 (actions).
        max_weight: Upper limit of the weight.
    """
    tau = 1.0 - time
    if tau <= 0.0 or time <= 0.0:
        return max_weight
    return min((tau**2 + time**2) / (tau * time), max_weight)


@dataclass(frozen=True)
class GuidanceTarget:
    """Target of the guidance of a chunk.

    Attributes:
        actions: Target actions in the policy's normalized units, shape (chunk, action width).
        weights: Weight of each action, 0..1, shape (chunk,).
    """

    actions: Any
    weights: Any


class PrefixGuidance:
    """Replacement of LeRobot's ``RTCProcessor``: LeRobot's flow loop calls :meth:`denoise_step` in each flow step.

    It differs from LeRobot 0.6.1 in three ways. The remaining actions are padded with the last one, not with zeros,
    which would be the mean of the training data. The weights end with the remaining actions, not at a fixed horizon.
    No gradient is recorded.
    """

    def __init__(self, max_weight: float, schedule: str = "exp") -> None:
        """Set the strength of the guidance.

        Args:
            max_weight: Largest factor of the correction. A flow of n steps moves by 1/n of it in each step, so a factor
                above n overshoots.
            schedule: One of ``SCHEDULES``.
        """
        self.max_weight: float = max_weight
        self.schedule: str = schedule

    def is_debug_enabled(self) -> bool:
        """Return False: LeRobot's tracking of RTC is not supported."""
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
        """Return the guided velocity.

        Args:
            x_t: State of the flow, shape (batch, chunk, width).
            prev_chunk_left_over: Remaining actions in the policy's normalized units, shape (n, action width); None: no
                guidance.
            inference_delay: Number of them that will be executed before the chunk arrives.
            time: From 1 (noise) to 0 (actions).
            original_denoise_step_partial: Returns the velocity for a state of the flow.
            execution_horizon: Not used; the weights end with the remaining actions.
        """
        velocity = original_denoise_step_partial(x_t)
        if prev_chunk_left_over is None or len(prev_chunk_left_over) == 0:
            return velocity
        target, width = (
            self.make_target(prev_chunk_left_over, inference_delay, x_t.shape[1]),
            prev_chunk_left_over.shape[1],
        )
        # Guidance does not change the padding beyond the action width.
        guess = x_t[..., :width] - time * velocity[..., :width]
        error = (target.actions.to(x_t) - guess) * target.weights.to(x_t)[:, None]
        velocity = velocity.clone()
        velocity[..., :width] -= guidance_weight(time, self.max_weight) * error
        return velocity

    def make_target(self, left: Any, delay: int | None, length: int) -> GuidanceTarget:
        """Return the guidance target of a new chunk.

        Args:
            left: Remaining actions of the previous chunk, shape (n, action width); n is at least 1.
            delay: Number of them that will be executed before the new chunk arrives.
            length: Length of the new chunk.
        """
        weights = prefix_weights(int(delay or 0), len(left), length, self.schedule)
        target = left[[min(i, len(left) - 1) for i in range(length)]]
        return GuidanceTarget(target, target.new_tensor(weights))
