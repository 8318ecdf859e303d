"""Configuration of the policy; see the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lerobot.configs import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

DELAYED: Final = "smolvla_delayed"
"""Type of the policy in LeRobot's configuration files."""


@PreTrainedConfig.register_subclass(DELAYED)
@dataclass
class DelayedSmolVLAConfig(SmolVLAConfig):
    """Configuration of a SmolVLA that learns to continue given actions.

    Attributes:
        rtc_max_delay: Largest number of given actions at the start of a chunk, below ``chunk_size``.
    """

    rtc_max_delay: int = 0
