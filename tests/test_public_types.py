"""Every name that a program can import has a type that all type checkers agree on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import lerobot
import pytest

import smolvla_gym


@pytest.mark.slow
def test_every_public_name_has_a_type(tmp_path: Path) -> None:
    # pyright judges installed packages only; run in the repository, it would take this one for a part of the program.
    venv.create(tmp_path / "env", symlinks=True)
    packages = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (packages / "smolvla_gym").symlink_to(Path(smolvla_gym.__file__).parent)
    # LeRobot lacks the mark of a typed package (PEP 561), without which its classes, and ours below them, are unknown.
    (packages / "lerobot").mkdir()
    (packages / "lerobot" / "py.typed").touch()
    for part in Path(lerobot.__file__).parent.iterdir():
        (packages / "lerobot" / part.name).symlink_to(part)
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))

    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "smolvla_gym", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{tmp_path / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip

    found = json.loads(run.stdout)["typeCompleteness"]
    assert found["exportedSymbolCounts"]["withKnownType"] > 4000
    untyped = [
        f"{symbol['name']}: {', '.join(entry['message'] for entry in symbol['diagnostics'])}"
        for symbol in found["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
    ]
    assert not untyped, "\n".join(untyped)
    assert found["completenessScore"] == 1.0
