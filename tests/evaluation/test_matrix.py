"""The matrix of an evaluation: its conditions, its table and its plot."""

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.evaluation.conditions import Condition, Outcome
from smolvla_gym.evaluation.matrix import matrix_conditions, plot, table
from smolvla_gym.evaluation.summary import summarise


def rows_of(conditions, seeds=20):
    outcomes = [Outcome(seed, "lift it", bool(seed % 4), 30, AgentStatistics()) for seed in range(seeds)]
    return [summarise(condition, outcomes, 30.0) for condition in conditions]


@pytest.mark.parametrize(
    ("cameras", "absent", "alone"),
    [
        (("wrist", "scene"), 0, []),
        (("wrist", "scene"), 1, ["wrist alone", "scene alone"]),
        (("wrist",), 0, []),
        (("wrist",), 1, []),
        (("wrist", "scene", "side"), 1, []),
        (("scene", "side"), 1, ["scene alone"]),
    ],
)
def test_a_camera_alone_is_a_line_where_the_policy_allows_it(cameras, absent, alone):
    conditions = matrix_conditions(["lift", "stack"], "auto", None, cameras, absent)
    assert [name for name in dict.fromkeys(conditions.values()) if "alone" in name] == alone
    assert all((condition.cameras is not None) == ("alone" in name) for condition, name in conditions.items())


def test_each_condition_comes_back_from_its_keys():
    conditions = matrix_conditions(["lift"], "rtc", 3, ("wrist", "scene"), 1)
    assert [Condition.from_dict(condition.to_dict()) for condition in conditions] == list(conditions)


def test_the_table_and_the_plot(tmp_path):
    conditions = matrix_conditions(["lift", "stack"], "auto", None, ("wrist", "scene"), 1)
    rows, names = rows_of(conditions), list(conditions.values())
    heads, *lines = table(rows, names)
    assert heads == ("condition", "lift", "stack")
    assert lines[0] == ("no latency", "75 (53-89)", "75 (53-89)")
    assert [line[0] for line in lines] == list(dict.fromkeys(names))
    # A task may have fewer lines than another.
    assert table(rows[:-1], names[:-1])[-1] == ("scene alone", "75 (53-89)", "-")
    plot(rows[:-1], names[:-1], tmp_path / "matrix.png", "made")
    assert (tmp_path / "matrix.png").stat().st_size > 10_000
