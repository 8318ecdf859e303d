"""Names and units of the arm in LeRobot: degrees, and the gripper from 0 (closed) to 100 (open)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.units import DEGREES_AND_PERCENT
from smolvla_gym.errors import ActionError
from smolvla_gym.parol6 import ACTION_NAMES, JOINT_LOWER, JOINT_UPPER

KEYS: Final = tuple(f"{name}.pos" for name in ACTION_NAMES)
"""``joint_1.pos`` to ``joint_6.pos``, and ``gripper.pos``."""

LOWER: Final = np.append(JOINT_LOWER, 0.0).astype(np.float32)
"""Lower limits of an action in rad and 0..1, shape (7,)."""

UPPER: Final = np.append(JOINT_UPPER, 1.0).astype(np.float32)
"""Upper limits, shape (7,)."""


def to_lerobot(values: NDArray[np.floating[Any]], *, use_degrees: bool) -> dict[str, float]:
    """Return the components of an action or of ``agent_pos`` by their names.

    Args:
        values: Six angles in rad and the opening 0..1, shape (7,).
        use_degrees: Whether to return degrees and 0..100; otherwise rad and 0..1.
    """
    scaled = np.asarray(values, np.float64) * (DEGREES_AND_PERCENT if use_degrees else 1.0)
    return dict(zip(KEYS, scaled.tolist(), strict=True))


def from_lerobot(action: Mapping[str, Any], *, use_degrees: bool) -> NDArray[np.float32]:
    """Return an action in rad and 0..1, float32, shape (7,).

    Args:
        action: One number for each of ``KEYS``.
        use_degrees: Whether they are degrees and 0..100.

    Raises:
        ActionError: A component is missing, or is no finite number.
    """
    if not isinstance(action, Mapping):
        raise ActionError(f"An action is a dictionary with {', '.join(KEYS)}; got {type(action).__name__}.")
    missing = [key for key in KEYS if key not in action]
    if missing:
        raise ActionError(f"The action lacks {', '.join(missing)}; it has {', '.join(map(str, action)) or 'nothing'}.")
    try:
        values = np.array([float(action[key]) for key in KEYS])
    except (TypeError, ValueError, OverflowError) as error:
        raise ActionError(
            f"The action has a component that is no number: {', '.join(KEYS)} are to be floats."
        ) from error
    if not np.isfinite(values).all():
        raise ActionError(
            f"The action has a component that is not finite: {dict(zip(KEYS, values.tolist(), strict=True))}."
        )
    return (values / (DEGREES_AND_PERCENT if use_degrees else 1.0)).astype(np.float32)
