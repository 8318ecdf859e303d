"""The agent: a SmolVLA policy that turns observations of the env into actions, chunk by chunk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.validation import PAROL6_CAMERAS, check_training_conditions, required_env_cameras
from smolvla_gym.agent.chunk_scheduler import ChunkingOptions, ChunkScheduler
from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.agent.images import env_image_size
from smolvla_gym.agent.inference_runner import InferenceRunner, LockstepRunner, RealTimeRunner, check_latency
from smolvla_gym.agent.input_validation import check_spaces, make_warm_up_observation
from smolvla_gym.agent.instructions import WARM_UP_INSTRUCTION
from smolvla_gym.agent.policies.base import Array, ChunkPolicy, Observation, PolicyCard
from smolvla_gym.errors import MissingExtraError, PolicyMismatchError, SmolVLAGymError

_WARM_UP_TIMEOUT: Final = 120.0
"""How long the first chunk may take in s: it loads kernels, and may compile them."""


class AgentNotResetError(SmolVLAGymError, RuntimeError):
    """The agent was asked to act before it was told what to do."""

    def __init__(self) -> None:
        """Builds the message."""
        super().__init__("The agent has no instruction yet. Call agent.reset(info['instruction']) after env.reset().")


class AgentNotAttachedError(SmolVLAGymError, RuntimeError):
    """The agent has to know the clock of its env."""

    def __init__(self, why: str) -> None:
        """Builds the message; ``why``: the option that needs the clock."""
        super().__init__(
            f"An agent with {why} has to know the env's clock: how long a step is, and whether its time is real. "
            "Call agent.attach(env) once after gym.make()."
        )


class SmolVLAAgent:
    """Drives the arm with a SmolVLA policy. It knows the Gymnasium API of the env and nothing else of it.

    In the simulation, which runs in lockstep, a chunk is there at once or after the ``latency_ms`` of simulated time
    that it is given. In real time a thread computes chunks and takes as long as it takes.
    """

    def __init__(
        self,
        policy: ChunkPolicy,
        *,
        mode: str = "sync",
        n_action_steps: int | None = None,
        queue_threshold: int | None = None,
        aggregate: str | None = None,
        latency_ms: float | Sequence[float] | NDArray[Any] | None = None,
        timeout_s: float = 10.0,
        seed: int | None = None,
        allow_mismatch: bool = False,
    ) -> None:
        """Gives a policy a queue of action chunks; see :meth:`from_pretrained` for the options."""
        self._policy = policy
        self._options = ChunkingOptions.choose(
            policy.card,
            mode=mode,
            n_action_steps=n_action_steps,
            queue_threshold=queue_threshold,
            aggregate=aggregate,
            timeout_s=timeout_s,
        )
        self._latencies = None if latency_ms is None else check_latency(latency_ms)
        self._allow_mismatch = allow_mismatch
        self._rng = np.random.default_rng(seed)
        self._instruction: str | None = None
        self._use(LockstepRunner(policy, 1.0), None)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        num_steps: int | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        vlm: str | Path | None = None,
        revision: str | None = None,
        process: bool = False,
        sampler: str = "fast",
        compile_mode: str | None = None,
        **options: Any,
    ) -> Self:
        """Loads a checkpoint and refuses one that cannot drive this arm.

        Args:
            path_or_repo: A folder, a repository on the Hugging Face hub, or ``"bundled"``.
            device: ``"auto"`` (cuda, else mps, else cpu) or a device of torch.
            dtype: ``"auto"`` keeps the weights as they were saved, ``"float32"`` widens them, ``"bfloat16"`` and
                ``"float16"`` round them, all but the small projections of state and actions.
            num_steps: Flow steps a chunk; ``None`` takes the checkpoint's number.
            camera_map: Env camera by policy camera, for those whose names differ. ``None`` leaves out a camera that
                training never saw, as LeRobot does with one that is missing: ``{"camera3": None}``.
            vlm: Folder or repository of the VLM's configuration, for a checkpoint that does not carry it.
            revision: Branch, tag or commit of a repository.
            process: Computes in a process of its own, so that the control loop of a real arm is not held up.
            sampler: ``"fast"``: the same chunk with nothing computed twice; ``"reference"``: by LeRobot's own code.
            compile_mode: A mode of ``torch.compile`` for the fast sampler, such as ``"default"`` or
                ``"max-autotune"``; the first chunk then takes minutes. ``None`` does not compile.
            **options: Those below, also of :meth:`connect` and of the class itself.
            mode: ``"sync"``: the next chunk is computed when the queue is empty, and the arm holds meanwhile.
                ``"async"``: it is computed while the queue plays. ``"rtc"``: the same, and each chunk is made to
                continue the one before (real-time chunking).
            n_action_steps: Actions of each chunk that may be executed; ``None``: in sync the checkpoint's number,
                otherwise all of them.
            queue_threshold: Number of actions left at which the next chunk is asked for. ``None``: in sync 0,
                otherwise half of ``n_action_steps``, or more where the policy's own number is smaller.
            aggregate: How async makes one of two chunks' actions for the same moment: ``"weighted_average"`` (the
                default), ``"average"``, ``"conservative"``, ``"latest_only"``, ``"crossfade"`` or
                ``"short_crossfade"`` (what rtc does).
            latency_ms: How long a chunk takes, or a sequence of such numbers to be taken in turn: in the simulation
                exactly, in real time at least.
            timeout_s: How long a chunk may take in real time before it is an error.
            seed: Seed of the noise that chunks start from. Episodes go on in one sequence unless ``reset`` is seeded.
            allow_mismatch: Whether :meth:`attach` only warns about an env whose control rate or gripper is not the one
                that the policy was trained with.

        Raises:
            CheckpointError: It is absent, cannot be downloaded, or is broken.
            PolicyMismatchError: It cannot drive this arm.
            OptionError: An option has a value that is not allowed.
            MissingExtraError: torch, transformers or lerobot is not installed.
        """
        policy: ChunkPolicy
        if process:
            try:
                from smolvla_gym.agent.policies.process import PolicyProcess
            except ImportError as err:
                raise MissingExtraError("A policy in a process of its own", "smolvla", err) from err
            policy = PolicyProcess(
                path_or_repo,
                device=device,
                dtype=dtype,
                num_steps=num_steps,
                sampler=sampler,
                compile_mode=compile_mode,
                camera_map=camera_map,
                vlm=vlm,
                revision=revision,
                timeout_s=options.get("timeout_s", 10.0),
            )
            return cls._take(policy, options)
        from smolvla_gym.agent.checkpoint.load import load_checkpoint
        from smolvla_gym.agent.policies.local import LocalPolicy

        checkpoint = load_checkpoint(path_or_repo, device=device, dtype=dtype, vlm=vlm, revision=revision)
        policy = LocalPolicy(
            checkpoint,
            num_steps=num_steps,
            camera_map=camera_map,
            name=str(path_or_repo),
            sampler=sampler,
            compile_mode=compile_mode,
        )
        return cls(policy, **options)

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        token: str | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        **options: Any,
    ) -> Self:
        """Takes a policy that runs elsewhere, as ``smolvla-gym serve`` does it. Neither torch nor lerobot is needed.

        Args:
            address: ``"host:port"`` or ``"ws://host:port"``.
            token: What the server wants to be told; ``None``: that of the environment variable
                ``SMOLVLA_GYM_TOKEN``, if it is set.
            camera_map: Env camera by policy camera, for those whose names differ; ``None`` leaves a camera out.
            **options: Those of :meth:`from_pretrained`, from ``mode`` on.

        Raises:
            OptionError: An option has a value that is not allowed.
            PolicyConnectionError: There is no server, or it cannot be reached.
            PolicyServerError: It is of another kind or version, or wants another token.
            PolicyMismatchError: Its policy is for another arm, or does not have the cameras of ``camera_map``.
            MissingExtraError: websockets or msgpack is not installed.
        """
        try:
            from smolvla_gym.agent.policies.remote.client import RemotePolicy
        except ImportError as err:
            raise MissingExtraError("A policy that runs elsewhere", "remote", err) from err
        policy = RemotePolicy(address, token=token, camera_map=camera_map, timeout_s=options.get("timeout_s", 10.0))
        return cls._take(policy, options)

    @classmethod
    def _take(cls, policy: ChunkPolicy, options: Mapping[str, Any]) -> Self:
        """Makes an agent of a policy that has to be closed."""
        try:
            return cls(policy, **options)
        except BaseException:
            policy.close()
            raise

    @property
    def card(self) -> PolicyCard:
        """What there is to know of the policy: its own names of the cameras, the sizes of its pictures and chunks."""
        return self._policy.card

    @property
    def name(self) -> str:
        """What the policy was called when it was loaded."""
        return self._policy.card.name

    @property
    def device(self) -> str:
        """Where it computes, in torch's spelling, such as ``"cuda"``."""
        return self._policy.card.device

    @property
    def cameras(self) -> tuple[str, ...]:
        """The env's cameras that the agent looks through, each once: what to give to ``gym.make(cameras=...)``.

        A camera that no PAROL6 env has is not among them where the checkpoint allows it to be missing.
        """
        card = self._policy.card
        try:
            return required_env_cameras(card, PAROL6_CAMERAS)
        except PolicyMismatchError:  # the policy is for an env with cameras of its own
            return card.env_cameras

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images of the policy's first camera."""
        return next(iter(self._policy.card.cameras.values()))

    @property
    def env_options(self) -> dict[str, Any]:
        """Options for an env that fits: ``gym.make("PAROL6Sim-v0", **agent.env_options)``.

        ``cameras``, ``image_size`` (a multiple of the policy's that people can recognise something in) and, where the
        checkpoint says them, ``control_hz`` and ``gripper``.
        """
        card = self._policy.card
        known = {"control_hz": card.control_hz, "gripper": card.gripper}
        return {
            "cameras": self.cameras,
            "image_size": env_image_size(self.image_size),
            **{name: value for name, value in known.items() if value is not None},
        }

    @property
    def chunk_size(self) -> int:
        """Actions a chunk."""
        return self._policy.card.chunk_size

    @property
    def n_action_steps(self) -> int:
        """How many actions of a chunk may be executed."""
        return self._options.n_action_steps

    @property
    def num_steps(self) -> int:
        """Flow steps a chunk."""
        return self._policy.card.num_steps

    @property
    def mode(self) -> str:
        """``"sync"``, ``"async"`` or ``"rtc"``."""
        return self._options.mode

    @property
    def queue_length(self) -> int:
        """Number of actions that are planned."""
        return len(self._engine)

    @property
    def plan(self) -> Array:
        """The actions that are planned next: six joint targets in rad and the gripper opening each, shape (n, 7)."""
        return self._engine.plan

    @property
    def statistics(self) -> AgentStatistics:
        """What became of the chunks of the present episode."""
        return self._engine.statistics

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Takes the env's clock, and refuses an env that does not fit, before anything moves.

        In real time it also computes one chunk for nothing, since the first one takes longest. Where that fails the
        agent has no clock, as before the first call.

        Args:
            env: Its spaces are looked at, and ``metadata``: ``"render_fps"`` is its control rate, ``"gripper"`` the
                name of its gripper, and ``"realtime"`` tells whether its steps take real time.

        Raises:
            PolicyMismatchError: What does not fit, and the option that mends it; also a control rate or a gripper that
                the policy was not trained with, unless ``allow_mismatch`` was given.
            InferenceError: The policy failed.
            InferenceTimeoutError: It gave no chunk.
            PolicyConnectionError: It runs elsewhere, and cannot be reached.
        """
        self.check(env.observation_space, env.action_space)
        control_hz = check_training_conditions(self._policy.card, env.metadata, allow_mismatch=self._allow_mismatch)
        clock = control_hz, bool(env.metadata.get("realtime", False))
        if clock == self._clock:
            return
        self._pipeline.close()
        self._use(LockstepRunner(self._policy, 1.0), None)
        latencies = self._latencies or (0.0,)
        if not clock[1]:
            self._use(LockstepRunner(self._policy, control_hz, latencies), clock)
            return
        pipeline = RealTimeRunner(self._policy, latencies)
        try:
            self._warm_up(pipeline, env.observation_space)
        except BaseException:
            pipeline.close()
            raise
        self._use(pipeline, clock)

    def check(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """Refuses an env that does not fit, before anything moves.

        Args:
            observation_space: The env's, a ``Dict`` with ``"pixels"`` and ``"agent_pos"``.
            action_space: The env's, a ``Box`` of shape (7,).

        Raises:
            PolicyMismatchError: What does not fit, and the option that mends it.
        """
        images = check_spaces(self._policy.card, observation_space, action_space)
        missing = [ours for ours, theirs in self._policy.card.camera_map.items() if theirs not in images]
        if missing:
            warnings.warn(
                f"The env lacks the cameras {', '.join(missing)} of the policy {self.name!r}, which computes without "
                f"them: its checkpoint allows it (empty_cameras={self._policy.card.empty_cameras}).",
                stacklevel=2,
            )

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begin an episode: forget the plan and take an instruction. One that is refused leaves no plan.

        Args:
            instruction: What to do, in words; the env has it in ``info["instruction"]``.
            seed: Seed of the noise of this and the following episodes; ``None`` goes on with the present sequence.

        Raises:
            OptionError: The instruction is not a text, empty, has control characters, or is longer than the policy
                reads. A policy in another process or elsewhere counts its tokens with the first chunk.
            AgentNotAttachedError: The agent's options mean nothing without the env's clock.
        """
        # Where the instruction is refused, nothing of the one before is done any more.
        self._instruction = None
        self._engine.reset("", self._rng)
        text = self._policy.check_instruction(instruction)
        if self._clock is None and (self._options.mode != "sync" or self._latencies is not None):
            raise AgentNotAttachedError("latency_ms" if self._options.mode == "sync" else f"mode={self.mode!r}")
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._instruction = text
        self._engine.reset(text, self._rng)

    def act(self, observation: Observation) -> Array:
        """Returns the next action: of the queue, or where that is empty the one that holds the arm.

        Args:
            observation: The env's: ``{"pixels": {camera: uint8 (H, W, 3)}, "agent_pos": float32 (7,)}``. It is checked
                when a chunk is asked for, and must not be changed later.

        Returns:
            Six joint targets in rad and the gripper opening, shape (7,), finite.

        Raises:
            AgentNotResetError: There is no instruction yet.
            PolicyMismatchError: The observation lacks what the policy needs, or has it in another type, shape or unit.
            ActionError: The policy gave a number that is not finite.
            InferenceError: The policy failed.
            InferenceTimeoutError: It gave no chunk for ``timeout_s``.
        """
        if self._instruction is None:
            raise AgentNotResetError
        return self._engine.step(observation)

    def close(self) -> None:
        """Ends what runs beside the program; doing it twice does no harm."""
        self._pipeline.close()
        self._policy.close()

    def _use(self, pipeline: InferenceRunner, clock: tuple[float, bool] | None) -> None:
        """Takes a pipeline and its clock: the env's control rate in Hz and whether its time is real; None: no env."""
        self._pipeline, self._clock = pipeline, clock
        self._engine = ChunkScheduler(self._policy.card, pipeline, self._options)
        self._instruction = None

    def _warm_up(self, pipeline: InferenceRunner, observation_space: gym.Space[Any]) -> None:
        """Have a chunk computed from an empty observation, by the thread that will compute the others."""
        assert isinstance(observation_space, gym.spaces.Dict)  # noqa: S101 - narrows a type
        card = self._policy.card
        pixels = observation_space["pixels"]
        assert isinstance(pixels, gym.spaces.Dict)  # noqa: S101 - narrows a type
        sizes = {name: (box.shape or (0, 0))[:2] for name, box in pixels.items()}
        observation = make_warm_up_observation(card, {name: (size[0], size[1]) for name, size in sizes.items()})
        engine = ChunkScheduler(card, pipeline, ChunkingOptions.choose(card, timeout_s=_WARM_UP_TIMEOUT))
        engine.reset(WARM_UP_INSTRUCTION, np.random.default_rng(0))
        engine.step(observation)
        if engine.lost is not None:  # it would ask again in the next step, of which there is none
            raise engine.lost
