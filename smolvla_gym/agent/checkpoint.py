"""Loading a SmolVLA checkpoint with LeRobot's own classes, past the places where it goes wrong without a word."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.compatibility import WIDTH, check_checkpoint
from smolvla_gym.agent.precision import DTYPES, cast_policy, check_mask
from smolvla_gym.agent.spec import PREPROCESSOR, STATE, VLM_FOLDER, WEIGHTS, CheckpointSpec, read_spec
from smolvla_gym.assets import asset_path
from smolvla_gym.errors import CheckpointError, MissingExtraError, OptionError

BUNDLED: Final = "bundled"
"""The name that stands for the checkpoint shipped with this package."""

_REPO_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMPILE_MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_SMALL_FILES: Final = ["*.json", "policy_*.safetensors", f"{VLM_FOLDER}/*"]


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


def bundled_checkpoint() -> Path:
    """Returns the folder of the checkpoint that is shipped with this package.

    Raises:
        CheckpointError: This installation has none.
    """
    try:
        return asset_path("policies", "parol6_tiny")
    except FileNotFoundError as err:
        raise CheckpointError(f"{err} Install the package again, or give the folder of another checkpoint.") from err


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

    The VLM's own weights are never fetched: a checkpoint holds them. Its configuration and tokenizer come from the
    folder ``vlm/`` in the checkpoint where there is one.

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
    local = _find_local(path_or_repo)
    # Of a repository, everything but the weights comes first: what cannot drive this arm is refused cheaply.
    directory = local or _download(str(path_or_repo), revision, _SMALL_FILES)
    spec = read_spec(directory)
    check_checkpoint(spec)
    device = resolve_device(device)
    if local is None:
        _download(str(path_or_repo), revision, [WEIGHTS])
    saved = _read_weights_header(directory / WEIGHTS)
    vlm_name = _vlm_name(spec, vlm)
    policy = _load_policy(spec, vlm_name, saved, compile_mode)
    left_out = 0 if language_head else _leave_out_head(policy)
    return _assemble(spec, policy, saved, vlm_name, device, dtype, left_out)


def fetch_checkpoint(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """Returns the folder of a checkpoint; one on the hub is downloaded.

    Args:
        path_or_repo: As for :func:`load_checkpoint`.
        revision: Branch, tag or commit of a repository.

    Raises:
        CheckpointError: It is absent or cannot be downloaded.
    """
    local = _find_local(path_or_repo)
    return local or _download(str(path_or_repo), revision, [*_SMALL_FILES, WEIGHTS])


def adopt_policy(policy: Any, directory: Path, *, device: str = "auto", dtype: str = "auto") -> LoadedCheckpoint:
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
    return _assemble(spec, policy, {}, _vlm_name(spec, None), resolve_device(device), dtype, left_out)


def check_options(dtype: str, compile_mode: str | None = None) -> None:
    """Refuses values that no checkpoint can be loaded with.

    Raises:
        OptionError: ``dtype`` or ``compile_mode`` is unknown.
    """
    if dtype not in DTYPES:
        raise OptionError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    if compile_mode is not None and compile_mode not in _COMPILE_MODES:
        raise OptionError("compile_mode", compile_mode, f"one of {', '.join(_COMPILE_MODES)}")


def _assemble(
    spec: CheckpointSpec, policy: Any, saved: dict[str, str], vlm_name: str, device: str, dtype: str, left_out: int
) -> LoadedCheckpoint:
    # Before the move: the device never holds more than what was asked for.
    cast_policy(policy, saved, dtype)
    policy.to(device)
    policy.config.device = device
    preprocessor, postprocessor = _load_processors(spec, policy, vlm_name, device)
    return LoadedCheckpoint(policy, preprocessor, postprocessor, spec, device, left_out)


def _leave_out_head(policy: Any) -> int:
    """Takes the language head out of memory and returns how many parameters that were."""
    from torch import nn

    vlm = policy.model.vlm_with_expert.vlm
    left_out = sum(int(parameter.numel()) for parameter in vlm.lm_head.parameters())
    vlm.lm_head = nn.Identity()
    return left_out


def _find_local(path_or_repo: str | Path) -> Path | None:
    """Returns the folder of a checkpoint, or None for the name of a repository on the hub."""
    path = Path(path_or_repo).expanduser()
    if path_or_repo == BUNDLED:  # a folder of this name is Path("bundled") or "./bundled"
        return bundled_checkpoint()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file. Give the folder that config.json and model.safetensors lie in.")
    # "outputs/run1" is spelt like a repository. It is a mistyped path where its first folder exists.
    if isinstance(path_or_repo, str) and _REPO_ID.fullmatch(path_or_repo) and not path.parent.is_dir():
        return None
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [*siblings, BUNDLED], n=1, cutoff=0.6)
    meant = BUNDLED if near == [BUNDLED] else str(path.parent / near[0]) if near else ""
    hint = f" Did you mean {meant!r}?" if meant else ""
    raise CheckpointError(
        f"There is no folder {str(path)!r}.{hint} Give the folder of a checkpoint, a repository on the hub as "
        f"'owner/name', or {BUNDLED!r}."
    )


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetches files of a repository into the hub's cache and returns their folder."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as err:
        raise MissingExtraError("Downloading a checkpoint", "smolvla", err) from err
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    # The hub's client raises errors of its own, of httpx and of the system, with no common root of its own.
    except Exception as err:
        raise CheckpointError(
            f"There is no folder {repo!r} here, and the repository of this name could not be downloaded from the "
            f"Hugging Face hub ({type(err).__name__}). Check the name and the network (HF_HUB_OFFLINE must not be 1), "
            f"or download it elsewhere with 'hf download {repo} --local-dir policy' and give that folder."
        ) from err


def _read_weights_header(path: Path) -> dict[str, str]:
    """Returns the type of each weight in a safetensors file, such as ``"F32"``, without reading the weights."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} is not a complete checkpoint: {path.name} is missing. Checkpoints of adapters (PEFT) or "
            "in several files are not supported: merge them into one, or take another copy."
        )
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as err:
        raise CheckpointError(f"{path} is truncated or broken ({err}). Take another copy of the checkpoint.") from err


def _vlm_name(spec: CheckpointSpec, vlm: str | Path | None) -> str:
    """Returns the folder or repository of the VLM's configuration and tokenizer."""
    if vlm is not None:
        return str(vlm)
    own = spec.directory / VLM_FOLDER
    if (own / "config.json").is_file():
        return str(own.resolve())
    stored = str(spec.config.get("vlm_model_name"))
    if Path(stored).is_dir() or _REPO_ID.fullmatch(stored):
        return stored
    raise CheckpointError(
        f"{spec.directory / 'config.json'} names the VLM folder {stored!r}, which is not on this machine, and the "
        f"checkpoint has no folder {VLM_FOLDER!r} of its own. Copy the VLM's config.json, tokenizer.json, "
        f"tokenizer_config.json and processor_config.json to {own}, or give vlm=<folder or repository>."
    )


def _load_policy(spec: CheckpointSpec, vlm_name: str, saved: dict[str, str], compile_mode: str | None) -> Any:
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    except ImportError as err:
        raise MissingExtraError("A SmolVLA agent", "smolvla", err) from err
    try:
        # LeRobot prints while it builds; standard output belongs to the caller.
        with contextlib.redirect_stdout(sys.stderr):
            config = PreTrainedConfig.from_pretrained(spec.directory, cli_overrides=["--device=cpu"])
            config.vlm_model_name = vlm_name
            # True would fetch 2 GB of VLM weights, only to replace them by those of the checkpoint.
            config.load_vlm_weights = False
            config.compile_model = compile_mode is not None
            config.compile_mode = compile_mode or config.compile_mode
            policy = SmolVLAPolicy.from_pretrained(spec.directory, config=config)
    except ImportError as err:
        raise MissingExtraError("A SmolVLA agent", "smolvla", err) from err
    # draccus, transformers and torch each raise what they like for a bad option, an absent VLM and a wrong shape.
    except Exception as err:
        raise CheckpointError(
            f"LeRobot could not load {spec.directory} with the VLM configuration {vlm_name!r} "
            f"({type(err).__name__}: {_first_lines(err)}). Take another copy of the checkpoint, or give the folder of "
            "its VLM with vlm=<folder>."
        ) from err
    _check_keys(spec, policy, saved)
    return policy


def _first_lines(err: Exception, limit: int = 300) -> str:
    text = " ".join(str(err).split())
    return text if len(text) <= limit else text[:limit] + " ..."


def _check_keys(spec: CheckpointSpec, policy: Any, saved: dict[str, str]) -> None:
    """Refuses weights that LeRobot left at random because the file lacks them (it loads with ``strict=False``)."""
    state = policy.state_dict()
    loaded = {tensor.data_ptr() for key, tensor in state.items() if key in saved}
    missing = [
        key
        for key, tensor in state.items()
        # Tied weights are saved once. The language head is never used by SmolVLA.
        if key not in saved and tensor.data_ptr() not in loaded and "lm_head" not in key
    ]
    if missing:
        raise CheckpointError(
            f"{spec.directory / WEIGHTS} lacks {len(missing)} of the policy's {len(state)} weights, such as "
            f"{missing[0]!r}; they would be random. Take another copy of the checkpoint, or the config.json that "
            "belongs to these weights."
        )


def _load_processors(spec: CheckpointSpec, policy: Any, vlm_name: str, device: str) -> tuple[Any, Any]:
    import torch
    from lerobot.policies.factory import make_pre_post_processors

    known = {step.name for step in spec.preprocessor}
    wanted = {
        "device_processor": {"device": device},
        "tokenizer_processor": {"tokenizer_name": vlm_name},
        # The agent hands the pictures over under the policy's own names.
        "rename_observations_processor": {"rename_map": {}},
    }
    overrides = {name: options for name, options in wanted.items() if name in known}
    if "tokenizer_processor" not in overrides:
        raise CheckpointError(
            f"{spec.directory / PREPROCESSOR} has no tokenizer_processor, so the policy would get no instruction. "
            "Take another copy of the checkpoint."
        )
    try:
        # Without the path LeRobot quietly makes processors without statistics.
        preprocessor, postprocessor = make_pre_post_processors(
            policy.config, str(spec.directory), preprocessor_overrides=overrides
        )
        batch = preprocessor({"task": "try", STATE: torch.zeros(WIDTH)})
    except Exception as err:
        raise CheckpointError(
            f"LeRobot could not load the processors of {spec.directory} with the tokenizer of {vlm_name!r} "
            f"({type(err).__name__}: {_first_lines(err)}). Take another copy of the checkpoint."
        ) from err
    check_mask(batch)
    return preprocessor, postprocessor
