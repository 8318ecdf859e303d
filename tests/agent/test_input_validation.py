"""Any input of a policy is handled correctly or refused at once, and the arm does not move."""

import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smolvla_gym.agent.input_validation import check_observation, check_spaces, check_state
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, PolicyCard
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.agent.warm_up import make_warm_up_observation
from smolvla_gym.errors import ObservationError, PolicyMismatchError, SmolVLAGymError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, STANDBY

SIZES = {"wrist": (16, 16), "scene": (12, 16)}
CARD = PolicyCard("policy", SIZES, {"wrist": "wrist", "scene": "scene"}, 16, 8, 5, 32, "cpu")
STATE = np.append(STANDBY, 0.5).astype(np.float32)


def observe(**changes):
    return make_warm_up_observation(CARD, SIZES) | changes


def images(**changes):
    return observe(pixels={name: np.zeros((*size, 3), np.uint8) for name, size in SIZES.items()} | changes)


def test_a_valid_observation_is_unchanged():
    observation = images()
    checked = check_observation(CARD, observation | {"pixels": observation["pixels"] | {"other": "anything"}})
    assert set(checked["pixels"]) == {"wrist", "scene"}
    assert checked["pixels"]["wrist"] is observation["pixels"]["wrist"]
    assert checked["agent_pos"] is observation["agent_pos"]


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((16, 16, 3), np.float32), "float32"),
        (np.zeros((16, 16, 3), np.int16), "int16"),
        (np.zeros((16, 16, 3), bool), "bool"),
        ([[[0, 0, 0]]], "int64"),
        (np.zeros((3, 16, 16), np.uint8), "channels first"),
        (np.zeros((1, 16, 16, 3), np.uint8), "batch"),
        (np.zeros((16, 16, 4), np.uint8), "4 channels"),
        (np.zeros((16, 16), np.uint8), "no colours"),
        (np.zeros((16, 0, 3), np.uint8), "shape"),
        (np.zeros((12, 16, 3), np.uint8), "proportions of 16 x 16"),
        (None, "object"),
        ([[1], [2, 3]], "type list"),
        ("image.png", "<U9"),
    ],
)
def test_images_of_another_kind_are_refused(image, word):
    with pytest.raises(ObservationError, match=word) as refused:
        check_observation(CARD, images(wrist=image))
    assert "'wrist'" in str(refused.value)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (np.append(np.rad2deg(STANDBY), 50), "joint_3 = 180.*gripper = 50.*degrees"),
        (np.append(STANDBY, 50), "gripper = 50.*percent"),
        (np.append(STANDBY, -0.5), "gripper = -0.5"),
        (np.append(STANDBY, np.nan), "gripper = nan"),
        (np.append(STANDBY + np.inf, 0), "not finite"),
        (STATE[None], "batch"),
        (STATE[:6], r"shape \(6,\)"),
        (STATE.astype(np.int64), "int64"),
        (STATE.astype(complex), "complex"),
        (["a"] * 7, "<U1"),
        (None, "no 'agent_pos'"),
        (1e300 * np.ones(7), "joint_1 = 1e"),
    ],
)
def test_states_of_another_unit_or_kind_are_refused(state, word):
    with pytest.raises(ObservationError, match=word):
        check_observation(CARD, observe(agent_pos=state))


def test_states_may_overshoot_and_be_of_any_float():
    for joints in (JOINT_LOWER - 0.1, JOINT_UPPER + 0.1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checked = check_state(np.append(joints, 1.05).tolist())
        assert checked.dtype == np.float32


def test_a_pose_out_of_reach_is_warned_about():
    with pytest.warns(UserWarning, match="joint_3"):
        check_state(np.zeros(7, np.float32))  # such as of an arm whose zero is its standby pose


@pytest.mark.parametrize("observation", [None, [], {}, {"pixels": {}}, {"pixels": 3, "agent_pos": STATE}])
def test_other_objects_are_refused(observation):
    with pytest.raises(PolicyMismatchError):
        check_observation(CARD, observation)


def test_spaces_promise_images_of_bytes():
    action = gym.spaces.Box(-4, 4, (7,), np.float32)
    state = gym.spaces.Box(-7, 7, (7,), np.float32)

    def space(dtype, high):
        pixels = {name: gym.spaces.Box(0, high, (*size, 3), dtype) for name, size in SIZES.items()}
        return gym.spaces.Dict({"pixels": gym.spaces.Dict(pixels), "agent_pos": state})

    assert set(check_spaces(CARD, space(np.uint8, 255), action)) == {"wrist", "scene"}
    with pytest.raises(ObservationError, match="float32"):
        check_spaces(CARD, space(np.float32, 1), action)
    with pytest.raises(PolicyMismatchError):
        check_spaces(CARD, gym.spaces.Dict({"agent_pos": state, "pixels": gym.spaces.Discrete(3)}), action)


def test_enlarging_is_warned_about():
    state, action = gym.spaces.Box(-7, 7, (7,), np.float32), gym.spaces.Box(-4, 4, (7,), np.float32)
    for scale, warned in ((0.5, 2), (1, 0), (4, 0)):
        sizes = {name: (int(scale * height), int(scale * width)) for name, (height, width) in SIZES.items()}
        pixels = {name: gym.spaces.Box(0, 255, (*size, 3), np.uint8) for name, size in sizes.items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_spaces(CARD, gym.spaces.Dict({"pixels": gym.spaces.Dict(pixels), "agent_pos": state}), action)
        assert len([w for w in caught if "enlarged" in str(w.message)]) == warned


def test_the_check_is_cheap():
    observation = images()
    began = time.perf_counter()
    for _ in range(200):
        check_observation(CARD, observation)
    assert time.perf_counter() - began < 0.5  # 0.03 ms each are usual, and a control step has 33


def test_missing_cameras_are_left_out_where_the_checkpoint_allows_it():
    cameras = SIZES | {"camera3": (16, 16)}
    fields = (cameras, {name: name for name in cameras}, 16, 8, 5, 32, "cpu")
    strict, lax = PolicyCard("strict", *fields), PolicyCard("lax", *fields, empty_cameras=1)
    with pytest.raises(PolicyMismatchError, match=r"camera_map=\{'camera3': None\}"):
        check_observation(strict, images())
    for checked in (check_observation(lax, images()), check_observation(strict, images(), {"camera3"})):
        assert set(checked["pixels"]) == {"wrist", "scene"}
    only = observe(pixels={"wrist": np.zeros((16, 16, 3), np.uint8)})
    with pytest.raises(PolicyMismatchError, match="'scene'"):
        check_observation(lax, only)  # one more than allowed
    with pytest.raises(PolicyMismatchError):
        check_observation(lax, observe(pixels={}))


# Whatever comes.


class Sure(ChunkPolicy):
    """Gives the same chunk for all that it is given, and keeps it."""

    def __init__(self):
        self.seen = []

    @property
    def card(self):
        return CARD

    def infer(self, request):
        self.seen.append(request)
        actions = np.tile(STATE, (CARD.chunk_size, 1))
        return Chunk(actions, actions)


DTYPES = st.sampled_from(["u1", "u2", "i1", "i8", "f2", "f4", "f8", "c8", "?", "O", "U3", "M8[s]"])
SHAPES = st.one_of(
    st.sampled_from(
        [(16, 16, 3), (12, 16, 3), (3, 16, 16), (1, 16, 16, 3), (0, 16, 3), (16, 16), (7,), (1, 7), (6,), ()]
    ),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9),
)
THINGS = st.one_of(st.none(), st.booleans(), st.text(), st.binary(), st.lists(st.floats(), max_size=8), st.just({}))


@st.composite
def arrays(draw):
    dtype, shape = np.dtype(draw(DTYPES)), draw(SHAPES)
    if dtype.kind in "uif" and draw(st.booleans()):
        return draw(hnp.arrays(dtype, shape, fill=hnp.from_dtype(dtype)))
    return np.zeros(shape, dtype)


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
STATES = st.one_of(
    arrays(),
    THINGS,
    st.lists(st.one_of(FLOATS, st.floats(-7, 7)), min_size=7, max_size=7),
    st.lists(st.floats(0, 1), min_size=7, max_size=7).map(lambda x: np.append(JOINT_LOWER, 0) + np.array(x)),
)
OBSERVATIONS = st.one_of(
    THINGS,
    st.fixed_dictionaries(
        {},
        optional={
            "agent_pos": st.one_of(st.just(STATE), STATES),
            "pixels": st.one_of(
                THINGS,
                st.just(images()["pixels"]),
                st.fixed_dictionaries({}, optional={name: st.one_of(arrays(), THINGS) for name in SIZES}),
            ),
        },
    ),
)
INSTRUCTIONS = st.one_of(THINGS, st.text(st.characters(), max_size=60), st.just("pick up the red cube"))


@settings(max_examples=100, deadline=1000)
@given(OBSERVATIONS, INSTRUCTIONS)
@example(images(), "pick up the red cube")
@example(observe(agent_pos=np.full(7, 1e300)), "pick up the red cube")
def test_any_input_is_handled_or_refused_and_nothing_moves(observation, instruction):
    policy, refusal = Sure(), ""
    agent = SmolVLAAgent(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            agent.reset(instruction)
            action = agent.act(observation)
        except SmolVLAGymError as error:
            refusal = str(error)
    if refusal:
        assert len(refusal) < 4000
        assert not policy.seen
        assert agent.queue_length == 0
        return
    assert np.isfinite(action).all()
    (request,) = policy.seen
    assert isinstance(request.instruction, str)
    for name, size in SIZES.items():
        image = request.observation["pixels"][name]
        assert image.dtype == np.uint8
        assert image.shape[0] * size[1] == pytest.approx(image.shape[1] * size[0], rel=0.03)
    state = request.observation["agent_pos"]
    assert state.dtype == np.float32
    assert (np.abs(state[:6]) < 6.5).all()
    assert -0.1 <= state[6] <= 1.1 + 1e-6
