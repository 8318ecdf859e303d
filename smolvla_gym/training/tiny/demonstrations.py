"""Demonstrations of the scripted experts with random starts and interruptions, for a robust policy.

The next action of an expert depends on the present state only. An episode can therefore be interrupted at any time, by
moving the tool or by executing a policy for a while (DAgger), and the expert continues from there. The interruption
itself is not recorded, and no chunk reaches across it: all training data are actions of the undisturbed expert.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym import SIM_ID
from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.agent.images import resize_area
from smolvla_gym.envs.backends.sim import SimBackend
from smolvla_gym.envs.time_limit import steps_within
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.tasks.expert import square_yaw
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.labels import frame_weight, position_targets
from smolvla_gym.training.tiny.segments import Segment, join_segments
from smolvla_gym.utils.worker_pool import process_pool, threads

_RENDERED: Final = (256, 128, 64)
"""Sides in px of the rendered images before they are resized for the policy."""

_RANDOM_START: Final = 0.55
"""Share of the episodes that start at a random pose."""

_INTERRUPTIONS_HZ: Final = 0.6
"""Mean number of interruptions a second."""

_POLICY_S: Final = (1 / 3, 4.0)
"""Range of the time in s of an interruption by the policy: long enough to drop an object, and to start again."""

_DRAG_S: Final = (1 / 6, 8 / 15)
"""Range of the time in s of an interruption that moves the tool."""

_TAIL_S: Final = 0.2
"""Time in s that is recorded after the task has succeeded."""

_REACH: Final = 0.6
"""Distance from the base in m beyond which an object is lost: a puck that was tipped over rolls for metres."""

_TIMEOUT_S: Final = 20.0
"""Time in s after which an episode ends."""

_JOB: Final = 5
"""Episodes that a worker records at a time: few, so that all workers are busy until the end."""


@dataclass(frozen=True)
class DemonstrationOptions:
    """Options of a recording.

    Attributes:
        task: Name of the task.
        episodes: Number of episodes.
        first_seed: Seed of the first episode; the others follow.
        cameras: Names of the cameras.
        image_size: Side of the images in px.
        stride: Frames from one with images to the next. Rendering takes most of the time, and more episodes improve a
            policy more than more images of the same episode.
        randomization: Levels of the env's domain randomization, one of which is drawn for each episode.
        hard_weight: Sampling weight of frames in which another object is about as near as the named one. With a
            weight of 1 a policy learns to partly ignore the instruction.
        policy: A checkpoint whose policy interrupts the expert; None: no policy does.
        latencies_ms: Inference delays of that policy in ms, one of which is drawn for each episode: a policy that
            will run with a delay needs demonstrations of the states that the delay leads to.
        workers: Worker processes; 1: the calling process records. Not used with a pool.
    """

    task: str = "lift"
    episodes: int = 1000
    first_seed: int = 1_000_000
    cameras: tuple[str, ...] = ("wrist", "scene")
    image_size: int = 64
    stride: int = 3
    randomization: tuple[int, ...] = (1, 2)
    hard_weight: float = 4.0
    policy: Path | None = None
    latencies_ms: tuple[float, ...] = (0.0,)
    workers: int = 2


def collect(
    options: DemonstrationOptions,
    report: Callable[[int], None] = lambda done: None,
    *,
    pool: ProcessPoolExecutor | None = None,
) -> Frames:
    """Record demonstrations.

    Args:
        options: Options of the recording.
        report: Called with the number of recorded episodes, from time to time.
        pool: Pool of :func:`smolvla_gym.utils.worker_pool.process_pool`, such as that of an earlier recording, since a
            worker takes seconds to start; None: a new pool of ``options.workers``. The workers keep their envs and
            policies as long as the pool exists.

    Returns:
        The frames; their ``targets`` and ``referents`` are those of
        :func:`smolvla_gym.training.tiny.labels.position_targets`.

    Raises:
        SmolVLAGymError: A worker was killed; for a given pool the error is raised where its block ends.
    """
    seeds = np.arange(options.first_seed, options.first_seed + options.episodes)
    jobs = [(options, chunk.tolist()) for chunk in np.array_split(seeds, math.ceil(options.episodes / _JOB))]
    parts: list[Segment] = []
    with contextlib.ExitStack() as stack:
        if pool is None and options.workers > 1:
            pool = stack.enter_context(process_pool(options.workers))
        run: Iterator[list[Segment]]
        if pool is None:
            cache = stack.enter_context(contextlib.closing(_Cache()))
            run = (_record(job, cache) for job in jobs)
        else:
            run = pool.map(_record_in_pool, jobs)
        done = 0
        # In the order of the seeds, so that the result does not depend on the speed of the workers.
        for (_, chunk), recorded in zip(jobs, run, strict=True):
            parts += recorded
            done += len(chunk)
            report(done)
    return join_segments(parts, options.task, options.stride)


type _Job = tuple[DemonstrationOptions, list[int]]
"""Options and seeds."""


class _Cache:
    """Cache of the envs of one task, and of agents: making one takes longer than an episode."""

    def __init__(self) -> None:
        self._kind: tuple[str, tuple[str, ...]] = "", ()
        self._envs: dict[tuple[int, int, int], gym.Env[Any, Any]] = {}
        self._agents: dict[tuple[Path, float], SmolVLAAgent] = {}

    def env(self, options: DemonstrationOptions, rendered: int, level: int, objects: int) -> gym.Env[Any, Any]:
        kind = options.task, tuple(options.cameras)
        if self._kind != kind:
            self._close_envs()
            self._kind = kind
        key = rendered, level, objects
        if key not in self._envs:
            self._envs[key] = gym.make(
                SIM_ID, task=options.task, cameras=options.cameras, image_size=(rendered, rendered),
                randomization=level, num_objects=objects, disable_env_checker=True,
            )  # fmt: skip
        return self._envs[key]

    def agent(self, policy: Path, latency_ms: float) -> SmolVLAAgent:
        key = policy, latency_ms
        if key not in self._agents:
            late: dict[str, Any] = {"mode": "async", "latency_ms": latency_ms} if latency_ms else {}
            self._agents[key] = SmolVLAAgent.from_pretrained(policy, device="cpu", **late)
        return self._agents[key]

    def close(self) -> None:
        self._close_envs()
        while self._agents:
            self._agents.popitem()[1].close()

    def _close_envs(self) -> None:
        while self._envs:
            self._envs.popitem()[1].close()


_cache = _Cache()
"""Cache of a worker process."""


def _record_in_pool(job: _Job) -> list[Segment]:
    return _record(job, _cache)


def _record(job: _Job, cache: _Cache) -> list[Segment]:
    options, seeds = job
    # With a policy, other workers may compute at the same time.
    with contextlib.nullcontext() if options.policy is None else threads(1):
        return [part for seed in seeds for part in _demonstrate(options, seed, cache)]


def _demonstrate(options: DemonstrationOptions, seed: int, cache: _Cache) -> list[Segment]:
    rng = np.random.default_rng([seed, 1])
    # Most images are rendered large and averaged down, as in a rollout. Some are rendered small, or sampled, so that
    # the policy does not depend on the method of resizing.
    rendered = int(rng.choice(_RENDERED, p=(0.3, 0.5, 0.2)))
    sampled = rng.random() < 0.2
    objects = 2 if rng.random() < 0.3 else 3
    env = cache.env(options, rendered, int(rng.choice(options.randomization)), objects)
    agent = None if options.policy is None else cache.agent(options.policy, float(rng.choice(options.latencies_ms)))
    return Demonstration(env, options, seed, rng, sampled, agent).run()


class Demonstration:
    """One episode of demonstrations.

    Args:
        env: A simulated env of the task.
        options: Options of the recording.
        seed: Seed of the env.
        rng: Source of the random start and of the interruptions.
        sampled: Whether images are resized by sampling pixels, not by averaging.
        agent: Policy that interrupts the expert; None: no policy does.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        options: DemonstrationOptions,
        seed: int,
        rng: np.random.Generator,
        sampled: bool,
        agent: SmolVLAAgent | None,
    ) -> None:
        self._agent = agent
        self._env, self._options, self._seed, self._rng, self._sampled = env, options, seed, rng, sampled
        unwrapped: Any = env.unwrapped
        self._expert = unwrapped.expert_action
        self._hz = float(unwrapped.control_hz)
        self._backend: SimBackend = unwrapped.backend

    def run(self) -> list[Segment]:
        """Record the episode and return its segments of at least two frames."""
        env, rng, world = self._env, self._rng, self._backend.world
        world.blind = True  # only frames with images are rendered
        observation, _ = env.reset(seed=self._seed)
        if rng.random() < _RANDOM_START:
            start = self._random_pose(near=rng.random() < 0.6)
            if start is not None:
                options = {"joints": start, "opening": float(rng.random() < 0.7)}
                with contextlib.suppress(OptionError):  # the jaws would begin in an object
                    observation, _ = env.reset(seed=self._seed, options=options)
        parts = [self._part()]
        tail: int | None = None  # frames that are still recorded after the success
        for _ in range(steps_within(_TIMEOUT_S, env.metadata["render_fps"])):
            if tail is None and rng.random() < _INTERRUPTIONS_HZ / self._hz:
                by_policy = self._agent is not None and rng.random() < 0.6
                observation, done = self._stray(observation) if by_policy else self._drag()
                parts.append(self._part())
                if done:
                    break
            if self._lost():
                break
            action = self._expert()
            self._note(parts[-1], observation, action)
            observation, _, done, _, _ = env.step(action)
            if tail is not None:
                tail -= 1
            elif done:
                tail = round(_TAIL_S * self._hz)
            if tail == 0:
                break
        return [part for part in parts if len(part.states) > 1]

    def _part(self) -> Segment:
        layout = self._backend.layout
        base = layout.colors[layout.base] if layout.base >= 0 else ""
        meaning = layout.phrase, layout.colors[layout.target], base
        return Segment(meaning, {c: [] for c in self._options.cameras}, [], [], [], [], [])

    def _steps(self, seconds: tuple[float, float]) -> tuple[int, int]:
        """Return a range of times in s as a range of control steps."""
        return round(seconds[0] * self._hz), round(seconds[1] * self._hz)

    def _render(self) -> dict[str, NDArray[np.uint8]]:
        world = self._backend.world
        world.blind = False
        images = world.observe().pixels
        world.blind = True
        return images

    def _lost(self) -> bool:
        """Return True if an object is out of the reach of the arm and out of the view of the cameras."""
        world = self._backend.world
        places = [world.object_position(i) for i in range(len(self._backend.layout.colors))]
        return max(float(np.linalg.norm(place)) for place in places) > _REACH

    def _random_pose(self, near: bool) -> Array | None:
        rng, layout = self._rng, self._backend.layout
        if near:
            position = layout.positions[layout.target] + rng.uniform([-0.05, -0.05, 0.02], [0.05, 0.05, 0.09])
        else:
            position = rng.uniform([0.12, -0.13, 0.05], [0.31, 0.13, 0.16])
        return solve(position, square_yaw(position) + rng.uniform(-0.7, 0.7), self._backend.world.gripper)

    def _stray(self, observation: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Execute the policy for a random time."""
        assert self._agent is not None  # noqa: S101 - narrows a type
        self._agent.attach(self._env)
        self._agent.reset(self._backend.instruction, seed=int(self._rng.integers(1 << 31)))
        for _ in range(int(self._rng.integers(*self._steps(_POLICY_S)))):
            # A request for a chunk needs images: in sync mode when the queue is empty, in other modes at any time.
            if self._agent.queue_length == 0 or self._agent.mode != "sync":
                observation = {**observation, "pixels": self._render()}
            observation, _, done, _, _ = self._env.step(self._agent.act(observation))
            if done:
                break
        return observation, done

    def _drag(self) -> tuple[dict[str, Any], bool]:
        """Move the tool to a random position nearby, with the gripper opened or closed."""
        rng, world = self._rng, self._backend.world
        position = world.tool_position + rng.uniform([-0.06, -0.06, -0.01], [0.06, 0.06, 0.06])
        joints = solve(position, square_yaw(position) + rng.uniform(-0.5, 0.5), world.gripper)
        action = np.append(world.joints if joints is None else joints, float(rng.random() < 0.6)).astype(np.float32)
        for _ in range(int(rng.integers(*self._steps(_DRAG_S)))):
            observation, _, done, _, _ = self._env.step(action)
            if done:
                break
        return observation, done

    def _note(self, part: Segment, observation: dict[str, Any], action: NDArray[np.float32]) -> None:
        if len(part.states) % self._options.stride == 0:
            size = self._options.image_size
            for name, image in self._render().items():
                if self._sampled:
                    step = image.shape[0] // size
                    image = image[step // 2 :: step, step // 2 :: step]
                part.images[name].append(np.ascontiguousarray(resize_area(image, (size, size))))
            targets, referents = position_targets(self._backend)
            part.targets.append(targets)
            part.referents.append(referents)
            part.weights.append(frame_weight(self._backend, self._options.hard_weight))
        part.states.append(observation["agent_pos"])
        part.actions.append(action)
