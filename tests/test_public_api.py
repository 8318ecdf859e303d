"""The names that ``smolvla_gym`` offers, and what importing them loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import smolvla_gym
from smolvla_gym import errors

HEAVY = ("torch", "lerobot", "transformers", "serial", "pyrealsense2", "cv2", "websockets", "cyclonedds", "rclpy")
LIGHT = ("connect", "Task", "register_task", "World", "DISC", "rollout", "record", "ExpertSource", "PAROL6Env",
         "ToolAction", "SmolVLAAgent", "Agent", "FaultError")  # fmt: skip


def loaded_by(statement):
    """Return the heavy packages that a statement loads, and what it printed before."""
    code = f"{statement}\nimport sys; print(sorted({{*{HEAVY}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout)


def errors_of_the_package():
    """Return the names of all classes of ``smolvla_gym.errors``."""
    tree = ast.parse(Path(errors.__file__).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("statement", ["import smolvla_gym", f"from smolvla_gym import {', '.join(LIGHT)}"])
def test_imports_load_no_heavy_package(statement):
    assert loaded_by(statement) == []


def test_every_public_name_exists():
    pytest.importorskip("lerobot")
    for name in smolvla_gym.__all__:
        assert getattr(smolvla_gym, name) is not None
    assert set(smolvla_gym.__all__) <= set(dir(smolvla_gym))


def test_unknown_name():
    with pytest.raises(AttributeError, match="nothing"):
        _ = smolvla_gym.nothing


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(smolvla_gym.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    stated = {node.module: {alias.name for alias in node.names} for node in block.body}
    assert stated == {module: set(names) for module, names in smolvla_gym._NAMES.items()}
    public = {name for names in stated.values() for name in names}
    here = {"REAL_ID", "SIM_ID", "__version__", "connect", *errors_of_the_package()}
    assert set(smolvla_gym.__all__) == public | here
