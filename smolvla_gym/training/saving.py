"""Writing a checkpoint that can be moved: it carries its VLM's configuration and holds no path of this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.hub import download, snapshot_commit
from smolvla_gym.agent.checkpoint.load import check_checkpoint_files
from smolvla_gym.agent.checkpoint.provenance import read_provenance
from smolvla_gym.agent.checkpoint.spec import VLM_FOLDER as VLM_FOLDER
from smolvla_gym.agent.checkpoint.spec import WEIGHTS, read_spec
from smolvla_gym.agent.checkpoint.vlm_files import VLM_FILES, read_vlm

_PART: Final = ".part"


def find_vlm(name: str) -> Path:
    """Return the folder with the configuration and tokenizer of a checkpoint's vision-language model (VLM).

    Called before training: a checkpoint is saved with these files, and a run must not find out at its first saving
    that they are missing.

    Args:
        name: A folder, or a repository on the Hugging Face hub, whose files are taken from the cache or downloaded.

    Raises:
        CheckpointError: There is no such folder, and the repository cannot be downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    return download(name, None, VLM_FILES)


def save_checkpoint(directory: Path, policy: Any, preprocessor: Any, postprocessor: Any) -> None:
    """Saves a policy with its processors and its VLM's configuration.

    Everything is written into a folder beside the old files first, and each of them is replaced as a whole: whatever
    ends the program meanwhile, the checkpoint that was there can be loaded.

    Args:
        directory: Where to. Made where it is missing; files of the same names are replaced.
        policy: A ``SmolVLAPolicy`` whose ``config.vlm_model_name`` :func:`find_vlm` knows.
        preprocessor: Its preprocessing pipeline.
        postprocessor: Its postprocessing pipeline.
    """
    part = directory / _PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        policy.save_pretrained(part)
        save_small_files(part, policy.config, preprocessor, postprocessor)
        # The weights come last: where they are, all the others are.
        for file in sorted((f for f in part.rglob("*") if f.is_file()), key=lambda f: f.name == WEIGHTS):
            target = directory / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy_checkpoint(source: Path, target: Path, *, link_weights: bool = False) -> None:
    """Copy a checkpoint that LeRobot's programs are to load, with the checked files of its VLM in a folder of its own.

    A link is followed only where loading has checked what stands behind it, as in the hub's cache: another one may
    lead to any file of this machine, and the copy may be handed on. Folders, devices and pipes are left out.

    Args:
        source: The checkpoint.
        target: Where to; made where it is missing.
        link_weights: Whether the copy's weights may be another name of the same file.

    Raises:
        CheckpointError: A file is absent or broken, names code, or does not belong to the others.
        OSError: It cannot be copied.
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
    """Gives a large file a second name, or copies it where that cannot be."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def save_small_files(directory: Path, config: Any, preprocessor: Any, postprocessor: Any) -> None:
    """Saves what :func:`save_checkpoint` does, without the weights.

    Args:
        directory: Where to.
        config: The policy's configuration.
        preprocessor: Its preprocessing pipeline.
        postprocessor: Its postprocessing pipeline.
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
        tensors.chmod(0o644)  # safetensors makes them readable for their owner only, and so would the wheel.
    make_portable(directory)


def make_portable(directory: Path) -> None:
    """Replaces the paths of this machine that LeRobot wrote; loading puts the true folder back in."""
    _name_vlm(directory, VLM_FOLDER)


def make_plain(directory: Path, home: Path) -> None:
    """Writes where the VLM's folder is, for LeRobot's own programs, which look for it from where they are called.

    Args:
        directory: The checkpoint.
        home: Where it will be.
    """
    _name_vlm(directory, str((home / VLM_FOLDER).absolute()))


def _name_vlm(directory: Path, name: str) -> None:
    config = json.loads((directory / "config.json").read_text())
    config.update(vlm_model_name=name, pretrained_path=None)
    _write(directory / "config.json", config)
    pipeline = json.loads((directory / "policy_preprocessor.json").read_text())
    for step in pipeline["steps"]:
        if "tokenizer_name" in step.get("config", {}):
            step["config"]["tokenizer_name"] = name
    _write(directory / "policy_preprocessor.json", pipeline)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file as a whole or not at all.

    Raises:
        OSError: It cannot be written; what was there before is there still.
    """
    part = path.with_name(path.name + _PART)
    try:
        part.unlink(missing_ok=True)  # it may be a link to a file elsewhere
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _write(path: Path, content: dict[str, Any]) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")
