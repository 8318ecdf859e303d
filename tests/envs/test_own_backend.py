"""A backend from outside the package: an arm without dynamics, which is at once where the safety gate sends it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from smolvla_gym.envs import Backend, PAROL6Env, Reading, SafetyGate
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.parol6 import JOINT_UPPER
from smolvla_gym.safety.collision import CollisionGuard

OPTIONS = {
    "task": "reach", "gripper": "ssg48", "cameras": (), "image_size": (64, 64), "depth": False, "control_hz": 30.0,
    "max_episode_s": None, "privileged": False, "randomization": 0, "num_objects": 2, "reward": "sparse",
    "render_mode": None, "render_quality": "fast",
}  # fmt: skip


class IdealArm(Backend):
    instruction = "wave"

    def __init__(self, gate):
        self._gate = gate

    def reset(self, rng, options):
        self._gate.reset(options.joints, options.opening)
        return self._reading()

    def step(self, action, dt):
        interventions, shaping = self._gate.aim(action)
        reading = self._reading()
        reading.safety, reading.shaping = interventions + self._gate.advance(dt), shaping
        return reading

    def _reading(self):
        return Reading({"agent_pos": np.append(self._gate.position, self._gate.opening).astype(np.float32)})

    @property
    def commanded(self):
        return self._gate.position

    def expert(self):
        raise NotImplementedError

    def render(self):
        return np.zeros((480, 640, 3), np.uint8)

    def show(self):
        pass

    def stop(self):
        self._gate.hold()

    def clear_fault(self):
        pass

    def close(self):
        pass


def make_env():
    options = EnvOptions.check(OPTIONS)
    gate = SafetyGate(options.period, guard=CollisionGuard(options.gripper.name))
    return PAROL6Env(IdealArm(gate), options, (make_env, {}))


def test_an_env_with_a_backend_of_the_user_keeps_the_contract(recwarn):
    env = make_env()
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    target = np.append(env.backend.commanded, 1.0)
    target[0] = JOINT_UPPER[0] + 1.0
    *_, info = env.step(target.astype(np.float32))
    assert [(each["rule"], each["where"]) for each in info["safety"]] == [("position", "joint_1")]
    assert info["shaping"]["speed"] == 1
    assert info["instruction"] == "wave"
    assert isinstance(env, gym.Env)
