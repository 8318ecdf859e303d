"""Load a SmolVLA checkpoint with LeRobot's own classes, after checks of what LeRobot accepts silently."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.build import (
    COMPILE_MODES,
    check_tokens,
    load_policy,
    load_processors,
    temporary_vlm_folder,
)
from smolvla_gym.agent.checkpoint.hub import download, find_checkpoint_folder, is_repository, snapshot_commit
from smolvla_gym.agent.checkpoint.precision import DTYPES, cast_policy
from smolvla_gym.agent.checkpoint.provenance import PROVENANCE
from smolvla_gym.agent.checkpoint.safetensors_file import SavedTensor
from smolvla_gym.agent.checkpoint.spec import (
    ADAPTERS,
    CONFIG,
    POSTPROCESSOR,
    PREPROCESSOR,
    VLM_FOLDER,
    WEIGHTS,
    CheckpointSpec,
    read_spec,
)
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.agent.checkpoint.vlm_files import VLM_FILES, VLMFiles, read_vlm
from smolvla_gym.agent.checkpoint.weights import check_weights, read_weights, text_layers
from smolvla_gym.errors import CheckpointError, OptionError, needs_extra
from smolvla_gym.utils.untrusted import printable

# Only these files of a repository are downloaded, and the weights.
_SMALL_FILES: Final = (
    CONFIG, PREPROCESSOR, POSTPROCESSOR, "policy_*.safetensors", PROVENANCE, *ADAPTERS[:1],
    *(f"{VLM_FOLDER}/{name}" for name in (*VLM_FILES, "processor_config.json", "preprocessor_config.json")),
)  # fmt: skip


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint ready to run.

    Attributes:
        policy: LeRobot's ``SmolVLAPolicy``, in evaluation mode on its device.
        preprocessor: From one observation to the policy's batch.
        postprocessor: From the policy's actions to rad and gripper opening, on the CPU.
        spec: Description of the checkpoint in its small files.
        device: The device in torch's spelling.
        left_out: Number of parameters of the language head if it was removed from memory, otherwise 0.
        lock: Held while a chunk is computed: the policy's settings and buffers allow one chunk at a time.
    """

    policy: Any
    preprocessor: Any
    postprocessor: Any
    spec: CheckpointSpec
    device: str
    left_out: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def resolve_device(device: str = "auto") -> str:
    """Return the device to use: ``"auto"`` is cuda, else mps, else cpu.

    Raises:
        OptionError: torch does not know the device, or this machine does not have it.
        MissingExtraError: torch is not installed.
    """
    with needs_extra("A SmolVLA agent", "smolvla"):
        import torch
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if device == "auto":
        return available[0]
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, AttributeError):
        chosen = None
    count = torch.cuda.device_count() if chosen is not None and chosen.type == "cuda" else 1
    if chosen is None or chosen.type not in available or (chosen.index or 0) >= count:
        raise OptionError("device", device, f"this machine has {', '.join(available)}; 'auto' uses the first of them")
    return str(chosen)


def load_checkpoint(
    path_or_repo: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    vlm: str | Path | None = None,
    revision: str | None = None,
    compile_mode: str | None = None,
    language_head: bool = False,
) -> LoadedCheckpoint:
    """Load a checkpoint after checking that it can drive this arm.

    No code of the checkpoint is run: this package reads and checks its files, and LeRobot gets the values.

    The VLM's own weights are never downloaded: the checkpoint contains them. The VLM's configuration and tokenizer come
    from the checkpoint's folder ``vlm/`` if it has one. Otherwise they come from ``vlm_model_name`` in ``config.json``:
    a folder of this machine (only for a checkpoint that is in a folder itself), or a repository on the hub, of which
    ``config.json``, ``tokenizer.json`` and ``tokenizer_config.json`` are downloaded.

    Args:
        path_or_repo: A folder, a repository on the Hugging Face hub such as ``"you/your_policy"``, or ``"bundled"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        dtype: ``"auto"`` keeps each weight as it was saved (LeRobot saves a mixture of bfloat16 and float32; a file
            wholly in half precision is widened), ``"float32"`` widens all of them. ``"bfloat16"`` and ``"float16"``
            cast all but the small projections of state and actions, which stay float32: half the memory, and on a GPU
            less time.
        vlm: Folder or repository of the VLM's configuration and tokenizer, for a checkpoint without them.
        revision: Branch, tag or commit of a repository.
        compile_mode: A mode of ``torch.compile``, such as ``"default"``; the first chunk then takes minutes, and
            LeRobot allows TF32 in the whole program. ``None``: no compilation, even if the checkpoint asks for it.
        language_head: Keep the language head, a tenth of SmolVLA's usual size. No action depends on it, but a saved
            checkpoint should contain it, as LeRobot's do.

    Raises:
        CheckpointError: The checkpoint is absent, cannot be downloaded, or is broken.
        PolicyMismatchError: The checkpoint cannot drive this arm.
        OptionError: An option has a value that is not allowed.
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    check_options(dtype, compile_mode)
    local = find_checkpoint_folder(path_or_repo)
    # The small files are downloaded first, so that an unsuitable checkpoint is refused before its weights.
    directory = local or download(str(path_or_repo), revision, _SMALL_FILES)
    spec = read_spec(directory)
    check_checkpoint(spec)
    device = resolve_device(device)
    if local is None:
        download(str(path_or_repo), snapshot_commit(directory, revision), [WEIGHTS])
    header, vlm_name, vlm_files = check_checkpoint_files(spec, vlm, local=local is not None)
    with temporary_vlm_folder(vlm_files, text_layers(spec, vlm_files)) as folder:
        policy = load_policy(spec, folder, header, compile_mode)
        policy.config.vlm_model_name = vlm_name
        left_out = 0 if language_head else _leave_out_head(policy)
        saved = {name: tensor.dtype for name, tensor in header.items()}
        return _assemble(spec, policy, saved, (vlm_name, folder), device, dtype, left_out)


def fetch_checkpoint(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint, and download it if it is on the hub.

    Args:
        path_or_repo: As for :func:`load_checkpoint`.
        revision: Branch, tag or commit of a repository.

    Raises:
        CheckpointError: The checkpoint is absent or cannot be downloaded.
    """
    return find_checkpoint_folder(path_or_repo) or download(str(path_or_repo), revision, [*_SMALL_FILES, WEIGHTS])


def check_checkpoint_files(
    spec: CheckpointSpec, vlm: str | Path | None = None, *, local: bool = True
) -> tuple[dict[str, SavedTensor], str, VLMFiles]:
    """Check the weights and the VLM's files of a checkpoint against its configuration, without torch.

    Args:
        spec: The checkpoint.
        vlm: As for :func:`load_checkpoint`.
        local: Whether the checkpoint may name folders of this machine: not if it comes from the hub.

    Returns:
        Descriptions of the weights, the folder or repository of the VLM's files, and the checked VLM files.

    Raises:
        CheckpointError: A file is absent or broken, or the files do not match.
        OptionError: ``vlm`` is neither a folder nor the name of a repository.
    """
    header = read_weights(spec)
    vlm_name, vlm_files = _find_vlm(spec, vlm, local=local)
    check_weights(spec, vlm_files, header)
    return header, vlm_name, vlm_files


def checkpoint_from_policy(
    policy: Any, directory: Path, *, device: str = "auto", dtype: str = "auto"
) -> LoadedCheckpoint:
    """Return a checkpoint of a policy in memory, after the same checks as for a checkpoint on disk.

    Args:
        policy: A ``SmolVLAPolicy`` on the CPU. It is moved and cast in place, and its language head is removed.
        directory: Folder with the files of a checkpoint except the weights. It is not needed afterwards.
        device: As for :func:`load_checkpoint`.
        dtype: As for :func:`load_checkpoint`.

    Raises:
        PolicyMismatchError: The policy cannot drive this arm.
        OptionError: An option has a value that is not allowed.
    """
    check_options(dtype)
    spec = read_spec(directory)
    check_checkpoint(spec)
    policy.eval()
    left_out = _leave_out_head(policy)
    vlm_name, vlm_files = _find_vlm(spec, None, local=True)
    with temporary_vlm_folder(vlm_files, text_layers(spec, vlm_files)) as folder:
        return _assemble(spec, policy, {}, (vlm_name, folder), resolve_device(device), dtype, left_out)


def check_options(dtype: str, compile_mode: str | None = None) -> None:
    """Refuse unknown values of loading options.

    Raises:
        OptionError: ``dtype`` or ``compile_mode`` is unknown.
    """
    if dtype not in DTYPES:
        raise OptionError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    if compile_mode is not None and compile_mode not in COMPILE_MODES:
        raise OptionError("compile_mode", compile_mode, f"one of {', '.join(COMPILE_MODES)}")


def _assemble(
    spec: CheckpointSpec,
    policy: Any,
    saved: Mapping[str, str],
    vlm: tuple[str, Path],
    device: str,
    dtype: str,
    left_out: int,
) -> LoadedCheckpoint:
    # Casting before the move keeps the device's memory small.
    cast_policy(policy, saved, dtype)
    policy.to(device)
    policy.config.device = device
    preprocessor, postprocessor = load_processors(spec, *vlm, device)
    check_tokens(spec, policy, preprocessor)
    return LoadedCheckpoint(policy, preprocessor, postprocessor, spec, device, left_out)


def _leave_out_head(policy: Any) -> int:
    """Remove the language head from memory, and return its number of parameters."""
    from torch import nn

    vlm = policy.model.vlm_with_expert.vlm
    left_out = sum(int(parameter.numel()) for parameter in vlm.lm_head.parameters())
    vlm.lm_head = nn.Identity()
    return left_out


def _find_vlm(spec: CheckpointSpec, vlm: str | Path | None, *, local: bool) -> tuple[str, VLMFiles]:
    """Return the folder or repository of the VLM's configuration and tokenizer, and the checked files.

    Args:
        spec: The checkpoint.
        vlm: Folder or repository given by the user; None: that of the checkpoint.
        local: Whether the checkpoint may name folders of this machine.
    """
    own = spec.directory / VLM_FOLDER
    stored = str(spec.config["vlm_model_name"])
    if vlm is not None:
        name, folder = str(vlm), Path(vlm).expanduser()
    elif os.path.exists(own / CONFIG):
        name, folder = str(own.resolve()), own
    else:
        name, folder = stored, Path(stored)
        # "vlm" means the checkpoint's own folder, never one in the working directory.
        local = local and folder.name != stored
    if (vlm is not None or local or folder == own) and os.path.isdir(folder):
        return name, read_vlm(folder)
    if is_repository(name):
        try:
            return name, read_vlm(download(name, None, VLM_FILES))
        except CheckpointError as err:
            raise CheckpointError(f"The VLM of {spec.directory} is missing. {err}") from err
    if vlm is not None:
        raise OptionError("vlm", name, "a folder, or a repository on the hub as 'owner/name'")
    raise CheckpointError(
        f"{spec.directory / CONFIG} names the VLM folder {printable(stored)!r}, which is not on this machine, and the "
        f"checkpoint has no folder {VLM_FOLDER!r} of its own. Copy the VLM's {', '.join(VLM_FILES)} to {own}, or give "
        "vlm=<folder or repository>."
    )
