"""The statistics of an episode are readable."""

import numpy as np

from smolvla_gym.agent.chunk_statistics import AgentStatistics


def test_they_are_one_line_however_long_the_episode():
    statistics, before = AgentStatistics(), None
    for step in range(5000):
        action = np.full(7, 0.001 * step, np.float32)
        statistics.record(before, action, border=step % 8 == 0)
        statistics.delays.append(step % 3)
        before = action
    printed = str(statistics)
    assert "\n" not in printed
    assert len(printed) < 300
    assert "steps=5000" in printed
    assert "max_delay=2" in printed
    assert repr(statistics) == f"{statistics}" == printed
    assert str(AgentStatistics()).startswith("AgentStatistics(steps=0")
