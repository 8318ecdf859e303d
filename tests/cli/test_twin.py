"""The virtual board alone, in a process of its own, and programs that open its port."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.cli.commands.twin import FaultEvent, parse_fault
from smolvla_gym.cli.main import main
from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.parol6 import HOME, steps_from_rad
from smolvla_gym.parol6.protocol import Command, CommandFrame, StateFrame, StateParser

serial = pytest.importorskip("serial")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 30.0


def heed_signals():
    # A shell that runs the tests in the background lets them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Program:
    """A running ``smolvla-gym twin``."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smolvla_gym", "twin", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
            preexec_fn=heed_signals,
        )
        self.path = self.process.stdout.readline().rstrip("\n")
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def status(self):
        """Returns the next line of state."""
        return self._lines.get(timeout=TIMEOUT)

    def now(self):
        """Returns the state at this moment: the lines that were printed before it are dropped."""
        while not self._lines.empty():
            self._lines.get()
        return self.status()

    def until(self, true):
        """Returns the first line of state of which something is true."""
        deadline = time.monotonic() + TIMEOUT
        while not true(status := self.status()):
            assert time.monotonic() < deadline
        return status

    def say(self, line):
        self.process.stdin.write(line + "\n")

    def ask(self, line):
        self.say(line)
        return self.status()

    def end(self, number):
        self.process.send_signal(number)
        code = self.process.wait(timeout=TIMEOUT)
        return code, self.process.stderr.read()


@pytest.fixture
def start():
    programs = []

    def start(*arguments):
        programs.append(Program(*arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.process.terminate()
        try:
            program.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            program.process.kill()
            program.process.wait()
        for stream in (program.process.stdin, program.process.stdout, program.process.stderr):
            stream.close()


def exchange(client, frame):
    client.write(frame.pack())
    return StateFrame.unpack(client.read(60))


@pytest.mark.realtime
def test_another_program_moves_the_arm(start):
    twin = start("--homed")
    assert Path(twin.path).exists()
    with serial.Serial(twin.path, 3_000_000, timeout=1.0, exclusive=True) as client:
        state = exchange(client, CommandFrame(Command.ENABLE))
        assert state.all_homed
        assert not state.estop_pressed
        target = np.array(state.position)
        np.testing.assert_allclose(target, steps_from_rad(HOME), atol=1)
        target[0] += 600
        for _ in range(50):
            state = exchange(client, CommandFrame(Command.MOVE, tuple(target.tolist())))
            time.sleep(0.005)
        np.testing.assert_allclose(state.position, target, atol=2)
        status = twin.ask("status")
        assert status["counters"] == list(state.position)
        assert (status["command"], status["disabled"], status["homed"]) == (int(Command.MOVE), False, True)
        home = np.rad2deg(HOME)
        assert status["joints"][1:] == pytest.approx(home[1:].tolist(), abs=0.5)
        assert abs(status["joints"][0] - home[0]) > 1.0

        # A fault that is switched on by hand shows on the wire.
        twin.say("estop on")
        assert twin.ask("status")["faults"] == {"estop": True}
        exchange(client, CommandFrame(Command.IDLE))
        assert exchange(client, CommandFrame(Command.IDLE)).estop_pressed
        twin.say("estop off")
        twin.say("  Silence   ON")
        twin.ask("status")
        client.timeout = 0.1
        time.sleep(0.02)
        client.reset_input_buffer()
        client.write(CommandFrame(Command.IDLE).pack())
        assert client.read(60) == b""
        twin.say("clear")
        twin.ask("status")
        parser = StateParser()
        client.write(CommandFrame(Command.IDLE).pack())
        client.timeout = 1.0
        (state,) = parser.feed(client.read(60))
        assert not state.estop_pressed
    # An unknown command gets a reply, and nothing else happens.
    for line in ("estp on", "estop", "dance", "delay_s fast", "estop 3", "camera_frozen on", "\x00\xff", "help"):
        twin.say(line)
    assert twin.ask("status")["faults"] == {}
    twin.say("quit")
    assert twin.process.wait(timeout=TIMEOUT) == 0
    printed = twin.process.stderr.read()
    assert twin.path in printed
    for word in ("Did you mean 'estop'?", "no command 'dance'", "fault='fast'", "NAME on|off"):
        assert word in printed
    assert not Path(twin.path).parent.exists()


@pytest.mark.realtime
def test_faults_by_the_clock_and_status_lines(start):
    twin = start("--status", "0.1", "--fault", "estop@0.5:0.6", "--fault", "delay_s=0.05", "--gripper", "pneumatic")
    twin.process.stdin.close()  # Its end does not end the board.
    first = twin.status()
    assert first["time"] < 0.3
    assert first["faults"] == {"delay_s": 0.05}
    assert (first["homed"], first["homing"], first["plugged"]) == (False, False, True)
    assert first["counters"] == [0] * 6, "as after every power-up"
    assert first["joints"] == pytest.approx([25, -105, 185, 10, 20, 210], abs=0.5), "where the arm really is"
    # Its links settle under their own weight at first.
    assert twin.until(lambda status: not status["moving"])["time"] < 0.9
    pressed = twin.until(lambda status: "estop" in status["faults"])
    assert 0.5 <= pressed["time"] < 0.9
    released = twin.until(lambda status: "estop" not in status["faults"])
    assert 1.1 <= released["time"] < 1.5
    assert twin.status()["time"] - released["time"] == pytest.approx(0.1, abs=0.09)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_end_it_and_leave_nothing_behind(start, number, code, word):
    twin = start()
    assert Path(twin.path).exists()
    ended, printed = twin.end(number)
    assert ended == code
    assert printed.splitlines()[-1] == f"smolvla-gym: {word}"
    assert "Traceback" not in printed
    assert not Path(twin.path).parent.exists()


STEPPER = """
import sys
import gymnasium as gym
import numpy as np
import smolvla_gym

env = gym.make(
    "PAROL6Real-v0", port=sys.argv[1], cameras=(), gripper="pneumatic", log=None,
    board_options={"feedback_timeout": 0.5},
)
observation, info = env.reset(seed=1)
action = env.action_space.high.copy()
action[:6] = observation["agent_pos"][:6]
action[0] -= 1.5
print("moving", flush=True)
for _ in range(400):
    _, _, terminated, truncated, info = env.step(action)
    assert not truncated, info
"""


@pytest.mark.slow
def test_a_killed_env_leaves_the_arm_at_rest_and_disabled(start):
    twin = start("--homed", "--gripper", "pneumatic", "--status", "0.05")
    program = subprocess.Popen(
        [sys.executable, "-c", STEPPER, twin.path], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
    )
    try:
        assert program.stdout.readline() == b"moving\n"
        begin = twin.now()["joints"][0]
        moving = twin.until(lambda status: status["moving"] and abs(status["joints"][0] - begin) > 8.0)
        assert not moving["disabled"]
        program.send_signal(signal.SIGKILL)
        program.wait()
        rest = twin.until(lambda status: status["disabled"] and not status["moving"])
        took = rest["time"] - moving["time"]
        print(f"at rest and disabled {took:.2f} s after SIGKILL")
        assert took < 2.0
        assert abs(rest["joints"][0] - begin) < 60.0, "it would have gone on to 86"
        later = twin.until(lambda status: status["time"] > rest["time"] + 0.5)
        assert later["disabled"]
        assert not later["moving"]
        assert later["joints"] == pytest.approx(rest["joints"], abs=0.2)
    finally:
        program.stdout.close()
        if program.returncode is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("estop", [FaultEvent(0.0, "estop", True)]),
        ("estop=off", [FaultEvent(0.0, "estop", False)]),
        ("estop@5", [FaultEvent(5.0, "estop", True)]),
        ("estop@5:2", [FaultEvent(5.0, "estop", True), FaultEvent(7.0, "estop", False)]),
        ("delay_s=0.05", [FaultEvent(0.0, "delay_s", 0.05)]),
        ("delay_s=0.05@.5:1e1", [FaultEvent(0.5, "delay_s", 0.05), FaultEvent(10.5, "delay_s", 0.0)]),
    ],
)
def test_faults_are_read(text, events):
    assert parse_fault(text) == events


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("estp", UnknownNameError, "Did you mean 'estop'"),
        ("", UnknownNameError, "Known: silence"),
        ("camera_frozen", UnknownNameError, "no fault 'camera_frozen'"),
        ("delay_s", OptionError, "a number of seconds"),
        ("delay_s=-1", OptionError, "a number of seconds"),
        ("delay_s=nan", OptionError, "a number of seconds"),
        ("estop=3", OptionError, "True or False"),
        ("estop=maybe", OptionError, "on, off or a number"),
        ("estop@", OptionError, "seconds"),
        ("estop@-1", OptionError, "seconds"),
        ("estop@1:", OptionError, "seconds"),
        ("estop@1:inf", OptionError, "seconds"),
        ("estop@nan", OptionError, "seconds"),
    ],
)
def test_faults_that_cannot_be(text, error, hint):
    with pytest.raises(error, match=hint):
        parse_fault(text)


@pytest.mark.parametrize(
    "line", ["--fault estp", "--gripper vacuum", "--status 0", "--status nan", "--fault estop@x", "--cameras"]
)
def test_wrong_arguments(capsys, line):
    assert main(["twin", *line.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("smolvla-gym")
