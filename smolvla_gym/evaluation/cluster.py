"""Evaluation on several machines: episodes as tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import secrets
import socket
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.hub import BUNDLED
from smolvla_gym.errors import MissingExtraError, SmolVLAGymError
from smolvla_gym.evaluation.conditions import Condition, Outcome
from smolvla_gym.evaluation.evaluate import Job, prepare_worker, run_job

LOCAL: Final = "local"
"""Address of a cluster on this machine that ends with the evaluation."""

_PLACE: Final = re.compile(r"(?:ray://)?(\[[\da-fA-F:]+\]|[^:/]+):(\d+)")
_PATIENCE: Final = 5.0
"""Timeout in s of a connection."""

_GPU_SHARE: Final = 0.25
"""Fraction of a GPU that a job takes: while one of four jobs steps its env, the others infer."""


def run_on_cluster(
    address: str, workers: int | None, jobs: Sequence[Job], take: Callable[[tuple[Condition, Outcome]], object]
) -> None:
    """Run jobs on a cluster, one a core, until all are done.

    A policy that is a folder on this machine is sent to the workers; any other name has to mean the same on all
    machines. They need this package in the same version.

    Args:
        address: Address of the cluster's head, such as ``"auto"``, ``"192.168.1.7:6379"`` or ``"ray://host:10001"``; or
            ``LOCAL``.
        workers: Cores of a local cluster; None: all.
        jobs: The jobs.
        take: Called with the result of each job, in no particular order.

    Raises:
        MissingExtraError: Ray is not installed.
        SmolVLAGymError: The cluster cannot be reached, has no GPU for a policy on ``cuda``, or lost a worker.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Below `uv run` Ray would start its workers in new environments, which lack Ray.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if address == LOCAL:
        _require_token()
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("A cluster", "ray", error) from error
    with _connection(ray, address, workers):
        sent: dict[str, Any] = {}
        for options, _, _ in jobs:
            if options.policy not in sent:
                sent[options.policy] = ray.put(_pack(options.policy))
        task = ray.remote(num_cpus=1)(_run_in_worker)
        waiting = [task.options(num_gpus=_gpus(ray, job[0].device)).remote(job, sent[job[0].policy]) for job in jobs]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                take(ray.get(done[0]))
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, SmolVLAGymError) else None
                raise cause or SmolVLAGymError(f"An episode failed on the cluster: {error}") from error
            except ray.exceptions.RayError as error:
                raise SmolVLAGymError(f"The cluster lost a worker: {error}") from error


def _require_token() -> None:
    """Require a token from clients of the local cluster: Ray listens on all interfaces and runs the code it receives.

    The workers inherit the token. Without one in the environment Ray would write one to a file in the home folder.
    """
    if "ray" not in sys.modules:  # Ray reads its settings at the import; newer releases require a token anyway
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _gpus(ray: Any, device: str) -> float:
    """Return the fraction of a GPU that a job needs; Ray hides GPUs that a job does not request."""
    has_gpu = bool(ray.cluster_resources().get("GPU"))
    if device == "auto":
        return _GPU_SHARE * has_gpu
    if not device.startswith("cuda"):
        return 0.0
    if not has_gpu:
        raise SmolVLAGymError(
            f"device={device!r}, and no machine of the cluster has a GPU that Ray knows of. Take device='cpu' "
            "(--device cpu), or start Ray there with `ray start --num-gpus N`."
        )
    return _GPU_SHARE


@contextlib.contextmanager
def _connection(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    _check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        options |= {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address where no server listens; Ray itself would try it for minutes."""
    found = _PLACE.fullmatch(address)
    if found is None:
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> SmolVLAGymError:
    return SmolVLAGymError(
        f"There is no Ray cluster at {address!r} ({' '.join(str(error).split())[:200]}). Start one with `ray start "
        "--head` and give the address that it prints, or take --ray local."
    )


def _pack(policy: str) -> bytes | None:
    """Return the files of a policy that is a folder, as an archive."""
    folder = Path(policy).expanduser()
    if policy == BUNDLED or not folder.is_dir():
        return None
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as files:  # a folder of the hub's cache has links
        files.add(folder, arcname=".")
    return archive.getvalue()


# -- in the workers -----------------------------------------------------------------------------------------


def _run_in_worker(job: Job, archive: bytes | None) -> tuple[Condition, Outcome]:
    options, condition, seed = job
    prepare_worker()
    if options.device.startswith("cuda:"):  # Ray shows a job its own GPU alone
        options = dataclasses.replace(options, device="cuda")
    if archive is not None:
        options = dataclasses.replace(options, policy=_unpack(archive))
    return run_job((options, condition, seed))


_unpacked: dict[str, tempfile.TemporaryDirectory[str]] = {}


def _unpack(archive: bytes) -> str:
    """Write a policy's files, once a process; return their folder."""
    key = hashlib.sha256(archive).hexdigest()
    if key not in _unpacked:
        _unpacked[key] = tempfile.TemporaryDirectory(prefix="smolvla-gym-policy-")
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(_unpacked[key].name, filter="data")
    return _unpacked[key].name
