"""Options of ``env.reset``: obeyed exactly, or refused before anything moves, by every backend alike."""

from __future__ import annotations

import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smolvla_gym
from smolvla_gym.drivers.board.state import BoardState, Mode
from smolvla_gym.envs.backends.approach import Approach
from smolvla_gym.envs.backends.twin import TwinBackend
from smolvla_gym.envs.reset_options import ARM_OPTIONS, SCENE_OPTIONS, ResetOptions
from smolvla_gym.errors import FaultError, OptionError, UnknownNameError
from smolvla_gym.parol6 import GRIPPERS, HOME, JOINT_LOWER, JOINT_UPPER, STANDBY
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.parol6.protocol import Command
from smolvla_gym.safety import Violation
from smolvla_gym.safety.collision import CollisionGuard
from smolvla_gym.sim.world import start_pose
from tests.envs.twin_rig import Tap, drive, make_twin

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

SSG48 = GRIPPERS["ssg48"]
IN_TABLE = [-0.6, -0.3, 2.5, 0.5, -1.5, 3.0]
IN_ITSELF = np.deg2rad([-20, -120, 110, 60, -70, 230])


def make(name):
    if name == "twin":
        return make_twin()
    return gym.make(smolvla_gym.SIM_ID, cameras=(), max_episode_steps=-1)


@pytest.fixture(scope="module", params=["sim", pytest.param("twin", marks=needs_pty)])
def env(request):
    env = make(request.param)
    env.reset(seed=0, options={"joints": STANDBY})
    yield env
    env.close()


@pytest.fixture
def twin():
    if sys.platform == "win32":
        pytest.skip("needs a pseudo-terminal")
    with make_twin() as env:
        yield env


class Obstacle:
    """Collision check that also refuses the joint angles for which a test says so."""

    def __init__(self, name, hit):
        self._violation, self._hit, self._guard = Violation("collision", name), hit, CollisionGuard("ssg48")

    def violations(self, joints, opening):
        return {self._violation: 0.01} if self._hit(joints) else self._guard.violations(joints, opening)


def angles(env):
    backend = env.unwrapped.backend
    world = backend.twin.world if isinstance(backend, TwinBackend) else backend.world
    return world.measured_joints


def refused(env, options, kind=OptionError):
    """The episode goes on as if nothing had been asked for."""
    backend = env.unwrapped.backend
    before, layout, drawn = angles(env), backend.stage.layout, env.unwrapped.np_random.bit_generator.state
    instruction = env.unwrapped.task_description
    with pytest.raises(kind) as error:
        env.reset(seed=9, options=options)
    np.testing.assert_array_equal(angles(env), before)
    assert backend.stage.layout is layout
    assert env.unwrapped.task_description == instruction
    assert env.unwrapped.np_random.bit_generator.state == drawn
    return error.value


# -- single options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["false", "no", "0", "", "yes", 0, 1, 1.0, None, [], [True], np.array([True, False])])
def test_home_is_true_or_false(env, value):
    assert refused(env, {"home": value}).option == 'options["home"]'


def test_home_may_be_numpys(env):
    assert ResetOptions.check({"home": np.True_}, SSG48).home is True
    assert ResetOptions.check({"home": np.bool_(False)}, SSG48).home is False


@pytest.mark.parametrize(
    "options",
    [
        {"joints": list("123456")}, {"joints": STANDBY * (1 + 1j)}, {"joints": [True] * 6}, {"joints": [10**400] * 6},
        {"joints": [[0.0], [1.0, 2.0]]}, {"joints": STANDBY[None]}, {"joints": STANDBY + np.inf}, {"joints": set()},
        {"joints": np.rad2deg(STANDBY)}, {"opening": True}, {"opening": "0.5"}, {"opening": [0.5]}, {"opening": -1e-3},
        {"instruction": "a\nb"}, {"instruction": "a\x00"}, {"instruction": "\ud800"}, {"instruction": "a" * 1001},
        {"instruction": "a\u2028b"}, {"instruction_template": "the\n{color}"},
        {"instruction": " "}, {"instruction": None}, {"instruction": b"go"}, {"target": ["red"]}, {"target": ""},
        {"target": np.array(["red", "blue"])}, {"target": "mauve"}, {"instruction_template": 3},
        *({"instruction_template": template} for template in (
            "lift it", "the {color} {color.x}", "the {color} {color:>99999}", "the {color} {0}", "the {color} {",
            "the {color} {color!r}",
        )),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(env, options):
    (name,) = options
    assert refused(env, options).option == f'options["{name}"]'


@pytest.mark.parametrize("options", [{"joint": STANDBY}, {"Home": True}, {"seed": 3}, {3: 4}, {None: None}])
def test_an_option_that_does_not_exist_is_named(env, options):
    error = refused(env, options, UnknownNameError)
    assert error.name == next(iter(options))
    assert error.known == SCENE_OPTIONS


def test_a_real_arm_has_no_scene_to_choose_from():
    for name in ("target", "instruction_template"):
        with pytest.raises(UnknownNameError, match=name):
            ResetOptions.check({name: "red"}, SSG48, ARM_OPTIONS)


@pytest.mark.parametrize("options", ["home", ["home"], 3, True])
def test_options_are_a_dictionary(env, options):
    refused(env, options)


def test_an_instruction_holds_for_one_episode(env):
    drawn = env.reset(seed=0, options={"joints": STANDBY})[1]["instruction"]
    given = {"joints": STANDBY, "instruction": "wave\n", "home": False}
    assert env.reset(seed=0, options=given)[1]["instruction"] == "wave"
    assert env.unwrapped.task_description == "wave"
    assert env.reset(seed=0, options={"joints": STANDBY})[1]["instruction"] == drawn


# -- any options -------------------------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(max_size=8),
    st.binary(max_size=4), st.lists(st.floats(width=32), max_size=7), st.lists(st.text(max_size=2), max_size=3),
    st.just(np.array(0.5)),
)  # fmt: skip
NEAR = st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6).map(lambda by: STANDBY + np.array(by))
FAR = st.lists(st.floats(0, 1), min_size=6, max_size=6).map(
    lambda s: JOINT_LOWER + np.array(s) * (JOINT_UPPER - JOINT_LOWER)
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "joints": st.one_of(ANYTHING, NEAR, FAR),
        "opening": st.one_of(ANYTHING, st.floats(0, 1)),
        "home": st.one_of(ANYTHING, st.just(False)).filter(lambda value: value is not True),
        "instruction": st.one_of(ANYTHING, st.just("wave")),
        "target": st.one_of(ANYTHING, st.sampled_from(["red", "green", "blue", "yellow"])),
        "instruction_template": st.one_of(ANYTHING, st.just("lift the {color} cube")),
        "hoem": ANYTHING,
    },
)


@settings(max_examples=40, deadline=None)
@given(OPTIONS)
def test_any_options_are_obeyed_exactly_or_refused(env, options):
    try:
        ResetOptions.check(options, SSG48)
    except (OptionError, UnknownNameError) as error:
        refused(env, options, type(error))
        return
    before, layout = angles(env), env.unwrapped.backend.stage.layout
    try:
        observation, info = env.reset(seed=9, options=options)
    except (OptionError, FaultError):  # nothing of that colour, a start pose in the table, or no way to it
        np.testing.assert_array_equal(angles(env), before)
        if not isinstance(env.unwrapped.backend, TwinBackend):
            assert env.unwrapped.backend.stage.layout is layout
        return
    joints, opening = options.get("joints", start_pose(SSG48)), options.get("opening", 1.0)
    np.testing.assert_allclose(observation["agent_pos"][:6], joints, atol=2e-3)
    np.testing.assert_allclose(observation["agent_pos"][6], opening, atol=0.05)
    assert "instruction" not in options or info["instruction"] == options["instruction"].rstrip("\r\n")
    if options.get("target") is not None:
        layout = env.unwrapped.backend.stage.layout
        assert layout.colors[layout.target] == options["target"]


# -- start poses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pose", [IN_TABLE, IN_ITSELF], ids=["table", "itself"])
def test_a_start_pose_in_the_table_or_in_the_arm_itself_is_refused(env, pose):
    error = refused(env, {"joints": pose})
    assert error.option == 'options["joints"]'
    assert "gripper" in error.allowed or "table" in error.allowed


def test_a_start_pose_in_an_object_is_refused(env):
    env.reset(seed=4, options={"joints": STANDBY})
    layout = env.unwrapped.backend.stage.layout
    spot, yaw = layout.positions[0], float(layout.yaws[0])
    across = solve(spot + np.array([0, 0, 0.012]), yaw + np.pi / 4, SSG48)
    before = angles(env)
    with pytest.raises(OptionError, match=f"the arm and the {layout.colors[0]} cube"):
        env.reset(seed=4, options={"joints": across, "opening": 0.0})
    np.testing.assert_array_equal(angles(env), before)
    assert env.unwrapped.backend.stage.layout is layout
    # Above it, and around it, the arm may begin.
    for height, opening in ((0.06, 0.0), (0.0, 1.0)):
        env.reset(seed=4, options={"joints": solve(spot + np.array([0, 0, height]), yaw, SSG48), "opening": opening})


def test_an_arm_may_begin_where_it_stands(twin):
    twin.reset(seed=0, options={"joints": HOME})
    link = twin.unwrapped.backend.link
    here = link.state().joints
    twin.unwrapped.backend.approach.guard = Obstacle("the table and the arm", lambda joints: True)
    twin.reset(seed=0, options={"joints": here})
    with pytest.raises(OptionError, match="the table and the arm"):
        twin.reset(seed=0, options={"joints": here + 0.1})


# The straight way from the first to the second leads through the arm itself or the table.
AROUND = [-2.0, -0.09, 4.45, -1.39, 1.09, 1.62], [-1.09, -0.62, 4.26, 1.27, -1.14, 4.7]


def test_the_arm_drives_around_what_is_in_its_way(twin):
    first, second = AROUND
    twin.reset(seed=0, options={"joints": first})
    tap = Tap(twin)
    observation, _ = twin.reset(seed=0, options={"joints": second})
    np.testing.assert_allclose(observation["agent_pos"][:6], second, atol=2e-3)
    guard = twin.unwrapped.backend.approach.guard
    assert all(not guard.violations(joints.tolist(), 1.0) for _, joints in tap.path)
    tap.check_limits()


def test_where_no_way_is_free_nothing_moves(twin):
    twin.reset(seed=0, options={"joints": HOME})
    for _ in range(3):
        twin.step(np.append(HOME, 1.0).astype(np.float32))
    backend, before = twin.unwrapped.backend, angles(twin)
    # A wall that the elbow would have to pass.
    backend.approach.guard = Obstacle("the wall and the link2", lambda joints: 0.5 < joints[0] < 0.6)
    with pytest.raises(FaultError, match=r"the wall and the link2.*Nothing moved"):
        twin.reset(seed=0)
    np.testing.assert_array_equal(angles(twin), before)
    assert backend.link.state().fault is None


def test_a_moving_arm_comes_to_rest_before_its_way_is_looked_for(twin):
    twin.reset(seed=0, options={"joints": HOME})
    drive(twin, 0.4, np.append(HOME - [1.0, 0, 0, 0, 0, 0], 1.0))
    observation, _ = twin.reset(seed=0)
    np.testing.assert_allclose(observation["agent_pos"][:6], start_pose(SSG48), atol=2e-3)


# -- homing an arm that is homed ---------------------------------------------------------------------------------------


def contacts(tap):
    """Lists what the arm touches in the physics, from now on."""
    world, found = tap.twin.world, set()
    see = world.drive

    def drive_and_look(motors, opening):
        see(motors, opening)
        for pair in world.data.contact.geom[: world.data.ncon]:
            names = [world.model.body(int(world.model.geom_bodyid[geom])).name for geom in pair]
            if not any(name.startswith("object") for name in names):
                found.add(" and ".join(sorted(names)))

    world.drive = drive_and_look
    return found


@pytest.mark.slow
def test_homing_again_from_a_working_pose_drives_to_a_safe_pose_first(twin):
    twin.reset(seed=0)
    tap = Tap(twin)
    found = contacts(tap)
    twin.reset(seed=0, options={"home": True})
    commands = [frame.command for _, frame in tap.frames]
    assert Command.MOVE in commands[: commands.index(Command.HOME)]
    assert found == set()
    np.testing.assert_allclose(angles(twin), start_pose(SSG48), atol=0.01)


def test_homing_again_from_a_pose_that_is_safe_begins_at_once(twin):
    twin.reset(seed=0, options={"joints": HOME})
    backend = twin.unwrapped.backend
    state = backend.link.state()
    assert backend.approach.route_to_homing(state) == []
    (pose,) = backend.approach.route_to_homing(replace(state, commanded=start_pose(SSG48)))
    np.testing.assert_array_equal(pose, HOME)


def test_homing_with_an_object_in_the_gripper_is_refused(twin):
    twin.reset(seed=3)
    tap = Tap(twin)
    stage = tap.backend.stage
    for _ in range(150):
        _, _, done, _, _ = twin.step(twin.unwrapped.expert_action())
        if done:
            break
    assert stage.world.grasped(stage.layout.target)
    drive(twin, 1.0, np.append(tap.backend.commanded, 0.0))
    before = angles(twin)
    with pytest.raises(FaultError, match="may hold an object"):
        twin.reset(seed=3, options={"home": True})
    assert np.abs(angles(twin) - before).max() < 1e-3
    assert Command.HOME not in [frame.command for _, frame in tap.frames]


def test_homing_is_refused_where_no_safe_pose_can_be_reached(twin):
    twin.reset(seed=0)
    backend, before = twin.unwrapped.backend, angles(twin)
    backend.approach.guard = Obstacle("the lamp and the link3", lambda joints: joints[2] > 3.1)
    tap = Tap(twin)
    with pytest.raises(FaultError, match=r"Homing is refused.*Nothing moved"):
        twin.reset(seed=0, options={"home": True})
    np.testing.assert_array_equal(angles(twin), before)
    assert Command.HOME not in [frame.command for _, frame in tap.frames]
    assert backend.link.state().mode is Mode.READY


def test_a_closed_air_gripper_may_hold_something():
    approach = Approach(GRIPPERS["pneumatic"], CollisionGuard("pneumatic"), 1.0)
    state = BoardState(mode=Mode.READY, commanded=HOME, joints=HOME, homed=True)
    assert approach.route_to_homing(replace(state, opening=1.0)) == []
    with pytest.raises(FaultError, match="may hold an object"):
        approach.route_to_homing(replace(state, opening=0.0))
    # A driver that has just begun knows nothing of the valve.
    assert approach.route_to_homing(replace(state, opening=0.0, mode=Mode.DISABLED)) == []
