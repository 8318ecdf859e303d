"""A SmolVLA checkpoint on this machine, as a policy that answers requests."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, override

import numpy as np

from smolvla_gym.agent.checkpoint import LoadedCheckpoint
from smolvla_gym.agent.compatibility import planned_cameras
from smolvla_gym.agent.guidance import PrefixGuidance
from smolvla_gym.agent.images import resize_area
from smolvla_gym.agent.policy import Array, Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.errors import ActionError, OptionError


class LocalPolicy(ChunkPolicy):
    """LeRobot's SmolVLA, unmodified."""

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        *,
        num_steps: int | None = None,
        camera_map: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        """Wraps a loaded checkpoint.

        Args:
            checkpoint: The checkpoint; its number of flow steps and its guidance are changed in place.
            num_steps: Flow steps a chunk; None takes the checkpoint's number.
            camera_map: Env camera by policy camera, for those whose names differ.
            name: What it is called; None: the folder's name.

        Raises:
            OptionError: ``num_steps`` is below 1.
            PolicyMismatchError: ``camera_map`` names a camera that the policy does not have.
        """
        import torch
        from lerobot.policies.rtc.configuration_rtc import RTCConfig

        self._torch, self._checkpoint = torch, checkpoint
        spec, config = checkpoint.spec, checkpoint.policy.config
        if num_steps is not None:
            if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
                raise OptionError("num_steps", num_steps, "a whole number, at least 1")
            config.num_steps = num_steps
        # LeRobot looks at the switch in its configuration and at the model's processor: its hook for guidance.
        config.rtc_config = RTCConfig(enabled=True)
        checkpoint.policy.model.rtc_processor = PrefixGuidance(max_weight=float(config.num_steps))
        # A policy's buffers are its own; two threads may ask the same one.
        self._lock = threading.Lock()
        self._card = PolicyCard(
            name=name or spec.directory.name,
            cameras=spec.cameras,
            camera_map=planned_cameras(spec, camera_map),
            chunk_size=spec.chunk_size,
            n_action_steps=spec.n_action_steps,
            num_steps=int(config.num_steps),
            noise_width=int(config.max_action_dim),
            device=checkpoint.device,
        )

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        """What it runs."""
        return self._checkpoint

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        torch, checkpoint = self._torch, self._checkpoint
        # no_grad, not inference_mode: a policy may be trained on in the same program.
        with self._lock, torch.no_grad():
            batch = checkpoint.preprocessor(self._frame(request))
            noise = torch.from_numpy(np.array(request.noise, dtype=np.float32))[None].to(checkpoint.device)
            left = request.leftover
            guided: dict[str, Any] = {}
            if left is not None and len(left):
                guided = {"prev_chunk_left_over": torch.from_numpy(np.array(left)), "inference_delay": request.delay}
            latent = checkpoint.policy.predict_action_chunk(batch, noise=noise, **guided)
            actions: Array = checkpoint.postprocessor(latent)[0].float().cpu().numpy()
            latent = latent[0].float().cpu().numpy()
        if not np.isfinite(actions).all():
            raise ActionError(
                f"The policy {self._card.name!r} gave actions that are not finite. Nothing was sent to the arm. "
                "Its weights or its observation hold such numbers: take another copy of the checkpoint."
            )
        return Chunk(actions, latent)

    def _frame(self, request: ChunkRequest) -> dict[str, Any]:
        """Puts an observation into LeRobot's names: pictures as float 0..1 with the channels first."""
        torch, device, observation = self._torch, self._checkpoint.device, request.observation
        frame: dict[str, Any] = {"task": request.instruction}
        frame["observation.state"] = torch.tensor(np.asarray(observation["agent_pos"], dtype=np.float32))
        for ours, theirs in self._card.camera_map.items():
            picture = resize_area(np.asarray(observation["pixels"][theirs]), self._card.cameras[ours])
            # Bytes are moved and widened on the device: a quarter of the traffic.
            pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(device).permute(2, 0, 1)
            frame[f"observation.images.{ours}"] = pixels.float() / 255.0
        return frame
