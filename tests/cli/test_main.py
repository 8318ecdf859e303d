"""Behaviour of every command: exit codes, full disks, closed pipes, other programs, signals."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from smolvla_gym.cli.commands import tasks
from smolvla_gym.cli.main import _sentence, main
from smolvla_gym.cli.options.parser import Options, command
from smolvla_gym.utils.file_lock import lock_folder
from tests.training.full_disk import full_disk

SHORT = ["rollout", "--policy", "random", "--task", "reach", "--max-steps", "3", "--no-video"]


def replace_run(monkeypatch, run):
    """Let the command ``tasks`` run a function."""
    monkeypatch.setattr(tasks, "add_parser", command("tasks", Options, run, help="", description=""))


@pytest.fixture
def raising(monkeypatch):
    """Returns a function that has the command ``tasks`` raise an error."""

    def set_error(error):
        def run(arguments):
            raise error

        replace_run(monkeypatch, run)

    return set_error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device; make room"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "a/b"), "a/b: File too large; the limit of a file's size"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; choose a folder"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "a"), "a: Read-only file system; choose a folder"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a", None, "b"), "a -> b: No such file"),
        (shutil.Error([("a", "b", "[Errno 28] No space left: 'a' -> 'b'")]), "b: No space left; make room"),
        (OSError("odd"), "odd"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_one_sentence(raising, capsys, error, message):
    raising(error)
    assert main(["tasks"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"smolvla-gym: error: {message}")
    assert "Errno" not in line
    assert _sentence(error) in line


def test_a_full_disk_leaves_no_half_policy(tmp_path, capsys):
    pytest.importorskip("lerobot")
    with full_disk(20_000):
        assert main(["export", "bundled", str(tmp_path / "policy")]) == 1
    assert "File too large" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".policy.part").mkdir()
    (tmp_path / ".policy.part" / "half").write_text("of an export that was killed")
    assert main(["export", "bundled", str(tmp_path / "policy")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert not (tmp_path / "policy" / "half").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_second_program_is_kept_out_of_every_output(tmp_path, capsys):
    (tmp_path / ".policy.part").mkdir()
    with lock_folder(tmp_path), lock_folder(tmp_path / ".policy.part"):
        for command in (
            [*SHORT, "--out", str(tmp_path)],
            ["train", "--dataset", "nothing", "--out", str(tmp_path), "--resume"],
            ["export", "bundled", str(tmp_path / "policy")],
        ):
            before = sorted(tmp_path.iterdir())
            assert main(command) == 1, command
            assert "Another program" in capsys.readouterr().err
            assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["rollout", "eval"])
def test_a_file_is_no_output_folder(command, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert main([command, "--out", str(tmp_path / "out")]) == 2
    assert "--out " in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def smolvla_gym(arguments, stdout):
    command = [sys.executable, "-m", "smolvla_gym", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="reads as on POSIX")
@pytest.mark.parametrize("arguments", [["tasks"], ["--help"], ["--version"]], ids=" ".join)
def test_a_closed_pipe_has_an_exit_code_of_its_own(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = smolvla_gym(arguments, writer)
    finally:
        os.close(writer)
    assert done.stderr == ""
    # argparse itself drops the error where Python does not buffer.
    assert done.returncode == 141 or (done.returncode == 0 and arguments != ["tasks"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["tasks"], ["--print-completion", "bash"]], ids=" ".join)
def test_what_is_printed_finds_no_room(arguments):
    if "bash" in arguments:
        pytest.importorskip("shtab")
    with open("/dev/full", "w") as full:
        done = smolvla_gym(arguments, full)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


def test_a_name_that_the_encoding_of_the_output_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = smolvla_gym([*SHORT, "--out", str(tmp_path / "Würfel")], subprocess.PIPE)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert r"W\xfcrfel" in done.stdout


def test_rich_ends_quietly_at_a_closed_pipe(raising, capsys):
    broken = SystemExit(1)
    broken.__context__ = BrokenPipeError()
    raising(broken)
    assert main(["tasks"]) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_library_that_turns_a_signal_into_its_own_error(monkeypatch, number, code, capsys):
    def run(arguments):
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise ImportError("argument 1: Interrupted") from error

    replace_run(monkeypatch, run)
    before = signal.signal(number, signal.default_int_handler)  # a runner's shell may have it ignored
    try:
        assert main(["tasks"]) == code
    finally:
        signal.signal(number, before)
    assert len(capsys.readouterr().err.splitlines()) == 1
