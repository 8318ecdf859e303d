"""A chunk of SmolVLA's actions, sooner: the same network, with everything computed once that does not change.

LeRobot's own loop computes in each flow step, and in each layer of it, what depends on the observation or on nothing at
all: the expert's keys and values of the prefix, rotary angles, masks, time embeddings. Here they are computed once a
chunk or once for all, the cameras go through the vision tower together, masked tokens are left out, and the last layer
of the language model, of which only keys and values are used, ends there. Weights and modules are the policy's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from smolvla_gym.errors import MissingExtraError

try:
    import torch
    import torch.nn.functional as F  # noqa: N812 - torch's own name for it
    from torch import Tensor, nn
except ImportError as err:
    raise MissingExtraError("A SmolVLA agent", "smolvla", err) from err

_WAVELENGTH: Final = 10_000.0
"""Of SmolVLA's rotary embedding, whatever the language model's configuration says."""

Guide = Callable[[Tensor, float, Callable[[Tensor], Tensor]], Tensor]
"""From the place x, the time 1..0 and the velocity as a function of the place, to the velocity to take."""

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine, each of shape (1 or batch, length, 1, head width / 2), float32."""


class UnsupportedPolicyError(Exception):
    """The policy is built in a way that only LeRobot's own code knows."""


@dataclass(frozen=True)
class _Prefix:
    """What the flow needs of an observation.

    Attributes:
        keys: For each layer of the expert the keys of the prefix, shape (batch, heads, length, head width).
        values: The values.
        mask: Which of them exist, shape (batch, 1, 1, length); None: all.
        lengths: How many exist, shape (batch, 1).
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor | None
    lengths: Tensor


class FastSampler:
    """Draws chunks from a policy of LeRobot's."""

    def __init__(self, policy: Any) -> None:
        """Looks at how the policy is built.

        Args:
            policy: A ``SmolVLAPolicy``; its weights may change later.

        Raises:
            UnsupportedPolicyError: It has parts that are not handled here.
        """
        self._policy, self._model = policy, policy.model
        network, config = self._model.vlm_with_expert, policy.config
        vlm = network.get_vlm_model()
        self._vision, self._connector, self._text = vlm.vision_model, vlm.connector, vlm.text_model
        self._expert = network.lm_expert
        problems = {
            "use_cache=False": not config.use_cache,
            "adapt_to_pi_aloha": config.adapt_to_pi_aloha,
            "add_image_special_tokens": self._model.add_image_special_tokens,
            "an expert with fewer layers than the language model": network.num_vlm_layers != network.num_expert_layers,
        }
        found = [name for name, there in problems.items() if there]
        if found:
            raise UnsupportedPolicyError(", ".join(found))
        every = network.self_attn_every_n_layers
        self._crosses = [
            "cross" in network.attention_mode and not (every > 0 and i % every == 0)
            for i in range(network.num_vlm_layers)
        ]
        self._head_width = int(network.vlm.config.text_config.head_dim)
        self._positions: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def sample(self, batch: dict[str, Tensor], noise: Tensor, guide: Guide | None = None) -> Tensor:
        """Draws a chunk.

        Args:
            batch: What the policy's preprocessor gives.
            noise: Shape (batch, chunk, padded action width).
            guide: Changes the velocity of each flow step, such as real-time chunking does.

        Returns:
            Actions in the policy's own units, shape (batch, chunk, action width).
        """
        prefix = self._encode(batch)
        steps, x = int(self._policy.config.num_steps), noise
        rotary = self._suffix_rotary(prefix, x.shape[1])
        mask = self._suffix_mask(prefix, x)
        for step in range(steps):
            time = 1.0 - step / steps
            bias = self._time_bias(time, x)

            def velocity(place: Tensor, bias: Tensor = bias) -> Tensor:
                return self._velocity(place, bias, prefix, rotary, mask)

            x = x - (velocity(x) if guide is None else guide(x, time, velocity)) / steps
        return x[:, :, : self._policy.config.action_feature.shape[0]]

    # -- the observation -----------------------------------------------------------------------------------------------

    def _encode(self, batch: dict[str, Tensor]) -> _Prefix:
        """Runs pictures, words and state through the language model, as far as their keys and values."""
        tokens, mask, before_state = self._embed(batch)
        # Tokens that are masked for all of the batch change nothing where they are left out.
        used = mask.any(dim=0)
        if not bool(used.all()):
            before_state = int(used[:before_state].sum())
            tokens, mask = tokens[:, used], mask[:, used]
        whole = bool(mask.all())
        attention = self._prefix_mask(mask, before_state)
        positions = torch.arange(mask.shape[1], device=mask.device)[None] if whole else mask.cumsum(1) - 1
        rotary = self._rotary(positions)
        keys, values = [], []
        last = len(self._text.layers) - 1
        for i, layer in enumerate(self._text.layers):
            attend = layer.self_attn
            hidden = layer.input_layernorm(tokens).to(attend.q_proj.weight.dtype)
            key = _turned(self._heads(attend.k_proj(hidden)), rotary)
            value = self._heads(attend.v_proj(hidden)).transpose(1, 2)
            keys.append(key)
            values.append(value)
            if i < last:  # of the last one nothing else is used
                query = _turned(self._heads(attend.q_proj(hidden)), rotary)
                tokens = self._finish(layer, tokens, _attention(query, key, value, attention))
        for i, layer in enumerate(self._expert.layers):
            if self._crosses[i]:
                attend = layer.self_attn
                flat = (part.transpose(1, 2).flatten(2).to(attend.k_proj.weight.dtype) for part in (keys[i], values[i]))
                keys[i], values[i] = (
                    self._heads(project(part)).transpose(1, 2)
                    for project, part in zip((attend.k_proj, attend.v_proj), flat, strict=True)
                )
        exists = None if whole else mask[:, None, None, :]
        return _Prefix(keys, values, exists, mask.sum(dim=1, keepdim=True))

    def _embed(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Returns all tokens, shape (batch, length, width), which exist, and how many come before the state's."""
        model = self._model
        images, image_masks = self._policy.prepare_images(batch)
        there = [i for i, exists in enumerate(image_masks) if bool(exists.any())]
        embedded = self._embed_images([images[i] for i in there])
        words = self._text.get_input_embeddings()(batch["observation.language.tokens"])
        state = model.state_proj(self._policy.prepare_state(batch))
        state = state[:, None] if state.ndim == 2 else state
        parts = [*embedded, words * words.shape[-1] ** 0.5, state]
        exists = [image_masks[i][:, None].expand(-1, part.shape[1]) for i, part in zip(there, embedded, strict=True)]
        exists += [batch["observation.language.attention_mask"], state.new_ones(state.shape[:2], dtype=torch.bool)]
        before = sum(part.shape[1] for part in parts[:-1])
        return torch.cat(parts, dim=1), torch.cat(exists, dim=1), before

    def _embed_images(self, images: list[Tensor]) -> list[Tensor]:
        """Returns the tokens of each picture, shape (batch, tokens, width); pictures of a size go together."""
        sizes = {image.shape for image in images}
        if len(sizes) != 1:
            return [part for image in images for part in self._embed_images([image])]
        pixels = torch.cat(images) if len(images) > 1 else images[0]
        embeddings = self._vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(embeddings.patch_embedding.weight.dtype))
        hidden = patches.flatten(2).transpose(1, 2) + embeddings.position_embedding(self._patch_positions(pixels))
        hidden = self._vision.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        tokens = self._connector(self._vision.post_layernorm(hidden))
        tokens = tokens * tokens.new_tensor(tokens.shape[-1] ** 0.5)
        return list(tokens.chunk(len(images)))

    def _patch_positions(self, pixels: Tensor) -> Tensor:
        """Returns the number of each patch's position embedding, shape (1, patches), as the tower itself chooses it."""
        key = (*pixels.shape[2:], pixels.device.index or 0)
        if key not in self._positions:
            chosen: list[Tensor] = []
            table: nn.Module = self._vision.embeddings.position_embedding
            hook = table.register_forward_pre_hook(lambda module, inputs: chosen.append(inputs[0]))
            try:
                self._vision(pixel_values=pixels[:1].to(self._vision.dtype))
            finally:
                hook.remove()
            self._positions[key] = chosen[0]
        return self._positions[key]

    def _prefix_mask(self, mask: Tensor, before_state: int) -> Tensor:
        """Returns which token looks at which, shape (batch, 1, length, length): nobody at the state but itself."""
        length = mask.shape[1]
        place = torch.arange(length, device=mask.device)
        sees = (place[None, :] < before_state) | (place[:, None] >= place[None, :]) & (place[:, None] >= before_state)
        # Nobody looks at a token that is no token. It has to look at something itself, or it would be NaN.
        sees = sees[None] & mask[:, None, :] | torch.eye(length, dtype=torch.bool, device=mask.device)
        return sees[:, None]

    # -- the flow ------------------------------------------------------------------------------------------------------

    def _time_bias(self, time: float, x: Tensor) -> Tensor:
        """Returns what the time adds in the first layer of the action's and time's network, shape (width,)."""
        from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding

        config, layer = self._policy.config, self._model.action_time_mlp_in
        width = self._model.vlm_with_expert.expert_hidden_size
        moment = torch.tensor([time], dtype=torch.float32, device=x.device)
        embedded = create_sinusoidal_pos_embedding(moment, width, config.min_period, config.max_period, device=x.device)
        return F.linear(embedded.to(layer.weight.dtype), layer.weight[:, width:], layer.bias)[0]

    def _velocity(
        self, x: Tensor, bias: Tensor, prefix: _Prefix, rotary: tuple[Rotary, Rotary], mask: Tensor
    ) -> Tensor:
        """Returns the velocity at a place, shape (batch, chunk, padded action width)."""
        model = self._model
        actions = model.action_in_proj(x)
        hidden = F.linear(actions, model.action_time_mlp_in.weight[:, : actions.shape[-1]]) + bias
        hidden = model.action_time_mlp_out(F.silu(hidden))
        for i, layer in enumerate(self._expert.layers):
            attend = layer.self_attn
            normed = layer.input_layernorm(hidden).to(attend.q_proj.weight.dtype)
            keys, values = prefix.keys[i], prefix.values[i]
            if self._crosses[i]:
                query, sees = _turned(self._heads(attend.q_proj(normed)), rotary[1]), prefix.mask
            else:
                query, sees = _turned(self._heads(attend.q_proj(normed)), rotary[0]), mask
                key = _turned(self._heads(attend.k_proj(normed)), rotary[0])
                keys = torch.cat([keys, key], dim=2)
                values = torch.cat([values, self._heads(attend.v_proj(normed)).transpose(1, 2)], dim=2)
            hidden = self._finish(layer, hidden, _attention(query, keys, values, sees))
        velocity: Tensor = model.action_out_proj(self._expert.norm(hidden).float())
        return velocity

    def _suffix_rotary(self, prefix: _Prefix, length: int) -> tuple[Rotary, Rotary]:
        """Returns the angles of the actions where they look at each other too, and where at the prefix alone."""
        place = torch.arange(length, device=prefix.lengths.device)[None]
        return self._rotary(prefix.lengths + place), self._rotary(place)

    def _suffix_mask(self, prefix: _Prefix, x: Tensor) -> Tensor:
        """Returns which action looks at what, shape (1 or batch, 1, chunk, prefix + chunk): not at those after it."""
        length, before = x.shape[1], prefix.keys[0].shape[2]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if prefix.mask is None:
            return torch.cat([causal.new_ones(length, before), causal], dim=1)[None, None]
        rows = prefix.mask.expand(-1, -1, length, -1)
        return torch.cat([rows, causal[None, None].expand(len(rows), -1, -1, -1)], dim=3)

    # -- layers --------------------------------------------------------------------------------------------------------

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], -1, self._head_width)

    @staticmethod
    def _finish(layer: Any, states: Tensor, attended: Tensor) -> Tensor:
        """Does what comes after the attention of a layer."""
        output = layer.self_attn.o_proj.weight.dtype
        # In place: the type of the layer's weights wins over that of what comes in, as in LeRobot's code.
        between: Tensor = layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2).to(output))
        between += states
        result: Tensor = layer.mlp(layer.post_attention_layernorm(between))
        result += between
        return result

    def _rotary(self, positions: Tensor) -> Rotary:
        half = self._head_width // 2
        exponents = (2.0 / self._head_width) * torch.arange(half, dtype=torch.float32, device=positions.device)
        angles = positions[..., None].float() / _WAVELENGTH**exponents
        return torch.cos(angles)[:, :, None], torch.sin(angles)[:, :, None]


def _turned(states: Tensor, rotary: Rotary) -> Tensor:
    """Turns heads of shape (batch, length, heads, width) by their positions; returns (batch, heads, length, width)."""
    cosine, sine = rotary
    first, second = states.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(states.dtype).transpose(1, 2)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attends with several queries to a key; shapes (batch, heads, length, width)."""
    # LeRobot saves a mixture of types, and the wider one counts.
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)
