"""Check what pages state against the code; ``conftest.py`` beside this folder runs their code blocks."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from smolvla_gym.drivers.board.state import Fault
from smolvla_gym.envs.backends.real import CAMERA_LOST, CAMERA_STALE
from smolvla_gym.sim.scene import CAMERAS
from smolvla_gym.tasks import TASKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TEST_COMMAND = "uv run pytest"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def first_column(page):
    """Return the code spans in the first column of all tables of a page."""
    return {name for row in re.findall(r"^\| (.*?) \|", read(page), re.M) for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", read(page)):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_front_page_is_short_and_has_the_test_command():
    assert len(read("README.md").splitlines()) <= 150
    assert TEST_COMMAND in read("README.md")


def test_requirements_come_before_the_first_command():
    page = read("README.md")
    assert page.index("libegl1") < page.index("uv run smolvla-gym")
    assert page.index("libusb") < page.index("uv run smolvla-gym")


def test_every_fault_is_in_the_table_of_reactions():
    described = {*Fault, CAMERA_LOST, CAMERA_STALE} - {Fault.COMMAND_LIMIT, Fault.OPERATOR_STOP}
    assert described <= first_column("docs/reference/faults.md")


def test_every_task_camera_and_extra_is_described():
    assert {*TASKS} <= first_column("docs/reference/tasks.md")
    assert {*CAMERAS} <= first_column("docs/how-to/cameras.md")
    assert {*PROJECT["project"]["optional-dependencies"]} == first_column("docs/how-to/install.md")


def test_every_example_is_listed():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == first_column("docs/index.md")


def test_the_layers_are_those_that_are_checked():
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    rows = re.findall(r"^\| \d+ \| (.*?) \|", read("docs/explanation/architecture.md"), re.M)
    stated = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert stated == [set(layer.split(" : ")) for layer in reversed(contract["layers"])]


def test_the_citation_has_the_version():
    assert f"version: {PROJECT['project']['version']}\n" in read("CITATION.cff")


def test_sections_of_docstrings(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    generated = pytest.importorskip("generated")
    docstring = """Do something.

    Args:
        one: The first, see :class:`~a.B`,
            in two lines.
        two (int): Either | or.

    Returns:
        other: Nothing.
    """
    assert generated.section(docstring, "Args") == {
        "one": "The first, see {py:class}`~a.B`, in two lines.",
        "two": "Either \\| or.",
    }
    assert generated.section(None, "Args") == {}
    sys.modules.pop("generated", None)
