"""Parts of a SmolVLA policy for the sampler and for training."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from smolvla_gym.agent.checkpoint.precision import is_cross_attention_layer
from smolvla_gym.agent.sampler.layers import DecoderLayer, UnsupportedPolicyError
from smolvla_gym.agent.sampler.linear import is_plain
from smolvla_gym.agent.sampler.prefix import VisionTower
from smolvla_gym.agent.sampler.stacked_linear import StackedLinear

if TYPE_CHECKING:
    from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching


class Network:
    """Modules of a policy.

    Attributes:
        model: The policy's ``VLAFlowMatching``.
        vision: The vision tower: from images to tokens.
        token_embedding: The embedding of the instruction's tokens.
        text: Layers of the language model.
        expert: Layers of the action expert.
        norm: Norm after the last layer of the expert.
        stacks: All groups of linear layers that are computed together.
    """

    def __init__(self, policy: Any, *, trains: bool = False) -> None:
        """Get the modules of a policy.

        Args:
            policy: A ``SmolVLAPolicy``.
            trains: Whether gradients have to reach its weights.

        Raises:
            UnsupportedPolicyError: The policy has parts that are not supported.
        """
        self._policy, self._config = policy, policy.config
        self.model: VLAFlowMatching = policy.model
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
            self.vision: VisionTower = VisionTower(vlm.vision_model, vlm.connector, trains=trains)
            self.token_embedding: nn.Module = vlm.text_model.get_input_embeddings()
            self.text: list[DecoderLayer] = [
                DecoderLayer(layer, width, trains=trains) for layer in vlm.text_model.layers
            ]
            self.expert: list[DecoderLayer] = [
                DecoderLayer(layer, width, cross_attention=is_cross_attention_layer(network, i), trains=trains)
                for i, layer in enumerate(network.lm_expert.layers)
            ]
        except AttributeError as error:
            raise UnsupportedPolicyError(f"modules of another kind ({error})") from error
        self.norm: nn.Module = network.lm_expert.norm
        self.stacks: list[StackedLinear] = [
            *self.vision.stacks, *(stack for layer in self.text + self.expert for stack in layer.stacks)
        ]  # fmt: skip

    def images(self, batch: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the images of the cameras in a batch, and for each the rows of the batch that have it, shape (batch,).

        LeRobot appends masked black images for absent cameras; they are dropped here.
        """
        images, masks = self._policy.prepare_images(batch)
        count = sum(key in batch for key in self._config.image_features)
        return images[:count], masks[:count]

    def prefix_tokens(self, image_tokens: list[Tensor], tokens: Tensor, state: Tensor) -> Tensor:
        """Return the input of the language model, shape (batch, length, width).

        Args:
            image_tokens: Output of :attr:`vision` for each camera.
            tokens: Tokens of the instruction, shape (batch, tokens).
            state: State, shape (batch, padded state width).
        """
        text = self.token_embedding(tokens)
        scale = text.shape[-1] ** 0.5
        # LeRobot rounds the scale to the type of the image tokens; in bfloat16 this changes it.
        images = [image * _rounded(scale, image.dtype) for image in image_tokens]
        return torch.cat([*images, text * scale, self.model.state_proj(state)[:, None]], dim=1)

    def embed_times(self, times: Tensor) -> Tensor:
        """Return sinusoidal embeddings, shape (n, expert width), of times 1 (noise) to 0 (actions), shape (n,)."""
        from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding

        width, config = self.model.vlm_with_expert.expert_hidden_size, self._config
        embedded: Tensor = create_sinusoidal_pos_embedding(
            times, width, config.min_period, config.max_period, device=times.device
        )
        return embedded

    def time_biases(self, embedded: Tensor) -> Tensor:
        """Return the contribution of times in the first layer of the action-time network, shape (n, expert width)."""
        layer, width = self.model.action_time_mlp_in, embedded.shape[-1]
        return F.linear(embedded.to(layer.weight.dtype), layer.weight[:, width:], layer.bias)


@lru_cache(maxsize=16)
def _rounded(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=dtype))
