"""The sampler: an observation and noise to a chunk of actions.

LeRobot's own loop computes in each flow step, and in each layer of it, what depends on the observation or on nothing at
all: the expert's keys and values of the prefix, rotary angles, masks, time embeddings. Here they are computed once a
chunk or once for all, the cameras go through the vision tower together, masked tokens are left out, and the last layer
of the language model, of which only keys and values are used, ends there. Weights and modules are the policy's own.

On a CPU the shapes follow the observation: no token is computed that does not exist. On a GPU, and where it is
compiled, they stay the same whatever the instruction is, so that the whole chunk is one CUDA graph.
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
except ImportError as err:
    raise MissingExtraError("A SmolVLA agent", "smolvla", err) from err

_TOKENS: Final = "observation.language.tokens"
_TOKEN_MASK: Final = "observation.language.attention_mask"  # noqa: S105 - a name, not a secret

_GRAPHS: Final = 4
"""CUDA graphs that are kept: for so many sizes of batches and sets of cameras."""


class SamplerInputs(NamedTuple):
    """What a chunk is computed from.

    Attributes:
        tokens: Of the instruction, shape (batch, words).
        words: Which of them exist, of the same shape.
        seen: Which cameras do, shape (batch, cameras).
        state: Shape (batch, padded state width).
        noise: Shape (batch, chunk, padded action width).
        target: What the chunk is pulled to, shape (chunk, action width).
        weights: How strongly, shape (chunk, 1); zeros: not at all.
        images: As the vision tower takes them, each of shape (batch, 3, height, width).
    """

    tokens: Tensor
    words: Tensor
    seen: Tensor
    state: Tensor
    noise: Tensor
    target: Tensor
    weights: Tensor
    images: tuple[Tensor, ...]


class FastSampler:
    """Draws chunks from a policy of LeRobot's; one thread at a time may use it.

    On a GPU it keeps the weights of its last chunk alive, also where the policy has others since.
    """

    def __init__(self, policy: Any, *, compile_mode: str | None = None) -> None:
        """Looks at how the policy is built.

        Args:
            policy: A ``SmolVLAPolicy``; its weights may change later.
            compile_mode: A mode of ``torch.compile`` for the parts; None: they are not compiled.

        Raises:
            UnsupportedPolicyError: It has parts that are not handled here.
        """
        self._policy, self._network = policy, Network(policy)
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self._compiled = compile_mode is not None
        self._encode_images: Callable[..., list[Tensor]] = self._network.vision
        self._encode_prefix: Callable[..., Prefix] = encode_prefix
        self._velocity: Callable[..., Tensor] = velocity
        if compile_mode is not None:
            # The graph is captured here, and not by torch.compile for each of the parts.
            mode = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(
                compile_mode, compile_mode
            )
            self._encode_images = torch.compile(self._network.vision.__call__, mode=mode, dynamic=False)
            self._encode_prefix = torch.compile(encode_prefix, mode=mode, dynamic=False)
            self._velocity = torch.compile(velocity, mode=mode, dynamic=False)
        self._state: tuple[Any, ...] = ()
        self._kept: tuple[Any, ...] = ()
        self._graphs: OrderedDict[tuple[Any, ...], GraphReplay] = OrderedDict()

    @torch.no_grad()
    def sample(self, batch: dict[str, Tensor], noise: Tensor, guidance: GuidanceTarget | None = None) -> Tensor:
        """Draws a chunk.

        Args:
            batch: What the policy's preprocessor gives.
            noise: Shape (batch, chunk, padded action width).
            guidance: Actions of the previous chunk to continue, for RTC; None: no guidance. The weight of the
                correction is at most the number of flow steps.

        Returns:
            Actions in the policy's own units, shape (batch, chunk, action width).
        """
        if not noise.is_cuda:
            self._follow()
            self._forget()  # the policy may have left a GPU
            return self.chunk(self.inputs(batch, noise, guidance))
        inputs = self.inputs(batch, noise, guidance)
        flat = (*inputs[:-1], *inputs.images)
        key = (int(self._policy.config.num_steps), *((tensor.shape, tensor.dtype) for tensor in flat))
        if key in self._graphs:
            self._graphs.move_to_end(key)
            actions = self._graphs[key](flat)
            # To look at every weight takes the host milliseconds: it does so while the device computes.
            if not self._moved():
                return actions
        else:
            self._moved()
            while len(self._graphs) >= _GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs[key] = GraphReplay(self._flat_chunk, flat)
        return self._graphs[key](flat)

    def chunk(self, inputs: SamplerInputs) -> Tensor:
        """Computes a chunk; it waits for nothing, and all shapes follow those of the inputs."""
        return self.flow(self.encode_prefix(self.encode_images(inputs), inputs), inputs)

    def _flat_chunk(self, *flat: Tensor) -> Tensor:
        tokens, words, seen, state, noise, target, weights, *images = flat
        return self.chunk(SamplerInputs(tokens, words, seen, state, noise, target, weights, tuple(images)))

    # -- the stages ----------------------------------------------------------------------------------------------------

    def inputs(self, batch: dict[str, Tensor], noise: Tensor, guidance: GuidanceTarget | None = None) -> SamplerInputs:
        """Gathers what a chunk is computed from; arguments as those of :meth:`sample`."""
        images, masks = self._network.images(batch)
        if not self._keeps_shapes(noise):
            used = [i for i, mask in enumerate(masks) if bool(mask.any())]
            images, masks = [images[i] for i in used], [masks[i] for i in used]
        tokens, words = batch[_TOKENS], batch[_TOKEN_MASK]
        if self._keeps_shapes(noise):
            missing = self._policy.config.tokenizer_max_length - tokens.shape[1]
            tokens, words = F.pad(tokens, (0, max(missing, 0))), F.pad(words, (0, max(missing, 0)))
        elif not bool(words.all()):
            anywhere = words.any(dim=0)
            tokens, words = tokens[:, anywhere], words[:, anywhere]
        state = self._policy.prepare_state(batch)
        seen = torch.stack(masks, dim=1) if masks else words[:, :0]
        chunk, width = noise.shape[1], self._policy.config.action_feature.shape[0]
        if guidance is None:
            still = self._constant("still", lambda: noise.new_zeros((chunk, width + 1)), noise)
            target, weights = still[:, :width], still[:, width:]
        else:
            target, weights = guidance.actions.to(noise), guidance.weights.to(noise)[:, None]
        return SamplerInputs(tokens, words, seen, state, noise, target, weights, tuple(images))

    def encode_images(self, inputs: SamplerInputs) -> list[Tensor]:
        """Returns the tokens of each picture, shape (batch, tokens, width)."""
        return self._encode_images(inputs.images)

    def encode_prefix(self, pictures: list[Tensor], inputs: SamplerInputs) -> Prefix:
        """Runs the language model over pictures, words and state."""
        tokens = self._network.prefix_tokens(pictures, inputs.tokens, inputs.state)
        exists: Tensor | None = None
        if self._keeps_shapes(inputs.noise) or not bool(inputs.words.all() & inputs.seen.all()):
            parts = [inputs.seen[:, i, None].expand(-1, part.shape[1]) for i, part in enumerate(pictures)]
            exists = torch.cat([*parts, inputs.words, inputs.words.new_ones((len(tokens), 1))], dim=1)
        return self._encode_prefix(self._network.text, self._network.expert, tokens, exists, tokens.shape[1] - 1)

    def flow(self, prefix: Prefix, inputs: SamplerInputs) -> Tensor:
        """Takes the flow steps; returns actions of shape (batch, chunk, action width)."""
        x, steps = inputs.noise, int(self._policy.config.num_steps)
        network = self._network
        context: Context = prepare_context(network.expert, prefix, x.shape[1])
        biases = network.time_biases(self._constant(("times", steps), lambda: self._embed_times(steps, x), x))
        width = inputs.target.shape[1]
        guided = self._keeps_shapes(x) or bool(inputs.weights.any())
        for step in range(steps):
            time = 1.0 - step / steps
            speed = self._velocity(network.model, network.expert, network.norm, x, biases[step], context)
            if guided:
                guess = x[..., :width] - time * speed[..., :width]
                error = guidance_weight(time, float(steps)) * inputs.weights * (inputs.target - guess)
                # The padding beyond the actions' width is left to the flow.
                speed = speed - F.pad(error, (0, speed.shape[-1] - width))
            x = x - speed / steps
        return x[:, :, :width]

    # -- what stays ----------------------------------------------------------------------------------------------------

    def _keeps_shapes(self, tensor: Tensor) -> bool:
        return self._compiled or tensor.is_cuda

    def _follow(self) -> None:
        """Follows weights and layers that were put in the place of others."""
        for stack in self._network.stacks:
            stack.refresh()

    def _moved(self) -> bool:
        """Follows them, and says whether there were any; then the graphs, which read weights where they were, are gone.

        Until this is known a graph may have been launched, so what it reads is kept.
        """
        self._follow()
        weights = [parameter.data for parameter in self._policy.parameters()]
        modules = list(self._policy.modules())
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
        state = (*(weight.data_ptr() for weight in weights), *map(id, modules), *hooks)
        if state == self._state:
            return False
        self._forget()
        self._state, self._kept = state, (weights, modules)
        return True

    def _forget(self) -> None:
        self._graphs.clear()
        self._state, self._kept = (), ()

    def _embed_times(self, steps: int, x: Tensor) -> Tensor:
        times = torch.tensor([1.0 - step / steps for step in range(steps)], dtype=torch.float32, device=x.device)
        return self._network.embed_times(times)

    def _constant(self, name: Any, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        """Returns what is computed once for a device; a CUDA graph must not do it, since it comes from the host."""
        key = (name, like.device, like.dtype, like.shape[1:])
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]
