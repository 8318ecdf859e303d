"""Objects of MJCF files, and files that do more than describe one."""

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.own_table import read_table

trimesh = pytest.importorskip("trimesh")

HAMMER = """<mujoco model="hammer"><asset><mesh name="head" file="head.stl"/></asset><worldbody>
<body name="hammer" pos="1 2 3"><freejoint/><geom type="box" size=".035 .008 .008" rgba=".6 .4 .2 1" mass=".02"/>
<body name="top" pos=".035 0 0"><geom type="mesh" mesh="head" euler="90 0 0" mass=".04"/></body></body>
</worldbody></mujoco>"""


def read(folder, text):
    (folder / "parts").mkdir(exist_ok=True)
    trimesh.creation.cylinder(0.009, 0.04).export(folder / "parts" / "head.stl")
    (folder / "parts" / "part.xml").write_text(text)
    (folder / "table.toml").write_text('[[objects]]\nname = "hammer"\nmjcf = "parts/part.xml"\nadjectives = ["old"]\n')
    return read_table(folder / "table.toml")


def test_the_body_lies_on_the_table_and_is_lifted(tmp_path):
    table = read(tmp_path, HAMMER)
    (hammer,) = table.objects
    assert hammer.mass == pytest.approx(0.06)
    assert hammer.radius == pytest.approx(0.045, abs=0.003)
    env = gym.make("PAROL6Sim-v0", task="lift", table=table, num_objects=1, randomization=2, cameras=()).unwrapped
    lifted = 0
    for seed in range(3):
        _, info = env.reset(seed=seed)
        assert "old hammer" in info["instruction"]
        assert env.backend.world.half_height(0) == pytest.approx(0.009, abs=0.001)
        for _ in range(300):
            *_, terminated, _, info = env.step(env.expert_action())
            if terminated:
                break
        lifted += info["is_success"]
    assert lifted >= 2
    env.close()


@pytest.mark.parametrize(
    "text",
    [
        "no xml",
        HAMMER.replace("<asset>", "<include file='x.xml'/><asset>"),
        HAMMER.replace("<asset>", "<extension><plugin plugin='p'/></extension><asset>"),
        HAMMER.replace("<asset>", "<compiler meshdir='/etc'/><asset>"),
        HAMMER.replace("<asset>", "<option gravity='0 0 9'/><asset>"),
        HAMMER.replace("head.stl", "../../head.stl"),
        HAMMER.replace("head.stl", "/etc/passwd"),
        HAMMER.replace("head.stl", "missing.stl"),
        HAMMER.replace("<freejoint/>", "<joint type='hinge'/>"),
        HAMMER.replace("</worldbody>", "<light/></worldbody>"),
        HAMMER.replace("</worldbody>", "<body/></worldbody>"),
        HAMMER.replace('mass=".04"', 'mass="40"'),
        HAMMER.replace(".035 .008 .008", "1 1 1"),
        HAMMER.replace(".035 .008 .008", "nan 1 1"),
        '<!DOCTYPE a [<!ENTITY b "c">]>' + HAMMER,
        "<mujoco>" * 4000,
    ],
)
def test_a_file_that_does_more_is_refused(tmp_path, text):
    with pytest.raises(OptionError) as caught:
        read(tmp_path, text)
    assert caught.value.option == "table.toml: objects[0].mjcf"


def test_keys_that_the_file_has_itself_are_refused(tmp_path):
    read(tmp_path, HAMMER)
    path = tmp_path / "table.toml"
    path.write_text(path.read_text() + "mass = 0.1\n")
    with pytest.raises(OptionError, match="mass"):
        read_table(path)


def test_the_same_file_gives_the_same_object(tmp_path):
    first, second = read(tmp_path, HAMMER).objects[0], read(tmp_path, HAMMER).objects[0]
    assert np.array_equal(first.frame[1], second.frame[1])
