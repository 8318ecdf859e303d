"""Distance between the actions of two policies for the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.parol6 import NUM_JOINTS, forward_kinematics, get_gripper


@dataclass(frozen=True)
class Difference:
    """Distance between chunks of two policies.

    Attributes:
        chunks: Number of pairs that were compared.
        joints_max: Largest difference of a joint in rad.
        joints_mean: Mean difference of the joints in rad.
        gripper_max: Largest difference of the gripper's opening, 0..1.
        tool_max: Largest distance of the tool centre point in mm, by forward kinematics.
        tool_mean: Mean distance of the tool centre point in mm.
        cosine_min: Smallest cosine of two chunks in the policy's own (normalised) units; 1 is the same direction.
    """

    chunks: int
    joints_max: float
    joints_mean: float
    gripper_max: float
    tool_max: float
    tool_mean: float
    cosine_min: float


def compare_chunks(reference: Sequence[Chunk], other: Sequence[Chunk], gripper: str = "ssg48") -> Difference:
    """Compare chunks pair by pair.

    Args:
        reference: Chunks of the one policy; at least one.
        other: As many chunks of the other policy, for the same requests.
        gripper: The gripper that the tool centre point belongs to.

    Raises:
        UnknownNameError: There is no such gripper.
    """
    kind = get_gripper(gripper)
    one, two = (np.concatenate([chunk.actions for chunk in chunks]).astype(np.float64) for chunks in (reference, other))
    apart = np.abs(two - one)
    tools = [np.array([forward_kinematics(row[:NUM_JOINTS], kind)[:3, 3] for row in rows]) for rows in (one, two)]
    distances = 1e3 * np.linalg.norm(tools[1] - tools[0], axis=1)
    return Difference(
        chunks=len(reference),
        joints_max=float(apart[:, :NUM_JOINTS].max()),
        joints_mean=float(apart[:, :NUM_JOINTS].mean()),
        gripper_max=float(apart[:, NUM_JOINTS].max()),
        tool_max=float(distances.max()),
        tool_mean=float(distances.mean()),
        cosine_min=min(_cosine(a, b) for a, b in zip(reference, other, strict=True)),
    )


def _cosine(one: Chunk, other: Chunk) -> float:
    a, b = (chunk.normalized.astype(np.float64).ravel() for chunk in (one, other))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(np.array_equal(a, b))
