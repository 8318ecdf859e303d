"""Demonstrator that replays the actions of a recorded dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smolvla_gym.agent.protocol import Action, Demonstrator, EpisodeOver, Observation
from smolvla_gym.errors import DatasetError, OptionError
from smolvla_gym.utils.untrusted import printable


class ReplayAgent(Demonstrator):
    """Replays the actions of a recorded dataset in the scenes that it was recorded in.

    With other cameras or image sizes the recording is made anew; on the twin or the arm a replay shows whether motions
    carry over.

    Attributes:
        seeds: Seeds of the episodes; of two episodes with the same seed the first is replayed.
        fps: Frame rate of the recording in Hz.
        lost: Description of what was found cut off in the dataset; None: nothing.
        others: Description of the episodes that are left out because they were recorded in other scenes; None: none.
    """

    def __init__(self, root: Path, scene: Mapping[str, Any] | None = None) -> None:
        """Read the actions.

        Args:
            root: Folder of a dataset that was recorded here: its seeds are needed.
            scene: Options of the env that decide which scene a seed gives: ``task``, ``gripper``, ``num_objects`` and
                ``randomization``. Episodes that were recorded with others are left out; those of earlier versions do
                not say. None: the caller makes sure that they agree.

        Raises:
            DatasetError: There is no dataset, it is broken or has no seeds, or all its scenes are others.
        """
        from smolvla_gym.data.reader import open_recording

        recording = open_recording(root)
        self.name: str = f"replay, {root.name}"
        self.fps: int = recording.fps
        self.lost: str | None = recording.lost
        self.others: str | None = None
        scenes = recording.scenes
        episodes = scenes.get("episodes", [])
        if len(episodes) != (total := recording.info.total_episodes):
            raise DatasetError(
                f"The dataset in {root} has {total} episodes, and meta/parol6.json has the seeds of "
                f"{len(episodes)}: which scenes they belong to is not known. Replay a dataset that was recorded by "
                "`smolvla-gym record` alone."
            )
        flags: Counter[str] = Counter()
        self._actions: dict[int, list[Action]] = {}
        for files, actions in zip(
            recording.files, np.split(recording.actions, np.cumsum(recording.lengths)[:-1]), strict=True
        ):
            if files.index >= len(episodes):
                raise DatasetError(f"The dataset in {root} has {total} episodes, and one of the number {files.index}.")
            episode = episodes[files.index]
            recorded = {"gripper": scenes.get("gripper"), **episode}
            differing = {
                name: recorded[name] for name, value in (scene or {}).items() if recorded.get(name) not in (None, value)
            }
            if differing:
                flags[" ".join(f"--{name.replace('_', '-')} {value}" for name, value in differing.items())] += 1
            else:
                self._actions.setdefault(episode["seed"], list(actions))
        if flags:
            self.others = ", ".join(f"{count} episodes with {printable(options)}" for options, count in flags.items())
        self.seeds: list[int] = list(self._actions)
        if not self.seeds:
            raise DatasetError(
                f"The scenes of the dataset in {root} are others: it has {self.others}. Give these options."
            )
        self._left: list[Action] = []

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begin the episode that was recorded with a seed.

        Raises:
            OptionError: The dataset has no episode with this seed.
        """
        if seed not in self._actions:
            raise OptionError("seed", seed, f"a seed of {self.name}")
        self._left = self._actions[seed][::-1]

    def act(self, observation: Observation) -> Action:
        """Return the next recorded action, shape (7,).

        Raises:
            EpisodeOver: It was the last one.
        """
        if not self._left:
            raise EpisodeOver
        action = self._left.pop()
        self.label: Action | None = action
        return action
