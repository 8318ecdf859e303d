"""Every option of both ids with arbitrary values: accepted, or refused by an error that names the option."""

import inspect
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import smolvla_gym
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.make_real import make_real_env
from smolvla_gym.envs.make_sim import make_sim_env
from smolvla_gym.envs.real_options import RealOptions
from smolvla_gym.errors import OptionError, SmolVLAGymError, UnknownNameError

TWIN = {"port": "twin", "camera": "twin", "realtime": False, "cameras": (), "log": None}
FACTORIES = {smolvla_gym.SIM_ID: (make_sim_env, {"cameras": ()}), smolvla_gym.REAL_ID: (make_real_env, TWIN)}
NAMES = [(name, option) for name, (factory, _) in FACTORIES.items() for option in inspect.signature(factory).parameters]

numbers = st.one_of(
    st.integers(), st.sampled_from([10**400, 10**5000, -1, 0, 1, 2, 3, 30, 256]), st.floats(), st.booleans(),
    st.integers(-128, 127).map(np.int8), st.floats(width=32).map(np.float32), st.booleans().map(np.bool_),
)  # fmt: skip
texts = st.one_of(st.text(), st.sampled_from(["", " ", "30", "lift", "wrist", "twin", "ssg48", "rgb_array", "true"]))
scalars = st.one_of(st.none(), numbers, texts, texts.map(Path), st.binary(), st.builds(object))
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.lists(numbers, max_size=3).map(lambda v: np.array(v, dtype=object)),
    st.lists(st.integers(-9, 999), min_size=2, max_size=2).map(np.array),
    st.dictionaries(st.one_of(texts, st.integers()), scalars, max_size=2),
    st.sampled_from(["homed", "noise", "own_process", "exposure", "fps", "resolution", "hold_after", "invert_output"])
    .flatmap(lambda key: scalars.map(lambda value: {key: value})),
)  # fmt: skip


def defaults(name):
    factory, special = FACTORIES[name]
    return {option: p.default for option, p in inspect.signature(factory).parameters.items()} | special


def check(name, options):
    """Check options as both factories do before they build anything."""
    checked = EnvOptions.check(options)
    return (checked, RealOptions.check(options, checked)) if name == smolvla_gym.REAL_ID else (checked, None)


@pytest.mark.parametrize(("name", "option"), NAMES, ids=lambda value: str(value))
@given(value=values)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_value_is_taken_or_refused_with_a_sentence(name, option, value):
    error = None
    try:
        check(name, defaults(name) | {option: value})
    except SmolVLAGymError as refused:
        error = refused
    if error is None:
        return
    assert isinstance(error, OptionError | UnknownNameError)
    assert isinstance(error, ValueError)
    text = str(error)
    assert len(text) < 800
    assert "\n" not in text
    known = error.option if isinstance(error, OptionError) else error.kind
    # A part of an option is named by itself; a switch of the environment may not fit another option.
    parts = list(map(str, value)) if isinstance(value, dict) else []
    assert any(word in known for word in (option, option.removesuffix("s"), *parts, "realtime", "camera")), text


@pytest.mark.parametrize("name", FACTORIES)
def test_gym_make_refuses_before_it_builds_anything(name, monkeypatch):
    def build(*_, **__):
        raise AssertionError("something was built")

    for module in ("make_sim", "make_real", "make_twin"):
        for part in ("World", "Twin", "BoardProcess", "RealSenseCamera"):
            monkeypatch.setattr(f"smolvla_gym.envs.{module}.{part}", build, raising=False)
    _, special = FACTORIES[name]
    for option in inspect.signature(FACTORIES[name][0]).parameters:
        bad = {1: 2}  # of no type that any option has
        with pytest.raises((OptionError, UnknownNameError)):
            gym.make(name, **{**special, option: bad})


MEANT = {
    "image_size": np.array([32, 48]), "control_hz": np.float32(50), "randomization": np.int64(0), "depth": np.False_,
    "num_objects": np.uint8(3), "cameras": np.array(["wrist"]), "task": np.str_("reach"), "max_episode_s": np.int8(2),
    "privileged": np.True_,
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORIES)
def test_numpys_values_are_taken_for_what_is_meant(name):
    real = {
        "speed_scale": np.float32(0.5), "workspace": np.array([[-0.5, -0.5, 0.0], [0.5, 0.5, 0.7]]), "home": np.True_,
        "twin_options": {"homed": np.True_, "noise": np.float32(0)}, "board_options": {"hold_after": np.float32(0.5)},
        "camera_options": {"fps": np.int32(30), "exposure": np.int64(8000), "resolution": np.array([640, 480])},
    }  # fmt: skip
    _, special = FACTORIES[name]
    options = {**special, **MEANT, **(real if name == smolvla_gym.REAL_ID else {})}
    with gym.make(name, **options) as env:
        observation, _ = env.reset(seed=0)
        env.step(env.action_space.sample())
        assert observation["pixels"]["wrist"].shape == (32, 48, 3)
        assert env.spec.max_episode_steps == 100


def arm(**given):
    return check(smolvla_gym.REAL_ID, {**defaults(smolvla_gym.REAL_ID), "realtime": True, **given})[1]


def test_cameras_are_named_by_text_or_number():
    both = ("wrist", "scene")
    real = {"port": Path("/dev/ttyACM0"), "cameras": ("wrist",)}
    assert arm(**real, camera=123456789012).serials == {"wrist": "123456789012"}
    assert arm(**real, camera=np.int64(5)).serials == {"wrist": "000000000005"}
    assert arm(**real, camera=None).serials == {"wrist": None}
    assert arm(**real, camera=None).port == "/dev/ttyACM0"
    serials = arm(**{**real, "cameras": both}, camera={"wrist": 123456789012, "scene": "1"}).serials
    assert serials == {"wrist": "123456789012", "scene": "1"}
    with pytest.raises(OptionError, match=r'camera\["wrist"\]=1\.5'):
        arm(**real, camera={"wrist": 1.5})


def test_an_exposure_is_no_longer_than_a_frame():
    assert arm(camera_options={"exposure": 33333}).camera.exposure == 33333
    for options, numbers in (
        ({"exposure": 33334}, "33334 us.*33333 us at 30"),
        ({"exposure": 12000, "fps": 90}, "11111"),
    ):
        with pytest.raises(OptionError, match=numbers):
            arm(camera_options=options)


def test_ground_truth_is_for_scenes_that_know_it():
    with pytest.raises(OptionError, match="privileged=True"):
        arm(port="/dev/ttyACM0", camera=None, privileged=True)
    with pytest.raises(OptionError, match="privileged=True"):
        gym.make(smolvla_gym.REAL_ID, port="/dev/ttyNONE", privileged=True)


def test_without_a_home_folder_the_log_is_left_out(monkeypatch, capsys):
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert arm(log="auto").log is None
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert arm(log="auto").log is None
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert arm(log="auto").log == Path("/state/smolvla_gym/parol6.jsonl")


def test_the_log_may_lie_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert arm(log="~/arm.jsonl").log == Path("/home/me/arm.jsonl")
    with pytest.raises(OptionError, match="log="):
        arm(log="~nobody-of-this-name/arm.jsonl")


def test_an_instruction_is_for_an_arm_whose_scene_has_none():
    assert arm(port="/dev/ttyACM0", camera=None, instruction="wave\n").instruction == "wave"
    with pytest.raises(OptionError, match="instruction="):
        arm(port="twin", instruction="wave")
    with pytest.raises(OptionError, match="instruction="):
        arm(port="/dev/ttyACM0", camera=None, instruction="wave\x7f")
