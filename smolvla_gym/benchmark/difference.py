"""How far the actions of one policy are from those of another that was asked the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest
from smolvla_gym.parol6 import NUM_JOINTS, forward_kinematics, get_gripper


@dataclass(frozen=True)
class Difference:
    """How far chunks are apart.

    Attributes:
        chunks: How many were compared.
        joints_max: Largest difference of a joint in rad.
        joints_mean: Mean of the differences in rad.
        gripper_max: Largest difference of the opening, 0..1.
        tool_max: Largest distance of the tool centre point in mm, by forward kinematics.
        tool_mean: Mean of the distances in mm.
        cosine_min: Smallest cosine of two chunks in the policy's own (normalised) units; 1 is the same direction.
    """

    chunks: int
    joints_max: float
    joints_mean: float
    gripper_max: float
    tool_max: float
    tool_mean: float
    cosine_min: float

    def to_dict(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return asdict(self)


def compare_policies(
    reference: ChunkPolicy, other: ChunkPolicy, requests: Sequence[ChunkRequest], gripper: str = "ssg48"
) -> Difference:
    """Asks two policies the same and compares what they give.

    Args:
        reference: The one.
        other: The other; of the same width and length.
        requests: What they are asked; at least one.
        gripper: The gripper that the tool centre point belongs to.

    Raises:
        ActionError: A chunk is not finite.
        UnknownNameError: There is no such gripper.
    """
    ones, others = ([policy.infer(request) for request in requests] for policy in (reference, other))
    return compare_chunks(ones, others, gripper)


def compare_chunks(reference: Sequence[Chunk], other: Sequence[Chunk], gripper: str = "ssg48") -> Difference:
    """Compares chunks that belong together one by one.

    Args:
        reference: The ones; at least one.
        other: As many others.
        gripper: The gripper that the tool centre point belongs to.

    Raises:
        UnknownNameError: There is no such gripper.
    """
    kind = get_gripper(gripper)
    one, two = (np.concatenate([chunk.actions for chunk in chunks]).astype(np.float64) for chunks in (reference, other))
    apart = np.abs(two - one)
    places = [
        np.array([forward_kinematics(action[:NUM_JOINTS], kind)[:3, 3] for action in actions]) for actions in (one, two)
    ]
    distances = 1e3 * np.linalg.norm(places[1] - places[0], axis=1)
    return Difference(
        chunks=len(reference),
        joints_max=float(apart[:, :NUM_JOINTS].max()),
        joints_mean=float(apart[:, :NUM_JOINTS].mean()),
        gripper_max=float(apart[:, NUM_JOINTS].max()),
        tool_max=float(distances.max()),
        tool_mean=float(distances.mean()),
        cosine_min=min(_cosine(a.normalized, b.normalized) for a, b in zip(reference, other, strict=True)),
    )


def _cosine(one: Any, other: Any) -> float:
    a, b = (np.asarray(array, dtype=np.float64).ravel() for array in (one, other))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(np.array_equal(a, b))
