"""Class of the policy; see the package."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from torch import Tensor

from smolvla_gym.agent.clean_times import clean_times
from smolvla_gym.training.lerobot.delayed.configuration_delayed import DelayedSmolVLAConfig
from smolvla_gym.training.tiny.flow import sample_delays


class DelayedSmolVLAPolicy(SmolVLAPolicy):
    """A SmolVLA whose training gives some actions at the start of each chunk; its modules and weights are SmolVLA's."""

    config_class: Any = DelayedSmolVLAConfig
    name: str = "smolvla_delayed"

    def forward(
        self, batch: dict[str, Tensor], noise: Tensor | None = None, time: Tensor | None = None, reduction: str = "mean"
    ) -> Any:
        """Return LeRobot's loss over the actions that are not given; outside training none are given."""
        limit = int(self.config.rtc_max_delay)
        if not self.training or limit == 0:
            return super().forward(batch, noise, time, reduction)
        actions = self.prepare_action(batch)
        delays = sample_delays(torch.zeros(len(actions), dtype=torch.long), limit, None).to(actions.device)
        given = torch.arange(actions.shape[1], device=actions.device) < delays[:, None]
        if noise is None:
            noise = self.model.sample_noise(actions.shape, actions.device)
        # A given action in place of its noise is clean at any time of the flow.
        noise = torch.where(given[..., None], actions.to(noise.dtype), noise)
        padding = batch.get("action_is_pad")
        batch = {**batch, "action_is_pad": given if padding is None else padding | given}
        with clean_times(self.model, given):
            return super().forward(batch, noise, time, reduction)

    def _save_pretrained(self, save_directory: Path, **options: Any) -> None:
        """Save a checkpoint of a plain SmolVLA, which every program loads."""
        super()._save_pretrained(save_directory, **options)
        plain = SmolVLAConfig(**{field.name: getattr(self.config, field.name) for field in fields(SmolVLAConfig)})
        plain._save_pretrained(save_directory)
