"""Load and validate SmolVLA checkpoints."""

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.agent.checkpoint.load import load_checkpoint

__all__ = ["bundled_checkpoint", "load_checkpoint"]
