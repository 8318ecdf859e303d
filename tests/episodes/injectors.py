"""Wrappers that inject faults and interruptions into an env."""

import gymnasium as gym


class Faulty(gym.Wrapper):
    """The backend reports a fault at a step, as a real arm does; from there on the env holds it."""

    def __init__(self, env, at, fault="ESTOP"):
        super().__init__(env)
        self._left, self._fault = at, fault

    def step(self, action):
        self._left -= 1
        if self._left == 0:
            backend = self.unwrapped.backend
            move = backend.step

            def move_and_fault(setpoint, dt):
                reading = move(setpoint, dt)
                reading.fault = self._fault
                return reading

            backend.step = move_and_fault
        return super().step(action)


class Disturbed(gym.Wrapper):
    """Calls a function in place of a step, counted over all episodes from 1; ``at`` 0 means the first reset."""

    def __init__(self, env, at, what):
        super().__init__(env)
        self._count, self._at, self._what = 0, at, what

    def reset(self, **options):
        if self._at == 0:
            self._what()
        return super().reset(**options)

    def step(self, action):
        self._count += 1
        if self._count == self._at:
            self._what()
        return super().step(action)


def throw(error):
    """Raises an error."""
    raise error
