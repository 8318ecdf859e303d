"""Save and copy checkpoints that can be moved: with the files of their VLM, and without paths of this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.hub import download, snapshot_commit
from smolvla_gym.agent.checkpoint.load import check_checkpoint_files
from smolvla_gym.agent.checkpoint.provenance import read_provenance
from smolvla_gym.agent.checkpoint.spec import VLM_FOLDER, WEIGHTS, read_spec
from smolvla_gym.agent.checkpoint.vlm_files import VLM_FILES, read_vlm
from smolvla_gym.utils.json_file import save_json

_PART: Final = ".part"


def find_vlm(name: str) -> Path:
    """Return the folder with the configuration and tokenizer of a checkpoint's vision-language model (VLM).

    Training calls this before its first step: a checkpoint is saved with these files, and without them the first
    saving would fail.

    Args:
        name: A folder, or a repository on the Hugging Face hub, whose files are taken from the cache or downloaded.

    Raises:
        CheckpointError: The name is not a folder, and the repository cannot be downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    return download(name, None, VLM_FILES)


def save_checkpoint(directory: Path, policy: Any, preprocessor: Any, postprocessor: Any) -> None:
    """Save a policy with its processors and its VLM's configuration.

    All files are written into a temporary folder first, and then replace the old ones one by one. A previous
    checkpoint can be loaded also when the program is killed meanwhile.

    Args:
        directory: Folder of the checkpoint; it is made if it is missing, and files of the same names are replaced.
        policy: A ``SmolVLAPolicy`` whose ``config.vlm_model_name`` :func:`find_vlm` knows.
        preprocessor: Preprocessing pipeline of the policy.
        postprocessor: Postprocessing pipeline of the policy.
    """
    part = directory / _PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        policy.save_pretrained(part)
        save_small_files(part, policy.config, preprocessor, postprocessor)
        # The weights are the last file: a checkpoint with weights has all other files.
        for file in sorted((f for f in part.rglob("*") if f.is_file()), key=lambda f: f.name == WEIGHTS):
            target = directory / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy_checkpoint(source: Path, target: Path, *, link_weights: bool = False) -> None:
    """Copy a checkpoint for LeRobot's programs, with the checked files of its VLM in a folder of its own.

    Links are followed only for files that loading has checked, as in the hub's cache. Another link may lead to any
    file of this machine, which the copy would disclose. Folders, devices and pipes are left out.

    Args:
        source: Folder of the checkpoint.
        target: Folder of the copy; it is made if it is missing.
        link_weights: Whether the weights of the copy may be a hard link.

    Raises:
        CheckpointError: A file is missing or broken, names code, or does not match the others.
        OSError: The checkpoint cannot be copied.
    """
    spec = read_spec(source)
    vlm = check_checkpoint_files(spec, local=snapshot_commit(source, None) is None)[2]
    read_provenance(source)
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if not file.is_file() or (file.is_symlink() and file.name not in spec.files):
            continue
        if file.name == WEIGHTS and link_weights:
            link_file(file, target / WEIGHTS)
        elif file.name != "train_config.json":  # of lerobot-train: folders and names of its own machine
            shutil.copyfile(file, target / file.name)
    (target / VLM_FOLDER).mkdir(exist_ok=True)
    vlm.write(target / VLM_FOLDER, int(vlm.text["num_hidden_layers"]))


def link_file(source: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy where the file system does not support it."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def save_small_files(directory: Path, config: Any, preprocessor: Any, postprocessor: Any) -> None:
    """Save all files of a checkpoint except the weights; see :func:`save_checkpoint`.

    Args:
        directory: Folder of the checkpoint.
        config: Configuration of the policy.
        preprocessor: Preprocessing pipeline of the policy.
        postprocessor: Postprocessing pipeline of the policy.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vlm = directory / VLM_FOLDER
    source = find_vlm(config.vlm_model_name)
    if source.resolve() != vlm.resolve():
        files = read_vlm(source)
        vlm.mkdir(exist_ok=True)
        files.write(vlm, int(files.text["num_hidden_layers"]))
    config.save_pretrained(directory)
    preprocessor.save_pretrained(directory)
    postprocessor.save_pretrained(directory)
    for tensors in directory.glob("*.safetensors"):
        tensors.chmod(0o644)  # safetensors makes them readable for their owner only, also in a wheel
    make_portable(directory)


def make_portable(directory: Path) -> None:
    """Replace the paths of this machine that LeRobot wrote by relative ones; loading inserts the actual folder."""
    _name_vlm(directory, VLM_FOLDER)


def make_plain(directory: Path, home: Path) -> None:
    """Write the absolute path of the VLM's folder, which LeRobot's own programs need.

    Args:
        directory: Folder of the checkpoint.
        home: Folder in which the checkpoint will be.
    """
    _name_vlm(directory, str((home / VLM_FOLDER).absolute()))


def _name_vlm(directory: Path, name: str) -> None:
    config = json.loads((directory / "config.json").read_text())
    config.update(vlm_model_name=name, pretrained_path=None)
    save_json(directory / "config.json", config, "configuration of the policy")
    pipeline = json.loads((directory / "policy_preprocessor.json").read_text())
    for step in pipeline["steps"]:
        if "tokenizer_name" in step.get("config", {}):
            step["config"]["tokenizer_name"] = name
    save_json(directory / "policy_preprocessor.json", pipeline, "preprocessor of the policy")
