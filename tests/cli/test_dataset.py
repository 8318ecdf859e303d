"""``smolvla-gym dataset check`` where there is no dataset, or one with links."""

import shutil

import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.cli.main import main
from tests.training.datasets import make_dataset


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_advice_fits_a_folder_without_a_dataset(tmp_path, flags, capsys):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "empty"):
        assert main(["dataset", "check", str(root), *flags]) == 1
        printed = capsys.readouterr().out
        assert "unreadable_dataset" in printed
        assert "smolvla-gym record" in printed
        assert "another copy" not in printed


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("recorded") / "data")


@pytest.mark.parametrize("part", ["data", "meta/parol6.json"])
def test_a_part_that_is_a_link_is_reported(recorded, tmp_path, part, capsys):
    root = shutil.copytree(recorded, tmp_path / "data")
    main(["dataset", "check", str(root), "--no-video"])
    assert "no_plain_files" not in capsys.readouterr().out
    shutil.move(root / part, tmp_path / "elsewhere")
    (root / part).symlink_to(tmp_path / "elsewhere")
    assert main(["dataset", "check", str(root), "--no-video"]) == 1
    printed = capsys.readouterr().out
    assert "is a link" in printed
    assert printed.count("no_plain_files") == 1
