"""A policy in a process of its own on this machine, so that its work does not hold up the control loop.

Computing a chunk is thousands of short calls from Python. In a thread beside the loop and the cameras each of them
waits for the interpreter, and they for it: on two cores a chunk of the bundled policy took ten times as long.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, override

import smolvla_gym.errors
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.policies.remote.client import RemotePolicy
from smolvla_gym.agent.policies.remote.tokens import TOKEN_VARIABLE
from smolvla_gym.errors import CheckpointError, InferenceError, OptionError, PolicyConnectionError, SmolVLAGymError

_GRACE: Final = 3.0
"""How long in s the process may take to end before it is killed."""

_LAST_MOMENT: Final = 0.5
"""How much later in s than its connection a process may end."""

_MAX_LINE: Final = 1 << 20
"""Bytes of the answer of a process that has loaded a policy."""

_NICENESS: Final = 5
"""How far a policy on the CPU steps back behind the control loop, on the scale of ``nice``."""


class PolicyProcess(ChunkPolicy):
    """Starts a process that loads a checkpoint, and asks it for chunks over a port of the loopback."""

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
        """Starts it and waits until the policy is loaded; see :meth:`SmolVLAAgent.from_pretrained` for the options.

        Raises:
            SmolVLAGymError: What loading raised there.
        """
        load = {"device": device, "dtype": dtype, "vlm": None if vlm is None else str(vlm), "revision": revision}
        token = secrets.token_hex(16)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "smolvla_gym.agent.policies.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, TOKEN_VARIABLE: token},
            # Ctrl-C in a terminal is for the program that started this: it may catch it, and still needs its policy.
            # The end of its standard input ends the process, however the program ends.
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._process)
        try:
            run = {"num_steps": num_steps, "sampler": sampler, "compile_mode": compile_mode}
            ready = self._begin({"policy": str(path_or_repo), "load": load, "run": run})
            self._remote = RemotePolicy(ready["address"], token=token, camera_map=camera_map, timeout_s=timeout_s)
        except BaseException:
            self.close()
            raise

    def _begin(self, config: dict[str, Any]) -> dict[str, Any]:
        """Sends the configuration and returns what the process says once it is ready."""
        assert self._process.stdin is not None  # noqa: S101 - narrows a type
        assert self._process.stdout is not None  # noqa: S101 - narrows a type
        with contextlib.suppress(OSError):  # it ended at once: the answer is missing too
            self._process.stdin.write(json.dumps(config).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline(_MAX_LINE)
        if not line:
            status = self._process.wait()
            raise CheckpointError(f"The process that was to load {config['policy']} ended (exit status {status}).")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _error(answer)
        return answer

    @property
    @override
    def card(self) -> PolicyCard:
        return self._remote.card

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

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
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_MOMENT)
            status = self._process.returncode
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


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _error(answer: Mapping[str, Any]) -> SmolVLAGymError:
    """Builds the error that was raised in the process."""
    kind = getattr(smolvla_gym.errors, answer["error"], SmolVLAGymError)
    if kind is OptionError:
        return OptionError(*answer["arguments"])
    error = SmolVLAGymError.__new__(kind)
    Exception.__init__(error, answer["text"])
    assert isinstance(error, SmolVLAGymError)  # noqa: S101 - narrows a type
    return error


# -- in the process ------------------------------------------------------------------------------------------------


def main() -> int:
    """Loads a policy and serves it until the standard input ends, as it does with the program that started this."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    config = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_await_end, name="parent", daemon=True).start()

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        from smolvla_gym.agent.checkpoint.load import load_checkpoint
        from smolvla_gym.agent.policies.local import LocalPolicy
        from smolvla_gym.agent.policies.remote.server import PolicyServer

        with PolicyServer(port=0) as server:
            checkpoint = load_checkpoint(config["policy"], **config["load"])
            if checkpoint.device == "cpu":
                _leave_a_core()
            policy = LocalPolicy(checkpoint, name=config["policy"], **config["run"])
            server.serve(policy, lambda: answer(address=server.address))
    except SmolVLAGymError as error:
        arguments = [error.option, str(error.value), error.allowed] if isinstance(error, OptionError) else []
        answer(error=type(error).__name__, text=str(error), arguments=arguments)
        return 1
    return 0


def _leave_a_core() -> None:
    """Computes with one core fewer than there are, and gives way: the loop needs the other at once, and often."""
    import torch

    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) - 1)))


def _await_end() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
