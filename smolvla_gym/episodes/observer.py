"""Somebody who watches episodes."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

_BACKLOG: Final = 300
"""Steps that may wait to be written: ten seconds of them."""


@dataclass(frozen=True)
class Moment:
    """What happened in a control step.

    Attributes:
        time: Since the beginning of the episode, in s: of the env's own clock.
        observation: At the end of the step; at the beginning of the episode the one of ``reset``.
        info: What came with it.
        action: What was commanded, shape (7,); None at the beginning.
        plan: The actions that are planned next, shape (n, 7); empty for an agent without a plan.
    """

    time: float
    observation: dict[str, Any]
    info: dict[str, Any]
    action: NDArray[np.float32] | None
    plan: NDArray[np.float32]


class EpisodeObserver(ABC):
    """Watches episodes. What it does with them must not raise: an arm is moving meanwhile."""

    @abstractmethod
    def begin(self, env: gym.Env[Any, Any], seed: int, instruction: str) -> None:
        """An episode begins; its first moment follows."""

    @abstractmethod
    def note(self, moment: Moment) -> None:
        """A step was done."""

    def end(self, success: bool) -> None:  # noqa: B027 - most have nothing to do
        """The episode is over."""

    @abstractmethod
    def close(self) -> None:
        """Finishes what was begun; doing it twice does no harm.

        Raises:
            RecordingError: A file could not be written.
        """


class Background(EpisodeObserver):
    """Has an observer work in a thread of its own, for an arm in real time, whose steps must not be late.

    Where it cannot keep up, steps are left out; how many is written on standard error at the end.
    """

    def __init__(self, observer: EpisodeObserver) -> None:
        """Starts the thread.

        Args:
            observer: Who is to work there.
        """
        self._observer = observer
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_BACKLOG)
        self._missed = 0
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def begin(self, env: gym.Env[Any, Any], seed: int, instruction: str) -> None:
        """Waits until the observer has begun: the arm stands still."""
        self._queue.put(lambda: self._observer.begin(env, seed, instruction))
        self._queue.join()

    def note(self, moment: Moment) -> None:
        """Hands a step over."""
        try:
            self._queue.put_nowait(lambda: self._observer.note(moment))
        except queue.Full:
            self._missed += 1

    def end(self, success: bool) -> None:
        """Hands the end over."""
        self._queue.put(lambda: self._observer.end(success))

    def close(self) -> None:
        """Waits until everything is written."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join()
        self._thread = None
        if self._missed:
            print(f"{type(self._observer).__name__} left out {self._missed} steps: it was too slow.", file=sys.stderr)
        self._observer.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                if self._failure is None:
                    work()
            except Exception as error:  # it is raised where somebody can see to it
                self._failure = error
            finally:
                self._queue.task_done()
        self._queue.task_done()


class Watch:
    """An episode as several observers see it."""

    def __init__(
        self, observers: Sequence[EpisodeObserver], env: gym.Env[Any, Any], agent: object, seed: int, instruction: str
    ) -> None:
        """Begins.

        Args:
            observers: Who watches; often nobody.
            env: Where.
            agent: Who acts; its plan is looked at where it has one.
            seed: Of the episode.
            instruction: What is to be done.
        """
        self._observers, self._agent = observers, agent
        self._period, self._time = 1.0 / float(env.metadata["render_fps"]), 0.0
        for observer in observers:
            observer.begin(env, seed, instruction)

    def note(self, observation: dict[str, Any], info: dict[str, Any], action: NDArray[np.float32] | None) -> None:
        """Tells the observers of a step; ``action`` is None for what ``reset`` returned."""
        if not self._observers:
            return
        plan = getattr(self._agent, "plan", None)
        if action is not None:
            self._time += float((info.get("timing") or {}).get("step", self._period))
        planned = np.zeros((0, 7), np.float32) if plan is None else plan
        moment = Moment(self._time, observation, info, action, planned)
        for observer in self._observers:
            observer.note(moment)

    def end(self, success: bool) -> None:
        """The episode is over."""
        for observer in self._observers:
            observer.end(success)


@contextlib.contextmanager
def closing(observers: Sequence[EpisodeObserver]) -> Iterator[Sequence[EpisodeObserver]]:
    """Closes observers, whatever happens."""
    with contextlib.ExitStack() as stack:
        for observer in observers:
            stack.callback(observer.close)
        yield observers
