"""Check the seeds of the simulated scenes: unknown, or there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from smolvla_gym.data.checks.finding import Finding, finding
from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.seeds import SEEDS, read_seeds
from smolvla_gym.data.spec import ROBOT_TYPE
from smolvla_gym.errors import DatasetError


def check_seeds(info: DatasetInfo) -> Iterator[Finding]:
    """Find unknown seeds, as after a merge by LeRobot, and seeds that occur twice; for datasets of this arm only."""
    if info.robot_type != ROBOT_TYPE:
        return
    try:
        episodes = read_seeds(info.root, info.meta).get("episodes", [])
    except DatasetError as problem:
        yield finding("unreadable_file", str(problem))
        return
    if len(episodes) != info.total_episodes:
        yield finding(
            "seeds_unknown", f"meta/{SEEDS} has the seeds of {len(episodes)} of {info.total_episodes} episodes"
        )
    scenes = Counter((episode["seed"], str(episode.get("task"))) for episode in episodes)
    if twice := [(seed, count) for (seed, _), count in scenes.items() if count > 1]:
        yield finding(
            "seeds_repeated",
            f"the scene of seed {twice[0][0]} was recorded {twice[0][1]} times ({len(twice)} such seeds)",
        )
