"""Whole episodes boiled down to a fingerprint; also a program that prints one, for a process of its own."""

import ast
import hashlib
import sys

import gymnasium as gym
import numpy as np

import smolvla_gym


def leaves(observation, path=""):
    """The arrays of an observation, by path."""
    if isinstance(observation, dict):
        for key in sorted(observation):
            yield from leaves(observation[key], f"{path}/{key}")
    else:
        yield path, observation


def bits(observation):
    return [(path, array.dtype.str, array.shape, array.tobytes()) for path, array in leaves(observation)]


def episode(env, seed, steps=40, expert=False):
    """Every bit that an episode shows: observations, rewards, ends and what info says."""
    observation, info = env.reset(seed=seed)
    shown = [bits(observation), info["instruction"]]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        if expert:
            action = env.unwrapped.expert_action()
        else:
            action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        shown += [bits(observation), reward, terminated, truncated, info["is_success"], info["safety"], info["shaping"]]
        if terminated or truncated:
            break
    return shown


def fingerprint(shown):
    return hashlib.sha256(repr(shown).encode()).hexdigest()


if __name__ == "__main__":
    env = gym.make(smolvla_gym.SIM_ID, **ast.literal_eval(sys.argv[1]))
    print(fingerprint(episode(env, int(sys.argv[2]), expert=sys.argv[3] == "expert")))
    env.close()
