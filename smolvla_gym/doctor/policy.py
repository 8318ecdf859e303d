"""Check of a checkpoint: can it drive this arm, on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from smolvla_gym.doctor.finding import Finding, fail, ok, warning
from smolvla_gym.errors import MissingExtraError, SmolVLAGymError

_CAMERAS: Final = ("wrist", "scene")

_BESIDE_GB: Final = 1.0
"""Memory in GB that CUDA itself and the intermediate results of a chunk take beside the weights, at most."""


def check_policy(name: str, free_gpu: float | None = None) -> list[Finding]:
    """Check a checkpoint by its small files; the weights are not loaded.

    Args:
        name: ``"bundled"``, a folder, or a repository on the hub, which is fetched.
        free_gpu: Free memory of the largest GPU in bytes; None if there is no GPU.
    """
    from smolvla_gym.agent.cameras import advise_camera_map, map_checkpoint_cameras
    from smolvla_gym.agent.checkpoint.hub import snapshot_commit
    from smolvla_gym.agent.checkpoint.load import check_checkpoint_files, fetch_checkpoint
    from smolvla_gym.agent.checkpoint.provenance import read_provenance
    from smolvla_gym.agent.checkpoint.spec import WEIGHTS, read_spec
    from smolvla_gym.agent.checkpoint.validation import check_checkpoint

    title = f"policy {name}"
    try:
        directory = fetch_checkpoint(name)
        spec = read_spec(directory)
        check_checkpoint(spec)
        read_provenance(directory)
        cameras = map_checkpoint_cameras(spec)
    except MissingExtraError:
        return [warning(title, "cannot be read without the extra smolvla", "in the clone: pip install '.[smolvla]'")]
    except SmolVLAGymError as error:
        return [fail(title, str(error))]
    sizes = ", ".join(f"{camera} {height}x{width}" for camera, (height, width) in spec.cameras.items())
    findings = [
        ok(title, f"{spec.action_dim} actions in chunks of {spec.chunk_size}, statistics present, cameras {sizes}")
    ]
    unknown = [camera for camera in cameras.values() if camera not in _CAMERAS]
    if len(unknown) > min(spec.empty_cameras, len(cameras) - 1):
        remedy = advise_camera_map(cameras, _CAMERAS)
        findings.append(fail(title, f"its cameras {', '.join(unknown)} are none of the env's: wrist, scene", remedy))
    findings += _memory(title, directory / WEIGHTS, free_gpu)
    if (directory / WEIGHTS).is_file():
        try:
            check_checkpoint_files(spec, local=snapshot_commit(directory, None) is None)
        except SmolVLAGymError as error:
            findings.append(fail(title, str(error)))
    return findings


def _memory(title: str, weights: Path, free_gpu: float | None) -> list[Finding]:
    if not weights.is_file():
        return [fail(title, f"{weights.name} is missing", "Use another copy of the checkpoint.")]
    size = weights.stat().st_size / 1e9
    if free_gpu is None:
        return []
    text = f"weights of {size:.2f} GB, {free_gpu / 1e9:.1f} GB of GPU memory free"
    if size + _BESIDE_GB > free_gpu / 1e9:
        remedy = "Close other programs on the GPU, or load it with --dtype bfloat16 or --device cpu."
        return [warning(title, text, remedy)]
    return [ok(title, text)]
