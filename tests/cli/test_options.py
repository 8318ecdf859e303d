"""Dataclasses as options: parsing, messages, values that were given, and stored values of a command that resumes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.cli.options.environment import EnvironmentOptions, make_env
from smolvla_gym.cli.options.parser import CommandParser, Options, UsageError, add_options, group, option
from smolvla_gym.cli.options.real_arm import RealArmOptions
from smolvla_gym.cli.options.resuming import kept_values, restore
from smolvla_gym.errors import RecordingError


@dataclass(kw_only=True)
class Inner(Options):
    share: float = option("share of the whole", 0.5, kept=True)
    pairs: list[tuple[str, str | None]] = option("pairs", [], parse=lambda text: tuple(text.split("=")), kept=True)


@dataclass(kw_only=True)
class Outer(Options):
    root: Path = option("a folder", kept=True)
    count: int = option("a count", 3, parse=at_least(1), kept=True)
    names: list[str] = option("names", ["a", "b"], kept=True)
    kind: Literal["x", "y"] | None = option("a kind", None, kept=True)
    fast: bool = option("be fast", False, kept=True)
    video: bool = option("no video", True, flag="--no-video")
    log: str | None = option("a log", None, const="viewer")
    hidden: int = 7
    inner: Inner = group("inner", Inner)


def parsed(line: str) -> Outer:
    parser = CommandParser()
    add_options(parser, Outer)
    return Outer.build(parser.parse_args(line.split()))


def test_types_and_what_was_given():
    options = parsed("--root r --count 2 --names c d --kind y --no-video --log --share 1 --pairs a=b")
    assert options == Outer(
        root=Path("r"), count=2, names=["c", "d"], kind="y", video=False, log="viewer",
        inner=Inner(share=1.0, pairs=[("a", "b")]),
    )  # fmt: skip
    assert options.given == {"root", "count", "names", "kind", "video", "log"}
    assert options.inner.given == {"share", "pairs"}
    assert parsed("--root r") == Outer(root=Path("r"))
    assert parsed("--root r --count 3").given == {"root", "count"}
    assert parsed("--root r --count 3 --fast").changed() == ["root", "fast"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--root r --count 0", "--count 0: expected an integer of at least 1"),
        ("--root r --count -1", "--count -1: expected an integer of at least 1"),
        ("--root r --share much", "--share much: expected a number"),
        ("--root r --kind z", "--kind z: expected one of x, y"),
        ("--root r --names", "--names"),
        ("--root=", "expected the name of a file or folder"),
        ("--count 1", "--root"),
        ("--root r --hidden 3", "--hidden"),
    ],
)
def test_an_error_is_one_line_with_the_value_and_what_is_allowed(line, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(line)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("smolvla-gym: error: ")
    assert message in said


def test_the_help_has_every_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        parsed("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("(default: 3)", "(default: a b)", "(default: 0.5)", "{x,y}", "inner:"):
        assert text in printed


def test_a_command_goes_on_with_what_it_was_begun_with():
    stored = kept_values(parsed("--root r --count 2 --fast --pairs a=b"))
    assert stored == {"root": "r", "count": 2, "names": ["a", "b"], "kind": None, "fast": True, "share": 0.5,
                      "pairs": [["a", "b"]]}  # fmt: skip
    options = parsed("--root r --fast")
    restore(options, stored, "the file")
    assert (options.count, options.fast, options.inner.pairs) == (2, True, [("a", "b")])
    for line in ("--root r --count 3", "--root other", "--root r --share 0.6"):  # a default can be given, too
        with pytest.raises(UsageError, match="as when this was begun"):
            restore(parsed(line), stored, "the file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", value) for value in (0, "2", 2.5, True, None, [2])),
        *(("share", value) for value in ("0.5", True, None)),
        *(("names", value) for value in ("a", [1], None, {"a": 1})),
        *(("kind", value) for value in ("z", 1)),
        *(("fast", value) for value in (1, "yes", None)),
        *(("pairs", value) for value in ([["a"]], [["a", 1]], ["ab"], "ab")),
        ("root", 5),
    ],
)
def test_stored_values_that_no_command_wrote_are_refused(name, value):
    stored = kept_values(parsed("--root r"))
    for broken in ({**stored, name: value}, {key: stored[key] for key in stored if key != name}):
        with pytest.raises(RecordingError, match=name):
            restore(parsed("--root r" if name != "root" else "--root 5"), broken, "the file")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["--print-completion", shell]) == 0
    printed = capsys.readouterr().out
    for text in ("rollout", "speed-scale", "dagger"):
        assert text in printed
    assert main(["--help"]) == 0
    assert f"--print-completion {shell}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["smolvla-gym", "roll"], "rollout"),
        (["smolvla-gym", "rollout", "--env", "re"], "real"),
        (["smolvla-gym", "rollout", "--spe"], "--speed-scale"),
        (["smolvla-gym", "record", "--root", "/et"], "/etc"),
    ],
)
def test_bash_completes(words, offered, capsys):
    pytest.importorskip("shtab")
    assert main(["--print-completion", "bash"]) == 0
    script = (
        capsys.readouterr().out
        + f"""
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
$(complete -p smolvla-gym | sed 's/.*-F \\([^ ]*\\).*/\\1/')
echo "${{COMPREPLY[@]}}"
"""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert offered in done.stdout.split(), done.stderr


def test_the_control_rate_that_was_not_given(capsys):
    assert EnvironmentOptions().settle_control_hz(None) == 30.0
    assert EnvironmentOptions().settle_control_hz(30.0) == 30.0
    assert EnvironmentOptions(control_hz=20.0).settle_control_hz(15.0) == 20.0
    assert capsys.readouterr().err == ""
    assert EnvironmentOptions().settle_control_hz(15.0) == 15.0
    assert "15 Hz" in capsys.readouterr().err


def test_the_program_starts_without_heavy_packages():
    code = (
        "import sys, smolvla_gym.cli.main as m; m.main(['rollout', '--help']); "
        "sys.exit(bool({'torch', 'lerobot', 'shtab', 'rich', 'serial', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_one_function_makes_the_simulation_and_the_twin():
    pytest.importorskip("serial")
    with make_env(EnvironmentOptions(control_hz=10.0, cameras=["scene"], image_size=32), "reach") as env:
        assert (env.spec.id, env.unwrapped.control_hz) == ("PAROL6Sim-v0", 10.0)
        assert env.observation_space["pixels"]["scene"].shape == (32, 32, 3)
    twin = EnvironmentOptions(env="real", real=RealArmOptions(port="twin", lockstep=True), cameras=[])
    twin.check_environment(["reach"], None)
    with make_env(twin, "reach") as env:
        assert (env.spec.id, env.metadata["realtime"]) == ("PAROL6Real-v0", False)
