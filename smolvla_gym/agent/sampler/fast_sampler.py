"""Compute an action chunk from an observation and noise.

LeRobot's own flow loop repeats, in each flow step and layer, computations that depend only on the observation or are
constant: the expert's keys and values of the prefix, rotary angles, masks, time embeddings. Here they are computed once
for each chunk or once in all. All cameras go through the vision tower together, masked tokens are removed, and the last
layer of the language model computes only its keys and values. Weights and modules are the policy's own.

Each action has its own flow time: given actions at the start of a chunk have the time 0.

On a CPU the shapes depend on the observation, and only existing tokens are computed. On a GPU, and in compiled code,
the shapes are the same for all instructions, so that the whole chunk is one CUDA graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from smolvla_gym.errors import MissingExtraError

try:
    import torch
    import torch.nn.functional as F  # noqa: N812 - torch's own name for it
    from torch import Tensor

    from smolvla_gym.agent.rtc_guidance import GuidanceTarget, guidance_weight
    from smolvla_gym.agent.sampler.cuda_graph import GraphReplay
    from smolvla_gym.agent.sampler.flow import Context, prepare_context, velocity
    from smolvla_gym.agent.sampler.network import Network
    from smolvla_gym.agent.sampler.prefix import Prefix, encode_prefix
except ImportError as _err:
    raise MissingExtraError("A SmolVLA agent", "smolvla", _err) from _err

_TOKENS: Final = "observation.language.tokens"
_TOKEN_MASK: Final = "observation.language.attention_mask"  # noqa: S105 - a name, not a secret

_GRAPHS: Final = 4
"""Number of CUDA graphs to keep, one for each batch size and set of cameras."""


class SamplerInputs(NamedTuple):
    """Inputs of a chunk.

    Attributes:
        tokens: Tokens of the instruction, shape (batch, tokens).
        token_mask: Whether each token exists, of the same shape.
        camera_mask: Whether each camera exists, shape (batch, cameras).
        state: State, shape (batch, padded state width).
        noise: Noise, shape (batch, chunk, padded action width).
        target: Actions of the guidance target, shape (chunk, action width).
        weights: Weights of the guidance target, shape (chunk, 1); zeros: no guidance.
        held: 1 for each action of the target that is given, shape (chunk, 1); zeros: none.
        images: Images for the vision tower, each of shape (batch, 3, height, width).
    """

    tokens: Tensor
    token_mask: Tensor
    camera_mask: Tensor
    state: Tensor
    noise: Tensor
    target: Tensor
    weights: Tensor
    held: Tensor
    images: tuple[Tensor, ...]


class FastSampler:
    """Samples chunks from a policy of LeRobot. Only one thread at a time may use it.

    On a GPU it keeps the weights of its last chunk in memory, even if the policy has other weights since.
    """

    def __init__(self, policy: Any, *, compile_mode: str | None = None) -> None:
        """Create a sampler of a policy.

        Args:
            policy: A ``SmolVLAPolicy``; its weights may change later.
            compile_mode: A mode of ``torch.compile`` for the stages; None: no compilation.

        Raises:
            UnsupportedPolicyError: The policy has parts that the sampler does not support.
        """
        self._policy, self._network = policy, Network(policy)
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self._compiled = compile_mode is not None
        self._encode_images: Callable[..., list[Tensor]] = self._network.vision
        self._encode_prefix: Callable[..., Prefix] = encode_prefix
        self._velocity: Callable[..., Tensor] = velocity
        if compile_mode is not None:
            # This class captures one graph of all stages, so torch.compile must not capture one for each of them.
            mode = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(
                compile_mode, compile_mode
            )
            self._encode_images = torch.compile(self._network.vision.__call__, mode=mode, dynamic=False)
            self._encode_prefix = torch.compile(encode_prefix, mode=mode, dynamic=False)
            self._velocity = torch.compile(velocity, mode=mode, dynamic=False)
        self._weights_state: tuple[Any, ...] = ()
        self._kept_alive: tuple[Any, ...] = ()
        self._graphs: OrderedDict[tuple[Any, ...], GraphReplay] = OrderedDict()

    @torch.no_grad()
    def sample(self, batch: dict[str, Tensor], noise: Tensor, guidance: GuidanceTarget | None = None) -> Tensor:
        """Sample a chunk.

        Args:
            batch: Output of the policy's preprocessor.
            noise: Noise, shape (batch, chunk, padded action width).
            guidance: Actions of the previous chunk to continue, for RTC; None: none. The weight of the correction is
                at most the number of flow steps.

        Returns:
            Actions in the policy's normalized units, shape (batch, chunk, action width).
        """
        if not noise.is_cuda:
            self._refresh_stacks()
            self._drop_graphs()  # the policy may have been moved from a GPU
            return self.chunk(self.inputs(batch, noise, guidance))
        inputs = self.inputs(batch, noise, guidance)
        flat = (*inputs[:-1], *inputs.images)
        key = (int(self._policy.config.num_steps), *((tensor.shape, tensor.dtype) for tensor in flat))
        if key in self._graphs:
            self._graphs.move_to_end(key)
            actions = self._graphs[key](flat)
            # Checking all weights takes the host milliseconds, so it is done while the device computes.
            if not self._weights_moved():
                return actions
        else:
            self._weights_moved()
            while len(self._graphs) >= _GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs[key] = GraphReplay(self._flat_chunk, flat)
        return self._graphs[key](flat)

    def chunk(self, inputs: SamplerInputs) -> Tensor:
        """Compute a chunk without synchronization with the device; all shapes follow from those of the inputs."""
        return self.flow(self.encode_prefix(self.encode_images(inputs), inputs), inputs)

    def _flat_chunk(self, *flat: Tensor) -> Tensor:
        tokens, token_mask, camera_mask, state, noise, target, weights, held, *images = flat
        inputs = SamplerInputs(tokens, token_mask, camera_mask, state, noise, target, weights, held, tuple(images))
        return self.chunk(inputs)

    # -- stages --------------------------------------------------------------------------------------------------------

    def inputs(self, batch: dict[str, Tensor], noise: Tensor, guidance: GuidanceTarget | None = None) -> SamplerInputs:
        """Return the inputs of a chunk; the arguments are those of :meth:`sample`."""
        images, masks = self._network.images(batch)
        if not self._keeps_shapes(noise):
            used = [i for i, mask in enumerate(masks) if bool(mask.any())]
            images, masks = [images[i] for i in used], [masks[i] for i in used]
        tokens, token_mask = batch[_TOKENS], batch[_TOKEN_MASK]
        if self._keeps_shapes(noise):
            missing = self._policy.config.tokenizer_max_length - tokens.shape[1]
            tokens, token_mask = F.pad(tokens, (0, max(missing, 0))), F.pad(token_mask, (0, max(missing, 0)))
        elif not bool(token_mask.all()):
            used_tokens = token_mask.any(dim=0)
            tokens, token_mask = tokens[:, used_tokens], token_mask[:, used_tokens]
        state = self._policy.prepare_state(batch)
        camera_mask = torch.stack(masks, dim=1) if masks else token_mask[:, :0]
        chunk, width = noise.shape[1], self._policy.config.action_feature.shape[0]
        if guidance is None:
            zeros = self._constant("no guidance", lambda: noise.new_zeros((chunk, width + 1)), noise)
            target, weights = zeros[:, :width], zeros[:, width:]
            held = weights
        else:
            target, weights = guidance.actions.to(noise), guidance.weights.to(noise)[:, None]
            held = (torch.arange(chunk) < guidance.held).to(noise)[:, None]
        return SamplerInputs(tokens, token_mask, camera_mask, state, noise, target, weights, held, tuple(images))

    def encode_images(self, inputs: SamplerInputs) -> list[Tensor]:
        """Return the tokens of each image, shape (batch, tokens, width)."""
        return self._encode_images(inputs.images)

    def encode_prefix(self, image_tokens: list[Tensor], inputs: SamplerInputs) -> Prefix:
        """Run the language model on images, instruction and state."""
        tokens = self._network.prefix_tokens(image_tokens, inputs.tokens, inputs.state)
        exists: Tensor | None = None
        if self._keeps_shapes(inputs.noise) or not bool(inputs.token_mask.all() & inputs.camera_mask.all()):
            parts = [inputs.camera_mask[:, i, None].expand(-1, part.shape[1]) for i, part in enumerate(image_tokens)]
            exists = torch.cat([*parts, inputs.token_mask, inputs.token_mask.new_ones((len(tokens), 1))], dim=1)
        return self._encode_prefix(self._network.text, self._network.expert, tokens, exists, tokens.shape[1] - 1)

    def flow(self, prefix: Prefix, inputs: SamplerInputs) -> Tensor:
        """Compute the flow steps; return actions of shape (batch, chunk, action width)."""
        x, steps = inputs.noise, int(self._policy.config.num_steps)
        network = self._network
        context: Context = prepare_context(network.expert, prefix, x.shape[1])
        # The last time is 0, that of given actions.
        biases = network.time_biases(self._constant(("times", steps), lambda: self._embed_times(steps, x), x))
        width = inputs.target.shape[1]
        guided = self._keeps_shapes(x) or bool(inputs.weights.any())
        holds = self._keeps_shapes(x) or bool(inputs.held.any())
        given, fixed = inputs.held > 0.5, F.pad(inputs.target, (0, x.shape[-1] - width))
        for step in range(steps):
            time, bias = 1.0 - step / steps, biases[None, None, step]
            if holds:
                x, bias = torch.where(given, fixed, x), torch.where(given, biases[-1], bias)
            speed = self._velocity(network.model, network.expert, network.norm, x, bias, context)
            if guided:
                guess = x[..., :width] - time * speed[..., :width]
                error = guidance_weight(time, float(steps)) * inputs.weights * (inputs.target - guess)
                # Guidance does not change the padding beyond the action width.
                speed = speed - F.pad(error, (0, speed.shape[-1] - width))
            x = x - speed / steps
        actions = x[:, :, :width]
        return torch.where(given, inputs.target, actions) if holds else actions

    # -- weights and constants -----------------------------------------------------------------------------------------

    def _keeps_shapes(self, tensor: Tensor) -> bool:
        return self._compiled or tensor.is_cuda

    def _refresh_stacks(self) -> None:
        """Use the current weights and layers, which may have been replaced."""
        for stack in self._network.stacks:
            stack.refresh()

    def _weights_moved(self) -> bool:
        """Return whether weights, modules or hooks were replaced, and if so drop the graphs, which read the old ones.

        A graph may have been launched before this check, so the weights that it reads are kept in memory.
        """
        self._refresh_stacks()
        weights = [parameter.data for parameter in self._policy.parameters()]
        modules = list(self._policy.modules())
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
        state = (*(weight.data_ptr() for weight in weights), *map(id, modules), *hooks)
        if state == self._weights_state:
            return False
        self._drop_graphs()
        self._weights_state, self._kept_alive = state, (weights, modules)
        return True

    def _drop_graphs(self) -> None:
        self._graphs.clear()
        self._weights_state, self._kept_alive = (), ()

    def _embed_times(self, steps: int, x: Tensor) -> Tensor:
        times = torch.tensor([1.0 - step / steps for step in range(steps + 1)], dtype=torch.float32, device=x.device)
        return self._network.embed_times(times)

    def _constant(self, name: Any, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        """Return a tensor that is computed once for a device: a CUDA graph must not copy data from the host."""
        key = (name, like.device, like.dtype, like.shape[1:])
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]
