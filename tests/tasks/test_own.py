"""Tasks of a module of the user, by "module:name"."""

import sys

import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.errors import OptionError
from smolvla_gym.tasks import TASKS, get_task
from smolvla_gym.utils.worker_pool import process_pool

MODULE = """
from smolvla_gym.tasks import register_task
from smolvla_gym.tasks.reach import Reach

class Mine(Reach):
    name = "mine"

register_task(Mine())
"""


def name_of(task):
    return get_task(task).name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_tasks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    TASKS.pop("mine", None)


def test_the_present_folder_is_looked_at_also_by_workers(folder):
    command = ["rollout", "--policy", "random", "--task", "my_own_tasks:mine", "--max-steps", "1", "--no-video"]
    assert main([*command, "--out", str(folder / "out")]) == 0
    with process_pool(1) as pool:
        assert pool.submit(name_of, "my_own_tasks:mine").result() == "mine"


def test_the_present_folder_is_not_looked_at_otherwise(folder, capsys):
    assert main(["tasks"]) == 0
    assert main(["rollout", "--policy", "random", "--task", "nothing"]) == 2
    assert str(folder) not in sys.path


@pytest.mark.parametrize("text", ["def", "1 / 0", "raise ValueError('no')", "import nothing_of_this_name"])
def test_a_module_that_raises_is_named_in_the_error(folder, text, monkeypatch):
    (folder / "my_broken_tasks.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(OptionError, match="my_broken_tasks"):
        get_task("my_broken_tasks:mine")


@pytest.mark.parametrize("name", [":mine", "..x:mine", "no such module:x", "a:b:c"])
def test_a_name_that_is_no_module_is_refused(name):
    with pytest.raises(OptionError):
        get_task(name)
