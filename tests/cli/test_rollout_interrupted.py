"""``smolvla-gym rollout`` that is interrupted leaves a playable video and a summary."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_rollout import files, frames, load

ROOT = Path(__file__).resolve().parents[2]

INTERRUPTED = """
import os, signal, sys
import gymnasium
from smolvla_gym.cli.main import main
from smolvla_gym.sim.rendering import QUALITIES
from tests.episodes.injectors import Disturbed

def send(numbers=[int(number) for number in sys.argv[2:]]):
    try:
        os.kill(os.getpid(), numbers[0])
    finally:
        for number in numbers[1:]:
            os.kill(os.getpid(), number)

QUALITIES["high"] = QUALITIES["fast"]
make = gymnasium.make
gymnasium.make = lambda *args, **options: Disturbed(make(*args, **options), 6, send)
sys.exit(main(["rollout", "--task", "reach", "--policy", "expert", "--json", "--out", sys.argv[1]]))
"""


def without_progress(printed):
    """The lines that are no progress: on a busy machine a short command takes long enough for one."""
    return [line for line in printed.splitlines() if not line.startswith("smolvla-gym: episode ")]


def heed_signals():
    # A shell that runs the tests in the background lets them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("signals", "code", "word"),
    [
        ([signal.SIGINT], 130, "interrupted"),
        ([signal.SIGTERM], 143, "terminated"),
        ([signal.SIGINT, signal.SIGINT], 130, "interrupted"),
    ],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C twice"],
)
def test_a_signal_leaves_a_playable_video(tmp_path, signals, code, word):
    out = tmp_path / "out"
    command = [sys.executable, "-c", INTERRUPTED, str(out), *(str(int(number)) for number in signals)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, preexec_fn=heed_signals)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert without_progress(done.stderr) == [
        f"smolvla-gym: {word}",
        f"smolvla-gym: what was recorded until then is in {out}",
    ]
    assert files(out) == ["rollout.mp4", "summary.json"]
    assert frames(out / "rollout.mp4") == 6
    summary = load(out)
    assert (summary["interrupted"], summary["success_rate"]) == (True, None)
    (episode,) = summary["episodes"]
    assert (episode["end"], episode["steps"], episode["video"]) == ("interrupted", 5, "rollout.mp4")


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_ctrl_c_from_outside_at_any_moment(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "smolvla_gym", "rollout", "--policy", "random", "--max-steps", "100000"]
    process = subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 60
        while not (out / "rollout.part.mp4").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert without_progress(printed)[0] == "smolvla-gym: interrupted"
    assert files(out) == ["rollout.mp4", "summary.json"]
    (episode,) = load(out)["episodes"]
    # Between the end of a step and its frame an image is rendered.
    assert frames(out / "rollout.mp4") - episode["steps"] in (0, 1)
