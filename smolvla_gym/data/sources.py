"""Who demonstrates: the expert, the expert after a policy has driven for a while, or an earlier recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.spec import ACTION
from smolvla_gym.errors import DatasetError, FaultError, OptionError
from smolvla_gym.evaluation.scripted import Agent, ExpertAgent
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER

Array = NDArray[np.float32]
Observation = dict[str, Any]

_DRIVES: Final = (10, 90)
"""For how many steps the policy drives before the expert takes over."""


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
            The observation from which on is recorded; None: there is nothing left to show.
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
        """Lets the policy drive; returns None if the episode ends meanwhile.

        Raises:
            FaultError: The arm stopped.
        """
        self._policy.reset(instruction, seed)
        for _ in range(int(np.random.default_rng([seed, 3]).integers(*_DRIVES))):
            observation, _, terminated, truncated, info = env.step(self._policy.act(observation))
            if info["fault"]:
                raise FaultError(f"The arm stopped: {info['fault']}. The episode with seed {seed} was not recorded.")
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
    """

    verdict: bool | None = None

    def __init__(self, root: Path) -> None:
        """Reads the actions.

        Args:
            root: Folder of a dataset that was recorded here: its seeds are needed.

        Raises:
            DatasetError: There is none, or one without seeds.
        """
        import json

        import pyarrow.parquet as pq

        from smolvla_gym.data.dataset import read_info

        info = read_info(root)
        path = root / "meta" / "parol6.json"
        if not path.is_file():
            raise DatasetError(f"The dataset in {root} has no meta/parol6.json: its scenes cannot be made again.")
        self.name = f"replay, {root.name}"
        self.seeds: list[int] = [episode["seed"] for episode in json.loads(path.read_text())["episodes"]]
        self.fps = int(info["fps"])
        self._actions: dict[int, list[Array]] = {}
        for file in sorted((root / "data").rglob("*.parquet")):
            table = pq.read_table(file, columns=["episode_index", ACTION])
            rows = zip(table["episode_index"].to_pylist(), table[ACTION].to_pylist(), strict=True)
            for index, action in rows:
                self._actions.setdefault(self.seeds[index], []).append(np.asarray(action, np.float32))
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
