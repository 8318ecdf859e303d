"""Real-time chunking (RTC): a new chunk continues the remaining actions of the previous one.

A policy that was trained for inference delays gets the actions that are executed before the chunk arrives as given
("Training-Time Action Conditioning for Efficient Real-Time Chunking", Black et al., 2025); the sampler holds them.

Any other policy is guided. The method is "Real-Time Execution of Action Chunking Flow Policies" (Black, Galliker,
Levine; 2025), with the Jacobian of the denoiser approximated by the identity, as in LeRobot. This makes the correction
a closed form without autograd.
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
    """Actions that a chunk continues.

    Attributes:
        actions: Target actions in the policy's normalized units, shape (chunk, action width).
        weights: Weight of the guidance of each action, 0..1, shape (chunk,).
        held: Number of actions at the start that are given: they enter the action expert without noise and with the
            flow time 0, and the chunk begins with them. Their weights are 0.
    """

    actions: Any
    weights: Any
    held: int = 0


class PrefixGuidance:
    """Replacement of LeRobot's ``RTCProcessor``: LeRobot's flow loop calls :meth:`denoise_step` in each flow step.

    It differs from LeRobot 0.6.1 in three ways. The remaining actions are padded with the last one, not with zeros,
    which would be the mean of the training data. The weights end with the remaining actions, not at a fixed horizon.
    No gradient is recorded.
    """

    def __init__(self, max_weight: float, schedule: str = "exp", max_delay: int = 0) -> None:
        """Set the strength of the guidance.

        Args:
            max_weight: Largest factor of the correction. A flow of n steps moves by 1/n of it in each step, so a factor
                above n overshoots.
            schedule: One of ``SCHEDULES``.
            max_delay: Largest number of given actions that the policy was trained for; 0: none are given.
        """
        self.max_weight: float = max_weight
        self.schedule: str = schedule
        self.max_delay: int = max_delay

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

        The caller gives held actions the flow time 0, see :func:`smolvla_gym.agent.clean_times.clean_times`, and puts
        them into the chunk.

        Args:
            x_t: State of the flow, shape (batch, chunk, width).
            prev_chunk_left_over: Remaining actions in the policy's normalized units, shape (n, action width); None: no
                guidance.
            inference_delay: Number of them that will be executed before the chunk arrives.
            time: From 1 (noise) to 0 (actions).
            original_denoise_step_partial: Returns the velocity for a state of the flow.
            execution_horizon: Not used; the weights end with the remaining actions.
        """
        if prev_chunk_left_over is None or len(prev_chunk_left_over) == 0:
            return original_denoise_step_partial(x_t)
        target, width = (
            self.make_target(prev_chunk_left_over, inference_delay, x_t.shape[1]),
            prev_chunk_left_over.shape[1],
        )
        if target.held:
            x_t = x_t.clone()
            x_t[:, : target.held, :width] = target.actions[: target.held].to(x_t)
            x_t[:, : target.held, width:] = 0.0  # as LeRobot pads actions in training
        velocity = original_denoise_step_partial(x_t)
        # Guidance does not change the padding beyond the action width.
        guess = x_t[..., :width] - time * velocity[..., :width]
        error = (target.actions.to(x_t) - guess) * target.weights.to(x_t)[:, None]
        velocity = velocity.clone()
        velocity[..., :width] -= guidance_weight(time, self.max_weight) * error
        return velocity

    def make_target(self, left: Any, delay: int | None, length: int) -> GuidanceTarget:
        """Return the actions that a new chunk continues.

        If the policy was trained for delays, the actions that will be executed before the chunk arrives are held. Of
        a delay that is longer than any in training the last actions are not held: the policy has never seen so many
        given ones. The chunk is guided to them, because they will be executed. Nothing after them is certain to be
        executed, so that nothing after them guides it.

        Args:
            left: Remaining actions of the previous chunk, shape (n, action width); n is at least 1.
            delay: Number of them that will be executed before the new chunk arrives.
            length: Length of the new chunk.
        """
        weights, held = self.make_weights(len(left), delay, length)
        target = left[[min(i, len(left) - 1) for i in range(length)]]
        return GuidanceTarget(target, target.new_tensor(weights), held)

    def make_weights(self, left: int, delay: int | None, length: int) -> tuple[NDArray[np.float32], int]:
        """Return the weight of the guidance of each action, shape (length,), and the number of held actions.

        Args:
            left: Number of remaining actions of the previous chunk, at least 1.
            delay: Number of them that will be executed before the new chunk arrives.
            length: Length of the new chunk.
        """
        delay = int(delay or 0)
        weights = prefix_weights(delay, left, length, "zeros" if self.max_delay else self.schedule)
        held = max(0, min(delay, self.max_delay, left, length))
        weights[:held] = 0.0
        return weights, held
