"""Who demonstrates: the expert, the expert after a policy has driven for a while, or an earlier recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.scripted import Agent, ExpertAgent
from smolvla_gym.errors import DatasetError, FaultError, OptionError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER
from smolvla_gym.utils.untrusted import printable

Array = NDArray[np.float32]
Observation = dict[str, Any]

_DRIVES: Final = (10, 90)
"""For how many steps the policy drives before the expert takes over."""


class SolvedAlone(Exception):  # noqa: N818 - no error
    """Says that a policy has solved the episode before the expert took over: there is nothing left to show."""


class Source(Protocol):
    """Steers the demonstrations."""

    name: str
    """What is noted beside each episode."""

    verdict: bool | None
    """Whether the demonstrator wants to keep the episode; None: the task decides whether it is a success."""

    def prepare(self) -> None:
        """Is called before the env is reset."""
        ...

    def begin(
        self, env: gym.Env[Any, Any], observation: Observation, instruction: str, seed: int
    ) -> Observation | None:
        """Begins an episode; what it does before the recording starts is not recorded.

        Returns:
            The observation from which on is recorded; None: the attempt is over and failed.

        Raises:
            SolvedAlone: It is over and solved, without a demonstration.
        """
        ...

    def act(self, observation: Observation) -> tuple[Array | None, Array] | None:
        """Returns the action to record, if any, and the action to execute, of shape (7,); None: this was all."""
        ...


class ExpertSource:
    """The scripted expert of the env's task.

    With noise the arm is pushed off its way while the expert's own, clean action is recorded: a policy sees how to
    come back.
    """

    verdict: bool | None = None

    def __init__(self, env: gym.Env[Any, Any], noise: float = 0.0) -> None:
        """Looks the expert up.

        Args:
            env: A simulated env or a twin.
            noise: Standard deviation of what is added to the joints, in rad.

        Raises:
            OptionError: The env has no expert, or the noise is negative or not finite.
        """
        if not 0.0 <= noise < 0.5:
            raise OptionError("noise", noise, "a standard deviation in rad from 0 to 0.5")
        self.name = "expert" if noise == 0.0 else f"expert, noise {noise:g} rad"
        self._expert, self._noise = ExpertAgent(env), noise
        self._rng = np.random.default_rng(0)

    def prepare(self) -> None:
        """Nothing is to be prepared."""

    def begin(
        self, env: gym.Env[Any, Any], observation: Observation, instruction: str, seed: int
    ) -> Observation | None:
        """Begins with the first observation."""
        self._rng = np.random.default_rng([seed, 2])
        self._expert.reset(instruction, seed)
        return observation

    def act(self, observation: Observation) -> tuple[Array, Array] | None:
        """Returns the expert's action, and the same with noise."""
        action = self._expert.act(observation)
        command = action.copy()
        if self._noise:
            pushed = command[:6] + self._rng.normal(0.0, self._noise, 6)
            command[:6] = np.clip(pushed, JOINT_LOWER, JOINT_UPPER)
        return action, command


class DaggerSource:
    """A policy drives for a while, then the expert takes over and shows how to go on from there.

    The policy's part is not recorded: in chunks of labels for states that the labels themselves do not lead to,
    actions contradict each other.
    """

    verdict: bool | None = None

    def __init__(self, env: gym.Env[Any, Any], policy: Agent, name: str) -> None:
        """Looks the expert up.

        Args:
            env: A simulated env or a twin.
            policy: Drives at first; attached to the env.
            name: Its name.

        Raises:
            OptionError: The env has no expert.
        """
        self.name = f"dagger, {name}"
        self._expert, self._policy = ExpertAgent(env), policy

    def prepare(self) -> None:
        """Nothing is to be prepared."""

    def begin(
        self, env: gym.Env[Any, Any], observation: Observation, instruction: str, seed: int
    ) -> Observation | None:
        """Lets the policy drive; returns None if the time is up meanwhile.

        Raises:
            FaultError: The arm stopped.
            SolvedAlone: The policy needed no expert.
        """
        self._policy.reset(instruction, seed)
        for _ in range(int(np.random.default_rng([seed, 3]).integers(*_DRIVES))):
            observation, _, terminated, truncated, info = env.step(self._policy.act(observation))
            if info["fault"]:
                raise FaultError(f"The arm stopped: {info['fault']}. The episode with seed {seed} was not recorded.")
            if info["is_success"]:
                raise SolvedAlone
            if terminated or truncated:
                return None
        self._expert.reset(instruction, seed)
        return observation

    def act(self, observation: Observation) -> tuple[Array, Array] | None:
        """Returns the expert's action twice."""
        action = self._expert.act(observation)
        return action, action


class ReplaySource:
    """The actions of a recorded dataset once more, in the scenes that it was recorded in.

    With other cameras or sizes the recording is made anew; on the twin or the arm it shows whether motions carry over.

    Attributes:
        seeds: Of the episodes; of two with the same one the first.
        fps: Frames a second of the recording.
        lost: What was found cut off in the dataset, in words; None: nothing.
        others: Which episodes are left out because their scenes are others, in words; None: none.
    """

    verdict: bool | None = None

    def __init__(self, root: Path, scene: Mapping[str, Any] | None = None) -> None:
        """Reads the actions.

        Args:
            root: Folder of a dataset that was recorded here: its seeds are needed.
            scene: The env's options that decide what a seed means: ``task``, ``gripper``, ``num_objects`` and
                ``randomization``. Episodes that were recorded with others are left out; those of earlier versions do
                not say. None: that they agree is up to the caller.

        Raises:
            DatasetError: There is none, or a broken one, or one without seeds, or all its scenes are others.
        """
        from smolvla_gym.data.reader import open_recording

        recording = open_recording(root)
        self.name = f"replay, {root.name}"
        self.fps = recording.fps
        self.lost = recording.lost
        self.others: str | None = None
        ours = recording.scenes
        episodes = ours.get("episodes", [])
        if len(episodes) != (total := recording.info.total_episodes):
            raise DatasetError(
                f"The dataset in {root} has {total} episodes, and meta/parol6.json has the seeds of "
                f"{len(episodes)}: which scenes they belong to is not known. Replay a dataset that was recorded by "
                "`smolvla-gym record` alone."
            )
        flags: Counter[str] = Counter()
        self._actions: dict[int, list[Array]] = {}
        for files, actions in zip(
            recording.files, np.split(recording.actions, np.cumsum(recording.lengths)[:-1]), strict=True
        ):
            if files.index >= len(episodes):
                raise DatasetError(f"The dataset in {root} has {total} episodes, and one of the number {files.index}.")
            episode = episodes[files.index]
            recorded = {"gripper": ours.get("gripper"), **episode}
            differing = {
                name: recorded[name] for name, value in (scene or {}).items() if recorded.get(name) not in (None, value)
            }
            if differing:
                flags[" ".join(f"--{name.replace('_', '-')} {value}" for name, value in differing.items())] += 1
            else:
                self._actions.setdefault(episode["seed"], list(actions))
        if flags:
            self.others = ", ".join(f"{count} episodes with {printable(options)}" for options, count in flags.items())
        self.seeds = list(self._actions)
        if not self.seeds:
            raise DatasetError(
                f"The scenes of the dataset in {root} are others: it has {self.others}. Give these options."
            )
        self._left: list[Array] = []

    def prepare(self) -> None:
        """Nothing is to be prepared."""

    def begin(
        self, env: gym.Env[Any, Any], observation: Observation, instruction: str, seed: int
    ) -> Observation | None:
        """Begins with the first observation."""
        self._left = self._actions[seed][::-1]
        return observation

    def act(self, observation: Observation) -> tuple[Array, Array] | None:
        """Returns the next action twice."""
        if not self._left:
            return None
        action = self._left.pop()
        return action, action
