"""Timing of the control loop, on the virtual arm in real time."""

import json
import sys
import time

import av
import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.episodes.cadence import Cadence, describe, watch_link
from smolvla_gym.episodes.rollout import rollout


def test_the_statistics_of_steps():
    cadence = Cadence()
    assert cadence.report() == {}
    assert describe(cadence.report(), None, 30) == ""
    for late in [0.0] * 97 + [0.0009, 0.0011, 0.05]:
        cadence.add({"step": 1 / 30 + late, "agent": 0.01 + late, "late": late})
    assert len(cadence) == 100
    report = cadence.report()
    assert (report["steps"], report["over_budget"]) == (100, 2)
    assert report["rate_hz"] == pytest.approx(100 / (100 / 30 + 0.052), abs=1e-5)
    assert report["worst_step_s"] == pytest.approx(1 / 30 + 0.05, abs=1e-6)
    assert report["worst_late_s"] == 0.05
    assert (report["step_p50_s"], report["agent_p50_s"]) == (pytest.approx(1 / 30, abs=1e-6), 0.01)
    assert report["agent_p99_s"] == pytest.approx(np.percentile([0.01] * 97 + [0.0109, 0.0111, 0.06], 99), abs=1e-6)
    link = {"serial_hz": 99.96, "ticks": 333, "replies": 331, "late_ticks": 2, "worst_lateness_s": 0.0123}
    lines = describe(report, link, 30.0).splitlines()
    assert lines[0].startswith("Cadence: 29.54 Hz of 30, worst step 83.3 ms, 2 of 100 steps over budget")
    assert lines[2] == "Link:    serial 100.0 Hz, 331 replies in 333 ticks, 2 late ticks, worst lateness 12.3 ms"
    assert all(type(value) in (int, float) for value in report.values())


def test_a_simulation_has_no_cadence():
    env = gym.make(smolvla_gym.SIM_ID, task="reach", cameras=(), max_episode_steps=3)
    summary = rollout(env, ExpertAgent()).to_dict()
    assert watch_link(env) is None
    assert "cadence" not in summary
    assert "link" not in summary
    assert "cadence" not in summary["episodes"][0]
    env.close()


class Slow(ExpertAgent):
    """Takes too long at two steps: a little, and longer than a whole step."""

    steps = 0

    def act(self, observation):
        self.steps += 1
        time.sleep({10: 0.06, 20: 0.2}.get(self.steps, 0.0))
        return super().act(observation)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.realtime
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_rollout_in_real_time(tmp_path):
    pytest.importorskip("serial")
    env = gym.make(
        smolvla_gym.REAL_ID, port="twin", camera="twin", task="reach", cameras=("wrist", "scene"),
        image_size=(128, 160), gripper="pneumatic", log=None, twin_options={"homed": True}, max_episode_steps=30,
        render_mode="rgb_array",
    )  # fmt: skip
    drawn = []
    env.unwrapped.backend.render = lambda: drawn.append(1)
    seen = []

    class Watching(Slow):
        def act(self, observation):
            seen.append(observation["pixels"]["scene"])
            return super().act(observation)

    try:
        summary = rollout(env, Watching(), out=tmp_path)
    finally:
        env.close()
    (episode,) = summary.episodes
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved == summary.to_dict()
    cadence = saved["cadence"]
    assert cadence == saved["episodes"][0]["cadence"]
    assert cadence["steps"] == episode.steps - 1
    assert cadence["over_budget"] >= 2
    assert cadence["worst_late_s"] > 0.15, "a step that is late by more than a period is not forgotten"
    assert cadence["worst_step_s"] > 0.19
    assert 15.0 < cadence["rate_hz"] < 30.0
    assert saved["link"]["serial_hz"] > 50.0
    assert saved["link"]["replies"] > 50
    # The video cost nothing while the episode ran: it is made of what the cameras saw.
    assert drawn == []
    with av.open(str(tmp_path / "rollout.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == episode.steps + 1
    height = frames[0].shape[0]
    assert height > 480, "a caption below"
    assert frames[0].shape[1] == 1200, "the scene, and the wrist view beside it"
    for index in (0, len(seen) - 1):
        video = frames[index][200:400:8, 300:580:8].astype(int)
        rows = np.arange(200, 400, 8) * 128 // 480
        columns = np.arange(300, 580, 8) * 160 // 600
        assert np.abs(video - seen[index][np.ix_(rows, columns)]).mean() < 8
