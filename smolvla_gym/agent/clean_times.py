"""Give the actions at the start of a chunk the flow time 0 in LeRobot's own code, which has one time for all actions.

"Training-Time Action Conditioning for Efficient Real-Time Chunking" (Black et al., 2025): a policy continues given
actions if they enter the action expert without noise and with the time of finished actions. LeRobot repeats the
embedding of the time for each action in the input of its action-time network; a hook of that layer replaces it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def clean_times(model: Any, given: Tensor) -> Iterator[None]:
    """Replace the flow time of given actions by 0 while the context is open.

    Args:
        model: A policy's ``VLAFlowMatching``. Its classes and weights are not changed.
        given: Whether each action is given, bool, shape (batch or 1, chunk).
    """
    from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding

    config, width = model.config, int(model.vlm_with_expert.expert_hidden_size)

    def replace(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        states = inputs[0]  # of each action its own embedding, and beside it that of the time
        zero = torch.zeros(1, dtype=torch.float32, device=states.device)
        clean = create_sinusoidal_pos_embedding(
            zero, width, config.min_period, config.max_period, device=states.device
        ).to(states.dtype)
        times = torch.where(given.to(states.device)[..., None], clean, states[..., width:])
        return (torch.cat([states[..., :width], times], dim=-1),)

    handle = model.action_time_mlp_in.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()
