"""The agent: a SmolVLA checkpoint that turns observations of the env into actions, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint import LoadedCheckpoint, load_checkpoint
from smolvla_gym.agent.chunks import ActionQueue
from smolvla_gym.agent.compatibility import WIDTH, match_cameras, planned_cameras
from smolvla_gym.agent.images import resize_area
from smolvla_gym.errors import ActionError, OptionError, PolicyMismatchError, SmolVLAGymError

Observation = Mapping[str, Any]
Array = NDArray[np.float32]

_MAX_STRETCH = 1.02
"""Aspect ratios that differ by more than this are refused: the policy has never seen stretched pictures."""


class AgentNotResetError(SmolVLAGymError, RuntimeError):
    """The agent was asked to act before it was told what to do."""

    def __init__(self) -> None:
        """Builds the message."""
        super().__init__("The agent has no instruction yet. Call agent.reset(info['instruction']) after env.reset().")


class SmolVLAAgent:
    """Drives the arm with LeRobot's SmolVLA. It knows the Gymnasium API of the env and nothing else of it.

    A chunk of actions is computed when the last one is used up; in between an observation is not even looked at.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        *,
        n_action_steps: int | None = None,
        num_steps: int | None = None,
        camera_map: Mapping[str, str] | None = None,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        """Wraps a loaded checkpoint; see :meth:`from_pretrained` for the options."""
        import torch

        self._torch = torch
        self._checkpoint = checkpoint
        spec = checkpoint.spec
        self._n_action_steps = spec.n_action_steps if n_action_steps is None else n_action_steps
        if not 1 <= self._n_action_steps <= spec.chunk_size:
            raise OptionError("n_action_steps", n_action_steps, f"1 to {spec.chunk_size}, the length of a chunk")
        if num_steps is not None:
            if num_steps < 1:
                raise OptionError("num_steps", num_steps, "at least 1")
            checkpoint.policy.config.num_steps = num_steps
        self._camera_map = dict(camera_map or {})
        self._cameras = planned_cameras(spec, self._camera_map)
        self._name = name or spec.directory.name
        self._queue = ActionQueue()
        self._instruction: str | None = None
        self._checked = False
        # On the CPU, so that a seed means the same noise on every device.
        self._generator = torch.Generator()
        self._seed(seed)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        n_action_steps: int | None = None,
        num_steps: int | None = None,
        camera_map: Mapping[str, str] | None = None,
        seed: int | None = None,
        vlm: str | Path | None = None,
        revision: str | None = None,
    ) -> Self:
        """Loads a checkpoint and refuses one that cannot drive this arm.

        Args:
            path_or_repo: A folder, a repository on the Hugging Face hub, or ``"bundled"``.
            device: ``"auto"`` (cuda, else mps, else cpu) or a device of torch.
            dtype: ``"auto"`` keeps the weights as they were saved, ``"float32"`` widens them.
            n_action_steps: Actions of each chunk to execute; ``None`` takes the checkpoint's number.
            num_steps: Flow steps a chunk; ``None`` takes the checkpoint's number.
            camera_map: Env camera by policy camera, for those whose names differ.
            seed: Seed of the noise that chunks start from. Episodes go on in one sequence unless ``reset`` is seeded.
            vlm: Folder or repository of the VLM's configuration, for a checkpoint that does not carry it.
            revision: Branch, tag or commit of a repository.

        Raises:
            CheckpointError: It is absent, cannot be downloaded, or is broken.
            PolicyMismatchError: It cannot drive this arm.
            OptionError: An option has a value that is not allowed.
            MissingExtraError: torch, transformers or lerobot is not installed.
        """
        checkpoint = load_checkpoint(path_or_repo, device=device, dtype=dtype, vlm=vlm, revision=revision)
        return cls(
            checkpoint,
            n_action_steps=n_action_steps,
            num_steps=num_steps,
            camera_map=camera_map,
            seed=seed,
            name=str(path_or_repo),
        )

    @property
    def name(self) -> str:
        """What the checkpoint was called when it was loaded."""
        return self._name

    @property
    def device(self) -> str:
        """The device in torch's spelling, such as ``"cuda"``."""
        return self._checkpoint.device

    @property
    def cameras(self) -> tuple[str, ...]:
        """The env's cameras that the agent looks through, each once: what to give to ``gym.make(cameras=...)``."""
        return tuple(dict.fromkeys(self._cameras.values()))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures of the policy's first camera."""
        return next(iter(self._checkpoint.spec.cameras.values()))

    @property
    def chunk_size(self) -> int:
        """Actions a chunk."""
        return self._checkpoint.spec.chunk_size

    @property
    def n_action_steps(self) -> int:
        """How many actions of a chunk are executed."""
        return self._n_action_steps

    @property
    def num_steps(self) -> int:
        """Flow steps a chunk."""
        return int(self._checkpoint.policy.config.num_steps)

    def check(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """Refuses an env that does not fit, before anything moves.

        Args:
            observation_space: The env's, a ``Dict`` with ``"pixels"`` and ``"agent_pos"``.
            action_space: The env's, a ``Box`` of shape (7,).

        Raises:
            PolicyMismatchError: What does not fit, and the option that would mend it.
        """
        if action_space.shape != (WIDTH,):
            raise PolicyMismatchError(
                f"The env takes actions of shape {action_space.shape}, and the policy gives ({WIDTH},): absolute joint "
                "targets and the gripper. Take action wrappers off the env."
            )
        parts = observation_space.spaces if isinstance(observation_space, gym.spaces.Dict) else {}
        pixels = parts.get("pixels")
        pictures = {key: box.shape or () for key, box in pixels.items()} if isinstance(pixels, gym.spaces.Dict) else {}
        state = parts.get("agent_pos")
        self._check(pictures, state.shape if state is not None else None)

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begins an episode: forgets the plan and takes an instruction.

        Args:
            instruction: What to do, in words; the env has it in ``info["instruction"]``.
            seed: Seed of the noise of this and the following episodes; ``None`` goes on with the present sequence.

        Raises:
            OptionError: The instruction is not a text, or empty.
        """
        if not isinstance(instruction, str) or not instruction.strip():
            raise OptionError("instruction", instruction, "a text that says what to do")
        self._instruction = instruction
        self._queue.clear()
        self._checked = False
        if seed is not None:
            self._seed(seed)

    def act(self, observation: Observation) -> Array:
        """Returns the next action.

        Args:
            observation: The env's: ``{"pixels": {camera: uint8 (H, W, 3)}, "agent_pos": float32 (7,)}``.

        Returns:
            Six joint targets in rad and the gripper opening, shape (7,), finite.

        Raises:
            AgentNotResetError: There is no instruction yet.
            PolicyMismatchError: The observation lacks what the policy needs.
            ActionError: The policy gave a number that is not finite.
        """
        if self._instruction is None:
            raise AgentNotResetError
        action = self._queue.pop()
        if action is None:
            self._queue.push(self._plan(observation, self._instruction)[: self._n_action_steps])
            action = self._queue.pop()
        assert action is not None  # n_action_steps is at least 1.
        return action

    def _seed(self, seed: int | None) -> None:
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def _check(self, pictures: Mapping[str, tuple[int, ...]], state: tuple[int, ...] | None) -> None:
        """Compares what the env offers with what the policy needs."""
        spec = self._checkpoint.spec
        if state != (WIDTH,):
            raise PolicyMismatchError(
                f"The env's 'agent_pos' has shape {state}, and the policy needs ({WIDTH},): six joint angles in rad "
                "and the gripper opening. Take observation wrappers off the env."
            )
        for ours, theirs in match_cameras(spec, pictures, self._camera_map).items():
            shape, (height, width) = pictures[theirs], spec.cameras[ours]
            stretch = shape[0] * width / (shape[1] * height) if len(shape) == 3 and shape[2] == 3 else 0.0
            if not 1 / _MAX_STRETCH <= stretch <= _MAX_STRETCH:
                raise PolicyMismatchError(
                    f"The env's camera {theirs!r} gives pictures of shape {shape}, and the policy wants (height, "
                    f"width, 3) in the proportions of {height} x {width}. "
                    f"Make the env with gym.make(..., image_size=({height}, {width}))."
                )

    def _plan(self, observation: Observation, instruction: str) -> Array:
        """Computes a chunk in the arm's units, shape (chunk_size, 7)."""
        if not self._checked:
            pictures = {key: np.shape(value) for key, value in observation.get("pixels", {}).items()}
            state = observation.get("agent_pos")
            self._check(pictures, np.shape(state) if state is not None else None)
            self._checked = True
        checkpoint = self._checkpoint
        batch = checkpoint.preprocessor(self._frame(observation, instruction))
        config = checkpoint.policy.config
        shape = (1, config.chunk_size, config.max_action_dim)
        noise = self._torch.randn(shape, generator=self._generator).to(checkpoint.device)
        # no_grad, not inference_mode: guided denoising (RTC) needs tensors that can still require gradients.
        with self._torch.no_grad():
            chunk = checkpoint.policy.predict_action_chunk(batch, noise=noise)
            actions: Array = checkpoint.postprocessor(chunk)[0].float().cpu().numpy()
        if not np.isfinite(actions).all():
            raise ActionError(
                f"The policy {self._name!r} gave actions that are not finite. Nothing was sent to the arm. "
                "Its weights or its observation hold such numbers: take another copy of the checkpoint."
            )
        return actions

    def _frame(self, observation: Observation, instruction: str) -> dict[str, Any]:
        """Puts an observation into LeRobot's names: pictures as float 0..1 with the channels first."""
        torch, device = self._torch, self._checkpoint.device
        frame: dict[str, Any] = {"task": instruction}
        frame["observation.state"] = torch.tensor(np.asarray(observation["agent_pos"], dtype=np.float32))
        for ours, theirs in self._cameras.items():
            picture = resize_area(np.asarray(observation["pixels"][theirs]), self._checkpoint.spec.cameras[ours])
            # Bytes are moved and widened on the device: a quarter of the traffic.
            pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(device).permute(2, 0, 1)
            frame[f"observation.images.{ours}"] = pixels.float() / 255.0
        return frame
