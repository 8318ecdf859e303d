"""Load a policy into this process: a checkpoint with torch, or an exported policy without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from smolvla_gym.agent.checkpoint.hub import BUNDLED
from smolvla_gym.agent.onnx.folder import is_exported
from smolvla_gym.agent.policies.base import ChunkPolicy


def find_exported(path_or_repo: str | Path) -> Path | None:
    """Return the folder of an exported policy, or None for any other policy."""
    if path_or_repo == BUNDLED:
        return None
    try:
        path = Path(path_or_repo).expanduser()
        return path if path.is_dir() and is_exported(path) else None
    except (OSError, RuntimeError, ValueError):  # loading the checkpoint says what is wrong
        return None


def load_policy(
    path_or_repo: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    num_steps: int | None = None,
    camera_map: Mapping[str, str | None] | None = None,
    vlm: str | Path | None = None,
    revision: str | None = None,
    sampler: str = "fast",
    compile_mode: str | None = None,
    name: str | None = None,
) -> ChunkPolicy:
    """Load a checkpoint or an exported policy.

    Args:
        path_or_repo: A folder, a repository on the Hugging Face hub, or ``"bundled"``.
        device: See :meth:`~smolvla_gym.agent.smolvla_agent.SmolVLAAgent.from_pretrained`, also for the other options.
        dtype: Type of the weights.
        num_steps: Flow steps of a chunk.
        camera_map: Env camera by policy camera.
        vlm: Folder or repository of the VLM's configuration.
        revision: Branch, tag or commit of a repository.
        sampler: Name of the sampler.
        compile_mode: A mode of ``torch.compile``.
        name: Name of the policy; None: as it was loaded.

    Raises:
        CheckpointError: The policy is absent, cannot be downloaded, or is broken.
        PolicyMismatchError: The policy cannot drive this arm.
        OptionError: An option has a value that is not allowed, or that an exported policy does not have.
        MissingExtraError: A package of the extra ``smolvla`` or ``onnx`` is not installed.
    """
    name = name or str(path_or_repo)
    folder = find_exported(path_or_repo)
    if folder is not None:
        from smolvla_gym.agent.onnx.policy import open_exported

        return open_exported(
            folder, num_steps=num_steps, camera_map=camera_map, name=name, device=device, dtype=dtype, vlm=vlm,
            revision=revision, sampler=sampler, compile_mode=compile_mode,
        )  # fmt: skip
    from smolvla_gym.agent.checkpoint.load import load_checkpoint
    from smolvla_gym.agent.policies.local import LocalPolicy

    checkpoint = load_checkpoint(path_or_repo, device=device, dtype=dtype, vlm=vlm, revision=revision)
    return LocalPolicy(
        checkpoint, num_steps=num_steps, camera_map=camera_map, name=name, sampler=sampler, compile_mode=compile_mode
    )
