"""Scripted expert with random interruptions: by moving the tool, or by executing a policy for a while (DAgger)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.agent.images import resize_area
from smolvla_gym.agent.protocol import Action, Demonstrator, EpisodeOver, Observation
from smolvla_gym.envs.backends.sim import SimBackend
from smolvla_gym.envs.time_limit import steps_within
from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.episodes.runner import run_episode
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.tasks.expert import square_yaw
from smolvla_gym.training.tiny.labels import frame_weight, position_targets
from smolvla_gym.training.tiny.segments import Segment

_RANDOM_START: Final = 0.55
"""Probability that an episode starts at a random pose."""

_INTERRUPTIONS_HZ: Final = 0.6
"""Mean number of interruptions a second."""

_POLICY_S: Final = (1 / 3, 4.0)
"""Range of the time in s of an interruption by the policy: long enough to drop an object, and to start again."""

_DRAG_S: Final = (1 / 6, 8 / 15)
"""Range of the time in s of an interruption that moves the tool."""

_REACH: Final = 0.6
"""Distance from the base in m beyond which an object is lost: a puck that was tipped over rolls for metres."""

_TAIL_S: Final = 0.2
"""Time in s that is recorded after the success."""

_TIMEOUT_S: Final = 20.0
"""Time in s after which an episode ends."""


class InterruptedExpert(Demonstrator, Callback):
    """Records the scripted expert of a simulated env between random interruptions.

    An instance is the agent of an episode and one of its callbacks: the callback notes the success, after which the
    agent acts for some more steps. Observations have no images; the agent renders only the images that are recorded
    and those that the policy needs.

    Attributes:
        segments: Recorded segments of the episode.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        cameras: Sequence[str],
        image_size: int,
        stride: int,
        hard_weight: float,
        sampled: bool = False,
        policy: SmolVLAAgent | None = None,
        committed: int = 0,
    ) -> None:
        """Create an expert for one episode.

        Args:
            rng: Source of the interruptions.
            cameras: Names of the cameras.
            image_size: Side of the recorded images in px.
            stride: Frames from one with images to the next.
            hard_weight: Weight of a frame in which another object than the named one is about as near.
            sampled: Whether images are resized by sampling pixels, not by averaging.
            policy: Policy that interrupts the expert; None: no policy does.
            committed: Largest number of steps before the end of an interruption that are recorded too, with the
                commanded actions and those of the expert: from there a policy has to continue given actions.
        """
        self.segments: list[Segment] = []
        self._rng, self._policy = rng, policy
        self._cameras, self._image_size, self._stride = cameras, image_size, stride
        self._hard_weight, self._sampled = hard_weight, sampled
        self._committed = committed

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Take a simulated env, which renders no observations from now on."""
        bare: Any = env.unwrapped
        self._expert = bare.expert_action
        self._hz = float(bare.control_hz)
        self._backend: SimBackend = bare.backend
        self._backend.world.render_observations = False
        self._steps = steps_within(_TIMEOUT_S, env.metadata["render_fps"])
        if self._policy is not None:
            self._policy.attach(env)

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Start the episode."""
        self._terminated = False
        self.segments = [self._segment()]
        self._actions = self._script()
        next(self._actions)

    def act(self, observation: Observation) -> Action:
        """Return the next action of the expert or of an interruption, shape (7,).

        Raises:
            EpisodeOver: The expert has finished, an object is lost, or the time is up.
        """
        try:
            return self._actions.send(observation)
        except StopIteration:
            raise EpisodeOver from None

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Note whether the step brought success."""
        self._terminated = step.info["is_success"]

    def draw_start(self, env: gym.Env[Any, Any], seed: int) -> dict[str, Any] | None:
        """Draw the start of an episode: options of ``env.reset`` for a random pose; None: the usual pose."""
        rng = self._rng
        if rng.random() >= _RANDOM_START:
            return None
        env.reset(seed=seed)  # lays out the scene
        layout = self._backend.layout
        if rng.random() < 0.6:
            position = layout.positions[layout.target] + rng.uniform([-0.05, -0.05, 0.02], [0.05, 0.05, 0.09])
        else:
            position = rng.uniform([0.12, -0.13, 0.05], [0.31, 0.13, 0.16])
        yaw = square_yaw(position) + rng.uniform(-0.7, 0.7)
        joints = solve(position, yaw, self._backend.world.gripper)
        return None if joints is None else {"joints": joints, "opening": float(rng.random() < 0.7)}

    def _script(self) -> Generator[Action, Observation, None]:
        """Yield the actions of the episode; each is answered by the observation after it, the first yield primes."""
        rng = self._rng
        observation = yield np.zeros(0, np.float32)
        tail: int | None = None  # frames that are still recorded after the success
        for _ in range(self._steps):
            if tail is None and rng.random() < _INTERRUPTIONS_HZ / self._hz:
                by_policy = self._policy is not None and rng.random() < 0.6
                self.label = None
                segment = self._segment()
                interruption = self._drive if by_policy else self._drag
                observation = yield from interruption(observation, segment)
                if self._terminated:
                    return
                segment.lead = len(segment.states)
                self.segments.append(segment)
            if self._lost():
                return
            self.label = action = self._expert()
            self._note(self.segments[-1], observation, action, action)
            observation = yield action
            if tail is not None:
                tail -= 1
            elif self._terminated:
                tail = round(_TAIL_S * self._hz)
            if tail == 0:
                return

    def _drive(self, observation: Observation, segment: Segment) -> Generator[Action, Observation, Observation]:
        """Execute the policy for a random time; its last steps are noted in the segment."""
        policy = self._policy
        assert policy is not None  # noqa: S101 - narrows a type
        policy.reset(self._backend.instruction, seed=int(self._rng.integers(1 << 31)))
        count = int(self._rng.integers(*self._steps_in(_POLICY_S)))
        for i in range(count):
            # A chunk that is requested needs images; they are rendered when it reads them.
            action = policy.act({**observation, "pixels": _LazyImages(self._cameras, self._render)})
            self._note_committed(segment, observation, action, count - i)
            observation = yield action
            if self._terminated:
                break
        return observation

    def _drag(self, observation: Observation, segment: Segment) -> Generator[Action, Observation, Observation]:
        """Move the tool to a random position nearby, with the gripper opened or closed; see :meth:`_drive`."""
        rng, world = self._rng, self._backend.world
        position = world.tool_position + rng.uniform([-0.06, -0.06, -0.01], [0.06, 0.06, 0.06])
        joints = solve(position, square_yaw(position) + rng.uniform(-0.5, 0.5), world.gripper)
        action = np.append(world.joints if joints is None else joints, float(rng.random() < 0.6)).astype(np.float32)
        count = int(rng.integers(*self._steps_in(_DRAG_S)))
        for i in range(count):
            self._note_committed(segment, observation, action, count - i)
            observation = yield action
            if self._terminated:
                break
        return observation

    def _steps_in(self, seconds: tuple[float, float]) -> tuple[int, int]:
        """Return a range of times in s as a range of control steps."""
        return round(seconds[0] * self._hz), round(seconds[1] * self._hz)

    def _segment(self) -> Segment:
        layout = self._backend.layout
        base = layout.colors[layout.base] if layout.base >= 0 else ""
        meaning = layout.instruction_template, layout.colors[layout.target], base
        return Segment(meaning, {name: [] for name in self._cameras}, [], [], [], [], [], [])

    def _render(self) -> dict[str, NDArray[np.uint8]]:
        world = self._backend.world
        world.render_observations = True
        images = world.observe().pixels
        world.render_observations = False
        return images

    def _lost(self) -> bool:
        """Return True if an object is out of the reach of the arm and out of the view of the cameras."""
        world = self._backend.world
        places = [world.object_position(i) for i in range(len(self._backend.layout.colors))]
        return max(float(np.linalg.norm(place)) for place in places) > _REACH

    def _note_committed(self, segment: Segment, observation: Observation, commanded: Action, left: int) -> None:
        """Note one of the last steps of an interruption; ``left`` of them remain, including this one."""
        if left <= self._committed:
            self._note(segment, observation, self._expert(), commanded)

    def _note(self, segment: Segment, observation: Observation, action: Action, commanded: Action) -> None:
        if len(segment.states) % self._stride == 0:
            size = self._image_size
            for name, image in self._render().items():
                if self._sampled:
                    step = image.shape[0] // size
                    image = image[step // 2 :: step, step // 2 :: step]
                segment.images[name].append(np.ascontiguousarray(resize_area(image, (size, size))))
            targets, referents = position_targets(self._backend)
            segment.targets.append(targets)
            segment.referents.append(referents)
            segment.weights.append(frame_weight(self._backend, self._hard_weight))
        segment.states.append(observation["agent_pos"])
        segment.actions.append(action)
        segment.commanded.append(commanded)


class _LazyImages(Mapping[str, NDArray[np.uint8]]):
    """Images of the present state, rendered when the first one is read."""

    def __init__(self, cameras: Sequence[str], render: Callable[[], dict[str, NDArray[np.uint8]]]) -> None:
        self._cameras, self._render = cameras, render
        self._images: dict[str, NDArray[np.uint8]] | None = None

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        if self._images is None:
            self._images = self._render()
        return self._images[camera]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)


def record_segments(env: gym.Env[Any, Any], expert: InterruptedExpert, seed: int) -> list[Segment]:
    """Run an episode and return its segments with at least two frames of the expert.

    Args:
        env: A simulated env.
        expert: A new expert.
        seed: Seed of the scene.
    """
    expert.attach(env)
    start = expert.draw_start(env, seed)
    try:
        run_episode(env, expert, [expert], seed=seed, options=start, until_agent_ends=True)
    except OptionError:  # the random pose has the jaws in an object
        if start is None:
            raise
        run_episode(env, expert, [expert], seed=seed, until_agent_ends=True)
    return [segment for segment in expert.segments if len(segment.states) > segment.lead + 1]
