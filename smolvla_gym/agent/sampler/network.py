"""The parts of a SmolVLA policy, as the sampler and the training see them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from smolvla_gym.agent.checkpoint.precision import is_cross_attention_layer
from smolvla_gym.agent.sampler.layers import DecoderLayer, UnsupportedPolicyError
from smolvla_gym.agent.sampler.linear import is_plain
from smolvla_gym.agent.sampler.prefix import VisionTower


class Network:
    """A policy's modules, taken apart.

    Attributes:
        model: The policy's ``VLAFlowMatching``.
        vision: From pictures to tokens.
        words: The embedding of the instruction's tokens.
        text: Layers of the language model.
        expert: Layers of the action expert.
        norm: What comes after the last of them.
        stacks: All layers that are computed together.
    """

    def __init__(self, policy: Any, *, trains: bool = False) -> None:
        """Looks at how the policy is built.

        Args:
            policy: A ``SmolVLAPolicy``.
            trains: Whether gradients are to reach its weights.

        Raises:
            UnsupportedPolicyError: It has parts that are not handled here.
        """
        self._policy, self._config, self.model = policy, policy.config, policy.model
        network, config = self.model.vlm_with_expert, policy.config
        problems = {
            "use_cache=False": not config.use_cache,
            "adapt_to_pi_aloha": config.adapt_to_pi_aloha,
            "add_image_special_tokens": self.model.add_image_special_tokens,
            "an adapter of the time's network": not is_plain(self.model.action_time_mlp_in),
            "an expert with fewer layers than the language model": network.num_vlm_layers != network.num_expert_layers,
        }
        found = [name for name, there in problems.items() if there]
        if found:
            raise UnsupportedPolicyError(", ".join(found))
        vlm = network.get_vlm_model()
        width = int(network.vlm.config.text_config.head_dim)
        try:
            self.vision = VisionTower(vlm.vision_model, vlm.connector, trains=trains)
            self.words = vlm.text_model.get_input_embeddings()
            self.text = [DecoderLayer(layer, width, trains=trains) for layer in vlm.text_model.layers]
            self.expert = [
                DecoderLayer(layer, width, cross_attention=is_cross_attention_layer(network, i), trains=trains)
                for i, layer in enumerate(network.lm_expert.layers)
            ]
        except AttributeError as error:
            raise UnsupportedPolicyError(f"modules of another kind ({error})") from error
        self.norm = network.lm_expert.norm
        self.stacks = [*self.vision.stacks, *(stack for layer in self.text + self.expert for stack in layer.stacks)]

    def images(self, batch: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the pictures of the cameras that are there, and in which rows of the batch they are, shape (batch,).

        LeRobot puts black pictures behind them for cameras that are absent, which nothing looks at.
        """
        images, masks = self._policy.prepare_images(batch)
        there = sum(key in batch for key in self._config.image_features)
        return images[:there], masks[:there]

    def prefix_tokens(self, pictures: list[Tensor], tokens: Tensor, state: Tensor) -> Tensor:
        """Puts together what the language model sees, shape (batch, length, width).

        Args:
            pictures: What :attr:`vision` makes of each camera.
            tokens: Of the instruction, shape (batch, words).
            state: Shape (batch, padded state width).
        """
        words = self.words(tokens)
        scale = words.shape[-1] ** 0.5
        # LeRobot makes a tensor of the pictures' type from their scale; in bfloat16 that is another number.
        seen = [picture * _rounded(scale, picture.dtype) for picture in pictures]
        return torch.cat([*seen, words * scale, self.model.state_proj(state)[:, None]], dim=1)

    def embed_times(self, times: Tensor) -> Tensor:
        """Returns the sinusoids of times 1 (noise) to 0 (actions) of shape (n,); shape (n, expert's width)."""
        from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding

        width, config = self.model.vlm_with_expert.expert_hidden_size, self._config
        embedded: Tensor = create_sinusoidal_pos_embedding(
            times, width, config.min_period, config.max_period, device=times.device
        )
        return embedded

    def time_biases(self, embedded: Tensor) -> Tensor:
        """Returns what times add in the first layer of the action's and time's network, shape (n, expert's width)."""
        layer, width = self.model.action_time_mlp_in, embedded.shape[-1]
        return F.linear(embedded.to(layer.weight.dtype), layer.weight[:, width:], layer.bias)


@lru_cache(maxsize=16)
def _rounded(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=dtype))
