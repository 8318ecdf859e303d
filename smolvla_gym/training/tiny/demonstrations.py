"""Demonstrations of the scripted experts, made robust by random starts and interruptions.

What an expert does next depends on the present state alone. So it may be interrupted at any time, by a drag at the tool
or by a policy that does as it likes for a while (DAgger), and show the way on from there. The interruption itself is
not recorded, and no chunk reaches across it: what is learnt from is always the expert undisturbed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from smolvla_gym.sim.scene import COLORS
from smolvla_gym.tasks import TASKS
from smolvla_gym.tasks.expert import square_yaw
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.paraphrases import paraphrases
from smolvla_gym.utils.worker_pool import process_pool, threads

_RENDERED = (256, 128, 64)
"""Edges in px at which pictures are drawn before they are brought to the policy's size."""

_RANDOM_START = 0.55
_INTERRUPTION = 0.02
_STRAY = (10, 120)
"""Steps that the policy drives: long enough to lose what it held or pushed, and to have to begin anew."""

_REACH = 0.6
"""Distance from the base in m beyond which an object is lost: a puck that was tipped over rolls for metres."""

_TAIL = 6
_LONGEST_S = 20.0
"""Time in s after which an episode is given up."""

_JOB = 5
"""Episodes that a process takes at a time: few, so that all of them have work until the end."""

_SENTENCES = 400
"""Paraphrases of each instruction, besides the env's own."""


@dataclass(frozen=True)
class DemonstrationOptions:
    """What to record.

    Attributes:
        task: Name of the task.
        episodes: How many episodes.
        first_seed: Seed of the first one; the others follow.
        cameras: Which cameras.
        image_size: Edge of the pictures in px.
        stride: Frames from one with pictures to the next. Drawing is most of the work, and more episodes teach more
            than more pictures of the same.
        randomization: Levels of the env's randomisation, one of which is drawn for each episode.
        hard_weight: How many times as often a frame is drawn in which another object is about as near as the
            named one; without it a policy learns to half ignore the instruction.
        policy: A checkpoint that takes over now and then, or None.
        latencies_ms: How long its chunks take, one of which is drawn for each episode: a policy that is to act on
            what it saw half a second ago has to know where that leads.
        workers: Processes; 1 stays in this one. Not looked at where there is a pool already.
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
    """Records demonstrations.

    Args:
        options: What to record.
        report: Called with the number of episodes done, from time to time.
        pool: Processes of :func:`smolvla_gym.utils.worker_pool.process_pool` that record, such as those of an earlier
            recording, since each takes seconds to begin; ``None`` for as many new ones as ``options`` say. They keep
            what they made, envs and policies, as long as the pool lives.

    Returns:
        The frames. Their auxiliary targets are, for every colour, the object's position in the tool frame and its
        place on the table, in m, and last the same of the goal mark; NaN where there is none. The referents are those
        of the object that is named, and of where it goes: the second object named, or the goal mark.

    Raises:
        SmolVLAGymError: A process was killed; of a pool that was given it is raised where that is left.
    """
    seeds = np.arange(options.first_seed, options.first_seed + options.episodes)
    jobs = [(options, chunk.tolist()) for chunk in np.array_split(seeds, math.ceil(options.episodes / _JOB))]
    parts: list[_Part] = []
    with contextlib.ExitStack() as stack:
        if pool is None and options.workers > 1:
            pool = stack.enter_context(process_pool(options.workers))
        run: Iterator[list[_Part]]
        if pool is None:
            kept = stack.enter_context(contextlib.closing(_Kept()))
            run = (_record(job, kept) for job in jobs)
        else:
            run = pool.map(_record_in_pool, jobs)
        done = 0
        # In the order of the seeds, so that the result does not depend on which worker was faster.
        for (_, chunk), recorded in zip(jobs, run, strict=True):
            parts += recorded
            done += len(chunk)
            report(done)
    return _join(parts, options)


@dataclass
class _Part:
    """One uninterrupted stretch of an episode.

    Attributes:
        meaning: What the instruction says: its template, the colour named and the second colour or "".
        images: Pictures by camera, of every ``stride``-th frame.
        states: Of every frame.
        actions: Of every frame.
        targets: Of the frames with pictures.
        referents: Of the frames with pictures.
        weights: Of the frames with pictures.
    """

    meaning: tuple[str, str, str]
    images: dict[str, list[NDArray[np.uint8]]]
    states: list[NDArray[np.float32]]
    actions: list[NDArray[np.float32]]
    targets: list[NDArray[np.float32]]
    referents: list[NDArray[np.float32]]
    weights: list[float]


type _Job = tuple[DemonstrationOptions, list[int]]
"""What to record, and the seeds."""


class _Kept:
    """Envs of one task, and agents: each takes longer to make than an episode."""

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


_kept = _Kept()
"""Of a process that records for others."""


def _record_in_pool(job: _Job) -> list[_Part]:
    return _record(job, _kept)


def _record(job: _Job, kept: _Kept) -> list[_Part]:
    options, seeds = job
    # With a policy there may be other workers that compute beside this one.
    with contextlib.nullcontext() if options.policy is None else threads(1):
        return [part for seed in seeds for part in _demonstrate(options, seed, kept)]


def _demonstrate(options: DemonstrationOptions, seed: int, kept: _Kept) -> list[_Part]:
    rng = np.random.default_rng([seed, 1])
    # Most pictures are drawn large and averaged down, as in a rollout; some are drawn small, or sampled, so that
    # the policy does not depend on how a picture was made small.
    rendered = int(rng.choice(_RENDERED, p=(0.3, 0.5, 0.2)))
    sampled = rng.random() < 0.2
    objects = 2 if rng.random() < 0.3 else 3
    env = kept.env(options, rendered, int(rng.choice(options.randomization)), objects)
    agent = None if options.policy is None else kept.agent(options.policy, float(rng.choice(options.latencies_ms)))
    return _Episode(env, options, seed, rng, sampled, agent).run()


class _Episode:
    """One demonstration."""

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
        self._backend: SimBackend = unwrapped.backend

    def run(self) -> list[_Part]:
        env, rng, world = self._env, self._rng, self._backend.world
        world.render_observations = False  # most images would not be used
        observation, _ = env.reset(seed=self._seed)
        if rng.random() < _RANDOM_START:
            start = self._somewhere(near=rng.random() < 0.6)
            if start is not None:
                options = {"joints": start, "opening": float(rng.random() < 0.7)}
                with contextlib.suppress(OptionError):  # the jaws would begin in an object
                    observation, _ = env.reset(seed=self._seed, options=options)
        parts = [self._part()]
        tail: int | None = None  # frames that are still recorded once the task is solved
        for _ in range(steps_within(_LONGEST_S, env.metadata["render_fps"])):
            if tail is None and rng.random() < _INTERRUPTION:
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
                tail = _TAIL
            if tail == 0:
                break
        return [part for part in parts if len(part.states) > 1]

    def _part(self) -> _Part:
        layout = self._backend.layout
        base = layout.colors[layout.base] if layout.base >= 0 else ""
        meaning = layout.instruction_template, layout.colors[layout.target], base
        return _Part(meaning, {c: [] for c in self._options.cameras}, [], [], [], [], [])

    def _look(self) -> dict[str, NDArray[np.uint8]]:
        world = self._backend.world
        world.render_observations = True
        pictures = world.observe().pixels
        world.render_observations = False
        return pictures

    def _lost(self) -> bool:
        """Returns whether an object is where no expert can bring it back from, nor a camera see it."""
        world = self._backend.world
        places = [world.object_position(i) for i in range(len(self._backend.layout.colors))]
        return max(float(np.linalg.norm(place)) for place in places) > _REACH

    def _somewhere(self, near: bool) -> Array | None:
        rng, layout = self._rng, self._backend.layout
        if near:
            position = layout.positions[layout.target] + rng.uniform([-0.05, -0.05, 0.02], [0.05, 0.05, 0.09])
        else:
            position = rng.uniform([0.12, -0.13, 0.05], [0.31, 0.13, 0.16])
        return solve(position, square_yaw(position) + rng.uniform(-0.7, 0.7), self._backend.world.gripper)

    def _stray(self, observation: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Lets the policy drive for a while."""
        assert self._agent is not None  # noqa: S101 - narrows a type
        self._agent.attach(self._env)
        self._agent.reset(self._backend.instruction, seed=int(self._rng.integers(1 << 31)))
        for _ in range(int(self._rng.integers(*_STRAY))):
            # A chunk that is asked for needs pictures: in sync mode when the queue is empty, in others at any time.
            if self._agent.queue_length == 0 or self._agent.mode != "sync":
                observation = {**observation, "pixels": self._look()}
            observation, _, done, _, _ = self._env.step(self._agent.act(observation))
            if done:
                break
        return observation, done

    def _drag(self) -> tuple[dict[str, Any], bool]:
        """Drags the tool somewhere near, with the gripper opened or closed."""
        rng, world = self._rng, self._backend.world
        position = world.tool_position + rng.uniform([-0.06, -0.06, -0.01], [0.06, 0.06, 0.06])
        joints = solve(position, square_yaw(position) + rng.uniform(-0.5, 0.5), world.gripper)
        action = np.append(world.joints if joints is None else joints, float(rng.random() < 0.6)).astype(np.float32)
        for _ in range(int(rng.integers(5, 16))):
            observation, _, done, _, _ = self._env.step(action)
            if done:
                break
        return observation, done

    def _note(self, part: _Part, observation: dict[str, Any], action: NDArray[np.float32]) -> None:
        if len(part.states) % self._options.stride == 0:
            size = self._options.image_size
            for name, picture in self._look().items():
                if self._sampled:
                    step = picture.shape[0] // size
                    picture = picture[step // 2 :: step, step // 2 :: step]
                part.images[name].append(np.ascontiguousarray(resize_area(picture, (size, size))))
            for kept, found in zip((part.targets, part.referents), self._targets(), strict=True):
                kept.append(found)
            part.weights.append(self._weight())
        part.states.append(observation["agent_pos"])
        part.actions.append(action)

    def _targets(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns where everything is, and where that is what the instruction speaks of."""
        world, layout = self._backend.world, self._backend.layout
        targets = np.full((len(COLORS) + 1, 5), np.nan, np.float32)
        places = {list(COLORS).index(color): world.object_position(i) for i, color in enumerate(layout.colors)}
        if layout.goal is not None:
            places[len(COLORS)] = layout.goal
        for row, position in places.items():
            relative = world.tool_rotation.T @ (position - world.tool_position)
            targets[row] = [*relative, *position[:2]]
        names = [*COLORS]
        goal = names.index(layout.colors[layout.base]) if layout.base >= 0 else len(COLORS)
        return targets.reshape(-1), targets[[names.index(layout.colors[layout.target]), goal]].reshape(-1)

    def _weight(self) -> float:
        """Returns how much more a frame counts in which another object than the one to go to is near."""
        world, layout = self._backend.world, self._backend.layout
        gaps = [
            float(np.linalg.norm(world.object_position(i) - world.tool_position)) for i in range(len(layout.colors))
        ]
        held = world.grasped(layout.target)
        if held and layout.base < 0:
            return 1.0  # where to is the same whatever lies around
        focus = layout.base if held else layout.target
        others = min((gap for i, gap in enumerate(gaps) if i not in (layout.target, focus)), default=np.inf)
        if not held and layout.base >= 0:
            others = min(others, gaps[layout.base])
        return self._options.hard_weight if others < gaps[focus] + 0.02 else 1.0


def _join(parts: Sequence[_Part], options: DemonstrationOptions) -> Frames:
    meanings = sorted({part.meaning for part in parts})
    sentences, same = _sentences(options.task, meanings)
    lengths = np.array([len(part.states) for part in parts])
    starts = np.cumsum(lengths) - lengths
    return Frames(
        images={c: np.concatenate([np.stack(part.images[c]) for part in parts]) for c in options.cameras},
        states=np.concatenate([np.stack(part.states) for part in parts]),
        actions=np.concatenate([np.stack(part.actions) for part in parts]),
        instructions=sentences,
        instruction_ids=np.repeat([meanings.index(part.meaning) for part in parts], lengths).astype(np.int64),
        segments=np.repeat(np.arange(len(parts)), lengths).astype(np.int64),
        pictured=np.concatenate(
            [start + np.arange(0, n, options.stride) for start, n in zip(starts, lengths, strict=True)]
        ),
        targets=np.concatenate([np.stack(part.targets) for part in parts]),
        referents=np.concatenate([np.stack(part.referents) for part in parts]),
        weights=np.concatenate([np.array(part.weights) for part in parts]),
        paraphrases=same,
    )


def _sentences(task: str, meanings: Sequence[tuple[str, str, str]]) -> tuple[list[str], list[list[int]]]:
    """Returns sentences, those of the meanings first, and for each of them the numbers of those that mean the same."""
    rng = np.random.default_rng(0)
    templates = (*TASKS[task].instruction_templates, *rng.permutation(paraphrases(task))[:_SENTENCES])
    sentences = [template.format(color=color, base=base) for template, color, base in meanings]
    colors = sorted({meaning[1:] for meaning in meanings})
    same = []
    for color, base in colors:
        spoken = [template.format(color=color, base=base) for template in templates]
        same.append([len(sentences) + i for i in range(len(spoken))])
        sentences += spoken
    groups = [same[colors.index(meaning[1:])] for meaning in meanings]
    return sentences, groups + [group for group in same for _ in group]
