"""Loading a SmolVLA checkpoint with LeRobot's own classes, past the places where it goes wrong without a word."""

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
from smolvla_gym.agent.checkpoint.hub import BUNDLED as BUNDLED
from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint as bundled_checkpoint
from smolvla_gym.agent.checkpoint.hub import download, find_checkpoint_folder, is_repository, snapshot_commit
from smolvla_gym.agent.checkpoint.precision import DTYPES, cast_policy
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
from smolvla_gym.errors import CheckpointError, MissingExtraError, OptionError
from smolvla_gym.utils.untrusted import printable

# Of a repository these are fetched, and nothing else. `parol6.json`: see smolvla_gym.training.provenance.
_SMALL_FILES: Final = (
    CONFIG, PREPROCESSOR, POSTPROCESSOR, "policy_*.safetensors", "parol6.json", *ADAPTERS[:1],
    *(f"{VLM_FOLDER}/{name}" for name in (*VLM_FILES, "processor_config.json", "preprocessor_config.json")),
)  # fmt: skip


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint ready to run.

    Attributes:
        policy: LeRobot's ``SmolVLAPolicy``, in evaluation mode on its device.
        preprocessor: From one observation to the policy's batch.
        postprocessor: From the policy's actions to rad and gripper opening, on the CPU.
        spec: What the checkpoint's small files say.
        device: The device in torch's spelling.
        left_out: Parameters of the language head, where it was not kept in memory.
        lock: Held while a chunk is computed: the policy's settings and buffers are for one at a time.
    """

    policy: Any
    preprocessor: Any
    postprocessor: Any
    spec: CheckpointSpec
    device: str
    left_out: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def resolve_device(device: str = "auto") -> str:
    """Returns the device to use: ``"auto"`` is cuda, else mps, else cpu.

    Raises:
        OptionError: torch does not know the device, or this machine does not have it.
    """
    try:
        import torch
    except ImportError as err:
        raise MissingExtraError("A SmolVLA agent", "smolvla", err) from err
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if device == "auto":
        return there[0]
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError, AttributeError):
        wanted = None
    count = torch.cuda.device_count() if wanted is not None and wanted.type == "cuda" else 1
    if wanted is None or wanted.type not in there or (wanted.index or 0) >= count:
        raise OptionError("device", device, f"this machine has {', '.join(there)}; 'auto' takes the first of them")
    return str(wanted)


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
    """Loads a checkpoint after checking that it can drive this arm.

    No code of the checkpoint is run: its files are read and checked by this package, and LeRobot gets the values.

    The VLM's own weights are never fetched: a checkpoint holds them. Its configuration and tokenizer come from the
    folder ``vlm/`` in the checkpoint where there is one. Otherwise they come from what ``vlm_model_name`` in
    ``config.json`` names: a folder of this machine (only for a checkpoint that is in a folder itself), or a repository
    on the hub, of which ``config.json``, ``tokenizer.json`` and ``tokenizer_config.json`` are fetched.

    Args:
        path_or_repo: A folder, a repository on the Hugging Face hub such as ``"you/your_policy"``, or ``"bundled"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        dtype: ``"auto"`` keeps each weight as it was saved (LeRobot saves a mixture of bfloat16 and float32; a file
            wholly in half precision is widened), ``"float32"`` widens all of them. ``"bfloat16"`` and ``"float16"``
            take all but the small projections of state and actions, which stay float32: half the memory, and on a GPU
            less time.
        vlm: Folder or repository of the VLM's configuration and tokenizer, for a checkpoint without its own.
        revision: Branch, tag or commit of a repository.
        compile_mode: A mode of ``torch.compile``, such as ``"default"``; the first chunk then takes minutes, and
            LeRobot allows TF32 in the whole program. ``None`` does not compile, whatever the checkpoint says.
        language_head: Keeps the head that makes words. No action depends on it, but a checkpoint that is saved again
            has it, as LeRobot's do; of SmolVLA's usual size it is a tenth.

    Raises:
        CheckpointError: It is absent, cannot be downloaded, or is broken.
        PolicyMismatchError: It cannot drive this arm.
        OptionError: An option has a value that is not allowed.
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    check_options(dtype, compile_mode)
    local = find_checkpoint_folder(path_or_repo)
    # Of a repository, everything but the weights comes first: what cannot drive this arm is refused cheaply.
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
    """Returns the folder of a checkpoint; one on the hub is downloaded.

    Args:
        path_or_repo: As for :func:`load_checkpoint`.
        revision: Branch, tag or commit of a repository.

    Raises:
        CheckpointError: It is absent or cannot be downloaded.
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
        What the weights' file holds, where the VLM's files are, and what they say.

    Raises:
        CheckpointError: A file is absent or broken, or they do not belong together.
        OptionError: ``vlm`` is neither a folder nor the name of a repository.
    """
    header = read_weights(spec)
    vlm_name, vlm_files = _find_vlm(spec, vlm, local=local)
    check_weights(spec, vlm_files, header)
    return header, vlm_name, vlm_files


def checkpoint_from_policy(
    policy: Any, directory: Path, *, device: str = "auto", dtype: str = "auto"
) -> LoadedCheckpoint:
    """Makes a checkpoint of a policy that is in memory, through the same checks as one that is loaded.

    Args:
        policy: A ``SmolVLAPolicy`` on the CPU; it is moved and cast in place, and its language head left out.
        directory: What a checkpoint's folder holds, without the weights. It is not needed afterwards.
        device: As for :func:`load_checkpoint`.
        dtype: As for :func:`load_checkpoint`.

    Raises:
        PolicyMismatchError: It cannot drive this arm.
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
    """Refuses values that no checkpoint can be loaded with.

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
    # Before the move: the device never holds more than what was asked for.
    cast_policy(policy, saved, dtype)
    policy.to(device)
    policy.config.device = device
    preprocessor, postprocessor = load_processors(spec, *vlm, device)
    check_tokens(spec, policy, preprocessor)
    return LoadedCheckpoint(policy, preprocessor, postprocessor, spec, device, left_out)


def _leave_out_head(policy: Any) -> int:
    """Takes the language head out of memory and returns how many parameters that were."""
    from torch import nn

    vlm = policy.model.vlm_with_expert.vlm
    left_out = sum(int(parameter.numel()) for parameter in vlm.lm_head.parameters())
    vlm.lm_head = nn.Identity()
    return left_out


def _find_vlm(spec: CheckpointSpec, vlm: str | Path | None, *, local: bool) -> tuple[str, VLMFiles]:
    """Return the folder or repository of the VLM's configuration and tokenizer, and the checked files.

    Args:
        spec: The checkpoint.
        vlm: What the user names; None: what the checkpoint does.
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
        # "vlm" is the checkpoint's own folder, never one of the working directory.
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
