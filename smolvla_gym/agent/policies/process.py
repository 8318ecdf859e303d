"""A policy in a worker process on this machine, so that its work does not hold up the control loop.

Computing a chunk is thousands of short calls from Python. In a thread beside the loop and the cameras each of them
waits for the interpreter, and they for it: on two cores a chunk of the bundled policy took ten times as long.

The worker serves the policy on a port of the loopback, with a token of its own; its channel (:mod:`smolvla_gym.ipc`)
carries the configuration and the address.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final, override

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.remote.client import RemotePolicy
from smolvla_gym.errors import CheckpointError, InferenceError, PolicyConnectionError, SmolVLAGymError
from smolvla_gym.ipc import Parent, Worker, WorkerExitedError

_GRACE: Final = 3.0
"""Time in s that the process has to end before it is killed."""

_LAST_MOMENT: Final = 0.5
"""Time in s that a process may run on after its connection has ended."""

_NICENESS: Final = 5
"""Niceness of a policy on the CPU, so that the control loop runs first."""


class PolicyProcess(ChunkPolicy):
    """A worker process that loads a checkpoint, asked for chunks over a port of the loopback."""

    def __init__(
        self,
        path_or_repo: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        num_steps: int | None = None,
        sampler: str = "fast",
        compile_mode: str | None = None,
        camera_map: Mapping[str, str | None] | None = None,
        vlm: str | Path | None = None,
        revision: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Start it and wait until the policy is loaded; see :meth:`SmolVLAAgent.from_pretrained` for the options.

        Raises:
            SmolVLAGymError: What loading raised there.
        """
        load = {"device": device, "dtype": dtype, "vlm": None if vlm is None else str(vlm), "revision": revision}
        run = {"num_steps": num_steps, "sampler": sampler, "compile_mode": compile_mode}
        token = secrets.token_hex(16)
        self._worker = Worker("smolvla_gym.agent.policies.process")
        self._end = weakref.finalize(self, self._worker.close, _GRACE)
        try:
            address = self._worker.request("begin", policy=str(path_or_repo), load=load, run=run, token=token)
            self._remote = RemotePolicy(address, token=token, camera_map=camera_map, timeout_s=timeout_s)
        except WorkerExitedError as error:
            self.close()
            raise CheckpointError(
                f"The process that was to load {path_or_repo} ended (exit status {error.status})."
            ) from None
        except BaseException:
            self.close()
            raise

    @property
    @override
    def card(self) -> PolicyCard:
        return self._remote.card

    @property
    def pid(self) -> int:
        """Return the process id of the worker."""
        return self._worker.pid

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        """See the base class.

        Raises:
            InferenceError: The policy failed, or its process has ended.
            InferenceTimeoutError: It did not answer.
            PolicyConnectionError: The connection was lost, and the process goes on.
        """
        try:
            return self._remote.infer(request)
        except PolicyConnectionError as error:
            status = self._worker.exit_status(_LAST_MOMENT)
            if status is None:
                raise
            raise InferenceError(
                f"The process that computes the policy {self.card.name!r} ended (exit status {status}; -9 often means "
                "that the memory ran out). The arm holds. Load the policy again."
            ) from error

    @override
    def close(self) -> None:
        remote = getattr(self, "_remote", None)
        if remote is not None:
            remote.close()
        self._end()


# -- in the worker -------------------------------------------------------------------------------------------------


def main(parent: Parent) -> int:
    """Load a policy and serve it until the parent ends; return the exit status."""
    begin = next(parent.requests, None)
    if begin is None:
        return 0
    parent.exit_with()
    config = begin.arguments
    try:
        from smolvla_gym.agent.policies.load import find_exported, load_policy
        from smolvla_gym.agent.policies.remote.server import PolicyServer

        with PolicyServer(port=0, token=config["token"]) as server:
            policy = load_policy(config["policy"], **config["load"], **config["run"])
            if policy.card.device == "cpu":
                _leave_a_core(uses_torch=find_exported(config["policy"]) is None)
            server.serve(policy, lambda: begin.reply(server.address))
    except SmolVLAGymError as error:
        begin.fail(error)
        return 1
    return 0


def _leave_a_core(*, uses_torch: bool) -> None:
    """Compute with one core fewer than there are, and give way: the loop needs the other at once, and often."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    if not uses_torch:  # ONNX Runtime's threads do not wait busily
        return
    import torch

    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) - 1)))
