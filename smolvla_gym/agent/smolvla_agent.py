"""The agent: turns observations of an env into actions with a SmolVLA policy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.agent_options import AgentNotAttachedError, AgentNotResetError, AgentOptions
from smolvla_gym.agent.cameras import PAROL6_CAMERAS, required_env_cameras
from smolvla_gym.agent.chunk_scheduler import MODES, ChunkingOptions, ChunkScheduler
from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.agent.images import env_image_size
from smolvla_gym.agent.inference_runner import InferenceRunner, LockstepRunner, RealTimeRunner, check_latency
from smolvla_gym.agent.input_validation import check_spaces, check_training_conditions
from smolvla_gym.agent.mode_choice import AUTO, choose_mode
from smolvla_gym.agent.policies.base import Array, ChunkPolicy, Observation, PolicyCard
from smolvla_gym.agent.warm_up import warm_up
from smolvla_gym.errors import MissingExtraError, PolicyMismatchError, UnknownNameError


class SmolVLAAgent:
    """Drives the arm with a SmolVLA policy through the Gymnasium API of the env.

    In the simulation, which runs in lockstep, a chunk arrives after ``latency_ms`` of simulated time, by default at
    once. In real time a thread computes chunks, and a chunk arrives when it is computed.
    """

    def __init__(
        self,
        policy: ChunkPolicy,
        *,
        mode: str = AUTO,
        n_action_steps: int | None = None,
        queue_threshold: int | None = None,
        aggregate: str | None = None,
        latency_ms: float | Sequence[float] | NDArray[Any] | None = None,
        timeout_s: float = 10.0,
        seed: int | None = None,
        allow_mismatch: bool = False,
    ) -> None:
        """Create an agent of a policy.

        Args:
            policy: Computes the chunks. :meth:`close` closes it.
            mode: ``"sync"``: the next chunk is computed when the queue is empty, and the arm holds meanwhile.
                ``"async"`` (asynchronous inference): it is computed while the queue plays. ``"rtc"`` (real-time
                chunking): as async, and each chunk continues the previous one. ``"auto"``: one of them, chosen in
                :meth:`attach` by the policy, the latency and the env's clock; see
                :func:`~smolvla_gym.agent.mode_choice.choose_mode`.
            n_action_steps: Execution horizon: number of actions of each chunk that may be executed; ``None``: in sync
                the checkpoint's number, otherwise all of them.
            queue_threshold: Number of planned actions at which the next chunk is requested. ``None``: in sync 0,
                otherwise half of ``n_action_steps``, or more if the policy's own execution horizon is shorter.
            aggregate: How async combines the actions of two chunks for the same moment: ``"weighted_average"`` (the
                default), ``"average"``, ``"conservative"``, ``"latest_only"``, ``"crossfade"`` or
                ``"short_crossfade"`` (which rtc uses).
            latency_ms: Latency of a chunk, or a sequence of latencies to be taken in turn: in the simulation the exact
                value, in real time a lower limit.
            timeout_s: Longest time for a chunk in real time; after that :meth:`act` raises an error.
            seed: Seed of the noise that chunks are sampled from. Episodes continue one sequence unless ``reset`` gets a
                seed.
            allow_mismatch: Let :meth:`attach` only warn about an env whose control rate or gripper differs from that in
                training.

        Raises:
            OptionError: An option has a value that is not allowed.
            UnknownNameError: There is no such mode or aggregation function.
        """
        self._policy = policy
        if mode not in (AUTO, *MODES):
            raise UnknownNameError("mode", mode, (AUTO, *MODES))
        self._mode = mode
        self._chosen: dict[str, Any] = {
            "n_action_steps": n_action_steps,
            "queue_threshold": queue_threshold,
            "aggregate": aggregate,
            "timeout_s": timeout_s,
        }
        self._latencies = None if latency_ms is None else check_latency(latency_ms)
        self._allow_mismatch = allow_mismatch
        self._rng = np.random.default_rng(seed)
        self._instruction: str | None = None
        self._set_runner(LockstepRunner(policy, 1.0), None)

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
        **options: Unpack[AgentOptions],
    ) -> Self:
        """Load a checkpoint, and refuse one that cannot drive this arm.

        The folder of ``smolvla-gym export --format onnx`` is loaded without torch: it computes on the CPU in float32,
        and takes ``num_steps``, ``camera_map`` and ``process`` of the options before ``**options``.

        Args:
            path_or_repo: A folder, a repository on the Hugging Face hub, or ``"bundled"``.
            device: ``"auto"`` (cuda, else mps, else cpu) or a device of torch.
            dtype: ``"auto"`` keeps the weights as they were saved, ``"float32"`` widens them, ``"bfloat16"`` and
                ``"float16"`` round them, all but the small projections of state and actions.
            num_steps: Flow steps of a chunk; ``None``: the checkpoint's number.
            camera_map: Env camera by policy camera, for cameras whose names differ. ``None`` leaves out a camera that
                was not used in training, as LeRobot does with one that is missing: ``{"camera3": None}``.
            vlm: Folder or repository of the VLM's configuration, for a checkpoint without it.
            revision: Branch, tag or commit of a repository.
            process: Compute in a worker process, so that inference does not delay the control loop of a real arm.
            sampler: ``"fast"``: the same chunk without redundant computation; ``"reference"``: LeRobot's own code.
            compile_mode: A mode of ``torch.compile`` for the fast sampler, such as ``"default"`` or
                ``"max-autotune"``; the first chunk then takes minutes. ``None``: no compilation.
            **options: Keywords of the class, from ``mode`` on.

        Raises:
            CheckpointError: The checkpoint is absent, cannot be downloaded, or is broken.
            PolicyMismatchError: The checkpoint cannot drive this arm.
            OptionError: An option has a value that is not allowed.
            MissingExtraError: torch, transformers or lerobot is not installed, or for an exported policy onnxruntime or
                tokenizers.
        """
        if process:
            try:
                from smolvla_gym.agent.policies.process import PolicyProcess
            except ImportError as err:
                raise MissingExtraError("A policy in a process of its own", "smolvla", err) from err
            policy: ChunkPolicy = PolicyProcess(
                path_or_repo, device=device, dtype=dtype, num_steps=num_steps, sampler=sampler,
                compile_mode=compile_mode, camera_map=camera_map, vlm=vlm, revision=revision,
                timeout_s=options.get("timeout_s", 10.0),
            )  # fmt: skip
            return cls._own(policy, options)
        from smolvla_gym.agent.policies.load import load_policy

        policy = load_policy(
            path_or_repo, device=device, dtype=dtype, num_steps=num_steps, camera_map=camera_map, vlm=vlm,
            revision=revision, sampler=sampler, compile_mode=compile_mode,
        )  # fmt: skip
        return cls._own(policy, options)

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        token: str | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        **options: Unpack[AgentOptions],
    ) -> Self:
        """Connect to a policy server (``smolvla-gym serve``). Neither torch nor lerobot is needed.

        Args:
            address: ``"host:port"`` or ``"ws://host:port"``.
            token: The server's token; ``None``: that of the environment variable ``SMOLVLA_GYM_TOKEN``, if it is set.
            camera_map: Env camera by policy camera, for cameras whose names differ; ``None`` leaves a camera out.
            **options: Keywords of the class, from ``mode`` on.

        Raises:
            OptionError: An option has a value that is not allowed.
            PolicyConnectionError: There is no server, or it cannot be reached.
            PolicyServerError: The server is of another kind or version, or requires another token.
            PolicyMismatchError: Its policy is for another arm, or does not have the cameras of ``camera_map``.
            MissingExtraError: websockets or msgpack is not installed.
        """
        try:
            from smolvla_gym.agent.policies.remote.client import RemotePolicy
        except ImportError as err:
            raise MissingExtraError("A policy server's client", "remote", err) from err
        policy = RemotePolicy(address, token=token, camera_map=camera_map, timeout_s=options.get("timeout_s", 10.0))
        return cls._own(policy, options)

    @classmethod
    def _own(cls, policy: ChunkPolicy, options: AgentOptions) -> Self:
        """Create an agent of a policy, and close the policy on an error."""
        try:
            return cls(policy, **options)
        except BaseException:
            policy.close()
            raise

    @property
    def policy(self) -> ChunkPolicy:
        """The policy that computes the chunks."""
        return self._policy

    @property
    def card(self) -> PolicyCard:
        """Description of the policy: its own names of the cameras, the sizes of its images and chunks."""
        return self._policy.card

    @property
    def name(self) -> str:
        """Name under which the policy was loaded."""
        return self._policy.card.name

    @property
    def device(self) -> str:
        """The policy's device in torch's spelling, such as ``"cuda"``."""
        return self._policy.card.device

    @property
    def cameras(self) -> tuple[str, ...]:
        """The env cameras that the policy uses, each once, for ``gym.make(cameras=...)``.

        A camera that no PAROL6 env has is left out if the checkpoint allows it to be missing.
        """
        card = self._policy.card
        try:
            return required_env_cameras(card, PAROL6_CAMERAS)
        except PolicyMismatchError:  # the policy is for an env with other cameras
            return card.env_cameras

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in px of the images of the policy's first camera."""
        return next(iter(self._policy.card.cameras.values()))

    @property
    def env_options(self) -> dict[str, Any]:
        """Options of an env that fits: ``gym.make("PAROL6Sim-v0", **agent.env_options)``.

        ``cameras``, ``image_size`` (a multiple of the policy's, large enough for people to recognise objects) and, if
        the checkpoint states them, ``control_hz`` and ``gripper``.
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
        """Number of actions in a chunk."""
        return self._policy.card.chunk_size

    @property
    def n_action_steps(self) -> int:
        """Execution horizon: number of actions of a chunk that may be executed."""
        return self._options.n_action_steps

    @property
    def num_steps(self) -> int:
        """Flow steps of a chunk."""
        return self._policy.card.num_steps

    @property
    def mode(self) -> str:
        """``"sync"``, ``"async"`` or ``"rtc"``; of ``"auto"`` the choice, which :meth:`attach` makes by the env."""
        return self._options.mode

    @property
    def queue_length(self) -> int:
        """Number of planned actions."""
        return len(self._scheduler)

    @property
    def plan(self) -> Array:
        """The planned actions: six joint targets in rad and the gripper opening each, shape (n, 7)."""
        return self._scheduler.plan

    @property
    def statistics(self) -> AgentStatistics:
        """Statistics of the chunks of the current episode."""
        return self._scheduler.statistics

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Use the env's clock, and refuse an env that does not fit, before anything moves.

        In real time this also computes a warm-up chunk, because the first chunk takes longest. If that fails, the agent
        has no clock, as before the first call.

        Args:
            env: The env. Its spaces are checked, and its ``metadata``: ``"render_fps"`` is the control rate in Hz,
                ``"gripper"`` the name of the gripper, and ``"realtime"`` whether control steps take real time.

        Raises:
            PolicyMismatchError: The first mismatch, and the option that resolves it; this includes a control rate or a
                gripper other than in training, unless ``allow_mismatch`` was given.
            InferenceError: The policy failed.
            InferenceTimeoutError: The policy returned no chunk.
            PolicyConnectionError: The policy server cannot be reached.
        """
        self.check(env.observation_space, env.action_space)
        control_hz = check_training_conditions(self._policy.card, env.metadata, allow_mismatch=self._allow_mismatch)
        clock = control_hz, bool(env.metadata.get("realtime", False))
        if clock == self._clock:
            return
        self._runner.close()
        self._set_runner(LockstepRunner(self._policy, 1.0), None)
        latencies = self._latencies or (0.0,)
        if not clock[1]:
            self._set_runner(LockstepRunner(self._policy, control_hz, latencies), clock)
            return
        runner = RealTimeRunner(self._policy, control_hz, latencies)
        try:
            assert isinstance(env.observation_space, gym.spaces.Dict)  # noqa: S101 - narrows a type
            warm_up(self._policy.card, runner, env.observation_space)
        except BaseException:
            runner.close()
            raise
        self._set_runner(runner, clock)

    def check(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """Refuse an env that does not fit, before anything moves.

        Args:
            observation_space: The env's, a ``Dict`` with ``"pixels"`` and ``"agent_pos"``.
            action_space: The env's, a ``Box`` of shape (7,).

        Raises:
            PolicyMismatchError: The first mismatch, and the option that resolves it.
        """
        images = check_spaces(self._policy.card, observation_space, action_space)
        missing = [name for name, env_camera in self._policy.card.camera_map.items() if env_camera not in images]
        if missing:
            warnings.warn(
                f"The env lacks the cameras {', '.join(missing)} of the policy {self.name!r}, which computes without "
                f"them: its checkpoint allows it (empty_cameras={self._policy.card.empty_cameras}).",
                stacklevel=2,
            )

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begin an episode: drop the planned actions, also if the instruction is refused, and set the instruction.

        Args:
            instruction: The instruction in words; the env provides it as ``info["instruction"]``.
            seed: Seed of the noise of this and the following episodes; ``None`` continues the current sequence.

        Raises:
            OptionError: The instruction is not a text, empty, has control characters, or is longer than the policy
                reads. A policy in a worker process or on a server counts its tokens with the first chunk.
            AgentNotAttachedError: The agent's options need the env's clock.
        """
        # If the new instruction is refused, the previous plan must not be executed further.
        self._instruction = None
        self._scheduler.reset("", self._rng)
        text = self._policy.check_instruction(instruction)
        if self._clock is None and (self._options.mode != "sync" or self._latencies is not None):
            late = self._latencies is not None and self._mode in (AUTO, "sync")
            raise AgentNotAttachedError("latency_ms" if late else f"mode={self.mode!r}")
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._instruction = text
        self._scheduler.reset(text, self._rng)

    def act(self, observation: Observation) -> Array:
        """Return the next action: the next planned one, or one that holds the arm if the queue is empty.

        Args:
            observation: The env's: ``{"pixels": {camera: uint8 (H, W, 3)}, "agent_pos": float32 (7,)}``. It is checked
                when a chunk is requested, and must not be changed later.

        Returns:
            Six joint targets in rad and the gripper opening, shape (7,), finite.

        Raises:
            AgentNotResetError: There is no instruction yet.
            PolicyMismatchError: The observation lacks what the policy needs, or has another type, shape or unit.
            ActionError: The policy returned a number that is not finite.
            InferenceError: The policy failed.
            InferenceTimeoutError: The policy returned no chunk for ``timeout_s``.
        """
        if self._instruction is None:
            raise AgentNotResetError
        return self._scheduler.step(observation)

    def close(self) -> None:
        """Stop threads and worker processes. Calling it twice is harmless."""
        self._runner.close()
        self._policy.close()

    def _choose_options(self, *, realtime: bool) -> ChunkingOptions:
        """Return the options of scheduling on a clock."""
        card, mode = self._policy.card, self._mode
        if mode == AUTO:
            mode = choose_mode(
                card.max_delay, realtime=realtime, latencies=self._latencies or (0.0,),
                aggregate=self._chosen["aggregate"], queue_threshold=self._chosen["queue_threshold"],
            )  # fmt: skip
        return ChunkingOptions.choose(card, mode=mode, **self._chosen)

    def _set_runner(self, runner: InferenceRunner, clock: tuple[float, bool] | None) -> None:
        """Set the runner and its clock: the control rate in Hz and whether time is real; None: no env."""
        self._runner, self._clock = runner, clock
        self._options = self._choose_options(realtime=clock is not None and clock[1])
        self._scheduler = ChunkScheduler(self._policy.card, runner, self._options)
        self._instruction = None
