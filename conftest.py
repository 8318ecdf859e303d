"""Tests of the documentation: the code blocks of README.md and docs/ are run or checked.

- ``python`` blocks run, those of a page in one namespace, in a folder of their own. ``<!-- skip: next -->`` before a
  block skips it: it needs devices.
- ``sh`` blocks run: in a shell, or in this process where each line is one ``smolvla-gym`` command.
- ``bash`` blocks are not run. The command line has to accept the options of each ``smolvla-gym`` command in them.
"""

import contextlib
import gc
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

sys.path.insert(0, str(Path(__file__).parent / "docs" / "_ext"))

LONGEST_S = 240
"""Time limit in s of a block of shell commands."""

SHELL = set("|&;<>$`*?")
"""Characters that have a meaning in a shell."""


@pytest.fixture(scope="session", autouse=True)
def high_quality():
    """Have this process render overviews without shadows and smooth edges; returns the real settings.

    With a software renderer those take nine tenths of the time of a video.
    """
    from smolvla_gym.sim.rendering import QUALITIES

    with pytest.MonkeyPatch.context() as patch:
        high = QUALITIES["high"]
        patch.setitem(QUALITIES, "high", QUALITIES["fast"])
        yield high


def pytest_collection_finish():
    """Take what was imported out of the garbage collector's work: half a million objects stay to the end."""
    gc.collect()
    gc.freeze()


def run_commands(example):
    """Run the commands of a block: our own in this process, which has imported what they need, others in a shell."""
    lines = example.parsed.replace("\\\n", " ").splitlines()
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    if all(words[0] == "smolvla-gym" and not SHELL.intersection("".join(words)) for words in commands):
        return run_here(commands)
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": folder + os.pathsep + os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed], env=environment, capture_output=True, text=True,
        timeout=LONGEST_S, check=False,
    )  # fmt: skip
    return None if done.returncode == 0 else f"exit code {done.returncode}: {done.stdout}{done.stderr}"


def run_here(commands):
    """Call the command line with the arguments of each command."""
    from smolvla_gym.cli.main import main

    for _, *arguments in commands:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(arguments)
        if code != 0:
            return f"exit code {code}: {printed.getvalue()}"
    return None


def check_options(example):
    """Parse the arguments of each ``smolvla-gym`` command of a block."""
    pytest.importorskip("sphinx")
    from generated import command_parser

    parser = command_parser()
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "smolvla-gym" in words:
            try:
                parser.parse_args(words[words.index("smolvla-gym") + 1 :])
            except SystemExit:
                return f"smolvla-gym does not accept: {line}"
    return None


@pytest.fixture
def folder(tmp_path_factory, request):
    """Run a block in the folder of its page."""
    page = tmp_path_factory.getbasetemp() / f"page-{request.node.path.stem}"
    page.mkdir(exist_ok=True)
    with contextlib.chdir(page):
        yield


def remember_tasks(namespace):
    """Keep the registered tasks before the first block of a page."""
    from smolvla_gym.tasks import TASKS

    namespace["_tasks"] = dict(TASKS)


def forget(namespace):
    """Remove the tasks that a page has registered, and its objects."""
    from smolvla_gym.tasks import TASKS

    TASKS.clear()
    TASKS.update(namespace["_tasks"])
    namespace.clear()


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser(language="sh", evaluator=run_commands),
        CodeBlockParser(language="bash", evaluator=check_options),
        SkipParser(),
    ],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    fixtures=["folder", "high_quality"],
    setup=remember_tasks,
    teardown=forget,
).pytest()
